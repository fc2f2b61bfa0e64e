"""Metrics and errors in a model's report: beside the baselines, by target, by fold, and the worst molecules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dnd.common.config import from_dict
from dnd.common.errors import DndError
from dnd.common.files import read_json
from dnd.common.model_folder import read_model
from dnd.finetuning.evaluation import headlines, scale_words
from dnd.finetuning.verdict import BASELINE_WORDS, METRIC_WORDS
from dnd.predictor.metrics import RAW, RAW_METRICS, confusion, metric_names, one_hot, significant, with_prediction
from dnd.predictor.model_folder import KIND
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import LN_10, TaskKind, Transform
from dnd.report.explain import draw_answers
from dnd.report.html import Figure, Gallery, Section, Table, Text, draw_molecule
from dnd.tables.writers import csv_rows

# The files of a MODEL folder as its report needs them.


@dataclass(frozen=True)
class ClassTest:
    """The test part of a target of several classes.

    Attributes:
        classes: their names.
        labels_BK: 0 and 1, a row of NaN = missing, or that of a molecule without a prediction.
        probabilities_BK: probabilities of each class; NaN = no prediction.
    """

    classes: tuple[str, ...]
    labels_BK: Float[np.ndarray, "molecules classes"]
    probabilities_BK: Float[np.ndarray, "molecules classes"]


@dataclass(frozen=True)
class ModelFiles:
    """What the files of a MODEL folder say.

    Attributes:
        folder: the folder.
        config: `config.json`.
        metrics: `metrics.json`.
        rows: numbers of the test molecules in the input, from 0.
        ids: the user's names of them; empty where there are none.
        smiles: SMILES of the test part.
        labels_BC: labels of the test part; NaN = missing or without a prediction, and for targets of several classes.
        predictions_BC: predictions of the test part; NaN = none, and for targets of several classes.
        classes: the test part of those, by target.
    """

    folder: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    rows: list[str]
    ids: list[str]
    smiles: list[str]
    labels_BC: Float[np.ndarray, "molecules targets"]
    predictions_BC: Float[np.ndarray, "molecules targets"]
    classes: Mapping[str, ClassTest]

    @cached_property
    def predictor(self) -> Predictor | None:
        """The model, opened once; None where it can't be, such as with an encoder of another version."""
        try:
            return Predictor.load(self.folder, device="cpu")
        except DndError:
            return None

    @property
    def names(self) -> list[str]:
        """Of the targets, as the user knows them."""
        return [target["name"] for target in self.metrics["targets"]]

    @property
    def kinds(self) -> list[TaskKind]:
        """Of the targets."""
        return [target.get("kind", self.metrics["task"]) for target in self.metrics["targets"]]

    def columns_of(self, kind: TaskKind) -> list[int]:
        """The targets of a kind."""
        return [column for column, own in enumerate(self.kinds) if own == kind]

    def transforms(self) -> list[Transform]:
        """Of each target, as the model learns and judges it."""
        known = {target["name"]: target.get("transform", {}) for target in self.config["targets"]}
        return [from_dict(Transform, known.get(name, {})) for name in self.names]

    def scales(self) -> list[float]:
        """Deviation of the training labels of each target on the scale on which it is judged; 1 for classes."""
        known = {target["name"]: target["std"] or 1.0 for target in self.config["targets"]}
        pairs = zip(self.names, self.transforms(), strict=True)
        return [known.get(name, 1.0) / (LN_10 if own.name == "log" else 1.0) for name, own in pairs]

    def place_of(self, row: int) -> int:
        """A row of the input as messages call it, such as a spreadsheet does; older models do not record that."""
        offsets = [more for start, more in self.metrics.get("row_offsets", ()) if start <= row]
        return row + (offsets[-1] if offsets else 0)

    def runs(self) -> list[Path]:
        """Folders with the logs of the members, in their order."""
        count = len(self.config["members"])
        own = [self.folder / f"member-{number}" for number in range(count)]
        return [run for run in own if run.is_dir()] or [self.folder]


def read_model_files(folder: Path) -> ModelFiles:
    """Read a sealed MODEL folder.

    Raises:
        InputError, CorruptFileError: the folder is missing, damaged, or no finished model.
    """
    saved, metrics = read_model(folder, kind=KIND), read_json(folder / "metrics.json")
    rows = csv_rows(folder / "test_predictions.csv")
    targets = metrics["targets"]

    def numbers(end: str) -> Float[np.ndarray, "molecules targets"]:
        cells = [[_number("" if one.get("classes") else _as_number(row, one, end)) for one in targets] for row in rows]
        return np.array(cells).reshape(len(rows), len(targets))

    classes = {one["name"]: _class_test(one["name"], one["classes"], rows) for one in targets if one.get("classes")}
    smiles = [row["smiles"] for row in rows]
    places = [row["row"] for row in rows]
    has_ids = bool(rows) and "id" in rows[0] and all(target["name"] != "id" for target in targets)
    ids = [row["id"] for row in rows] if has_ids else []
    predictions_BC = numbers("_pred")
    labels_BC = with_prediction(numbers(""), predictions_BC)
    return ModelFiles(folder, saved.config, metrics, places, ids, smiles, labels_BC, predictions_BC, classes)


