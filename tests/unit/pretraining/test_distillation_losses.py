"""Eq. 6, Eq. 7 and the coordinated losses: values, gradients by size, Jensen's bound, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dnd.common.errors import ShapeError
from dnd.graphs.batch import mean_per_molecule
from dnd.pretraining.distill_losses import (
    SizeFactor,
    aligned_layers,
    global_alignment_loss,
    graph_distillation_loss,
    local_alignment_loss,
    node_distillation_loss,
)

WIDTH = 8


def pair(sizes: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *np.cumsum(sizes)])
    student, teacher = (torch.randn(sum(sizes), WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher, offsets


def test_node_loss_is_the_mean_over_all_atoms_and_features() -> None:
    student, teacher, _ = pair([2, 5])
    by_hand = sum(((student[i] - teacher[i]) ** 2).sum().item() for i in range(7)) / (7 * WIDTH)
    assert node_distillation_loss(student, teacher).item() == pytest.approx(by_hand, rel=1e-12)


def test_graph_loss_is_the_mean_over_molecules_of_the_distance_of_means() -> None:
    student, teacher, offsets = pair([2, 5])
    by_hand = 0.0
    for start, stop in ((0, 2), (2, 7)):
        by_hand += (((student[start:stop].mean(0) - teacher[start:stop].mean(0)) ** 2).mean()).item() / 2
    loss = graph_distillation_loss(mean_per_molecule(student, offsets), mean_per_molecule(teacher, offsets))
    assert loss.item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("loss", [node_distillation_loss, graph_distillation_loss, global_alignment_loss])
def test_shapes_that_would_broadcast_are_refused(loss) -> None:
    shape = (2, 3, 4) if loss is global_alignment_loss else (3, 4)
    with pytest.raises(ShapeError, match="differ"):
        loss(torch.zeros(shape), torch.zeros(*shape[:-1], 1))


@pytest.mark.parametrize("seed", range(5))
def test_node_loss_bounds_graph_loss_from_above(seed: int) -> None:
    student, teacher, offsets = pair([6], seed)
    graph = graph_distillation_loss(mean_per_molecule(student, offsets), mean_per_molecule(teacher, offsets))
    assert graph.item() <= node_distillation_loss(student, teacher).item()


@pytest.mark.parametrize(("factor", "power"), [("sum", 0), ("mean", 1), ("coordinated", 2)])
def test_local_gradient_of_an_atom_scales_with_size_as_derived(factor: SizeFactor, power: int) -> None:
    for size in (5, 10, 20, 40):
        student, teacher, offsets = pair([size], size)
        local_alignment_loss(student[None], teacher[None], offsets, factor).backward()
        expected = 2 * (student - teacher).detach() / size**power / WIDTH
        torch.testing.assert_close(student.grad, expected, rtol=1e-6, atol=0)


def test_global_gradient_of_an_atom_is_the_mean_difference_over_size() -> None:
    for size in (5, 10, 20, 40):
        student, teacher, offsets = pair([size], size)
        pooled = [mean_per_molecule(values, offsets)[None] for values in (student, teacher)]
        global_alignment_loss(*pooled).backward()
        difference = (student - teacher).detach().mean(0)
        torch.testing.assert_close(student.grad, (2 * difference / size / WIDTH).expand(size, -1), rtol=1e-9, atol=0)


def test_gradient_norms_for_random_differences_scale_with_size() -> None:
    """The ratio local to global per atom: sum grows as N, mean stays (up to |mean| ~ 1/√N), 1/N² shrinks as 1/N."""
    norms: dict[str, list[float]] = {"sum": [], "mean": [], "coordinated": []}
    for size in (5, 10, 20, 40):
        for factor, values in norms.items():
            student, teacher, offsets = pair([size], 3)
            local_alignment_loss(student[None], teacher[None], offsets, factor).backward()  # type: ignore[arg-type]
            values.append(float(student.grad.norm(dim=1).mean()))
    for factor, power in (("sum", 0), ("mean", 1), ("coordinated", 2)):
        slope = np.polyfit(np.log([5, 10, 20, 40]), np.log(norms[factor]), 1)[0]
        assert slope == pytest.approx(-power, abs=0.15)


def test_local_loss_averages_over_molecules_and_layers() -> None:
    student, teacher, offsets = pair([3, 4])
    layers = torch.stack([student, student * 2]), torch.stack([teacher, teacher])
    by_hand = 0.0
    for k in range(2):
        for start, stop in ((0, 3), (3, 7)):
            size = stop - start
            difference = layers[0][k, start:stop] - layers[1][k, start:stop]
            by_hand += difference.square().mean(1).sum().item() / size**2 / 2 / 2
    assert local_alignment_loss(*layers, offsets).item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (3, 3, [(0, 0), (1, 1), (2, 2)]),
        (2, 6, [(0, 2), (1, 5)]),
        (6, 2, [(2, 0), (5, 1)]),
        (3, 4, [(0, 1), (1, 2), (2, 3)]),
        (12, 8, [(1, 0), (2, 1), (4, 2), (5, 3), (7, 4), (8, 5), (10, 6), (11, 7)]),
    ],
)
def test_layers_meet_at_the_same_relative_depth(student: int, teacher: int, pairs: list[tuple[int, int]]) -> None:
    assert aligned_layers(student, teacher, "all") == pairs
    assert aligned_layers(student, teacher, "last") == [(student - 1, teacher - 1)]
