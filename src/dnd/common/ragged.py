"""Offsets and index ranges of rows of different lengths that lie end to end in a flat array."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from jaxtyping import Int, Shaped
from numpy.typing import DTypeLike


def offsets_of(counts: Int[np.ndarray, "rows"]) -> Int[np.ndarray, "rows+1"]:
    """Cumulative counts from 0, int64."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def ragged_range(starts: Int[np.ndarray, "rows"], counts: Int[np.ndarray, "rows"]) -> Int[np.ndarray, "items"]:
    """Concatenation of `arange(start, start + count)` over rows.

    Example:
        >>> ragged_range(np.array([5, 0]), np.array([2, 3])).tolist()
        [5, 6, 0, 1, 2]
    """
    offsets = offsets_of(counts)
    indices: np.ndarray = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
    return indices


# Selected ragged rows, read where they lie: no loop over molecules, and nothing is kept for each of them in memory.


@dataclass(frozen=True)
class Selection:
    """Rows to read, ordered by the shard that holds them.

    Attributes:
        local: positions within their shard, grouped by shard.
        place: for each of them its place in the request; None when one shard holds all and the order is the request's.
        shards: number of each shard that is touched.
        bounds: `local[bounds[i]:bounds[i + 1]]` lie in `shards[i]`.
    """

    local: Int[np.ndarray, "rows"]
    place: Int[np.ndarray, "rows"] | None
    shards: Int[np.ndarray, "touched"]
    bounds: Int[np.ndarray, "touched+1"]

    @classmethod
    def of(cls, rows: Int[np.ndarray, "rows"], first_rows: Int[np.ndarray, "shards+1"]) -> Selection:
        """Group `rows`, where shard `s` holds rows `first_rows[s]:first_rows[s + 1]`."""
        if len(first_rows) == 2:
            return cls(rows, None, np.zeros(1, dtype=np.int64), np.array([0, len(rows)]))
        shard_of_row = np.searchsorted(first_rows, rows, side="right") - 1
        place = np.argsort(shard_of_row, kind="stable")
        shards, starts = np.unique(shard_of_row[place], return_index=True)
        local = rows[place] - first_rows[shard_of_row[place]]
        return cls(local, place, shards, np.append(starts, len(rows)))

    def parts(self) -> Iterator[tuple[int, Int[np.ndarray, "own"], Int[np.ndarray, "own"] | slice]]:
        """Each touched shard with the rows to read in it and their places in the request."""
        if self.place is None:
            yield 0, self.local, slice(None)
            return
        for shard, begin, end in zip(self.shards.tolist(), self.bounds[:-1], self.bounds[1:], strict=True):
            yield shard, self.local[begin:end], self.place[begin:end]


def pick(shards: Sequence[Shaped[np.ndarray, "..."]], selection: Selection) -> Int[np.ndarray, "rows"]:
    """Entries of a plain column of whole numbers at the selected rows, in the order of the request, int64."""
    picked = np.empty(len(selection.local), dtype=np.int64)
    for shard, local, place in selection.parts():
        picked[place] = shards[shard][local]
    return picked


@dataclass(frozen=True)
class Missing:
    """A list column that a shard does not have, every value of it NaN; takes no memory for the values.

    Whole numbers have no NaN: of such a column every row must be empty.

    Attributes:
        offsets: where each row's values would begin, and where the last one's end.
        dtype: dtype of the values.
    """

    offsets: Int[np.ndarray, "boundaries"]
    dtype: DTypeLike

    @property
    def values(self) -> Shaped[np.ndarray, "flat"]:
        """NaN as often as there would be values."""
        whole = np.issubdtype(np.dtype(self.dtype), np.integer)
        return np.broadcast_to(np.array(0 if whole else np.nan, dtype=self.dtype), int(self.offsets[-1]))


