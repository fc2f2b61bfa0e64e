"""Which molecules form a batch: length-sorted pools, a token budget, and an order that is a pure function of its seed.

Dense attention pads each batch to its largest molecule. Batches cut from pools sorted by size waste little, and the
pools are cut from a fresh permutation each epoch, so batches still mix.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from dnd.common.errors import ConfigError
from dnd.common.seeds import numpy_generator
from dnd.graphs.batch import MoleculeBatch
from dnd.store.ragged import RaggedCounts

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
        """The molecules at `rows`, in that order, each with its conformer number `conformer` modulo K."""
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
