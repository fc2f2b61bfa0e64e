"""Gaussian noise for denoising, a pure function of (seed, epoch, molecule): whatever batch a molecule is in."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from dnd.common.seeds import derive_seed

HELD_OUT = -1
"""In place of the epoch: the noise of evaluation, the same every time."""

_STEP = np.uint64(0x9E3779B97F4A7C15)


def gaussian_noise(
    seed: int, epoch: int, rows_B: Int[np.ndarray, "molecules"], offsets: Int[np.ndarray, "offsets"]
) -> Float[np.ndarray, "atoms 3"]:
    r"""Standard normal noise :math:`\epsilon` of Eq. 3 for each atom and axis.

    Counter-based: word c of molecule b is the finaliser of SplitMix64 at (key of b) + c · step, one word per
    coordinate, turned into a normal by Box and Muller. So it is vectorised over the batch and yet does not depend on
    which molecules are in it, on their order, on a worker or on a rank.

    Args:
        seed: of the run.
        epoch: a new draw each epoch; `HELD_OUT` for evaluation.
        rows_B: row of each molecule in its store.
        offsets: `(B + 1,)` atoms of each molecule.

    Returns:
        `(atoms, 3)` float32, without unit; multiply by sigma for angstrom.
    """
    key = np.uint64(derive_seed(seed, "noise", epoch))
    with np.errstate(over="ignore"):
        keys_B = _mix(key + _mix(rows_B.astype(np.uint64) * _STEP))
        counts_B = np.diff(offsets) * 3
        counter = np.arange(1, counts_B.sum() + 1) - np.repeat(3 * offsets[:-1], counts_B)
        words = _mix(np.repeat(keys_B, counts_B) + counter.astype(np.uint64) * _STEP)
    radius = np.sqrt(-2.0 * np.log(((words >> np.uint64(32)) + 0.5) * 2.0**-32))
    angle = (words & np.uint64(0xFFFFFFFF)) * (2.0 * np.pi * 2.0**-32)
    noise: np.ndarray = (radius * np.cos(angle)).astype(np.float32).reshape(-1, 3)
    return noise


def remove_mean(
    noise_A3: Float[np.ndarray, "atoms 3"], offsets: Int[np.ndarray, "offsets"]
) -> Float[np.ndarray, "atoms 3"]:
    """Noise without its translation: the mean over each molecule's atoms is taken away."""
    counts_B = np.diff(offsets)
    mean_B3 = np.add.reduceat(noise_A3, offsets[:-1], axis=0) / counts_B[:, None]
    return (noise_A3 - np.repeat(mean_B3, counts_B, axis=0)).astype(np.float32)


def _mix(words: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every input bit changes each output bit half the time."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed
