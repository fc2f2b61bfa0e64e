"""Metrics and errors in a model's report: beside the baselines, by target, by fold, and the worst molecules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dnd.common.errors import DndError
from dnd.common.files import read_json
from dnd.common.model_folder import read_model
from dnd.common.randomness import derive_seed
from dnd.predictor.metrics import MULTICLASS_METRICS, TaskKind, class_scores, confusion, metric_names, one_hot, score
from dnd.predictor.model_folder import KIND
from dnd.predictor.predictor import Predictor
from dnd.report.explain import draw_answers
from dnd.report.figures import confusion_plot
from dnd.report.html import Figure, Gallery, Section, Table, draw_molecule
from dnd.tables.writers import csv_rows

# The files of a MODEL folder as its report needs them.


@dataclass(frozen=True)
class ClassTest:
    """The test part of a target of several classes.

    Attributes:
        classes: their names.
        labels_NK: 0 and 1, a row of NaN = missing.
        probabilities_NK: of each class.
    """

    classes: tuple[str, ...]
    labels_NK: Float[np.ndarray, "molecules classes"]
    probabilities_NK: Float[np.ndarray, "molecules classes"]


@dataclass(frozen=True)
class ModelFiles:
    """What the files of a MODEL folder say.

    Attributes:
        folder: the folder.
        config: `config.json`.
        metrics: `metrics.json`.
        smiles: of the test part.
        labels_NC: of the test part; NaN = missing, and for targets of several classes.
        predictions_NC: of the test part; NaN for targets of several classes.
        classes: the test part of those, by target.
    """

    folder: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    smiles: list[str]
    labels_NC: Float[np.ndarray, "molecules targets"]
    predictions_NC: Float[np.ndarray, "molecules targets"]
    classes: Mapping[str, ClassTest]

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

    def scales(self) -> list[float]:
        """Deviation of the training labels of each target; 1 for classes."""
        known = {target["name"]: target["std"] or 1.0 for target in self.config["targets"]}
        return [known.get(name, 1.0) for name in self.names]

    def main_score(self, rows: np.ndarray) -> float | None:
        """The main metric on some molecules of the test part."""
        main = self.metrics["metric"]
        if main not in MULTICLASS_METRICS:
            return score(main, self.labels_NC[rows], self.predictions_NC[rows]).value
        (own,) = self.classes.values()
        return class_scores(own.labels_NK[rows], own.probabilities_NK[rows])[main]

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
        return np.array(
            [[_number("" if one.get("classes") else _as_number(row, one, end)) for one in targets] for row in rows]
        )

    classes = {one["name"]: _class_test(one["name"], one["classes"], rows) for one in targets if one.get("classes")}
    smiles = [row["smiles"] for row in rows]
    return ModelFiles(folder, saved.config, metrics, smiles, numbers(""), numbers("_pred"), classes)


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
    codes_N = np.array([place.get(row[name], np.nan) for row in rows])
    probabilities_NK = np.array([[_number(row[f"{name}_prob_{one}"]) for one in classes] for row in rows])
    return ClassTest(tuple(classes), one_hot(codes_N, len(classes)), probabilities_NK)


def _number(text: str) -> float:
    return float(text or "nan")


# Tables of a model's report: metrics beside the baselines, by target, by fold, and the trials of a search.


LIMIT_RESAMPLED_TARGETS = 12
LIMIT_FOLDS, LIMIT_TRIALS = 50, 30
RESAMPLES = 400


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
    columns = ["system", *(f"{part} {name}" for part in ("test", "validation") for name in names)]
    chosen = "The validation part chose the epoch"
    out_of_fold = "Validation numbers of a blend and of its members are out of fold"
    note = f"{out_of_fold if 'blend' in metrics else chosen}; the test part chose nothing."
    if "folds" in metrics:
        note += f" Mean ± half a 95 % interval over {len(metrics['folds'])} folds, corrected for their overlap."
    low, high = _interval(model)
    if low is not None and high is not None:
        main = metrics["metric"]
        note += f" 95 % bootstrap interval of this model's test {main} over molecules: {low:.4g} to {high:.4g}."
    found: list[Section] = [Table(columns, rows, title="Metrics beside the baselines", note=note, best=[0])]
    if len(model.names) > 1:
        own = metrics["parts"]["test"]["targets"]
        per_target = [[name, *(own[name][metric] for metric in names)] for name in model.names[:50]]
        cut = f"The first 50 of {len(model.names)} targets." if len(model.names) > 50 else ""
        found.append(Table(["target", *(f"test {name}" for name in names)], per_target, title="By target", note=cut))
    return [*found, *_folds(model)]


def _cell(values: Mapping[str, Any], name: str) -> object:
    value, half = values[name], values.get(f"{name}_half_width")
    return value if value is None or half is None else f"{value:.4g} ± {half:.2g}"


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
        rows = [
            [name, label, *(parts[part]["targets"][name][metric] for part in ("test", "valid") for metric in metrics)]
            for name in names[:50]
            for label, parts in systems.items()
        ]
        columns = ["target", "system", *(f"{part} {metric}" for part in ("test", "validation") for metric in metrics)]
        cut = f" The first 50 of {len(names)} targets." if len(names) > 50 else ""
        note = f"The validation loss, a mean over targets, chose the epoch.{cut}"
        found.append(Table(columns, rows, title=f"Metrics beside the baselines: {kind}", note=note))
    return found


def _interval(model: ModelFiles) -> tuple[float | None, float | None]:
    """Percentile bootstrap of the main test metric over molecules (Efron 1979); None where it can't be had."""
    if len(model.names) > LIMIT_RESAMPLED_TARGETS or len(model.smiles) < 10 or "folds" in model.metrics:
        return None, None
    generator = np.random.default_rng(derive_seed(0, "report-bootstrap"))
    values = []
    for _ in range(RESAMPLES):
        rows = generator.integers(len(model.smiles), size=len(model.smiles))
        value = model.main_score(rows)
        values += [value] if value is not None else []
    if len(values) < RESAMPLES // 2:
        return None, None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


