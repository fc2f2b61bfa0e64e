"""A finetuned model as Python callers meet it: what it takes as molecules, what it answers, how a notebook shows it."""

from __future__ import annotations

import csv
import numbers
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Float

from dnd.common.config import LabelWords, from_dict
from dnd.common.errors import InputError, named_as, named_as_arguments
from dnd.common.log import counted
from dnd.prediction.evaluate import evaluate_file, label_rules_of, metric_lines
from dnd.predictor import predictor as core
from dnd.predictor.predictor import ERROR, PredictionTable
from dnd.report.explain import Explanation, explain_molecules
from dnd.report.html import draw_molecule
from dnd.tables.labels import LabelRules
from dnd.tables.molecules import as_molecules, is_file_name, is_no_value, smiles_name

if TYPE_CHECKING:
    from dnd.common.model_folder import ModelFolder
    from dnd.predictor.model_folder import PredictorParts


# What a Python caller passed, a table or a list, → a file that every verb can read.

SMILES = "smiles"


def is_path(value: Any) -> bool:
    """Whether `value` names a file: a path object, or a text that is the name of an existing one."""
    if isinstance(value, os.PathLike):
        return True
    try:
        return isinstance(value, str) and Path(value).exists()
    except (OSError, ValueError):  # a long SMILES is too long for a name
        return False


@contextmanager
def as_file(
    value: Any, smiles_column: str | None = None, labels: Iterable[str] = (), *, remembered: str | None = None
) -> Iterator[tuple[Path, str | None]]:
    """A file with what a caller passed, and its column of SMILES; a temporary one where no path was passed.

    Its name depends on nothing, so that a run that is resumed knows its input again by its content.

    Args:
        value: a path, a DataFrame, a table of Arrow, a mapping of columns, or molecules as `as_molecules` takes them; a
            text is a path where labels are wanted, as a SMILES has none.
        smiles_column: column of SMILES. When None, whoever reads a file finds it there, and None is handed on; of a
            table it is `smiles`, or the only one whose name has `smiles` in it.
        labels: names of columns whose cells must be numbers or words: a date, say, is neither, and not a class.
        remembered: column of SMILES that a table in memory is taken to have if it has it, such as that of a model.

    Raises:
        InputError: the table has no such column, two columns of one name, or columns of different lengths, or a label
            is neither a number nor a word.
        TypeError: it is nothing of these.
    """
    wanted = set(labels)
    if is_path(value) or (isinstance(value, str) and (wanted or is_file_name(value))):
        yield Path(value), smiles_column
        return
    table = _columns_of(value)
    column = smiles_column or SMILES if table is None else smiles_name(list(table), smiles_column, remembered)
    table = table or {}
    lengths = {name: len(cells) for name, cells in table.items()}
    if len(set(lengths.values())) > 1:
        raise InputError("the columns of the table differ in length", found=lengths)
    for name in wanted & table.keys() - {column}:
        _require_labels(name, table[name])
    table[column] = list(as_molecules(table.get(column, value)).texts)
    with tempfile.TemporaryDirectory(prefix="dnd-") as temporary:
        path = Path(temporary) / "molecules.csv"
        # Half a character, as of a file's name in an unknown encoding, becomes a question mark.
        with open(path, "w", encoding="utf-8", errors="replace", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(table)
            writer.writerows([_cell(cell) for cell in row] for row in zip(*table.values(), strict=True))
        with named_as({str(path): "the table"}):  # the caller knows of no file
            yield path, column


@contextmanager
def as_files(
    values: Any, smiles_column: str | None = None, *, remembered: str | None = None
) -> Iterator[tuple[list[Path], str | None]]:
    """`as_file` of one input, or of each path in a list; the name of a missing file is not taken for a SMILES."""
    listed = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    named = listed and any(
        isinstance(one, os.PathLike) or (isinstance(one, str) and is_file_name(one)) for one in values
    )
    if named or (listed and all(map(is_path, values))):
        yield [Path(value) for value in values], smiles_column
        return
    with as_file(values, smiles_column, remembered=remembered) as (path, column):
        yield [path], column


def _columns_of(value: Any) -> dict[str, list[Any]] | None:
    """The cells of each column of a table, by name; None if the value is not a table.

    Raises:
        InputError: two columns have one name.
    """
    if isinstance(value, Mapping):
        names, cells = list(value), [list(column) for column in value.values()]
    elif hasattr(value, "column_names") and hasattr(value, "column"):  # Arrow
        names, cells = list(value.column_names), [value.column(place).to_pylist() for place in range(value.num_columns)]
    elif hasattr(value, "columns") and hasattr(value, "__getitem__"):
        names = list(value.columns)
        _require_one_of_each(names)
        cells = [list(value[name]) for name in names]
    else:
        return None
    _require_one_of_each(names)
    return {str(name): column for name, column in zip(names, cells, strict=True)}


def _require_one_of_each(names: Sequence[Any]) -> None:
    """A table is asked for its columns by their names, which are texts in a file: 5 and "5" are one there."""
    counts = Counter(map(str, names))
    repeated = next((text for text, count in counts.items() if count > 1), None)
    if repeated is not None:
        raise InputError(f"the table has more than one column named {repeated!r}", next_step="Rename all but one")


def _require_labels(name: str, cells: Sequence[Any]) -> None:
    for row, cell in enumerate(map(_cell, cells)):
        is_number = isinstance(cell, numbers.Real | Decimal | np.bool_) and not isinstance(cell, np.timedelta64)
        if not (is_number or isinstance(cell, str)):
            raise InputError(
                f"column {name} has a label that is neither a number nor a word",
                found=f"{' '.join(repr(cell).split())[:60]} in row {row}, of type {type(cell).__name__}",
                next_step="Convert the column to numbers or to text first",
            )


def _cell(value: Any) -> Any:
    """What a file holds of a value: an empty cell of a missing one, the text of bytes, the only value of an array."""
    if is_no_value(value):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray) and value.size == 1:
        return _cell(value.item())
    if hasattr(value, "as_py"):  # of Arrow
        return _cell(value.as_py())
    return float(value) if isinstance(value, numbers.Rational) and not isinstance(value, numbers.Integral) else value


