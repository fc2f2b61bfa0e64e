"""Batch norm of packed rows, and its folding into the map before it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dnd.models.students.base import PackedBatchNorm, fixed_weights, linear_then_norm


@pytest.fixture
def norm() -> PackedBatchNorm:
    torch.manual_seed(0)
    norm = PackedBatchNorm(4)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    norm(torch.randn(20, 4) * 3 + 1)
    return norm


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_for_statistics_use_the_running_ones(norm, rows):
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    values = torch.randn(rows, 4)
    trained = norm.train()(values)
    torch.testing.assert_close(trained, norm.eval()(values))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_two_rows_are_plain_batch_norm(norm):
    values, plain = torch.randn(2, 4), nn.BatchNorm1d(4)
    plain.load_state_dict(norm.state_dict())
    assert torch.equal(norm(values), plain(values))
    assert torch.equal(norm.running_var, plain.running_var)


def test_folded_into_the_linear_map(norm):
    linear, values = nn.Linear(6, 4), torch.randn(9, 6)
    torch.testing.assert_close(linear_then_norm(linear, norm.eval(), values), norm(linear(values)))
    torch.testing.assert_close(linear_then_norm(linear, norm.train(), values), norm(linear(values)))


def test_folded_once_while_weights_are_fixed_and_anew_afterwards(norm):
    linear, values = nn.Linear(6, 4), torch.randn(9, 6)
    norm.eval()
    with torch.no_grad():
        expected = linear_then_norm(linear, norm, values)
        with fixed_weights():
            first, second = (linear_then_norm(linear, norm, values) for _ in range(2))
        linear.weight.mul_(2)
        changed = linear_then_norm(linear, norm, values)
        with fixed_weights():
            changed_inside = linear_then_norm(linear, norm, values)
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)
    assert torch.equal(changed, changed_inside)
    assert not torch.equal(changed, expected)
