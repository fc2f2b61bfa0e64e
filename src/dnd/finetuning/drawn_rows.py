"""A fixed number of rows drawn at random from a stream of unknown length, in constant memory.

Source: Vitter, "Random sampling with a reservoir" (ACM Trans. Math. Softw. 11 (1985) 37), Algorithm R.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dnd.common.seeds import derive_seed

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
