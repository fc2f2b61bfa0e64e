"""Which molecules form a batch, and which rows of a store train, in memory that does not grow with the store."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol, overload, runtime_checkable

import numpy as np
from jaxtyping import Int

from dnd.common.compute import derive_seed, numpy_generator
from dnd.common.errors import ConfigError
from dnd.common.ragged import RaggedCounts
from dnd.graphs.batch import MoleculeBatch

# Which molecules form a batch: length-sorted pools, a token budget, and an order that is a pure function of its seed.
#
# Dense attention pads each batch to its largest molecule. Batches cut from pools sorted by size waste little, and the
# pools are cut from a fresh permutation each epoch, so batches still mix.


DEFAULT_POOL = 8192


@runtime_checkable  # so that the test run can check annotations with it
class MoleculeSource(Protocol):
    """Molecules that can be read by position: a store on disk or a table in memory."""

    def __len__(self) -> int:
        """Number of molecules."""
        ...

    @property
    def atom_counts(self) -> RaggedCounts:
        """Graph atoms of each molecule, an array to be indexed."""
        ...

    @property
    def bond_counts(self) -> RaggedCounts:
        """Bonds of each molecule, counted once."""
        ...

    def read(self, rows: np.ndarray, *, conformer: int = 0) -> MoleculeBatch:
        """The molecules at `rows`, in that order, each with its conformer number `conformer` modulo J."""
        ...

    def describe(self, rows: np.ndarray) -> list[str]:
        """One line per molecule (SMILES and source row) for messages."""
        ...


def plan_batches(
    sizes: Int[np.ndarray, "rows"],
    *,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
    pool: int = DEFAULT_POOL,
) -> list[np.ndarray]:
    """Row numbers of each batch of one epoch for one rank.

    Every row is in exactly one batch of one rank, and all ranks have the same number of batches: where the count does
    not divide, the largest batches are split in two. Only where there are fewer rows than that takes does a rank have a
    batch less.

    Args:
        sizes: tokens (or atoms) of each row.
        batch_size: rows per batch; exactly one of this and `max_tokens`.
        max_tokens: bound on (largest size in the batch) x (rows in the batch). A row above it is a batch of its own.
        seed: the run's seed.
        epoch: number of the epoch.
        rank: this process.
        world: number of processes.
        drop_last: leave out the batch with fewer than `batch_size` rows and, rather than splitting, the batches that
            the ranks can't share equally.
        pool: rows that are sorted by size together.

    Returns:
        Arrays of row numbers; a pure function of the arguments.

    Raises:
        ConfigError: both or neither of the two limits, or a limit under 1.
    """
    if (batch_size is None) == (max_tokens is None) or (batch_size or max_tokens or 0) < 1 or pool < 1:
        raise ConfigError("a batch is bounded by batch_size or by max_tokens", found=f"{batch_size=}, {max_tokens=}")
    sizes = np.asarray(sizes)
    generator = numpy_generator(seed, "batches", epoch)
    order = small_rows(generator.permutation(len(sizes)))
    if batch_size is not None:
        pool = max(1, pool // batch_size) * batch_size  # so that only the last pool has a short batch
    batches: list[np.ndarray] = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]  # a view: batches are pieces of the one array
        rows[:] = rows[np.argsort(sizes[rows], kind="stable")]
        bounds = _fixed_bounds(len(rows), batch_size) if batch_size else _budget_bounds(sizes[rows], max_tokens or 0)
        batches += [rows[begin:end] for begin, end in pairwise(bounds)]
    if drop_last and batch_size is not None:
        batches = [batch for batch in batches if len(batch) == batch_size]
    batches = [batches[index] for index in generator.permutation(len(batches))]
    return _share(batches, world, drop_last)[rank::world]


def split_holdout(num_rows: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and held-out rows, both ascending; a pure function of the arguments.

    Args:
        num_rows: rows to split.
        fraction: share that is held out, rounded; at least one row on either side where there are two.
        seed: the run's seed.

    Raises:
        ConfigError: `fraction` is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ConfigError("the held-out fraction is out of range", found=fraction, expected="0 <= fraction < 1")
    held = round(num_rows * fraction)
    if fraction > 0 and num_rows > 1:
        held = min(max(held, 1), num_rows - 1)
    order = numpy_generator(seed, "holdout").permutation(num_rows)
    return small_rows(np.sort(order[held:])), np.sort(order[:held])


def small_rows(rows: np.ndarray) -> np.ndarray:
    """Row numbers in four bytes each where they fit: a run keeps its epoch's order in memory all the time."""
    return rows.astype(np.int32) if len(rows) == 0 or int(rows.max()) < 2**31 else rows


def cut_by_budget(
    sorted_rows: Int[np.ndarray, "rows"], sorted_sizes: Int[np.ndarray, "rows"], max_tokens: int
) -> list[Int[np.ndarray, "_batch"]]:
    """Rows by ascending size in batches of at most `max_tokens` padded tokens; a larger row is a batch of its own."""
    return [sorted_rows[begin:end] for begin, end in pairwise(_budget_bounds(sorted_sizes, max_tokens))]


def padding_share(sizes: Int[np.ndarray, "rows"], batches: list[np.ndarray]) -> float:
    """Share of padded cells: 1 - (sum of sizes) / (sum over batches of largest size x rows)."""
    padded = sum(int(sizes[rows].max()) * len(rows) for rows in batches)
    real = sum(int(sizes[rows].sum()) for rows in batches)
    return 1 - real / padded if padded else 0.0


def _fixed_bounds(num_rows: int, batch_size: int) -> list[int]:
    return [*range(0, num_rows, batch_size), num_rows]


