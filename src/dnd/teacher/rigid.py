"""How much of the noise no denoiser can know: the rigid motions of a molecule."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

LINEAR_EXTENT = 0.05
"""Angstrom. A molecule whose root-mean-square extent across its axis is below this is linear."""


def rotational_freedom(
    positions_A3: Float[np.ndarray, "atoms 3"], offsets: Int[np.ndarray, "offsets"]
) -> Int[np.ndarray, "molecules"]:
    """Rotations of each molecule that move an atom: 3, 2 for linear ones (all of two atoms), 0 for a single atom.

    Args:
        positions_A3: angstrom.
        offsets: `(B + 1,)`.
    """
    counts_B = np.diff(offsets)
    positions = positions_A3.astype(np.float64)
    mean_B3 = np.add.reduceat(positions, offsets[:-1], axis=0) / counts_B[:, None]
    centred = positions - np.repeat(mean_B3, counts_B, axis=0)
    spread_B33 = np.add.reduceat(centred[:, :, None] * centred[:, None], offsets[:-1], axis=0) / counts_B[:, None, None]
    across_B = np.linalg.eigvalsh(spread_B33)[:, :2].sum(-1)
    freedom = np.where(across_B < LINEAR_EXTENT**2, 2, 3)
    return np.where(counts_B == 1, 0, freedom)


def denoising_bounds(
    rotations_B: Int[np.ndarray, "molecules"], counts_B: Int[np.ndarray, "molecules"], *, centred: bool
) -> tuple[float, float]:
    r"""Loss of a denoiser that predicts 0, and the loss that none can undercut.

    The noise of a molecule of N atoms has 3N directions. A denoiser sees the noisy conformer and is equivariant, so to
    first order in sigma it can't see the noise along translations (3) and rotations (r = 3, fewer if linear): there
    the best prediction is 0, with an expected squared error of 1 per direction. Averaged over atoms and axes

    .. math:: \text{floor} = \frac{\sum_b (3 + r_b)}{3 \sum_b N_b}, \quad \text{trivial} = 1

    which is 2/N for a non-linear molecule and 1 for a single atom. Noise without its mean has no translation left:
    the floor is then :math:`\sum_b r_b / 3 \sum_b N_b` and the trivial value :math:`1 - B / \sum_b N_b`.
    Own derivation.

    Args:
        rotations_B: see `rotational_freedom`.
        counts_B: atoms of each molecule.
        centred: whether the mean of the noise was removed.

    Returns:
        Trivial value and floor.
    """
    directions = 3.0 * float(counts_B.sum())
    translations = 3.0 * len(counts_B)
    if centred:
        return 1.0 - translations / directions, float(rotations_B.sum()) / directions
    return 1.0, (translations + float(rotations_B.sum())) / directions
