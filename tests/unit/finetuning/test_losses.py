from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from dnd.finetuning.objective import balanced_terms, masked_bce, masked_values

NAN = math.nan


def test_l1_is_the_mean_over_labelled_entries_only():
    predictions = torch.tensor([[1.0, 5.0], [2.0, 7.0]])
    targets = torch.tensor([[0.0, NAN], [4.0, 6.0]])
    assert masked_values(predictions, targets).item() == pytest.approx((1 + 2 + 1) / 3)


@pytest.mark.parametrize(("loss", "torch_loss"), [("l1", F.l1_loss), ("huber", F.huber_loss), ("mse", F.mse_loss)])
def test_losses_of_values_equal_torch_on_the_labelled_entries(loss: str, torch_loss: Callable[..., torch.Tensor]):
    generator = torch.Generator().manual_seed(0)
    predictions, targets = 2 * torch.randn(2, 30, 3, generator=generator)
    targets[torch.rand(30, 3, generator=generator) < 0.4] = NAN
    known = ~targets.isnan()
    expected = torch_loss(predictions[known], targets[known])
    assert masked_values(predictions, targets, loss).item() == pytest.approx(expected.item())
    known_C = known.any(dim=0)
    each = [torch_loss(predictions[known[:, c], c], targets[known[:, c], c]) for c in range(3) if known_C[c]]
    terms = balanced_terms(predictions, targets, torch.zeros(3, dtype=torch.bool), value_loss=loss)
    assert terms.loss.item() == pytest.approx(torch.stack(each).mean().item())


def test_a_wild_label_pulls_as_hard_on_huber_as_on_l1_and_a_near_one_less():
    for distance, pulls in (
        (100.0, {"l1": 1.0, "huber": 1.0, "mse": 200.0}),
        (0.1, {"l1": 1.0, "huber": 0.1, "mse": 0.2}),
    ):
        for loss, pull in pulls.items():
            prediction = torch.tensor([[distance]], requires_grad=True)
            masked_values(prediction, torch.zeros(1, 1), loss).backward()
            assert prediction.grad is not None
            assert prediction.grad.item() == pytest.approx(pull)


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
