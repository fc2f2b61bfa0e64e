"""A finetuned model as Python callers meet it: predictions, metrics, explanations, and how each looks in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from dnd.common.config import model_folder
from dnd.common.files import read_json
from dnd.interface.molecules import as_file
from dnd.interface.views import facts_view, figures_view, molecules_view
from dnd.prediction.evaluate import evaluate_file, metric_lines
from dnd.predictor import predictor as core
from dnd.predictor.predictor import ERROR, Column, PredictionTable
from dnd.report.explain import Explanation, explain_molecules
from dnd.tables.from_python import as_molecules

if TYPE_CHECKING:
    import pandas

    from dnd.predictor.model_folder import PredictorParts

_BRIEF = 4  # targets whose metrics a notebook shows


class Predictions(PredictionTable):
    """Columns by name, in order; one row per input molecule.

    Args:
        columns: arrays of numbers or lists of text, all of one length.
        index: labels of the rows, from the caller's Series or DataFrame; None = counted from 0.
    """

    def __init__(self, columns: Mapping[str, Column], index: Any = None) -> None:
        super().__init__(columns)
        self.index = index

    def to_pandas(self) -> pandas.DataFrame:
        """The same as a pandas DataFrame, with the index of the input if it had one."""
        frame = super().to_pandas()
        if self.index is not None:
            frame.index = self.index
        return frame

    def _repr_html_(self) -> str:
        """Drawn molecules beside their predictions; columns that are empty throughout are left out."""
        own = {name: list(values) for name, values in self.items() if name != "smiles"}
        used = {name: cells for name, cells in own.items() if any(cell != "" for cell in cells)}
        labels = range(self.num_rows) if self.index is None else self.index
        return molecules_view(list(self["smiles"]), used, labels)


class Evaluation(dict[str, Any]):
    """Metrics of a model on labelled molecules by name; `targets` has each target's own."""

    def __str__(self) -> str:
        """The lines that `dnd evaluate` prints."""
        return "\n".join(metric_lines(self))

    def _repr_html_(self) -> str:
        """Counts, then a line per target."""
        facts: dict[str, object] = {"molecules": self["molecules"], "rows left out": self["rejected"]}
        for name, values in self["targets"].items():
            facts[name] = _numbers(values)
        return facts_view("evaluation", facts)


class Explanations(list[Explanation]):
    """What each atom adds to the predictions: an `Explanation` per molecule and target."""

    def _repr_html_(self) -> str:
        """The molecules coloured by the contributions of their atoms."""
        drawn = [one for one in self if one.svg]
        left = [f"{one.smiles}: {one.error}" for one in self if not one.svg]
        pictures = figures_view([one.svg for one in drawn], [one.smiles for one in drawn])
        return pictures + (facts_view("not drawn", {str(row): line for row, line in enumerate(left)}) if left else "")


