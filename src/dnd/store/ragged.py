"""Selected ragged rows: many slices of flat arrays in a few NumPy calls, no loop over molecules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped

from dnd.common.ragged import offsets_of, ragged_range


@dataclass(frozen=True)
class Selection:
    """Rows to read, ordered by the shard that holds them.

    Attributes:
        rows: positions in the store, grouped by shard.
        place: for each of them its place in the request; None when one shard holds all and the order is the request's.
        shards: number of each shard that is touched.
        bounds: `rows[bounds[i]:bounds[i + 1]]` lie in `shards[i]`.
    """

    rows: Int[np.ndarray, "rows"]
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
        return cls(rows[place], place, shards, np.append(starts, len(rows)))


def gather(
    parts: Sequence[Shaped[np.ndarray, "..."]],
    part_starts: Int[np.ndarray, "shards"],
    selection: Selection,
    starts: Int[np.ndarray, "rows"],
    counts: Int[np.ndarray, "rows"],
) -> Shaped[np.ndarray, "..."]:
    """Items of the selected rows, packed in the order of the request.

    Args:
        parts: one flat array per shard, items on axis 0.
        part_starts: number of the first item of each shard, counted over the store.
        selection: what to read.
        starts: first item of every requested row (in the order of the request), counted over the store.
        counts: items of every requested row.
    """
    if selection.place is None:
        items: np.ndarray = parts[0][ragged_range(starts, counts)]
        return items
    place = selection.place
    sources = ragged_range(starts[place], counts[place])
    targets = ragged_range(offsets_of(counts)[:-1][place], counts[place])
    bounds = offsets_of(counts[place])[selection.bounds]
    packed = np.empty((len(sources), *parts[0].shape[1:]), dtype=parts[0].dtype)
    for shard, begin, end in zip(selection.shards, bounds[:-1], bounds[1:], strict=True):
        packed[targets[begin:end]] = parts[shard][sources[begin:end] - part_starts[shard]]
    return packed
