"""Molecules that were measured more than once: how many, how far their values are apart, and their rows as one.

How far these are apart is computed in `dnd.predictor.metrics`.

No rule that draws a split puts two rows of a molecule into different parts, see `chemistry/splits.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from dnd.chemistry.splits import Split, rows_of_molecules
from dnd.common.errors import InputError
from dnd.finetuning.labelled_data import LabelledMolecules
from dnd.finetuning.repeats import Repeats, pooled_deviation
from dnd.predictor.targets import TaskKind, Transform, TransformName

Aggregation = Literal["keep", "mean", "median", "geometric-mean"]


def find_repeats(
    molecules: LabelledMolecules,
    kinds: Sequence[TaskKind],
    transforms: Sequence[TransformName],
    units: Sequence[str],
) -> list[Repeats]:
    """What each target's repeated measurements say; targets without any are left out. It decides nothing.

    Args:
        molecules: with a column per class for targets of several classes.
        kinds: tasks of the columns.
        transforms: transforms of the columns.
        units: units of the columns; empty = none given.
    """
    repeated = [rows for rows in rows_of_molecules(molecules.identities) if len(rows) > 1]
    spans = {group.first: (group.name, list(group.columns)) for group in molecules.groups}
    found: list[Repeats] = []
    for column, kind in enumerate(kinds):
        if kind == "multiclass" and column not in spans:
            continue
        name, columns = spans.get(column, (molecules.names[column], [column]))
        labels_BK = molecules.exact_BC[:, columns]
        is_factor = kind == "regression" and transforms[column] == "log"
        labels_BK = Transform("log").judged(labels_BK) if is_factor else labels_BK
        own = [[row for row in rows if not np.isnan(labels_BK[row]).any()] for rows in repeated]
        own = [places for places in own if len(places) > 1]
        if not own:
            continue
        count, rows = len(own), sum(map(len, own))
        if kind == "regression":
            deviation = pooled_deviation([labels_BK[rows, 0] for rows in own])
            unit = units[column] if units and not is_factor else ""
            shown = 10**deviation if is_factor else deviation
            found.append(Repeats(name, count, rows, deviation=shown, is_factor=is_factor, unit=unit))
            continue
        contradicting = [rows for rows in own if len(np.unique(labels_BK[rows], axis=0)) > 1]
        first = molecules.smiles[contradicting[0][0]] if contradicting else ""
        found.append(Repeats(name, count, rows, contradicting=len(contradicting), first=first))
    return found


def aggregated(
    molecules: LabelledMolecules, how: Aggregation, kinds: Sequence[TaskKind]
) -> tuple[LabelledMolecules, str | None]:
    """The rows of a molecule in one part as one: the first gets the mean of their values, the others are in no part.

    Rows of different parts stay apart, so that no test label gets into a training label. Classes that contradict each
    other leave no label. Values that are the truth outweigh limits, see `weightiest`.

    Args:
        molecules: with parts; a column per target of the user.
        how: `keep` changes nothing.
        kinds: tasks of the targets.

    Returns:
        The molecules, and a line that says what was done.

    Raises:
        InputError: a geometric mean of values that are learned and not positive.
    """
    if how == "keep":
        return molecules, None
    if how == "geometric-mean":
        _require_positive(molecules, kinds)
    membership = _membership(molecules.parts, len(molecules.smiles))
    groups = [rows for rows in rows_of_molecules(zip(molecules.identities, membership, strict=True)) if len(rows) > 1]
    targets_BC, left_out = molecules.targets_BC.copy(), np.zeros(len(molecules.smiles), bool)
    sides_BC = np.zeros(targets_BC.shape, np.int8) if molecules.sides_BC is None else molecules.sides_BC.copy()
    contradicting = 0
    for first, *others in groups:
        rows = [first, *others]
        for column, kind in enumerate(kinds):
            values, sides_BC[first, column] = weightiest(molecules.targets_BC[rows, column], sides_BC[rows, column])
            value = _one_of(values, how, kind)
            contradicting += bool(np.isnan(value) and len(values))
            targets_BC[first, column] = value
        left_out[others] = True
        left_out[first] = molecules.learned_B[first] and np.isnan(targets_BC[first]).all()
    targets_BC[left_out] = np.nan
    parts = tuple(Split(*(rows[~left_out[rows]] for rows in part.parts().values())) for part in molecules.parts)
    line = f"replicates: {sum(map(len, groups))} rows of {len(groups)} molecules are {len(groups)} by their {how}"
    line += f"; {contradicting} labels left out that contradict each other" if contradicting else ""
    limits_BC = None if molecules.sides_BC is None else sides_BC
    return replace(molecules, targets_BC=targets_BC, sides_BC=limits_BC, parts=parts), line


def weightiest(
    values: Float[np.ndarray, "rows"], sides: Int[np.ndarray, "rows"]
) -> tuple[Float[np.ndarray, "chosen"], int]:
    """Of the labels of one molecule those that count: the truth outweighs limits.

    Args:
        values: NaN = missing.
        sides: see `LabelledMolecules`.

    Returns:
        The exact values, or the limits if there are no exact values, and the side of the returned labels.
    """
    known = ~np.isnan(values)
    exact = known & (sides == 0)
    chosen = exact if exact.any() else known
    return values[chosen], int(sides[chosen][0]) if chosen.any() else 0


def _one_of(values: Float[np.ndarray, "rows"], how: Aggregation, kind: TaskKind) -> float:
    if not len(values):
        return float("nan")
    if kind != "regression":
        return float(values[0]) if np.ptp(values) == 0 else float("nan")
    if how == "geometric-mean":
        return float(np.exp(Transform("log").forward(values).mean()))  # NaN with a value that is not positive
    return float(np.median(values) if how == "median" else values.mean())


def _require_positive(molecules: LabelledMolecules, kinds: Sequence[TaskKind]) -> None:
    for name, kind, labels_B in zip(molecules.names, kinds, molecules.learned_BC.T, strict=True):
        lowest = float(np.nanmin(labels_B)) if np.isfinite(labels_B).any() else 1.0
        if kind == "regression" and lowest <= 0:
            raise InputError(
                f"target {name} has no geometric mean",
                found=f"the label {lowest:g}",
                expected="labels above 0",
                next_step="Use --replicates mean or median",
            )


def _membership(parts: Sequence[Split], count: int) -> list[tuple[int, ...]]:
    """For each molecule the part that it is in, of each partition; 0 = in none."""
    found_XB = np.zeros((len(parts), count), np.int64)
    for partition, own_B in zip(parts, found_XB, strict=True):
        for number, rows in enumerate(partition.parts().values(), start=1):
            own_B[rows] = number
    return [tuple(own) for own in found_XB.T.tolist()]