# How results look in a notebook: small tables and drawn molecules as HTML, with everything of the user's escaped.

LIMIT_ROWS = 20
_PICTURE = (150, 110)  # pixels


def facts_view(title: str, facts: Mapping[str, object]) -> str:
    """A heading and a line per fact."""
    rows = "".join(f"<tr><th style='text-align:left'>{escape(k)}</th>{_html_cell(v)}</tr>" for k, v in facts.items())
    return f"<div><b>{escape(title)}</b><table>{rows}</table></div>"


def molecules_view(smiles: Sequence[str], columns: Mapping[str, Sequence[object]], labels: Iterable[object]) -> str:
    """A table with a drawn molecule in front of each row; the first `LIMIT_ROWS` rows.

    Args:
        smiles: one per row; one that can't be drawn is shown as text.
        columns: further columns, in order.
        labels: labels of the rows.
    """
    names = ["", "molecule", *columns]
    head = "".join(f"<th>{escape(str(name))}</th>" for name in names)
    shown = zip(range(LIMIT_ROWS), labels, smiles, strict=False)
    rows = "".join(
        f"<tr><th>{escape(str(label))}</th><td style='background:#fff'>{_picture(text)}</td>"
        + "".join(_html_cell(cells[row]) for cells in columns.values())
        + "</tr>"
        for row, label, text in shown
    )
    more = len(smiles) - LIMIT_ROWS
    note = f"<p>{more:,} more rows: to_pandas() has them all</p>" if more > 0 else ""
    return f"<div><table><tr>{head}</tr>{rows}</table>{note}</div>"


