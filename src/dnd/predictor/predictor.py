"""SMILES in, predictions out: as many rows, in the same order, with a reason where there is no prediction."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dnd.common.compute import choose_device
from dnd.common.config import model_folder
from dnd.common.errors import CorruptFileError, InputError, isolating
from dnd.common.model_folder import ModelFolder, read_model
from dnd.common.processes import process_count
from dnd.graphs.batch import GraphBatch
from dnd.models.students.base import pool
from dnd.models.students.encoders import WHOLE
from dnd.predictor.applicability_domain import Domain, Seen, read_domain
from dnd.predictor.classical.features import Features
from dnd.predictor.ensemble import (
    STUDENTS,
    FrozenEncoder,
    run_over,
    same_body,
    spread_by_name,
    to_raw_units,
)
from dnd.predictor.model_folder import (
    KIND,
    METRICS,
    Member,
    PredictorParts,
    molecule_digest,
    read_known,
    read_predictor,
)
from dnd.predictor.targets import ClassGroup, Target, TaskName, digits_of, groups_of, normalised, weighted_mean
from dnd.predictor.uncertainty.calibration import Calibration, Chosen, read_calibration
from dnd.predictor.uncertainty.classes import ClassSets
from dnd.predictor.uncertainty.intervals import Predicted
from dnd.store.featurize import ValidMolecules, valid_molecules
from dnd.store.reader import Store

# A table of predictions without pandas: named columns of equal length.


if TYPE_CHECKING:
    import pandas
    import pyarrow

Column = np.ndarray | list[str]
P = TypeVar("P", bound="Predictor")


class PredictionTable(Mapping[str, Column]):
    """Columns by name, in order; one row per input molecule.

    Args:
        columns: arrays of numbers or lists of text, all of one length.
        index: index of the table that the molecules came from; `to_pandas` has it. None = rows from 0.

    Example:
        >>> table = PredictionTable({"smiles": ["CCO"], "logS_pred": np.array([0.1]), "error": [""]})
        >>> table["logS_pred"]
        array([0.1])
    """

    def __init__(self, columns: Mapping[str, Column], index: Any = None) -> None:
        self._columns, self.index = dict(columns), index

    def __getitem__(self, name: str) -> Column:
        """The column `name`."""
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        """Names of the columns."""
        return iter(self._columns)

    def __len__(self) -> int:
        """Number of columns; see `num_rows`."""
        return len(self._columns)

    @property
    def num_rows(self) -> int:
        """Number of molecules."""
        return len(next(iter(self._columns.values())))

    def to_arrow(self) -> pyarrow.Table:
        """The same as a pyarrow Table; NaN becomes null."""
        import pyarrow

        arrays: dict[str, Any] = {
            name: pyarrow.array(values, from_pandas=True) if isinstance(values, np.ndarray) else pyarrow.array(values)
            for name, values in self._columns.items()
        }
        return pyarrow.table(arrays)

    def to_pandas(self) -> pandas.DataFrame:
        """The same as a pandas DataFrame; pandas is imported here only."""
        import pandas

        return pandas.DataFrame(self._columns, index=self.index)

    def __repr__(self) -> str:
        """Names and size."""
        return f"PredictionTable({self.num_rows} rows: {', '.join(self._columns)})"


# Output columns of a target of several classes.


def class_columns(
    group: ClassGroup,
    probabilities_BK: Float[np.ndarray, "molecules classes"],
    spread_BK: Float[np.ndarray, "molecules classes"] | None,
    sets: ClassSets | None = None,
) -> dict[str, Column]:
    """The output columns of a target of several classes.

    `<target>_pred`, the most probable class; `<target>_std`, with several members; `<target>_set`, the likely classes,
    where such sets were learned; `<target>_prob_<class>`.

    The standard deviation is that of the predicted class.

    Args:
        group: name and classes.
        probabilities_BK: probabilities of the whole model; NaN rows where there is no molecule.
        spread_BK: deviation of the members' probabilities, before calibration; None = there is a single member.
        sets: what makes sets of likely classes; None = no sets.
    """
    known_B = ~np.isnan(probabilities_BK).any(axis=1)
    best_B = np.where(known_B[:, None], probabilities_BK, 0.0).argmax(axis=1)
    names = [group.classes[best] if known else "" for best, known in zip(best_B, known_B, strict=True)]
    columns: dict[str, Column] = {f"{group.name}_pred": names}
    if spread_BK is not None:
        columns[f"{group.name}_std"] = spread_BK[np.arange(len(best_B)), best_B]
    if sets is not None:
        columns[f"{group.name}_set"] = sets.words(Predicted(probabilities_BK), group.classes)
    for place, name in enumerate(group.classes):
        columns[f"{group.name}_prob_{name}"] = probabilities_BK[:, place]
    return columns


# SMILES in, predictions out: as many rows, in the same order, with a reason where there is no prediction.


ERROR, IN_DOMAIN, REASON = "error", "in_domain", "domain_reason"
_NOT_FINITE = "the model gives no finite number for this molecule; check where its weights come from"
_ANSWERS = {False: "yes", True: "no"}  # outside → in_domain


class Predictor:
    """A finetuned model: networks and classical members whose predictions are averaged with their weights.

    Args:
        parts: members, task, hydrogens.
        calibration: intervals or scaling of probabilities; None = none.
        domain: applicability domain of the model; None = not known.
        metrics: content of `metrics.json`, with the verdict in words under `verdicts`; empty = not known.
        known: digests of the molecules that it was fitted on; None = not known.
        device: `cpu`, `cuda` or `auto`.
        jobs: processes for parsing many molecules; 0 = one per processor.

    Example:
        >>> predictor = Predictor.load("esol-model")  # doctest: +SKIP
        >>> predictor.predict(["CCO", "c1ccccc1", "no molecule"])  # doctest: +SKIP
        PredictionTable(3 rows: smiles, logS_pred, logS_low, logS_high, in_domain, domain_reason, error)
    """

    def __init__(
        self,
        parts: PredictorParts,
        *,
        calibration: Calibration | None = None,
        domain: Domain | None = None,
        metrics: Mapping[str, Any] | None = None,
        known: frozenset[str] | None = None,
        device: str = "auto",
        jobs: int = 1,
    ) -> None:
        process_count(jobs)  # now, and not at the first molecule
        self.parts, self.calibration, self.domain, self.jobs = parts, calibration, domain, jobs
        self.metrics, self.known = dict(metrics or {}), known
        self._shown: frozenset[str] | None = None
        if calibration is not None and len(calibration.targets) != len(self.targets):
            raise CorruptFileError(
                "calibration and targets of a model differ in number",
                found=len(calibration.targets),
                expected=len(self.targets),
                next_step="Finetune the model again",
            )
        if domain is None and calibration is not None and calibration.needs_similarity:
            raise CorruptFileError(
                "the intervals of a model need the similarity to its training molecules, which it does not have",
                found="no domain.json",
                next_step="Finetune the model again",
            )
        for member in parts.members:
            member.network.to(choose_device(device))
        if parts.blend and parts.blend.encoder:
            parts.blend.encoder.to(choose_device(device))

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "auto", jobs: int = 1) -> Predictor:
        """Open a MODEL folder, or a model that ships by its name.

        Raises:
            InputError, CorruptFileError: see `read_model`, `read_predictor` and `model_folder`.
        """
        return cls.of(read_model(model_folder(folder), kind=KIND), device=device, jobs=jobs)

    @classmethod
    def of(cls, model: ModelFolder, *, device: str = "auto", jobs: int = 1) -> Predictor:
        """The model of an opened folder; later changes of the folder have no effect.

        Raises:
            CorruptFileError: see `read_predictor`.
        """
        parts = read_predictor(model)
        return cls(
            parts,
            calibration=read_calibration(model),
            domain=read_domain(model, parts.measured_width),
            metrics=model.json(METRICS),
            known=read_known(model),
            device=device,
            jobs=jobs,
        )

    @property
    def targets(self) -> tuple[Target, ...]:
        """Names and units of the targets, in the order of the output columns."""
        return self.parts.targets

    @property
    def kind(self) -> TaskName:
        """`regression`, `classification`, or `mixed`: then each target has its own `kind`."""
        return self.parts.task

    @property
    def smiles_column(self) -> str | None:
        """The SMILES column of the training data, if known."""
        found = self.parts.config.get("training", {}).get("smiles_column")
        return found if isinstance(found, str) else None

    @property
    def columns(self) -> list[str]:
        """Every output column except `error`, in order, as far as the model has them."""
        return list(self.describe([])[0])

    @property
    def digits(self) -> dict[str, int]:
        """Significant digits of the columns of values; see `digits_of`."""
        return digits_of(self.targets)

    def predict(self, molecules: object, *, smiles_column: str | None = None) -> PredictionTable:
        """Predict the targets of molecules.

        Args:
            molecules: one SMILES in any spelling, the path of a file, a table, or a list, array or Series of SMILES or
                of RDKit molecules; see `as_molecules`. The index of a table or Series is that of the result.
            smiles_column: SMILES column of a file or table; found by its name when None.

        Returns:
            `smiles`; per target `<target>_pred` (in the target's unit, the probability of class 1, or the name of the
            class where classes have names, with `<target>_prob_<class>` for each of them), `<target>_std` (deviation
            between members, where there are several), `<target>_low` and `<target>_high` (interval, if learned),
            `<target>_set` (the classes that are likely, as in `0|1`); `in_domain` (`yes` or `no`) and
            `domain_reason`; `error`, the reason where there is no molecule, and then the others are NaN or empty.

        Raises:
            TypeError: what is given holds no molecules.
            InputError: a file can't be read, or it is not clear which column has the SMILES.
        """
        from dnd.tables.molecules import as_molecules  # files of molecules do not come here

        given = as_molecules(molecules, smiles_column, remembered=self.smiles_column)
        columns, errors = self.describe(given.texts)
        return PredictionTable({"smiles": given.texts, **columns, ERROR: given.reasons(errors)}, given.index)

    def describe(self, smiles: Sequence[str]) -> tuple[dict[str, Column], list[str]]:
        """The output columns of `predict` but `smiles` and `error`, and the reasons where there is no molecule."""
        (columns, errors), internal = isolating(self._describe, smiles, "")
        return columns, [internal.get(place, reason) for place, reason in enumerate(errors)]

    def _describe(self, smiles: Sequence[str]) -> tuple[dict[str, Column], list[str]]:
        found = self._valid(smiles)
        members_MBC = np.full((len(self._weights_MC), len(smiles), len(self.targets)), np.nan)
        embeddings_VD: np.ndarray = np.empty((0, 0))
        errors = list(found.errors)
        features = Features(np.empty((0, 0), np.float32))
        if len(found.places):
            members_MBC[:, found.places], embeddings_VD, features = self._outputs(found.store)
            for place in self._not_finite(members_MBC[:, found.places]):
                members_MBC[:, found.places[place]] = np.nan
                errors[found.places[place]] = _NOT_FINITE
        for place, reason in features.refused.items():
            errors[found.places[place]] = reason
        similarity_B, reasons = np.full(len(smiles), np.nan), list[str]()
        if self.domain is not None and len(found.places):
            bits_VF = self.parts.blend.morgan_bits(features) if self.parts.blend else None
            seen = Seen.of_store(found.store, bits_VF)
            reasons, similarity_B[found.places] = self.domain.judge(found.smiles, embeddings_VD, seen, found.given)
        for place, column in np.argwhere(self._too_large(found.store)) if len(found.places) else ():
            members_MBC[:, found.places[place], column] = np.nan
        columns = self._target_columns(members_MBC, similarity_B)
        if self.domain is not None:
            outside = dict(zip(found.places.tolist(), reasons, strict=True))
            outside = {row: reason for row, reason in outside.items() if not errors[row]}
            columns[IN_DOMAIN] = [_ANSWERS[bool(outside[row])] if row in outside else "" for row in range(len(smiles))]
            columns[REASON] = [outside.get(row, "") for row in range(len(smiles))]
        return columns, errors

    def predict_values(
        self, molecules: object, *, as_given: bool = False
    ) -> tuple[Float[np.ndarray, "molecules targets"], list[str]]:
        """The predicted values alone as one array, NaN rows where there is no molecule, and the reasons.

        Args:
            molecules: see `predict`.
            as_given: whether the molecules are already in the form that the model sees, and are not standardized again.
        """
        from dnd.tables.molecules import as_molecules  # files of molecules do not come here

        given = as_molecules(molecules, remembered=self.smiles_column)
        (values_BC, errors), internal = isolating(partial(self._values, as_given=as_given), given.texts, "")
        return values_BC, given.reasons([internal.get(place, reason) for place, reason in enumerate(errors)])

    def _values(
        self, smiles: Sequence[str], *, as_given: bool
    ) -> tuple[Float[np.ndarray, "molecules targets"], list[str]]:
        found = self._valid(smiles, as_given=as_given)
        errors = list(found.errors)
        values_BC = np.full((len(smiles), len(self.targets)), np.nan)
        if len(found.places):
            values_BC[found.places], refused = self.predict_store(found.store)
            for place, reason in refused.items():
                errors[found.places[place]] = reason
        return values_BC, errors

    def predict_store(
        self, store: Store, features: Features | None = None
    ) -> tuple[Float[np.ndarray, "molecules targets"], Mapping[int, str]]:
        """The predicted values for featurised molecules, at least one, with this model's hydrogens.

        Args:
            store: the molecules.
            features: features of the classical members; None = they are computed here.

        Returns:
            The values, and by row the reasons of those that are NaN, because a feature can't be computed or the model
            gives no finite number.
        """
        values, _, embedding_BD = self._network_outputs(store, for_blend=features is None)
        refused: Mapping[int, str] = {}
        if self.parts.blend:
            features = self.parts.blend.features(store, self.jobs, embedding_BD) if features is None else features
            values, refused = values + self.parts.blend.predict(features), features.refused
        refused = {**dict.fromkeys(self._not_finite(np.stack(values)), _NOT_FINITE), **refused}
        values_BC = self._combined(values)
        values_BC[list(refused)] = np.nan
        values_BC[self._too_large(store)] = np.nan
        return values_BC, refused

    def showing(self: P, names: Sequence[str]) -> P:
        """The same model, whose tables have the columns of some targets only.

        Args:
            names: names of targets; one text may hold several with commas between them, as `solubility,logd`.

        Raises:
            ConfigError: the model has no such target.
        """
        from dnd.predictor.ready_made import chosen_names  # most tables have all columns

        known = dict.fromkeys(target.group or target.name for target in self.targets)
        found = copy.copy(self)
        found._shown = frozenset(chosen_names(names, list(known)))
        return found

    def _too_large(self, store: Store) -> Bool[np.ndarray, "molecules targets"]:
        """Which targets are for smaller molecules only."""
        most_C = self.parts.most_atoms_C
        if most_C is None:
            return np.zeros((len(store), len(self.targets)), bool)
        return np.asarray(store.atom_counts[np.arange(len(store))][:, None] > most_C)

    def _valid(self, smiles: Sequence[str], *, as_given: bool = False) -> ValidMolecules:
        """The molecules as the model sees them."""
        standardize = self.parts.standardize and not as_given
        return valid_molecules(smiles, self.parts.hydrogens, self.jobs, standardize=standardize)

    def knows(self, identities: Sequence[str]) -> list[bool] | None:
        """Whether each molecule, by its identity, is one that the model learned from; None where not known."""
        return None if self.known is None else [molecule_digest(text) in self.known for text in identities]

    @cached_property
    def _weights_MC(self) -> Float[np.ndarray, "members targets"]:
        """Shares of the members of each target, the networks first."""
        if self.parts.blend:
            return self.parts.blend.weights_MC
        return np.array([[member.weight] * len(self.targets) for member in self.parts.members])

    def _outputs(self, store: Store) -> tuple[np.ndarray, np.ndarray, Features]:
        """Each member's values, the representations that the domain measures with, and the features of a blend.

        Networks with the same body share a pass, also with the frozen encoder.
        """
        blend = self.parts.blend
        features = Features(np.empty((len(store), 0), np.float32))
        values, embeddings_BD, of_encoder_BD = self._network_outputs(store, for_blend=True)
        if blend:
            features = blend.features(store, self.jobs, of_encoder_BD)
            values += blend.predict(features)
            embeddings_BD = embeddings_BD if self.parts.members else blend.representation(features.x_BF)
        members_MBC = np.stack(values)
        members_MBC[:, list(features.refused)] = np.nan
        return members_MBC, embeddings_BD, features

    @cached_property
    def _bodies(self) -> list[list[int]]:
        """The networks, by place, that have the same student and pooling."""
        bodies: list[list[int]] = []
        for place, member in enumerate(self.parts.members):
            for own in bodies:
                first = self.parts.members[own[0]].network
                if first.pooling == member.network.pooling and same_body(first.student, member.network.student):
                    own.append(place)
                    break
            else:
                bodies.append([place])
        return bodies

    @property
    def _encoder(self) -> FrozenEncoder | None:
        return self.parts.blend.encoder if self.parts.blend else None

    @cached_property
    def _body_of_encoder(self) -> list[int] | None:
        """The networks whose body is the frozen encoder's."""
        encoder = self._encoder
        for own in self._bodies:
            network = self.parts.members[own[0]].network
            if (
                encoder is not None
                and network.pooling == encoder.pooling
                and same_body(network.student, encoder.student)
            ):
                return own
        return None

    def _network_outputs(
        self, store: Store, *, for_blend: bool
    ) -> tuple[list[np.ndarray], np.ndarray, np.ndarray | None]:
        """Values of each network, the first one's representations, and the frozen encoder's if it has their body."""
        members, values = self.parts.members, dict[int, np.ndarray]()
        embeddings_BD, of_encoder_BD = np.empty((len(store), 0)), None
        for own in self._bodies:
            shared = (
                self.parts.blend.encoder if self.parts.blend and for_blend and own is self._body_of_encoder else None
            )
            found, own_BD, further_BD = _pass_over([members[place] for place in own], shared, store)
            values.update(zip(own, found, strict=True))
            embeddings_BD = own_BD if 0 in own else embeddings_BD
            of_encoder_BD = further_BD if shared else of_encoder_BD
        return [values[place] for place in range(len(members))], embeddings_BD, of_encoder_BD

    def _not_finite(self, members_MBC: np.ndarray) -> list[int]:
        """Molecules for which a member, or what is made of all of them, is no finite number."""
        with np.errstate(all="ignore"):
            combined_BC = self._combined(list(members_MBC))
        is_finite_B = np.isfinite(members_MBC).all(axis=(0, 2)) & np.isfinite(combined_BC).all(axis=1)
        return [int(place) for place in np.flatnonzero(~is_finite_B)]

    def _combined(self, members: Sequence[np.ndarray]) -> Float[np.ndarray, "molecules targets"]:
        """The weighted mean of the members on the learned scale, probabilities calibrated."""
        mean_BC = weighted_mean(self.targets, self._weights_MC, members)
        values_BC = normalised(mean_BC, groups_of(self.targets))
        return values_BC if self.calibration is None else self.calibration.scaled(values_BC)

    def _spread(self, members_MBC: np.ndarray) -> Float[np.ndarray, "molecules targets"] | None:
        """Deviation between members, each counting with its weight; None for a single one."""
        if len(members_MBC) < 2:
            return None
        if self.parts.blend is None:
            return np.asarray(members_MBC.std(axis=0, ddof=1))
        mean_BC = np.einsum("mc,mnc->nc", self._weights_MC, members_MBC)
        return np.asarray(np.sqrt(np.einsum("mc,mnc->nc", self._weights_MC, (members_MBC - mean_BC) ** 2)))

    def _target_columns(self, members_MBC: np.ndarray, similarity_B: np.ndarray) -> dict[str, Column]:
        values_BC = self._combined(list(members_MBC))
        spread_BC = self._spread(members_MBC)
        blend = self.parts.blend
        names = [STUDENTS] * len(self.parts.members) + [member.name for member in blend.classical] if blend else []
        widths_BC = spread_by_name(members_MBC, self._weights_MC, names) if blend else spread_BC
        of_groups = {one.name: one.chosen for one in self.calibration.groups} if self.calibration else {}
        columns: dict[str, Column] = {}
        groups = {group.first: group for group in groups_of(self.targets)}
        for column, target in enumerate(self.targets):
            if self._shown is not None and (target.group or target.name) not in self._shown:
                continue
            if column in groups:
                own = groups[column].span
                sets = of_groups.get(groups[column].name, Chosen()).sets
                spread_BK = None if spread_BC is None else spread_BC[:, own]
                columns |= class_columns(groups[column], values_BC[:, own], spread_BK, sets)
            if target.group:
                continue
            if target.classes:
                columns |= _named_classes(target, values_BC[:, column])
            else:
                columns[f"{target.name}_pred"] = values_BC[:, column]
            if spread_BC is not None:
                columns[f"{target.name}_std"] = spread_BC[:, column]
            learned = self.calibration.targets[column].chosen if self.calibration else Chosen()
            predicted = Predicted(values_BC[:, column], _column(widths_BC, column), target.transform, similarity_B)
            if learned.sets is not None:
                columns[f"{target.name}_set"] = learned.sets.words(predicted, target.classes or ("0", "1"))
            if learned.intervals is not None:
                ends_2B = np.ascontiguousarray(learned.intervals.apply(predicted).T)
                columns[f"{target.name}_low"], columns[f"{target.name}_high"] = ends_2B
        return columns

    def embed(self, molecules: object) -> Float[np.ndarray, "molecules dim"]:
        """Pooled representations, of several members side by side; a row of NaN where there is no molecule."""
        return self.embed_with_errors(molecules)[0]

    def embed_with_errors(self, molecules: object) -> tuple[Float[np.ndarray, "molecules dim"], list[str]]:
        """`embed`, and the reasons of the NaN rows."""
        from dnd.tables.molecules import as_molecules  # files of molecules do not come here

        given = as_molecules(molecules, remembered=self.smiles_column)
        (values_BD, errors), internal = isolating(self._embed, given.texts, "")
        reasons = [internal.get(place, reason) for place, reason in enumerate(errors)]
        return values_BD, given.reasons(reasons)

    def _embed(self, smiles: Sequence[str]) -> tuple[Float[np.ndarray, "molecules dim"], list[str]]:
        found = self._valid(smiles)
        networks = [member.network for member in self.parts.members]
        encoder = self.parts.blend.encoder if self.parts.blend else None
        if not networks and encoder is None:
            raise InputError(
                "the model has no network, so there is no representation",
                found="classical members on descriptors and counts",
                next_step="Finetune with --encoder, or use another --recipe",
            )
        width = sum(network.width for network in networks) or (encoder.width if encoder else 0)
        values_BD = np.full((len(smiles), width), np.nan, np.float32)
        if len(found.places):
            every = np.arange(len(found.store))
            parts = [run_over(network.embed, network.student, found.store, every) for network in networks]
            if encoder is not None and not parts:
                parts = [encoder.embed(found.store)]
            whole_VD, limits = np.concatenate(parts, axis=1), self.parts.limits
            values_BD[found.places] = whole_VD if limits is None else limits.bounded(whole_VD, WHOLE)
        return values_BD, with_reasons_of_nan(values_BD, found)


