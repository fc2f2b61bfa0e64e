"""Cells of a label column as numbers, and a random sample of the labelled rows of a large table."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dnd.common.errors import InputError
from dnd.common.randomness import derive_seed

# Cells of a label column as numbers: values, 0 and 1, or places among the words that name classes.


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


# A fixed number of rows drawn at random from a stream of unknown length, in constant memory.
#
# Source: Vitter, "Random sampling with a reservoir" (ACM Trans. Math. Softw. 11 (1985) 37), Algorithm R.


T = TypeVar("T")


@dataclass
class DrawnRows(Generic[T]):
    """At most `most` of the rows that were added, each with the same probability.

    Attributes:
        most: rows; None = all.
        seen: rows that were added.
    """

    most: int | None = None
    seen: int = 0
    _kept: list[tuple[int, T]] = field(default_factory=list)
    _random: random.Random = field(default_factory=lambda: random.Random(derive_seed(0, "drawn rows")))

    def add(self, row: T) -> None:
        """Look at a row, and keep it or not."""
        if self.most is None or len(self._kept) < self.most:
            self._kept.append((self.seen, row))
        else:
            place = self._random.randrange(self.seen + 1)
            if place < self.most:
                self._kept[place] = (self.seen, row)
        self.seen += 1

    def rows(self) -> list[T]:
        """The kept rows in the order in which they came."""
        self._kept.sort(key=lambda entry: entry[0])
        return [row for _, row in self._kept]

    @property
    def left_out(self) -> int:
        """Rows that were added and are not kept."""
        return self.seen - len(self._kept)