# Errors of a model's report: confusion of classes, and the worst molecules with what each atom added.


WORST = 8
LIMIT_CONFUSIONS = 4


@dataclass(frozen=True)
class _Worst:
    """One of the largest errors: its place in the test part, its target, and how it is said."""

    row: int
    target: str
    caption: str


def confusion_sections(model: ModelFiles) -> list[Section]:
    """For each target of several classes which class was called which, and how each class did."""
    found: list[Section] = []
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
        "All errors: test_predictions.csv; other molecules: dnd explain."
    )
    texts = [model.smiles[one.row] for one in worst]
    return [Gallery(drawn, captions, texts, title="Worst errors of the test part", note=note)] if worst else []


def _worst(model: ModelFiles) -> list[_Worst]:
    """By |error| in units of each target's deviation, or by the probability that the true class did not get."""
    found: list[tuple[float, _Worst]] = []
    several = len(model.names) > 1
    for column, (name, scale) in enumerate(zip(model.names, model.scales(), strict=True)):
        start = f"{name}: " if several else ""
        if name in model.classes:
            found += _worst_classes(model.classes[name], name, start)
            continue
        for row in np.flatnonzero(~np.isnan(model.labels_NC[:, column] + model.predictions_NC[:, column])):
            label, value = model.labels_NC[row, column], model.predictions_NC[row, column]
            caption = f"{start}measured {label:.3g}, predicted {value:.3g}"
            found.append((float(abs(value - label) / scale), _Worst(int(row), name, caption)))
    return [one for _, one in sorted(found, key=lambda pair: -pair[0])[:WORST]]


def _worst_classes(own: ClassTest, name: str, start: str) -> list[tuple[float, _Worst]]:
    found = []
    for row in np.flatnonzero(~np.isnan(own.labels_NK).any(axis=1)):
        true, called = int(own.labels_NK[row].argmax()), int(own.probabilities_NK[row].argmax())
        share, sure = own.probabilities_NK[row, true], own.probabilities_NK[row, called]
        caption = f"{start}measured {own.classes[true]} ({share:.2f}), predicted {own.classes[called]} ({sure:.2f})"
        if true != called:
            found.append((float(1 - share), _Worst(int(row), name, caption)))
    return found


def _pictures(model: ModelFiles, worst: list[_Worst]) -> list[str]:
    """Drawings with contributions; empty where there are none, such as with an encoder that can't be opened."""
    try:
        predictor = Predictor.load(model.folder, device="cpu")
        return draw_answers(predictor, [(model.smiles[one.row], one.target) for one in worst])
    except DndError:
        return [""] * len(worst)


def _counts(own: ClassTest) -> np.ndarray:
    known_N = ~np.isnan(own.labels_NK).any(axis=1)
    called_N = own.probabilities_NK[known_N].argmax(axis=1)
    return confusion(own.labels_NK[known_N].argmax(axis=1), called_N, len(own.classes))


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