def with_reasons_of_nan(values_BD: Float[np.ndarray, "molecules dim"], found: ValidMolecules) -> list[str]:
    """The reasons of rows without a vector; one with a number that is not finite becomes NaN, and has one too."""
    errors = list(found.errors)
    for place in found.places[~np.isfinite(values_BD[found.places]).all(axis=1)] if len(found.places) else ():
        values_BD[place], errors[place] = np.nan, _NOT_FINITE
    return errors


def _named_classes(target: Target, probability_B: Float[np.ndarray, "molecules"]) -> dict[str, Column]:
    """The more probable of two classes by its name, and the probability of each."""
    words = ["" if np.isnan(value) else target.classes[int(value > 0.5)] for value in probability_B.tolist()]
    of_class = zip(target.classes, (1.0 - probability_B, probability_B), strict=True)
    return {f"{target.name}_pred": words, **{f"{target.name}_prob_{name}": values for name, values in of_class}}


def _column(values_BC: np.ndarray | None, column: int) -> np.ndarray | None:
    return None if values_BC is None else values_BC[:, column]


def _pass_over(
    members: Sequence[Member], encoder: FrozenEncoder | None, store: Store
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Values of networks with one body, its representations, and those of the encoder, whose body it is too."""
    network = members[0].network

    def all_of_it(graph: GraphBatch) -> Tensor:
        output = network.student(graph)
        pooled_BD = pool(output, graph, network.pooling)
        further = [] if encoder is None else [encoder.represented(output, graph, pooled_BD)]
        return torch.cat([pooled_BD, *(member.network.head(pooled_BD) for member in members), *further], dim=1)

    outputs = run_over(all_of_it, network.student, store, np.arange(len(store)))
    ends = np.cumsum([network.width, *(len(member.targets) for member in members)])
    pooled_BD, *raw, further_BD = np.split(outputs, ends, axis=1)
    values = [to_raw_units(own, member.targets) for own, member in zip(raw, members, strict=True)]
    return values, pooled_BD, further_BD.astype(np.float32)
