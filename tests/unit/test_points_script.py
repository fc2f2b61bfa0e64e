"""`benchmarks/points.py`: clouds whose truth is known, and a page that is drawn from its lines."""

from __future__ import annotations

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


def test_labels_are_those_of_the_positions_and_edges_those_of_neighbours(points: ModuleType) -> None:
    batch = points.clouds(20, 1, "a test").read(np.arange(20))
    offsets = batch.graph.atom_offsets.tolist()
    edges = batch.graph.edge_index_2E
    for number, (first, last) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        positions = batch.conformers.positions_A3[first:last]
        distance = torch.cdist(positions, positions)
        radii = torch.from_numpy(points.RADII[batch.graph.node_features_NF[first:last, 0]])
        near = (distance < points.NEAR * (radii[:, None] + radii)) & ~torch.eye(last - first, dtype=torch.bool)
        inside = (edges[0] >= first) & (edges[0] < last)
        given = torch.zeros_like(near)
        given[edges[0][inside] - first, edges[1][inside] - first] = True
        assert torch.equal(near, given)
        middle = positions - positions.mean(dim=0)
        assert float(batch.targets_BC[number, 0]) == pytest.approx(float(middle.square().sum(1).mean().sqrt()), rel=1e-4)
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
    lines = points.read_lines(RESULTS / "points" / "points.csv")
    assert len(lines) == 5 * len(points.SYSTEMS) * len(points.TARGETS)
    assert points.page(lines) == (RESULTS / "points.md").read_text(encoding="utf-8")
    assert points.csv_text(lines) == (RESULTS / "points" / "points.csv").read_text(encoding="utf-8")
