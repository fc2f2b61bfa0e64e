"""SMILES in, predictions out: as many rows, in the same order, with a reason where there is no prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float

from dnd.finetuning.network import run_over, to_raw_units
from dnd.finetuning.predictor_folder import Member, PredictorParts, read_predictor
from dnd.finetuning.tasks import Target, TaskName
from dnd.prediction.inputs import valid_molecules
from dnd.prediction.table import PredictionTable
from dnd.store.reader import Store
from dnd.training.loop import choose_device

ERROR = "error"


def load(folder: Path | str, *, device: str = "auto", jobs: int = 1) -> Predictor:
    """Open a MODEL folder; see `Predictor.load`.

    Example:
        >>> import dnd
        >>> dnd.load("esol-model").predict(["CCO"]).to_pandas()  # doctest: +SKIP
    """
    return Predictor.load(folder, device=device, jobs=jobs)


class Predictor:
    """A finetuned model: one or more members whose predictions are averaged.

    Args:
        parts: members, task, hydrogens.
        device: `cpu`, `cuda` or `auto`.
        jobs: processes for parsing many molecules; 0 = one per processor.

    Example:
        >>> predictor = Predictor.load("esol-model")  # doctest: +SKIP
        >>> predictor.predict(["CCO", "c1ccccc1", "no molecule"])  # doctest: +SKIP
        PredictionTable(3 rows: smiles, logS_pred, error)
    """

    def __init__(self, parts: PredictorParts, *, device: str = "auto", jobs: int = 1) -> None:
        self.parts, self.jobs = parts, jobs
        for member in parts.members:
            member.network.to(choose_device(device))

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "auto", jobs: int = 1) -> Self:
        """Open a MODEL folder.

        Raises:
            InputError, CorruptFileError: see `read_predictor`.
        """
        return cls(read_predictor(folder), device=device, jobs=jobs)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Names and units of the targets, in the order of the output columns."""
        return self.parts.members[0].targets

    @property
    def kind(self) -> TaskName:
        """`regression`, `classification`, or `mixed`: then each target has its own `kind`."""
        return self.parts.task

    @property
    def prediction_columns(self) -> list[str]:
        """`<target>_pred` for every target."""
        return [f"{target.name}_pred" for target in self.targets]

    def predict(self, smiles: Sequence[str]) -> PredictionTable:
        """Predict the targets of molecules.

        Args:
            smiles: one text per molecule, in any spelling.

        Returns:
            `smiles`, `<target>_pred` (in the target's unit; the probability of class 1 for classes; NaN where there is
            no molecule) and `error` (the reason, empty where there is a prediction).
        """
        values_NC, errors = self.predict_values(smiles)
        predicted = {name: values_NC[:, column] for column, name in enumerate(self.prediction_columns)}
        return PredictionTable({"smiles": list(smiles), **predicted, ERROR: errors})

    def predict_values(self, smiles: Sequence[str]) -> tuple[Float[np.ndarray, "molecules targets"], list[str]]:
        """The predicted values as one array, NaN rows where there is no molecule, and the reasons."""
        found = valid_molecules(smiles, self.parts.hydrogens, self.jobs)
        values_NC = np.full((len(smiles), len(self.targets)), np.nan)
        if len(found.places):
            values_NC[found.places] = self.predict_store(found.store)
        return values_NC, found.errors

    def predict_store(self, store: Store) -> Float[np.ndarray, "molecules targets"]:
        """The predicted values for featurised molecules, at least one, with this model's hydrogens."""
        parts = [member.weight * _raw_outputs(member, store) for member in self.parts.members]
        return np.sum(parts, axis=0)  # type: ignore[no-any-return]

    def embed(self, smiles: Sequence[str]) -> Float[np.ndarray, "molecules dim"]:
        """Pooled representations, those of several members side by side; NaN rows where there is no molecule."""
        return self.embed_with_errors(smiles)[0]

    def embed_with_errors(self, smiles: Sequence[str]) -> tuple[Float[np.ndarray, "molecules dim"], list[str]]:
        """`embed`, and the reasons of the NaN rows."""
        found = valid_molecules(smiles, self.parts.hydrogens, self.jobs)
        networks = [member.network for member in self.parts.members]
        values_ND = np.full((len(smiles), sum(network.student.width for network in networks)), np.nan, np.float32)
        if len(found.places):
            every = np.arange(len(found.store))
            parts = [run_over(network.embed, network.student, found.store, every) for network in networks]
            values_ND[found.places] = np.concatenate(parts, axis=1)
        return values_ND, found.errors


def _raw_outputs(member: Member, store: Store) -> Float[np.ndarray, "molecules targets"]:
    outputs = run_over(member.network, member.network.student, store, np.arange(len(store)))
    return to_raw_units(outputs, member.targets)