def figures_view(svgs: Sequence[str], captions: Sequence[str]) -> str:
    """Drawings of ours side by side, each with a caption; the first `LIMIT_ROWS`."""
    cards = "".join(
        f"<figure style='display:inline-block;margin:4px;background:#fff;color:#222'>{svg}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for svg, caption in list(zip(svgs, captions, strict=True))[:LIMIT_ROWS]
    )
    more = len(svgs) - LIMIT_ROWS
    return f"<div>{cards}{f'<p>{more:,} more</p>' if more > 0 else ''}</div>"


def _picture(smiles: str) -> str:
    drawing = draw_molecule(smiles, width=_PICTURE[0], height=_PICTURE[1]) if smiles else None
    return drawing or f"<code>{escape(smiles)}</code>"


def _html_cell(value: object) -> str:
    """A number with three significant digits to the right, text to the left."""
    if isinstance(value, float) or type(value).__name__.startswith("float"):
        number = float(str(value))
        return f"<td style='text-align:right'>{'' if number != number else f'{number:.3g}'}</td>"
    if isinstance(value, int):
        return f"<td style='text-align:right'>{value:,}</td>"
    return f"<td style='text-align:left'>{'' if value is None else escape(str(value))}</td>"


_BRIEF = 4  # targets whose metrics a notebook shows


class Predictions(PredictionTable):
    """Columns by name, in order; one row per input molecule.

    Args:
        columns: arrays of numbers or lists of text, all of one length.
        index: labels of the rows, from the caller's Series or DataFrame; None = counted from 0.
    """

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
        """Counts, then a line per target: of all molecules, and of those that the model has not learned from."""
        facts: dict[str, object] = {"molecules": self["molecules"], "rows left out": self["rejected"]}
        known = self["known_molecules"]
        facts["learned from"] = "not known" if known is None else f"{known} of these {self['molecules']} molecules"
        for name, values in self["targets"].items():
            facts[f"all molecules, {name}" if known else name] = _numbers(values)
        for name, values in _inside(self.get("unknown"), "targets").items() if known != self["molecules"] else ():
            facts[f"new molecules, {name}"] = _numbers(values)
        return facts_view("evaluation", facts)


