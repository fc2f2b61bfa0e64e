from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from dnd.finetuning.losses import masked_bce, masked_values

NAN = math.nan


def test_l1_is_the_mean_over_labelled_entries_only():
    predictions = torch.tensor([[1.0, 5.0], [2.0, 7.0]])
    targets = torch.tensor([[0.0, NAN], [4.0, 6.0]])
    assert masked_values(predictions, targets).item() == pytest.approx((1 + 2 + 1) / 3)


def test_bce_equals_torch_on_the_labelled_entries():
    logits, targets = torch.randn(20, 3), torch.randint(0, 2, (20, 3)).float()
    targets[torch.rand(20, 3) < 0.4] = NAN
    known = ~targets.isnan()
    expected = F.binary_cross_entropy_with_logits(logits[known], targets[known])
    assert torch.allclose(masked_bce(logits, targets), expected)


@pytest.mark.parametrize("loss", [masked_values, masked_bce])
def test_a_missing_label_gives_no_gradient_and_never_nan(loss):
    predictions = torch.tensor([[0.3, -0.2]], requires_grad=True)
    loss(predictions, torch.tensor([[1.0, NAN]])).backward()
    assert predictions.grad is not None
    assert predictions.grad[0, 0] != 0
    assert predictions.grad[0, 1] == 0


@pytest.mark.parametrize("loss", [masked_values, masked_bce])
def test_a_batch_without_labels_is_zero_with_zero_gradient(loss):
    predictions = torch.randn(4, 2, requires_grad=True)
    value = loss(predictions, torch.full((4, 2), NAN))
    value.backward()
    assert value.item() == 0
    assert torch.equal(predictions.grad, torch.zeros(4, 2))
