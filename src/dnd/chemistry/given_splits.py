"""Splits that the data give: by the order of a column, such as a date, or by files of row numbers."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from dnd.chemistry.splits import Split, as_split, check_fractions
from dnd.chemistry.streams import open_bytes, text_lines
from dnd.common.errors import InputError


def ordered_split(values: Sequence[str], fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> Split:
    """Smallest values to training, the next to validation, the largest to test: oldest first for a date.

    Rows of one value stay together, so a boundary moves to the nearest place where the value changes.

    Args:
        values: one cell per row, all numbers or all ISO dates; a row whose cell is empty is in no part.
        fractions: of the rows that have a value.

    Raises:
        ConfigError: fractions that are negative or don't sum to 1.
        InputError: a cell is neither a number nor an ISO date.
    """
    check_fractions(fractions)
    keys_N = _keys(values)
    known = np.flatnonzero(~np.isnan(keys_N))
    order = known[np.argsort(keys_N[known], kind="stable")]
    changes = np.flatnonzero(np.diff(keys_N[order])) + 1
    ends = [_nearest(changes, round(share * len(order))) for share in np.cumsum(fractions[:2])]
    return as_split(*np.split(order, ends))


def index_split(paths: Sequence[Path | str], rows_N: Int[np.ndarray, "molecules"]) -> tuple[Split, int]:
    """Parts listed in three files of row numbers of the input, from 0: training, validation, test.

    A file has a row number per line, with a heading or without, as OGB's split files have it; `.gz` is read too.

    Args:
        paths: of the three files.
        rows_N: row number of each molecule, ascending.

    Returns:
        Positions in `rows_N`, and how many of the listed rows hold no usable molecule.

    Raises:
        InputError: a file holds something else, or a row twice or in two parts.
    """
    if len(paths) != 3:
        raise InputError("the index split needs three files", found=len(paths), expected="index:TRAIN,VALID,TEST")
    place_of = {int(row): place for place, row in enumerate(rows_N)}
    owner: dict[int, str] = {}
    parts: list[list[int]] = []
    for path in paths:
        rows = _row_numbers(Path(path))
        for row in rows:
            if row in owner:
                raise InputError(f"row {row} is listed twice", found=f"{owner[row]} and {path}", expected="one part")
            owner[row] = str(path)
        parts.append([place_of[row] for row in rows if row in place_of])
    return as_split(*parts), len(owner) - sum(map(len, parts))


def _keys(values: Sequence[str]) -> Float[np.ndarray, "rows"]:
    """Cells as numbers that sort, NaN where empty; dates where they are not all numbers."""
    problems: dict[str, str] = {}
    for name, read in (("a number", float), ("an ISO date such as 2024-01-31", _timestamp)):
        keys = np.full(len(values), np.nan)
        for row, value in enumerate(values):
            try:
                keys[row] = read(value) if value.strip() else math.nan
                if math.isinf(keys[row]) or (value.strip() and math.isnan(keys[row])):
                    raise ValueError
            except ValueError:
                problems[name] = f"row {row}: {value[:40]!r}"
                break
        else:
            return keys
    found = "; ".join(f"{cell} is not {name}" for name, cell in problems.items())
    raise InputError("the column does not order the rows", found=found, expected="numbers, or ISO dates, throughout")


def _timestamp(text: str) -> float:
    moment = datetime.datetime.fromisoformat(text.strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _nearest(changes: Int[np.ndarray, "changes"], wanted: int) -> int:
    return int(changes[np.argmin(np.abs(changes - wanted))]) if len(changes) else wanted


def _row_numbers(path: Path) -> list[int]:
    lines = [line.strip() for line in text_lines(open_bytes(path), path)]
    if lines and not lines[0].isdecimal():
        lines = lines[1:]
    bad = next((number for number, line in enumerate(lines) if line and not line.isdecimal()), None)
    if bad is not None:
        raise InputError(f"{path} is no list of row numbers", found=repr(lines[bad][:40]), expected="a number per line")
    return [int(line) for line in lines if line]