class Explanations(list[Explanation]):
    """What each atom adds to the predictions: an `Explanation` per molecule and target."""

    def _repr_html_(self) -> str:
        """The molecules coloured by the contributions of their atoms."""
        drawn = [one for one in self if one.svg]
        left = {one.smiles: one.error for one in self if not one.svg}
        pictures = figures_view([one.svg for one in drawn], [one.smiles for one in drawn])
        return pictures + (facts_view("not drawn", left) if left else "")


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
        self.card = ""

    @classmethod
    @named_as_arguments()
    def load(cls, folder: Path | str, *, device: str = "auto", jobs: int = 1) -> Predictor:
        """Open a MODEL folder.

        Args:
            folder: made by `dnd.finetune` or `dnd finetune`.
            device: `cpu`, `cuda` or `auto`.
            jobs: number of processes that parse many molecules; 0 = one per processor.

        Raises:
            InputError, CorruptFileError: the folder is missing, damaged, of another kind, or made with other features.
        """
        return cast(Predictor, super().load(folder, device=device, jobs=jobs))

    @classmethod
    def of(cls, model: ModelFolder, *, device: str = "auto", jobs: int = 1) -> Predictor:
        """The model of an opened folder, with its card: an estimator's folder is gone once it is loaded."""
        found = cast(Predictor, super().of(model, device=device, jobs=jobs))
        found.folder, found.card = model.path, model.text("card.md")
        return found

    @classmethod
    def around(cls, model: core.Predictor) -> Predictor:
        """A model that an estimator has opened, with the methods of this class; it is in no folder."""
        found = cls.__new__(cls)
        vars(found).update({"folder": None, "card": ""} | vars(model))
        return found

    @named_as_arguments()
    def predict(self, molecules: Any, *, smiles_column: str | None = None) -> Predictions:
        """Predict the targets of molecules.

        Args:
            molecules: a SMILES, a list, an array, a Series, RDKit molecules, a DataFrame, or the path of a table.
            smiles_column: column of SMILES of a DataFrame or a table; when None, that of the training, else found by
                name, or in a file by content.

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

    @named_as_arguments()
    def embed(self, molecules: Any, *, smiles_column: str | None = None) -> Float[np.ndarray, "molecules dim"]:
        """Pooled representations, of several members side by side; a row of NaN where there is no molecule."""
        return self.embed_with_errors(as_molecules(molecules, smiles_column, remembered=self.smiles_column).texts)[0]

    @named_as_arguments()
    def evaluate(
        self,
        data: Any,
        *,
        smiles_column: str | None = None,
        target_columns: str | Sequence[str] = (),
        missing: LabelWords = (),
        measured: LabelWords = (),
        censored: str | None = None,
        decimal: str | None = None,
    ) -> Evaluation:
        """Metrics on labelled molecules, as `dnd evaluate` computes them.

        Args:
            data: a path, a DataFrame, or a mapping of columns.
            smiles_column: column of SMILES; when None, that of the training, else found by name or content.
            target_columns: columns with the labels: names of some targets, or others for all targets in their order;
                those of the targets' names when empty.
            missing: see `dnd.finetune`, as are the following; what is left out is read as in the training.
            measured: values that look like placeholders but were measured.
            censored: `keep` or `drop` labels such as `>10`, which no metric counts, or take the `limit` as the value.
            decimal: decimal mark of the labels.

        Raises:
            InputError: a column is missing, a label can't be read, or nothing is left.
        """
        names = [target_columns] if isinstance(target_columns, str) else list(target_columns)
        words = {"missing": _listed(missing), "measured": _listed(measured), "censored": censored, "decimal": decimal}
        given = {name: value for name, value in words.items() if value}
        rules = from_dict(LabelRules, {**asdict(label_rules_of(self)), **given})
        labels = names or [name for target in self.targets for name in (target.name, target.group) if name]
        with as_file(data, smiles_column, labels, remembered=self.smiles_column) as (path, column):
            return Evaluation(evaluate_file(self, path, smiles_column=column, target_columns=names, rules=rules))

    @named_as_arguments()
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

    def __fspath__(self) -> str:
        """The folder, so that an opened model can be given wherever a MODEL folder is taken.

        Raises:
            TypeError: the model is in no folder.
        """
        if self.folder is None:
            raise TypeError("the model is in no folder; save it first, or name the MODEL folder")
        return str(self.folder)

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
            "members": f"{counted(len(self.parts.members), 'network')}, {counted(len(classical), 'classical model')}",
            "molecules": counts.get("molecules"),
            "split": self.metrics.get("split"),
        }
        targets = _inside(self.metrics, "parts", "test", "targets")
        for name in list(targets)[:_BRIEF]:
            facts[f"test part, {name}"] = _numbers(_inside(targets, name))
        verdicts = self.metrics.get("verdicts")
        for one in verdicts[:_BRIEF] if isinstance(verdicts, list) else ():
            facts[f"verdict, {_inside(one).get('target') or 'all targets'}"] = _inside(one).get("sentence")
        return facts_view("dnd model", facts)


def _inside(value: Any, *path: str) -> Mapping[str, Any]:
    """The object that a folder's file has at `path`; an empty one where it has something else there."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _with_unit(name: str, unit: str) -> str:
    return name if unit in name else f"{name} ({unit})"


def _numbers(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items() if isinstance(value, int | float))


def _listed(words: LabelWords) -> list[str]:
    return [str(words)] if isinstance(words, str | float | int) else list(map(str, words))


def opened(model: Any, *, device: str = "auto", jobs: int = 1) -> Predictor:
    """Open a model from its folder or from the result of `dnd.finetune`; an opened model is returned as it is."""
    if isinstance(model, Predictor):
        return model
    if isinstance(model, core.Predictor):
        return Predictor.around(model)
    made = getattr(model, "predictor", None)
    if isinstance(made, Predictor):
        return made
    return Predictor.load(Path(model), device=device, jobs=jobs)