def _as_number(row: dict[str, str], target: Mapping[str, Any], end: str) -> str:
    """A label or a prediction as a number; of two classes with names, the place or the probability of the second."""
    name, classes = target["name"], target.get("class_names")
    if not classes:
        return row[f"{name}{end}"]
    if end:
        return row[f"{name}_prob_{classes[1]}"]
    return str(classes.index(row[name])) if row[name] else ""


def _class_test(name: str, classes: list[str], rows: list[dict[str, str]]) -> ClassTest:
    place = {one: float(number) for number, one in enumerate(classes)}
    codes_B = np.array([place.get(row[name], np.nan) for row in rows])
    cells = [[_number(row[f"{name}_prob_{one}"]) for one in classes] for row in rows]
    probabilities_BK = np.array(cells).reshape(len(rows), len(classes))
    codes_B[np.isnan(probabilities_BK).any(axis=1)] = np.nan
    return ClassTest(tuple(classes), one_hot(codes_B, len(classes)), probabilities_BK)


def _number(text: str) -> float:
    return float(text or "nan")


# Tables of a model's report: metrics beside the baselines, by target, by fold, and the trials of a search.


LIMIT_FOLDS, LIMIT_TRIALS, LIMIT_COMPARED = 50, 30, 60


def _words(metric: str) -> str:
    return METRIC_WORDS.get(metric, metric)


def verdict_sections(model: ModelFiles) -> list[Section]:
    """The sentences to quote first, then the model beside each baseline on the same test molecules."""
    found: list[Section] = [Text("\n\n".join(headlines(model.metrics)), title="Results")]
    rows: list[list[object]] = []
    for one in model.metrics.get("verdicts", ()):
        metric = METRIC_WORDS[one["metric"]]
        for other in one["comparisons"]:
            difference = other["difference"]
            low, high = difference["low"], difference["high"]
            interval = None if low is None else f"{significant(low)} to {significant(high)}"
            baseline = BASELINE_WORDS.get(other["baseline"], other["baseline"])
            own = one["own"]["value"]
            said = [other["relation"], baseline, own, other["value"], difference["value"], interval]
            rows.append([one["target"] or "mean of all targets", metric, *said])
    if rows:
        columns = ["target", "test metric", "the model is", "baseline", "model", "baseline's", "difference"]
        note = "The interval is of the difference on the same molecules; where it contains 0, the two are level."
        title = "Compared with simple baselines"
        found.append(Table([*columns, "95 % interval"], rows[:LIMIT_COMPARED], title=title, note=note))
    return found


def metric_sections(model: ModelFiles) -> list[Section]:
    """The model beside its baselines: all targets together or one by one, and each fold."""
    metrics = model.metrics
    names = metrics["metrics"]
    systems = {"this model": metrics["parts"]}
    systems |= {name.replace("_", " "): values["parts"] for name, values in metrics["baselines"].items()}
    if metrics.get("per_target"):
        return _metrics_of_each(model, systems)
    rows = [
        [label, *(_cell(parts[part], name) for part in ("test", "valid") for name in names)]
        for label, parts in systems.items()
    ]
    columns = ["system", *(f"{part} {_words(name)}" for part in ("test", "validation") for name in names)]
    chosen = "The validation part chose the epoch"
    out_of_fold = "Validation numbers of a blend and of its members are out of fold"
    note = f"{out_of_fold if 'blend' in metrics else chosen}; the test part chose nothing."
    if "folds" in metrics:
        note += f" Mean ± half a 95 % interval over {len(metrics['folds'])} folds, corrected for their overlap."
    scale = scale_words(metrics["targets"])
    if scale:
        note += f" On the learned scale: {scale}."
    found: list[Section] = [Table(columns, rows, title="Metrics beside the baselines", note=note, best=[0])]
    if scale:
        found.append(_in_units(systems))
    if len(model.names) > 1:
        own = metrics["parts"]["test"]["targets"]
        per_target = [[name, *(own[name][metric] for metric in names)] for name in model.names[:50]]
        cut = f"The first 50 of {len(model.names)} targets." if len(model.names) > 50 else ""
        found.append(
            Table(["target", *(f"test {_words(name)}" for name in names)], per_target, title="By target", note=cut)
        )
    return [*found, *_folds(model)]


