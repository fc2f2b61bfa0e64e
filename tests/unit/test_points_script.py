"""`benchmarks/points.py`: clouds whose truth is known, and a page that is drawn from its lines."""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmark_scripts import load_script, require_page_of_lines


@pytest.fixture(scope="module")
def points() -> ModuleType:
    return load_script("points")


def test_clouds_are_at_rest(points: ModuleType) -> None:
    """No ball that is moved a little needs less energy, but for a thousandth: the relaxation ends."""
    kinds, positions, near = next(points.springs(3, np.random.default_rng(0)))
    radii = points.RADII[kinds]

    def energy(places: np.ndarray) -> float:
        distances = points.distances_of(places)
        spring, other = np.triu(near), np.triu(~near, 1)
        rest = radii[:, None] + radii
        return float((20 * spring * (distances - rest) ** 2).sum() + (2 * other / (distances + 0.01)).sum())

    lowest = energy(positions)
    for ball in range(len(positions)):
        for step in (0.05 * np.eye(3)).tolist():
            for sign in (1, -1):
                moved = positions.copy()
                moved[ball] += sign * np.array(step)
                assert energy(moved) > 0.999 * lowest


def test_labels_are_those_of_the_positions_and_the_graph(points: ModuleType) -> None:
    batch = points.clouds(20, 1, "a test").read(np.arange(20))
    offsets = batch.graph.atom_offsets.tolist()
    edges = batch.graph.edge_index_2E
    for number, (first, last) in enumerate(pairwise(offsets)):
        positions = batch.conformers.positions_A3[first:last]
        distance = torch.cdist(positions, positions)
        inside = (edges[0] >= first) & (edges[0] < last)
        near = torch.zeros(last - first, last - first, dtype=torch.bool)
        near[edges[0][inside] - first, edges[1][inside] - first] = True
        middle = positions - positions.mean(dim=0)
        assert float(batch.targets_BC[number, 0]) == pytest.approx(
            float(middle.square().sum(1).mean().sqrt()), rel=1e-4
        )
        two = torch.tensor(
            [
                float(distance[a, b])
                for a in range(last - first)
                for b in range(last - first)
                if a != b and not near[a, b] and bool((near[a] & near[b]).any())
            ]
        )
        assert float(batch.targets_BC[number, 1]) == pytest.approx(float(two.mean()), rel=1e-4)


def test_parts_have_clouds_of_their_own(points: ModuleType) -> None:
    labels = [points.clouds(10, 1, purpose).read(np.arange(10)).targets_BC for purpose in ("labelled", "tested")]
    assert not torch.isin(labels[0], labels[1]).any()


def test_the_page_shows_its_lines(points: ModuleType) -> None:
    require_page_of_lines(points, 10 * len(points.SYSTEMS) * len(points.TARGETS))
