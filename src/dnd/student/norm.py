"""Batch normalisation for packed items."""

from __future__ import annotations

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
