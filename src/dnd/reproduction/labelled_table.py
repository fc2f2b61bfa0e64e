"""The labelled table of a cell: a data set, reduced to the budget's size and to a fraction of its training labels."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dnd.common.compute import numpy_generator
from dnd.report.figures import table_text
from dnd.reproduction.benchmarks import PARTS, QM9_PREFIX, load_benchmark
from dnd.reproduction.results import TABLE, Work

_MOST_BALANCED_TARGETS = 30  # with more, one molecule of each class per target would fill the smallest subset


@dataclass(frozen=True)
class LabelledTable:
    """Molecules with labels and their part.

    Attributes:
        smiles: N SMILES.
        targets_BC: labels; NaN = missing.
        names: names of the targets.
        split: part of each molecule.
        task: kind of targets.
        metric: `rmse`, `rocauc`, `mae` or `mae_z`.
        scale: standard deviation (population form) of the training labels of a single target; 1 for classes.
        available: molecules of each part before any reduction.
        as_shipped: whether the table is the repository's own.
    """

    smiles: list[str]
    targets_BC: Float[np.ndarray, "molecules targets"]
    names: tuple[str, ...]
    split: list[str]
    task: Literal["regression", "classification"]
    metric: str
    scale: float
    available: Mapping[str, int]
    as_shipped: bool

    def text(self) -> str:
        """As CSV with the columns smiles, targets and split."""
        return labelled_csv(self.smiles, self.targets_BC, self.names, self.split)

    def describe(self) -> dict[str, Any]:
        """Sizes, for the record of a cell."""
        sizes = {part: self.split.count(part) for part in PARTS}
        return {"molecules": sizes, "available": dict(self.available), "as_shipped": self.as_shipped}


def labelled_csv(smiles: Sequence[str], targets_BC: np.ndarray, names: Sequence[str], split: Sequence[str]) -> str:
    """Molecules, their labels with all digits (empty = missing) and their part, as CSV."""
    rows = [
        [text, *(None if np.isnan(value) else repr(float(value)) for value in row), part]
        for text, row, part in zip(smiles, targets_BC, split, strict=True)
    ]
    return table_text(["smiles", *names, "split"], rows)


def labelled_table(work: Work) -> LabelledTable:
    """The table of a cell, a function of its settings `dataset`, `most_molecules`, `fraction` and `seed`."""
    settings = work.settings
    if str(settings["dataset"]).startswith(QM9_PREFIX):
        table = _qm9_table(work)
    elif "table_sha256" in settings:
        table = _user_table(work)
    else:
        data = load_benchmark(settings["dataset"], work.paths.get("data_dir"))
        available = {part: len(rows) for part, rows in data.parts.items()}
        parts = reduced(data.parts, settings["most_molecules"])
        rows = np.concatenate([parts[part] for part in PARTS])
        table = LabelledTable(
            [data.smiles[row] for row in rows],
            data.targets_BC[rows],
            data.names,
            [part for part in PARTS for _ in parts[part]],
            data.benchmark.task,
            data.benchmark.metric,
            1.0,
            available,
            data.as_shipped,
        )
    return _with_scale(_with_fraction(table, settings.get("fraction", 1.0), settings["seed"]))


def reduced(parts: Mapping[str, np.ndarray], most: int | None, seed: int = 0) -> dict[str, np.ndarray]:
    """At most `most` rows over all parts, drawn in proportion to the parts, ascending; every run draws the same."""
    total = sum(len(rows) for rows in parts.values())
    if most is None or total <= most:
        return dict(parts)
    chosen = {}
    for part, rows in parts.items():
        count = max(1, round(most * len(rows) / total))
        order = numpy_generator(seed, f"reduced {part}").permutation(len(rows))
        chosen[part] = np.sort(rows[order[:count]])
    return chosen


def nested_subset(targets_BC: np.ndarray, fraction: float, seed: int, task: str) -> np.ndarray:
    """Rows of a random subset; a smaller fraction of the same seed is always part of a larger one.

    For classes, the first molecule of each class of every target comes first in the order, so that small subsets can
    be learned from, as long as there are at most 30 targets.
    """
    order = numpy_generator(seed, "label fraction").permutation(len(targets_BC))
    if task == "classification" and targets_BC.shape[1] <= _MOST_BALANCED_TARGETS:
        firsts = [
            order[np.flatnonzero(targets_BC[order, column] == label)[:1]]
            for column in range(targets_BC.shape[1])
            for label in (1.0, 0.0)
        ]
        order = np.array(list(dict.fromkeys([*np.concatenate(firsts).tolist(), *order.tolist()])), dtype=np.int64)
    count = len(order) if fraction >= 1 else max(2, round(fraction * len(order)))
    return np.sort(order[:count])


def _with_fraction(table: LabelledTable, fraction: float, seed: int) -> LabelledTable:
    if fraction >= 1:
        return table
    split = np.array(table.split)
    train = np.flatnonzero(split == "train")
    kept = train[nested_subset(table.targets_BC[train], fraction, seed, table.task)]
    rows = np.sort(np.concatenate([kept, np.flatnonzero(split != "train")]))
    return _select(table, rows, np.arange(len(table.names)))


def _with_scale(table: LabelledTable) -> LabelledTable:
    """Drop targets without a training label, and set the scale of a single regression target."""
    train_BC = table.targets_BC[np.array(table.split) == "train"]
    known = np.flatnonzero((~np.isnan(train_BC)).any(axis=0))
    table = _select(table, np.arange(len(table.smiles)), known)
    if table.task == "classification" or len(table.names) != 1:
        return table
    return LabelledTable(**{**vars(table), "scale": float(np.nanstd(train_BC[:, known[0]]))})


def _select(table: LabelledTable, rows: np.ndarray, columns: Sequence[int] | np.ndarray) -> LabelledTable:
    return LabelledTable(
        **{
            **vars(table),
            "smiles": [table.smiles[row] for row in rows],
            "targets_BC": table.targets_BC[rows][:, columns],
            "names": tuple(table.names[column] for column in columns),
            "split": [table.split[row] for row in rows],
        }
    )


def _qm9_table(work: Work) -> LabelledTable:
    name = str(work.settings["dataset"]).removeprefix(QM9_PREFIX)
    return _own_table(work.file_of(work.need("labels"), TABLE), (name,), "regression", "mae")


def _user_table(work: Work) -> LabelledTable:
    """The table that `analyse labels` wrote from the user's file, in the settings known by its SHA-256."""
    settings = work.settings
    metric = "rocauc" if settings["task"] == "classification" else "rmse"
    return _own_table(Path(work.paths["table"]), tuple(settings["targets"]), settings["task"], metric)


def _own_table(
    path: Path, names: tuple[str, ...], task: Literal["regression", "classification"], metric: str
) -> LabelledTable:
    with open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    split = [row["split"] for row in rows]
    labels = np.array([[float(row[name] or "nan") for name in names] for row in rows])
    sizes = {part: split.count(part) for part in PARTS}
    return LabelledTable([row["smiles"] for row in rows], labels, names, split, task, metric, 1.0, sizes, False)
