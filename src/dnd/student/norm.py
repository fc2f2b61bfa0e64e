"""Batch normalisation for packed items."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class PackedBatchNorm(nn.BatchNorm1d):
    """Batch norm over packed rows that also takes a batch of one row or none.

    One row has no variance: in training it is normalised by the running statistics, which then stay as they are. In
    evaluation mode a row's result never depends on the other rows.
    """

    def forward(self, values_ND: Float[Tensor, "items dim"]) -> Float[Tensor, "items dim"]:
        """Normalise each column."""
        if len(values_ND) > 1 or not self.training:
            return super().forward(values_ND)
        return F.batch_norm(
            values_ND, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


def start_norms_anew(network: nn.Module) -> None:
    """Give all batch norms of `network` the weights and statistics of new ones."""
    for module in network.modules():
        if isinstance(module, PackedBatchNorm):
            module.reset_parameters()


_folds: ContextVar[dict[nn.Linear, tuple[Tensor, Tensor]] | None] = ContextVar("_folds", default=None)


@contextmanager
def fixed_weights() -> Iterator[None]:
    """Within it no weight or running statistic changes and no gradient is wanted, so each norm is folded once."""
    token = _folds.set({})
    try:
        yield
    finally:
        _folds.reset(token)


def linear_then_norm(
    linear: nn.Linear, norm: PackedBatchNorm, values_ND: Float[Tensor, "items dim"]
) -> Float[Tensor, "items other_dim"]:
    r"""Batch norm of a linear map; in evaluation mode one linear map with the norm folded into its weights.

    .. math:: \mathrm{BN}(W x + b) = (s W) x + s (b - \mu) + \beta, \quad s = \gamma / \sqrt{\sigma^2 + \epsilon}

    Args:
        linear: W and b.
        norm: γ, β and the running statistics μ, σ².
        values_ND: x.
    """
    if norm.training:
        return norm(linear(values_ND))  # type: ignore[no-any-return]
    folds = _folds.get()
    if folds is None:
        return F.linear(values_ND, *_folded(linear, norm))
    if linear not in folds:
        folds[linear] = _folded(linear, norm)
    return F.linear(values_ND, *folds[linear])


def _folded(linear: nn.Linear, norm: PackedBatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one map."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale_D = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias_D = scale_D * (linear.bias - norm.running_mean) + norm.bias
    return scale_D[:, None] * linear.weight, bias_D
