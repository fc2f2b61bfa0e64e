"""The rows of a store that train and the batches of an epoch, in memory that does not grow with the store.

A store of more than `SECTION` rows is split, shuffled and planned in sections of every K-th row, each a sample of the
whole; an epoch takes them in an order of its own. A smaller store is one section.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import overload

import numpy as np
from jaxtyping import Int

from dnd.common.seeds import derive_seed, numpy_generator
from dnd.store.batches import DEFAULT_POOL, plan_batches, split_holdout
from dnd.store.ragged import RaggedCounts

SECTION = 2**18


class TrainingRows:
    """Rows of a store that train, and those that are held out.

    Args:
        num_rows: of the store.
        fraction: share that is held out, see `split_holdout`.
        seed: the run's seed; rows are a pure function of these three.
        section: rows that are planned together, at most.

    Attributes:
        held_out: held-out rows, ascending.
        num_sections: K.
    """

    def __init__(self, num_rows: int, fraction: float, seed: int, section: int = SECTION) -> None:
        self._num_rows, self._fraction, self._seed = num_rows, fraction, seed
        self.num_sections = max(1, -(-num_rows // section))
        held_out = [self._split(number)[1] for number in range(self.num_sections)]
        self.held_out: Int[np.ndarray, "held_out"] = np.sort(np.concatenate(held_out))
        sizes = [len(range(number, num_rows, self.num_sections)) for number in range(self.num_sections)]
        self.counts = [size - len(held) for size, held in zip(sizes, held_out, strict=True)]

    def __len__(self) -> int:
        """Rows that train."""
        return sum(self.counts)

    def section(self, number: int) -> Int[np.ndarray, "rows"]:
        """Training rows of a section, ascending."""
        return self._split(number)[0]

    def sample(self) -> Int[np.ndarray, "rows"]:
        """All training rows of a store of one section, and those of the first section of a larger one."""
        return self.section(0)

    def _split(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        if self.num_sections == 1:
            return split_holdout(self._num_rows, self._fraction, self._seed)
        count = len(range(number, self._num_rows, self.num_sections))
        train, held_out = split_holdout(count, self._fraction, derive_seed(self._seed, "section", number))
        return number + self.num_sections * train.astype(np.int64), number + self.num_sections * held_out


class EpochPlan(Sequence[np.ndarray]):
    """The batches of an epoch as row numbers of the store, int64; see `plan_batches`. One section is held at a time.

    Args:
        rows: what trains.
        sizes: tokens or atoms of every row of the store.
        batch_size: rows per batch; exactly one of this and `max_tokens`.
        max_tokens: bound on padded tokens of a batch.
        seed: the run's seed.
        epoch: number of the epoch.
        drop_last: leave out a section's batch with fewer than `batch_size` rows.
        pool: rows that are sorted by size together.

    Raises:
        ConfigError: both or neither of the two limits, or a limit under 1.
    """

    def __init__(
        self,
        rows: TrainingRows,
        sizes: RaggedCounts,
        *,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        seed: int,
        epoch: int,
        drop_last: bool = False,
        pool: int = DEFAULT_POOL,
    ) -> None:
        self._rows, self._sizes, self._seed, self._epoch = rows, sizes, seed, epoch
        self._batch_size, self._max_tokens, self._drop_last, self._pool = batch_size, max_tokens, drop_last, pool
        self._loaded = -1  # the section whose rows and batches are at hand
        self._section_rows: np.ndarray = np.empty(0, dtype=np.int64)
        self._batches: list[np.ndarray] = []
        self._order = numpy_generator(seed, "sections", epoch).permutation(rows.num_sections).tolist()
        self._ends = np.cumsum([self._length(number) for number in self._order])
        self._window = range(int(self._ends[-1]))

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._window)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> EpochPlan: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | EpochPlan:
        """A batch; of a slice, those batches."""
        if isinstance(index, slice):
            part = copy.copy(self)
            part._window = self._window[index]
            return part
        number = self._window[index]
        turn = int(np.searchsorted(self._ends, number, side="right"))
        self._load(self._order[turn])
        batch = self._batches[number - int(self._ends[turn]) + len(self._batches)]
        rows: np.ndarray = self._section_rows[batch].astype(np.int64)
        return rows

    def _length(self, number: int) -> int:
        """Batches of a section; a token budget has to be planned to know them."""
        if self._batch_size and not self._max_tokens and self._rows.num_sections > 1:
            count = self._rows.counts[number]
            return count // self._batch_size if self._drop_last else -(-count // self._batch_size)
        self._load(number)
        return len(self._batches)

    def _load(self, number: int) -> None:
        if number == self._loaded:
            return
        rows, several = self._rows.section(number), self._rows.num_sections > 1
        self._batches = plan_batches(
            self._sizes[rows],
            batch_size=self._batch_size,
            max_tokens=self._max_tokens,
            seed=derive_seed(self._seed, "section", number) if several else self._seed,
            epoch=self._epoch,
            drop_last=self._drop_last,
            pool=self._pool,
        )
        self._section_rows, self._loaded = rows, number
