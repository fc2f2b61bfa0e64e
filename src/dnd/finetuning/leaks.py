"""Columns that hold the answer: another column that orders the molecules as the target does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from dnd.chemistry.inputs import open_molecules
from dnd.chemistry.streams import STANDARD_INPUT
from dnd.finetuning.dataset import LabelledFile

LIMIT_ROWS = 5_000
LIMIT_COLUMNS = 200
FEWEST = 20
SUSPICIOUS = 0.99


def leak_warnings(file: LabelledFile, targets: Sequence[str], ignored: Sequence[str] = ()) -> list[str]:
    """One line for each other column of numbers whose rank correlation with a target is 0.99 or more, up or down.

    Only the SMILES are ever learned from, so such a column does no harm here. But it often means that the target is
    known already, in another unit, or was computed from that column, and then a model of it is of little use. The first
    5,000 rows are looked at; standard input, which can be read once only, is not.

    Args:
        file: the table.
        targets: its target columns.
        ignored: columns that are something else, such as that of a split.
    """
    if str(file.path) == STANDARD_INPUT:
        return []
    columns = _numbers(file)
    found = []
    for name, other in itertools.product(targets, columns):
        if name not in columns or other in targets or other in (file.smiles_column, *ignored):
            continue
        correlation = _rank_correlation(columns[name], columns[other])
        if abs(correlation) >= SUSPICIOUS:
            found.append(
                f"warning: column {other} orders the molecules as target {name} does (rank correlation "
                f"{correlation:.3f}); it is not learned from, but is {name} not known already?"
            )
    return found


def _numbers(file: LabelledFile) -> dict[str, np.ndarray]:
    """The columns of numbers, NaN where a cell is none."""
    with open_molecules(file.path, file.smiles_column) as table:
        names = [name for name in table.columns if name != file.smiles_column][:LIMIT_COLUMNS]
        rows = [
            [_number(row.values[name]) for name in names]
            for row in itertools.islice((row for row in table if row.problem is None), LIMIT_ROWS)
        ]
    values = np.array(rows, dtype=np.float64).reshape(len(rows), len(names))
    return dict(zip(names, values.T, strict=True))


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    known = ~np.isnan(first) & ~np.isnan(second)
    first, second = first[known], second[known]
    if len(first) < FEWEST or min(len(np.unique(first)), len(np.unique(second))) < 2:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)
