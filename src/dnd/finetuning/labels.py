"""Cells of a label column as numbers: values, 0 and 1, or places among the words that name classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dnd.common.errors import InputError

MOST_CLASSES = 50
"""Largest number of classes of one target."""

MISSING_WORDS = frozenset({"", "nan", "na", "n/a", "null", "none", "?", "-"})
_TRUTH = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


def is_missing(text: str) -> bool:
    """Whether a cell holds no label."""
    return text.strip().lower() in MISSING_WORDS


def parse_labels(cells: Sequence[str], *, rows: Sequence[int], column: str) -> tuple[list[float], tuple[str, ...]]:
    """The labels of one column: numbers, or places in the list of its words where no label is a number.

    Returns:
        Values, NaN where missing, and the words in alphabetical order; none where the labels are numbers.

    Raises:
        InputError: a cell is no number, while others are or there are more than 50 different words.
    """
    try:
        return [parse_label(text, row=row, column=column) for text, row in zip(cells, rows, strict=True)], ()
    except InputError:
        words = sorted({text.strip() for text in cells if not is_missing(text)})
        if len(words) > MOST_CLASSES or any(map(_looks_numeric, words)):
            raise
    place = {word: float(number) for number, word in enumerate(words)}
    return [place.get(text.strip(), math.nan) for text in cells], tuple(words)


def _looks_numeric(word: str) -> bool:
    try:
        return not math.isnan(float(word))
    except ValueError:
        return any(letter.isdigit() for letter in word[:2]) and not word.isalnum()


def parse_label(text: str, *, row: int, column: str) -> float:
    """The number in a cell; NaN where the label is missing.

    Raises:
        InputError: the cell is neither a finite number, nor true/false, nor one of the words for a missing value.
    """
    word = text.strip().lower()
    if word in MISSING_WORDS:
        return math.nan
    if word in _TRUTH:
        return _TRUTH[word]
    try:
        value = float(word)
    except ValueError:
        value = math.inf
    if not math.isfinite(value) or "_" in word:
        raise InputError(
            f"row {row}, column {column}: the label is not a number",
            found=repr(text[:40]),
            expected="a finite number",
            next_step="Correct the cell, or empty it where the label is missing",
        )
    return value
