"""The check of a classical model's stored arrays, the same for every kind of model: which there are, type and shape."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dnd.common.errors import CorruptFileError

Expected = tuple[str, tuple[str | int, ...]]  # kind of the numbers (i, u or f), and the length or name of each axis
_WORDS = {"i": "integers", "u": "unsigned integers", "f": "floating-point numbers"}


def check_arrays(arrays: Mapping[str, np.ndarray], expected: Mapping[str, Expected]) -> dict[str, int]:
    """Lengths of the named axes, each the same in all arrays.

    Raises:
        CorruptFileError: an array is missing, or has another type or shape.

    Example:
        >>> check_arrays({"mean": np.zeros(3)}, {"mean": ("f", ("columns",))})
        {'columns': 3}
    """
    sizes: dict[str, int] = {}
    for name, (kind, axes) in expected.items():
        found = arrays.get(name)
        lengths = () if found is None else found.shape
        agrees = found is not None and found.dtype.kind == kind and len(lengths) == len(axes)
        for axis, length in zip(axes, lengths, strict=False):
            agrees = agrees and length == (axis if isinstance(axis, int) else sizes.setdefault(axis, length))
        if not agrees:
            known = " × ".join(str(sizes.get(axis, axis)) if isinstance(axis, str) else str(axis) for axis in axes)
            raise CorruptFileError(
                f"array {name} of a classical model is not what it should be",
                found="nothing" if found is None else f"{' × '.join(map(str, lengths))} {found.dtype}",
                expected=f"{known} {_WORDS[kind]}",
                next_step="Finetune the model again",
            )
    return sizes


def packed_size(bits: int) -> int:
    """Bytes that so many bits take."""
    return -(-bits // 8)
