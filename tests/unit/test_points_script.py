"""`benchmarks/points.py`: clouds whose truth is known, and a page that is drawn from its lines."""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmark_scripts import BENCHMARKS, load_script

RESULTS = BENCHMARKS.parent / "docs" / "results"


@pytest.fixture(scope="module")
def points() -> ModuleType:
    return load_script("points")


def test_balls_touch_and_do_not_overlap(points: ModuleType) -> None:
    generator = np.random.default_rng(0)
    for choices in (1, 8):
        radii = points.RADII[generator.integers(0, 4, 14)]
        places = points.heap(radii, choices, generator)
        gaps = np.linalg.norm(places[:, None] - places[None], axis=2) - radii[:, None] - radii[None]
        np.fill_diagonal(gaps, np.inf)
        assert gaps.min() > -0.03
        assert np.abs(gaps.min(axis=1)).max() < 0.03


def test_springs_are_at_rest(points: ModuleType) -> None:
    """Each cloud is moved a little in every direction, and none of it needs less energy."""
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
                assert energy(moved) > lowest


@pytest.mark.parametrize("world", ["springs", "heaps"])
def test_labels_are_those_of_the_positions_and_edges_those_of_neighbours(points: ModuleType, world: str) -> None:
    batch = points.clouds(world, 20, 1, "a test").read(np.arange(20))
    offsets = batch.graph.atom_offsets.tolist()
    edges = batch.graph.edge_index_2E
    for number, (first, last) in enumerate(pairwise(offsets)):
        positions = batch.conformers.positions_A3[first:last]
        distance = torch.cdist(positions, positions)
        radii = torch.from_numpy(points.RADII[batch.graph.node_features_NF[first:last, 0]])
        near = (distance < points.NEAR * (radii[:, None] + radii)) & ~torch.eye(last - first, dtype=torch.bool)
        inside = (edges[0] >= first) & (edges[0] < last)
        given = torch.zeros_like(near)
        given[edges[0][inside] - first, edges[1][inside] - first] = True
        assert world == "springs" or torch.equal(near, given)
        near = given
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
    labels = [
        points.clouds("heaps", 10, 1, purpose).read(np.arange(10)).targets_BC for purpose in ("labelled", "tested")
    ]
    assert not torch.isin(labels[0], labels[1]).any()


def test_the_page_shows_its_lines(points: ModuleType) -> None:
    lines = points.read_lines(RESULTS / "points" / "points.csv")
    assert len(lines) == 3 * len(points.WORLDS) * len(points.SYSTEMS) * len(points.TARGETS)
    assert points.page(lines) == (RESULTS / "points.md").read_text(encoding="utf-8")
    assert points.csv_text(lines) == (RESULTS / "points" / "points.csv").read_text(encoding="utf-8")
