"""Offsets and index ranges of rows of different lengths that lie end to end in a flat array."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


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
