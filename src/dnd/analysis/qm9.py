"""Labels of QM9 in the units of Table 6, drawn and split as the 3DInfomax protocol does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dnd.common.errors import InputError
from dnd.conformers.datasets import open_sources

QM9_PREFIX = "qm9-"
_MEV_PER_HARTREE = 27211.386245988  # CODATA 2018
# Target of Table 6 → its unit there and the factor from the unit of QM9's files.
TARGETS: dict[str, tuple[str, float]] = {
    "mu": ("D", 1.0),
    "alpha": ("a0^3", 1.0),
    "homo": ("meV", _MEV_PER_HARTREE),
    "lumo": ("meV", _MEV_PER_HARTREE),
    "gap": ("meV", _MEV_PER_HARTREE),
    "r2": ("a0^2", 1.0),
    "zpve": ("meV", _MEV_PER_HARTREE),
    "cv": ("cal/(mol K)", 1.0),
}
SPLIT_SEED = 123  # of the 3DInfomax protocol


_SPARE = 1.02  # of the molecules to pretrain on: some share their constitution with a labelled one and are left out


def draw_labelled(
    path: Path, sizes: Sequence[int], reserved: int = 0
) -> tuple[list[str], Float[np.ndarray, "molecules targets"], list[str], int]:
    """Molecules with all eight labels, drawn at random into the three parts.

    The published protocol permutes all molecules with NumPy's legacy generator and seed 123; so does this, over the
    molecules that have all labels in `path`. What is left must be enough to pretrain on, so where QM9 is too small
    for all of it, the validation part gives way, and beyond half of it all parts shrink in proportion.

    Args:
        path: QM9 with labels, in any of its forms.
        sizes: training, validation and test molecules wanted.
        reserved: molecules of the file that are needed for pretraining.

    Returns:
        SMILES, labels in the units of `TARGETS`, part of each molecule, and how many labelled molecules there are.

    Raises:
        InputError: fewer than 30 molecules have all labels.
    """
    source = open_sources([path], target_columns=list(TARGETS))[0]
    smiles: list[str] = []
    labels: list[tuple[float, ...]] = []
    readable = 0
    for record in source.records:
        readable += record.problem is None
        if record.problem is None and record.smiles and np.isfinite(record.targets).all():
            smiles.append(record.smiles[0])
            labels.append(record.targets)
    if len(smiles) < 30:
        raise InputError(f"{path} has too few labelled molecules", found=len(smiles), expected="30 or more")
    counts = _fitting(sizes, min(len(smiles), readable - math.ceil(_SPARE * reserved)))
    order = np.random.RandomState(SPLIT_SEED).permutation(len(smiles))[: sum(counts)]
    split = [part for part, count in zip(("train", "valid", "test"), counts, strict=True) for _ in range(count)]
    factors_C = np.array([factor for _, factor in TARGETS.values()])
    return [smiles[row] for row in order], np.array(labels)[order] * factors_C, split, len(smiles)


def _fitting(sizes: Sequence[int], available: int) -> list[int]:
    """Parts of at most `available` molecules in all.

    Raises:
        InputError: nothing is left for the labelled molecules.
    """
    if available < 30:
        raise InputError("too few molecules of QM9 are left to be labelled", found=available, expected="30 or more")
    train, valid, test = sizes
    missing = train + valid + test - available
    if missing <= 0:
        return [train, valid, test]
    if missing <= valid // 2:
        return [train, valid - missing, test]
    return [max(1, available * size // sum(sizes)) for size in sizes]
