"""The files of a MODEL folder as its report needs them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dnd.common.files import read_json
from dnd.common.model_folder import read_model
from dnd.finetuning.metrics import TaskKind, score
from dnd.finetuning.multiclass import MULTICLASS_METRICS, class_scores, one_hot
from dnd.finetuning.predictor_folder import KIND


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
    rows = read_table(folder / "test_predictions.csv")
    targets = metrics["targets"]

    def numbers(end: str) -> Float[np.ndarray, "molecules targets"]:
        return np.array(
            [[_number("" if one.get("classes") else row[f"{one['name']}{end}"]) for one in targets] for row in rows]
        )

    classes = {one["name"]: _class_test(one["name"], one["classes"], rows) for one in targets if one.get("classes")}
    smiles = [row["smiles"] for row in rows]
    return ModelFiles(folder, saved.config, metrics, smiles, numbers(""), numbers("_pred"), classes)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by column."""
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _class_test(name: str, classes: list[str], rows: list[dict[str, str]]) -> ClassTest:
    place = {one: float(number) for number, one in enumerate(classes)}
    codes_N = np.array([place.get(row[name], np.nan) for row in rows])
    probabilities_NK = np.array([[_number(row[f"{name}_prob_{one}"]) for one in classes] for row in rows])
    return ClassTest(tuple(classes), one_hot(codes_N, len(classes)), probabilities_NK)


def _number(text: str) -> float:
    return float(text or "nan")