def _cell(values: Mapping[str, Any], name: str) -> object:
    value, half = values[name], values.get(f"{name}_half_width")
    return value if value is None or half is None else f"{significant(value)} ± {half:.2g}"


def _folds(model: ModelFiles) -> list[Section]:
    """The main test metric of each fold, the model beside its baselines."""
    if "folds" not in model.metrics:
        return []
    main = model.metrics["metric"]
    systems = {"this model": model.metrics["folds"]}
    systems |= {name.replace("_", " "): values["folds"] for name, values in model.metrics["baselines"].items()}
    rows = [
        [fold, *(folds[fold]["test"][main] for folds in systems.values())]
        for fold in range(len(model.metrics["folds"]))
    ]
    return [Table(["fold", *systems], rows[:LIMIT_FOLDS], title=f"Test {main} of each fold")]


def search_sections(model: ModelFiles) -> list[Section]:
    """The trials of `--search`, the best first."""
    search = model.metrics.get("search")
    if not search:
        return []
    names = list(search["trials"][0]["settings"])
    ordered = sorted(enumerate(search["trials"]), key=lambda pair: pair[1]["value"], reverse=search["larger_is_better"])
    rows = [[number + 1, trial["value"], *(trial["settings"][name] for name in names)] for number, trial in ordered]
    note = f"Chosen by {search['chosen_by']}. Trial 1 has the settings that the search started from."
    return [Table(["trial", search["metric"], *names], rows[:LIMIT_TRIALS], title="Search", note=note, best=[0])]


