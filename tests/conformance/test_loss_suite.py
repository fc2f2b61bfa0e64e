"""The inherited suite, run on every loss of the package that takes two views."""

from __future__ import annotations

import pytest
import torch

from conformance.loss_suite import check_loss
from dnd.pretraining.baselines.infomax3d import ntxent_loss
from dnd.pretraining.distill_losses import (
    global_alignment_loss,
    graph_distillation_loss,
    local_alignment_loss,
    node_distillation_loss,
)


def local(factor):
    return lambda student, teacher: local_alignment_loss(student, teacher, torch.tensor([0, 6]), factor)


@pytest.mark.parametrize(
    ("loss", "shape", "zero_at_equality", "permute_dim"),
    [
        (node_distillation_loss, (6, 4), True, 0),
        (graph_distillation_loss, (6, 4), True, 0),
        (global_alignment_loss, (2, 6, 4), True, 1),
        (local("sum"), (2, 6, 4), True, 1),
        (local("mean"), (2, 6, 4), True, 1),
        (local("coordinated"), (2, 6, 4), True, 1),
        (lambda s, t: ntxent_loss(s, t, 0.1), (6, 4), False, 0),
        (lambda s, t: ntxent_loss(s, t, 0.01), (6, 4), False, 0),
    ],
)
def test_loss(loss, shape, zero_at_equality, permute_dim) -> None:
    check_loss(loss, shape, zero_at_equality=zero_at_equality, permute_dim=permute_dim)