def _budget_bounds(sorted_sizes: Int[np.ndarray, "rows"], max_tokens: int) -> list[int]:
    """Cut an ascending pool greedily: the last row of a batch is its largest."""
    bounds, begin = [0], 0
    for index, size in enumerate(sorted_sizes.tolist()):
        if index > begin and size * (index - begin + 1) > max_tokens:
            bounds.append(index)
            begin = index
    return [*bounds, len(sorted_sizes)]


def _share(batches: list[np.ndarray], world: int, drop_last: bool) -> list[np.ndarray]:
    """Bring the number of batches to a multiple of `world`."""
    excess = len(batches) % world
    if drop_last:
        return batches[: len(batches) - excess]
    for _ in range((world - excess) % world):
        largest = max(range(len(batches)), key=lambda index: len(batches[index]))
        rows = batches[largest]
        if len(rows) < 2:
            break
        half = (len(rows) + 1) // 2
        batches = [*batches[:largest], rows[:half], *batches[largest + 1 :], rows[half:]]
    return batches


# The rows of a store that train and the batches of an epoch, in memory that does not grow with the store.
#
# A store of more than `SECTION` rows is split, shuffled and planned in sections of every K-th row, each a sample of the
# whole; an epoch takes them in an order of its own. A smaller store is one section.


SECTION = 2**18


class TrainingRows:
    """The rows of a store that train, and those that are held out. All rows of a molecule are on the same side.

    Rows are drawn. A molecule is held out if its first row was drawn and it has no more rows than were drawn in all.
    So neither copies nor other conformers of a held-out molecule train. Without copies, the drawn rows themselves are
    held out. A store of a single molecule is split by rows.

    Args:
        num_rows: number of molecules in the store.
        fraction: share that is held out, see `split_holdout`.
        seed: the run's seed; rows are a pure function of these four.
        section: rows that are planned together, at most.
        codes: equal numbers for rows of one molecule, see `Store.molecule_codes`; every row is its own when None.

    Attributes:
        held_out: held-out rows, ascending.
        num_sections: K.
        counts: rows of each section that train.
    """

    def __init__(
        self, num_rows: int, fraction: float, seed: int, section: int = SECTION, codes: MoleculeCodes | None = None
    ) -> None:
        self._num_rows = num_rows
        self.num_sections = max(1, -(-num_rows // section))
        drawn = np.sort(np.concatenate([self._drawn(number, fraction, seed) for number in range(self.num_sections)]))
        self.held_out: Int[np.ndarray, "held_out"] = drawn if codes is None else whole_molecules(drawn, num_rows, codes)
        held = np.bincount(self.held_out % self.num_sections, minlength=self.num_sections).tolist()
        sizes = [len(range(number, num_rows, self.num_sections)) for number in range(self.num_sections)]
        self.counts: list[int] = [size - count for size, count in zip(sizes, held, strict=True)]

    def __len__(self) -> int:
        """Rows that train."""
        return sum(self.counts)

    def section(self, number: int) -> Int[np.ndarray, "rows"]:
        """Training rows of a section, ascending."""
        rows = np.arange(number, self._num_rows, self.num_sections)
        held = self.held_out[self.held_out % self.num_sections == number]
        rows = np.delete(rows, held // self.num_sections)
        return small_rows(rows) if self.num_sections == 1 else rows

    def every(self) -> Int[np.ndarray, "rows"]:
        """All training rows, ascending."""
        return np.sort(np.concatenate([self.section(number) for number in range(self.num_sections)]))

    def sample(self) -> Int[np.ndarray, "rows"]:
        """All training rows of a store of one section, and those of the first section of a larger one."""
        return self.section(0)

    def _drawn(self, number: int, fraction: float, seed: int) -> Int[np.ndarray, "drawn"]:
        """Rows of a section that are drawn to be held out."""
        if self.num_sections == 1:
            return split_holdout(self._num_rows, fraction, seed)[1]
        count = len(range(number, self._num_rows, self.num_sections))
        places = split_holdout(count, fraction, derive_seed(seed, "section", number))[1]
        return number + self.num_sections * places


_CODES_AT_ONCE = 2**14

MoleculeCodes = Callable[[Int[np.ndarray, "rows"]], Int[np.ndarray, "rows"]]
"""Row numbers → a number for each row, equal for rows of one molecule."""


def whole_molecules(drawn: Int[np.ndarray, "drawn"], num_rows: int, codes: MoleculeCodes) -> Int[np.ndarray, "held"]:
    """All rows of the held-out molecules, ascending: at least one molecule is held out, and never all of them.

    Memory grows with the rows that are drawn and their copies, not with the store.

    Args:
        drawn: rows that were drawn, ascending.
        num_rows: number of rows in the store.
        codes: see `TrainingRows`.

    Returns:
        Row numbers; `drawn` itself where all rows are of one molecule.
    """
    if not len(drawn):
        return drawn
    wanted = np.unique(codes(drawn))
    parts = []
    for start in range(0, num_rows, _CODES_AT_ONCE):
        rows = np.arange(start, min(start + _CODES_AT_ONCE, num_rows))
        parts.append(rows[np.isin(codes(rows), wanted)])
    rows = np.concatenate(parts)
    _, first, molecule = np.unique(codes(rows), return_index=True, return_inverse=True)
    sizes = np.bincount(molecule)
    held = np.isin(rows[first], drawn) & (sizes <= len(drawn))
    if not held.any():
        held[sizes.argmin()] = True
    if sizes[held].sum() == num_rows:  # every molecule of the store
        if len(first) == 1:
            return drawn
        held[sizes.argmax()] = False
    return rows[held[molecule]]


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