class RaggedColumn:
    """A list column over all shards: flat values and the offsets that Arrow has beside them, both as they are mapped.

    Args:
        columns: the list array of each shard.
        width: how many flat values make one item: an atom, a bond, a point in space.
    """

    def __init__(self, columns: Sequence[pa.ListArray | Missing], width: int) -> None:
        self._width = width
        mapped = [
            (column.values, column.offsets)
            if isinstance(column, Missing)
            else (np.from_dlpack(column.values), np.from_dlpack(column.offsets))
            for column in columns
        ]
        self._items = [flat.reshape(-1, width) if width > 1 else flat for flat, _ in mapped]
        self._offsets = [offsets for _, offsets in mapped]

    @cached_property
    def first_items(self) -> Int[np.ndarray, "shards+1"]:
        """Items of all the shards before each, and of all."""
        return offsets_of(np.array([int(offsets[-1]) // self._width for offsets in self._offsets], dtype=np.int64))

    def spans(self, selection: Selection) -> tuple[Int[np.ndarray, "rows"], Int[np.ndarray, "rows"]]:
        """First item within its shard and number of items of each selected row, in the order of the request."""
        starts, ends = (np.empty(len(selection.local), dtype=np.int64) for _ in range(2))
        for shard, local, place in selection.parts():
            starts[place], ends[place] = self._offsets[shard][local], self._offsets[shard][local + 1]
        return starts // self._width, (ends - starts) // self._width

    def gather(
        self, selection: Selection, starts: Int[np.ndarray, "rows"], counts: Int[np.ndarray, "rows"]
    ) -> Shaped[np.ndarray, "..."]:
        """Items of the selected rows, packed in the order of the request.

        Args:
            selection: what to read.
            starts: first item of every requested row within its shard, in the order of the request.
            counts: items of every requested row.
        """
        if selection.place is None:
            items: np.ndarray = self._items[0][ragged_range(starts, counts)]
            return items
        place = selection.place
        sources = ragged_range(starts[place], counts[place])
        targets = ragged_range(offsets_of(counts)[:-1][place], counts[place])
        bounds = offsets_of(counts[place])[selection.bounds]
        packed = np.empty((len(sources), *self._items[0].shape[1:]), dtype=self._items[0].dtype)
        for shard, begin, end in zip(selection.shards, bounds[:-1], bounds[1:], strict=True):
            packed[targets[begin:end]] = self._items[shard][sources[begin:end]]
        return packed


class RaggedCounts:
    """How many items each row of a column has, looked up in the mapped offsets; an array that nothing is kept of.

    Args:
        column: the column.
        first_rows: where each shard begins, see `Selection.of`.
        guard: is told the shards that will be read next, None = all, and raises where one can't be.
    """

    def __init__(
        self,
        column: RaggedColumn,
        first_rows: Int[np.ndarray, "shards+1"],
        guard: Callable[[Iterable[int] | None], None] = lambda shards: None,
    ) -> None:
        self._column, self._first_rows, self._guard = column, first_rows, guard

    def __len__(self) -> int:
        """Rows."""
        return int(self._first_rows[-1])

    def __getitem__(self, rows: np.ndarray | slice) -> Int[np.ndarray, "rows"]:
        """Items of each of `rows`, int64."""
        return self._column.spans(self._select(rows))[1]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """Of all rows."""
        return self[:].astype(dtype or np.int64)

    def sum(self) -> int:
        """Items of all rows."""
        self._guard(None)
        return int(self._column.first_items[-1])

    def before(self, rows: Int[np.ndarray, "rows"]) -> Int[np.ndarray, "rows"]:
        """Items of all the rows that come before each of `rows`."""
        starts, _ = self._column.spans(self._select(rows))
        shard_of_row = np.searchsorted(self._first_rows, rows, side="right") - 1
        found: np.ndarray = starts + self._column.first_items[shard_of_row]
        return found

    def _select(self, rows: np.ndarray | slice) -> Selection:
        wanted = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        selection = Selection.of(wanted, self._first_rows)
        self._guard(selection.shards.tolist())
        return selection