class Predictor(core.Predictor):
    """A finetuned model, opened with `dnd.load`.

    Attributes:
        folder: the MODEL folder it was loaded from.
        metrics: the content of `metrics.json`: metrics of every part of the split and of the baselines.
        card: the model card, Markdown.

    Example:
        >>> model = dnd.load("esol-model")  # doctest: +SKIP
        >>> model.predict(["CCO", "c1ccccc1"]).to_pandas()  # doctest: +SKIP
    """

    def __init__(self, parts: PredictorParts, **options: Any) -> None:
        super().__init__(parts, **options)
        self.folder: Path | None = None
        self.metrics: dict[str, Any] = {}
        self.card = ""

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "auto", jobs: int = 1) -> Predictor:
        """Open a MODEL folder.

        Args:
            folder: made by `dnd.finetune` or `dnd finetune`.
            device: `cpu`, `cuda` or `auto`.
            jobs: number of processes that parse many molecules; 0 = one per processor.

        Raises:
            InputError, CorruptFileError: the folder is missing, damaged, of another kind, or made with other features.
        """
        model = super().load(folder, device=device, jobs=jobs)
        assert isinstance(model, cls)
        model.folder = model_folder(folder)
        # They are read now: an estimator's folder is gone once it is loaded.
        model.metrics = read_json(model.folder / "metrics.json")
        model.card = (model.folder / "card.md").read_text(encoding="utf-8")
        return model

    def predict(self, molecules: Any, *, smiles_column: str | None = None) -> Predictions:
        """Predict the targets of molecules.

        Args:
            molecules: a SMILES, a list, an array, a Series, RDKit molecules, a DataFrame, or the path of a table.
            smiles_column: column of SMILES of a DataFrame or a table; found by name or in a file by content when None.

        Returns:
            A row per molecule, in order: `smiles`, the columns of every target, `in_domain`, `domain_reason`, and
            `error`, the reason where there is no molecule. `to_pandas()` keeps the index of a Series or a DataFrame.

        Raises:
            TypeError: the argument can't be read as molecules.
            InputError: a file can't be read, or a table has no such column.
        """
        given = as_molecules(molecules, smiles_column, remembered=self.smiles_column)
        columns, errors = self.describe(given.texts)
        return Predictions({"smiles": given.texts, **columns, ERROR: given.reasons(errors)}, given.index)

    def embed(self, molecules: Any, *, smiles_column: str | None = None) -> Float[np.ndarray, "molecules dim"]:
        """Pooled representations, of several members side by side; a row of NaN where there is no molecule."""
        return self.embed_with_errors(as_molecules(molecules, smiles_column, remembered=self.smiles_column).texts)[0]

    def evaluate(
        self, data: Any, *, smiles_column: str | None = None, target_columns: str | Sequence[str] = ()
    ) -> Evaluation:
        """Metrics on labelled molecules, as `dnd evaluate` computes them.

        Args:
            data: a path, a DataFrame, or a mapping of columns.
            smiles_column: column of SMILES; when None, that of the training, else found by name or content.
            target_columns: columns with the labels, in the order of the model's targets; those of the targets' names
                when empty.

        Raises:
            InputError: a column is missing, a label can't be read, or nothing is left.
        """
        names = [target_columns] if isinstance(target_columns, str) else list(target_columns)
        with as_file(data, smiles_column) as (path, column):
            return Evaluation(evaluate_file(self, path, smiles_column=column, target_columns=names))

    def explain(
        self, molecules: Any, *, targets: str | Sequence[str] = (), smiles_column: str | None = None
    ) -> Explanations:
        """What each atom adds to the predictions, as `dnd explain` draws it.

        Args:
            molecules: see `predict`.
            targets: names of targets; the first four of the model when empty.
            smiles_column: see `predict`.

        Raises:
            ConfigError: the model has no such target.
        """
        names = [targets] if isinstance(targets, str) else list(targets)
        return Explanations(
            explain_molecules(self, as_molecules(molecules, smiles_column, remembered=self.smiles_column).texts, names)
        )

    def __repr__(self) -> str:
        """Targets and folder."""
        return f"Predictor({', '.join(target.name for target in self.targets)}; {self.folder or 'not in a folder'})"

    def _repr_html_(self) -> str:
        """What it predicts, what it is made of, and how good it was on its own test part."""
        counts, training = _inside(self.metrics, "counts"), _inside(self.parts.config, "training")
        classical = self.parts.blend.classical if self.parts.blend else ()
        facts: dict[str, object] = {
            "targets": ", ".join(_with_unit(target.name, target.unit) for target in self.targets),
            "task": self.kind,
            "folder": self.folder or "none",
            "encoder": training.get("encoder"),
            "members": f"{len(self.parts.members)} networks, {len(classical)} classical models",
            "molecules": counts.get("molecules"),
            "split": self.metrics.get("split"),
        }
        targets = _inside(self.metrics, "parts", "test", "targets")
        for name in list(targets)[:_BRIEF]:
            facts[f"test part, {name}"] = _numbers(_inside(targets, name))
        return facts_view("dnd model", facts)


def _inside(value: Any, *path: str) -> Mapping[str, Any]:
    """The object that a folder's file has at `path`; an empty one where it has something else there."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def _numbers(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items() if isinstance(value, int | float))


def opened(model: Any, *, device: str = "auto", jobs: int = 1) -> Predictor:
    """Open a model from its folder or from the result of `dnd.finetune`; an opened model is returned as it is."""
    if isinstance(model, Predictor):
        return model
    made = getattr(model, "predictor", None)
    if isinstance(made, Predictor):
        return made
    return Predictor.load(Path(model), device=device, jobs=jobs)
