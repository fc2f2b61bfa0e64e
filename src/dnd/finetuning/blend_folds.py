"""Folds for predictions out of fold: whole scaffolds, so that a member is judged on molecules unlike its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from dnd.chemistry.scaffolds import scaffolds_of
from dnd.common.seeds import numpy_generator

LIMIT_SHARE = 0.5  # of a fold: a scaffold that fills more of it is split, or one fold would hold half of the molecules


def scaffold_folds(smiles: Sequence[str], folds: int, seed: int) -> Int[np.ndarray, "molecules"]:
    """The fold of each molecule, from 0; the folds are about equally large.

    Scaffolds are dealt out whole, the largest first, each to the smallest fold so far. Molecules without rings share no
    scaffold: each counts for itself, and so do the molecules of a scaffold that would fill half a fold or more.

    Args:
        smiles: all molecules.
        folds: at most the number of molecules.
        seed: of the order among equally large scaffolds.
    """
    groups: dict[str, list[int]] = {}
    for row, scaffold in enumerate(scaffolds_of(smiles)):
        groups.setdefault(scaffold or f"no ring {row}", []).append(row)
    largest = max(1, int(LIMIT_SHARE * len(smiles) / folds))
    whole = [rows for rows in groups.values() if len(rows) <= largest]
    pieces = whole + [[row] for rows in groups.values() if len(rows) > largest for row in rows]
    shuffled = [pieces[place] for place in numpy_generator(seed, "blend folds").permutation(len(pieces))]
    fold_N, sizes = np.empty(len(smiles), np.int64), [0] * folds
    for rows in sorted(shuffled, key=len, reverse=True):
        smallest = sizes.index(min(sizes))
        fold_N[rows] = smallest
        sizes[smallest] += len(rows)
    return fold_N