def _metrics_of_each(model: ModelFiles, systems: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """A table per kind of target, every target beside its own baselines."""
    found: list[Section] = []
    for kind in dict.fromkeys(model.kinds):
        metrics, names = metric_names([kind]), [model.names[column] for column in model.columns_of(kind)]
        own = [target for target in model.metrics["targets"] if target["name"] in names]
        scale, mapped = scale_words(own), [target["name"] for target in own if "transform" in target]
        rows = [
            [name, label, *(parts[part]["targets"][name][metric] for part in ("test", "valid") for metric in metrics)]
            for name in names[:50]
            for label, parts in systems.items()
        ]
        columns = [
            "target",
            "system",
            *(f"{part} {_words(metric)}" for part in ("test", "validation") for metric in metrics),
        ]
        cut = f" The first 50 of {len(names)} targets." if len(names) > 50 else ""
        chose = "The validation loss, a mean over targets, chose the epoch." if model.config["members"] else ""
        note = f"{chose}{cut}" + (f" On the learned scale: {scale}." if scale else "")
        found.append(Table(columns, rows, title=f"Metrics beside the baselines: {kind}", note=note.strip()))
        if scale:
            found.append(_in_units_of_each(systems, mapped[:50]))
    return found


def _in_units_of_each(systems: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> Table:
    """The same of targets that are learned through a transform, in the unit of each."""
    heads = [f"{part} {_words(name.removesuffix(RAW))}" for part in ("test", "validation") for name in RAW_METRICS]
    rows = [
        [name, label, *(parts[part]["targets"][name][metric] for part in ("test", "valid") for metric in RAW_METRICS)]
        for name in names
        for label, parts in systems.items()
    ]
    return Table(["target", "system", *heads], rows, title="In the unit of each target", note=_FEW_DECIDE)


_FEW_DECIDE = "A few molecules with large values decide such numbers; the learned scale weighs all molecules alike."


def _in_units(systems: Mapping[str, Mapping[str, Any]]) -> Table:
    """The same of targets that are learned through a transform, in their units."""
    columns = [
        "system",
        *(f"{part} {_words(name.removesuffix(RAW))}" for part in ("test", "validation") for name in RAW_METRICS),
    ]
    rows = [
        [label, *(_cell(parts[part], name) for part in ("test", "valid") for name in RAW_METRICS)]
        for label, parts in systems.items()
    ]
    return Table(columns, rows, title="In the unit of the target", note=_FEW_DECIDE)


# Errors of a model's report: confusion of classes, and the worst molecules with what each atom added.


WORST = 6
LIMIT_CONFUSIONS = 4


@dataclass(frozen=True)
class _Worst:
    """One of the largest errors: its place in the test part, its target, and its caption."""

    row: int
    target: str
    caption: str


def confusion_sections(model: ModelFiles) -> list[Section]:
    """For each target of several classes which class was called which, and how each class did."""
    found: list[Section] = []
    if model.classes:
        from dnd.report.figures import confusion_plot  # Matplotlib, which a model of values does not need
    for name, own in list(model.classes.items())[:LIMIT_CONFUSIONS]:
        counts_KK = _counts(own)
        if not counts_KK.sum():
            continue
        caption = "Rows are the measured classes, columns the predicted ones; the colour is the share of the row."
        found.append(
            Figure(confusion_plot(counts_KK, own.classes), title=f"Confusion, test part: {name}", caption=caption)
        )
        hits_K, true_K, called_K = np.diag(counts_KK), counts_KK.sum(axis=1), counts_KK.sum(axis=0)
        rows = [
            [one, int(true), _share(hits, true), _share(hits, called)]
            for one, hits, true, called in zip(own.classes, hits_K, true_K, called_K, strict=True)
        ]
        columns = ["class", "test molecules", "share found (recall)", "share right where called (precision)"]
        found.append(Table(columns, rows, title=f"By class: {name}"))
    return found


def worst_sections(model: ModelFiles) -> list[Section]:
    """The largest errors, drawn with the contributions of the atoms to the prediction that went wrong."""
    worst = _worst(model)
    pictures = _pictures(model, worst)
    drawn = [
        picture or draw_molecule(model.smiles[one.row]) or "" for one, picture in zip(worst, pictures, strict=True)
    ]
    captions = [one.caption for one in worst]
    note = (
        "Orange atoms raise the prediction over what it is with another element in their place, blue ones lower it; "
        "classes in log-odds. A contribution says what the model does, not why the molecule is so. "
        "All errors: test_predictions.csv, whose rows count from 0; other molecules: dnd explain."
    )
    texts = [model.smiles[one.row] for one in worst]
    if any("." in text for text in texts):
        note += " A molecule of several parts is predicted as a whole; its colours are those of the largest part."
    return [Gallery(drawn, captions, texts, title="Worst errors of the test part", note=note)] if worst else []


def _worst(model: ModelFiles) -> list[_Worst]:
    """By |error| in units of each target's deviation, or by the probability that the true class did not get."""
    found: list[tuple[float, _Worst]] = []
    several = len(model.names) > 1
    columns = zip(model.names, model.scales(), model.transforms(), strict=True)
    for column, (name, scale, transform) in enumerate(columns):
        start = f"{name}: " if several else ""
        if name in model.classes:
            found += _worst_classes(model, name, start)
            continue
        labels_B, values_B = model.labels_BC[:, column], model.predictions_BC[:, column]
        errors_B = np.abs(transform.judged(values_B) - transform.judged(labels_B)) / scale
        for row in np.flatnonzero(np.isfinite(errors_B)):
            label, value = float(labels_B[row]), float(values_B[row])
            caption = f"{_who(model, int(row))}{start}{_said(model.metrics['targets'][column], label, value)}"
            found.append((float(errors_B[row]), _Worst(int(row), name, f"{caption}. {model.smiles[row]}")))
    return [one for _, one in sorted(found, key=lambda pair: -pair[0])[:WORST]]


def _said(target: Mapping[str, Any], label: float, value: float) -> str:
    """A label and its prediction; of two classes with names these, and the probability of the one predicted."""
    words = target.get("class_names")
    if not words:
        return f"measured {significant(label)}, predicted {significant(value)}"
    called = int(value > 0.5)
    return f"measured {words[int(label)]}, predicted {words[called]} ({significant(value if called else 1 - value)})"


def _who(model: ModelFiles, row: int) -> str:
    """By which the user finds a molecule again: its name, and its row of the table."""
    own = f"{model.ids[row]}, " if model.ids and model.ids[row] else ""
    return f"{own}row {model.place_of(int(model.rows[row]))}: "


def _worst_classes(model: ModelFiles, name: str, start: str) -> list[tuple[float, _Worst]]:
    found, own = [], model.classes[name]
    for row in np.flatnonzero(~np.isnan(own.labels_BK).any(axis=1)):
        true, called = int(own.labels_BK[row].argmax()), int(own.probabilities_BK[row].argmax())
        share, sure = own.probabilities_BK[row, true], own.probabilities_BK[row, called]
        said = f"measured {own.classes[true]} ({share:.2f}), predicted {own.classes[called]} ({sure:.2f})"
        if true != called:
            caption = f"{_who(model, int(row))}{start}{said}. {model.smiles[row]}"
            found.append((float(1 - share), _Worst(int(row), name, caption)))
    return found


def _pictures(model: ModelFiles, worst: list[_Worst]) -> list[str]:
    """Drawings with contributions; empty where there are none, such as with an encoder that can't be opened."""
    if model.predictor is None:
        return [""] * len(worst)
    try:
        return draw_answers(model.predictor, [(model.smiles[one.row], one.target) for one in worst])
    except DndError:
        return [""] * len(worst)


def _counts(own: ClassTest) -> np.ndarray:
    known_B = ~np.isnan(own.labels_BK).any(axis=1)
    called_B = own.probabilities_BK[known_B].argmax(axis=1)
    return confusion(own.labels_BK[known_B].argmax(axis=1), called_B, len(own.classes))


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
