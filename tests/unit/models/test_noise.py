"""Noise is Gaussian, and a function of (seed, epoch, row) alone; the bounds of the loss are right."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from dnd.pretraining.denoise import HELD_OUT, denoising_bounds, gaussian_noise, remove_mean, rotational_freedom


def offsets_of(counts: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)])


def test_noise_is_standard_normal() -> None:
    noise = gaussian_noise(1, 0, np.arange(4000), offsets_of([20] * 4000)).astype(np.float64)
    assert noise.shape == (80_000, 3)
    assert np.isfinite(noise).all()
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert (noise**4).mean() == pytest.approx(3, abs=0.1)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.02
    assert (np.abs(noise) < 1).mean() == pytest.approx(0.6827, abs=0.005)
    by_molecule = noise.reshape(4000, 20, 3)
    assert abs((by_molecule[1:] * by_molecule[:-1]).mean()) < 0.01  # neighbouring rows are independent
    assert abs((by_molecule[:, 1:] * by_molecule[:, :-1]).mean()) < 0.01


def test_noise_does_not_depend_on_the_batch() -> None:
    together = gaussian_noise(3, 5, np.array([7, 2, 9]), offsets_of([4, 6, 5]))
    assert np.array_equal(together[4:10], gaussian_noise(3, 5, np.array([2]), offsets_of([6])))
    swapped = gaussian_noise(3, 5, np.array([9, 7]), offsets_of([5, 4]))
    assert np.array_equal(swapped, np.concatenate([together[10:], together[:4]]))


@pytest.mark.parametrize(("seed", "epoch", "row"), [(4, 5, 2), (3, 6, 2), (3, HELD_OUT, 2), (3, 5, 3)])
def test_noise_differs_by_seed_epoch_and_molecule(seed: int, epoch: int, row: int) -> None:
    base = gaussian_noise(3, 5, np.array([2]), offsets_of([50])).ravel()
    other = gaussian_noise(seed, epoch, np.array([row]), offsets_of([50])).ravel()
    assert abs(np.corrcoef(base, other)[0, 1]) < 0.3


def test_remove_mean() -> None:
    offsets = offsets_of([3, 1, 8])
    centred = remove_mean(gaussian_noise(1, 1, np.arange(3), offsets), offsets)
    for begin, end in pairwise(offsets):
        assert np.abs(centred[begin:end].mean(0)).max() < 1e-6
    assert np.abs(centred[3]).max() == 0


WATER = [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]
ACETYLENE = [[0.6, 0, 0], [-0.6, 0, 0], [1.66, 0, 0], [-1.66, 0, 0]]


def test_rotations_of_linear_and_single() -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    parts = [WATER, ACETYLENE, [[1.0, 2, 3]], [[0.0, 0, 0], [0, 0, 0.74]]]
    positions = np.concatenate([np.array(part) @ turn + 5 for part in parts])
    offsets = offsets_of([len(part) for part in parts])
    assert rotational_freedom(positions, offsets).tolist() == [3, 2, 0, 2]


def test_bounds_by_hand() -> None:
    assert denoising_bounds(np.array([3]), np.array([18]), centred=False) == (1.0, pytest.approx(2 / 18))
    assert denoising_bounds(np.array([0]), np.array([1]), centred=False) == (1.0, pytest.approx(1.0))
    assert denoising_bounds(np.array([2]), np.array([2]), centred=False) == (1.0, pytest.approx(5 / 6))
    centred = denoising_bounds(np.array([3, 2]), np.array([3, 4]), centred=True)
    assert centred == (pytest.approx(1 - 2 / 7), pytest.approx(5 / 21))


@pytest.mark.parametrize(("molecule", "centred"), [(WATER, False), (WATER, True), (ACETYLENE, False)])
def test_floor_is_what_the_best_denoiser_leaves(molecule: list[list[float]], centred: bool) -> None:
    """The best denoiser knows the noise but for rigid motion: project the noise on the rigid modes and measure."""
    positions = np.array(molecule)
    size = len(positions)
    shifts = np.tile(np.eye(3), (size, 1))
    turns = np.stack([np.cross(axis, positions - positions.mean(0)).ravel() for axis in np.eye(3)], axis=1)
    basis, values, _ = np.linalg.svd(np.concatenate([shifts, turns], axis=1), full_matrices=False)
    rigid = basis[:, values > 1e-8]
    offsets = offsets_of([size] * 20_000)
    noise = gaussian_noise(0, 0, np.arange(20_000), offsets)
    if centred:
        noise = remove_mean(noise, offsets)
    noise = noise.reshape(20_000, 3 * size).astype(np.float64)
    trivial, floor = denoising_bounds(
        rotational_freedom(positions, offsets_of([size])), np.array([size]), centred=centred
    )
    assert ((noise @ rigid) ** 2).sum(1).mean() / (3 * size) == pytest.approx(floor, rel=0.02)
    assert (noise**2).mean() == pytest.approx(trivial, rel=0.02)
