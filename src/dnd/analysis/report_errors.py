"""Errors of a model's report: confusion of classes, and the worst molecules with what each atom added."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dnd.analysis.explain import draw_answers
from dnd.analysis.model_figures import confusion_plot
from dnd.analysis.model_files import ClassTest, ModelFiles
from dnd.analysis.report import Figure, Gallery, Section, Table, draw_molecule
from dnd.common.errors import DndError
from dnd.finetuning.multiclass import confusion
from dnd.prediction.predictor import Predictor

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
