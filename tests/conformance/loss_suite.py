"""What every distillation and contrastive loss inherits: scalar, finite, differentiable, blind to order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def check_loss(loss: Loss, shape: tuple[int, ...], *, zero_at_equality: bool, permute_dim: int) -> None:
    """Run the checks on a loss of two tensors of `shape`; `permute_dim` holds molecules or atoms."""
    generator = torch.Generator().manual_seed(7)
    student, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    value = loss(student, teacher)
    assert value.shape == ()
    assert value.dtype == student.dtype
    value.backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert teacher.grad is None
    order = torch.randperm(shape[permute_dim], generator=generator)
    permuted = loss(student.index_select(permute_dim, order), teacher.index_select(permute_dim, order))
    torch.testing.assert_close(permuted, value, rtol=1e-10, atol=1e-12)
    if zero_at_equality:
        assert float(loss(teacher, teacher)) == 0.0
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))
