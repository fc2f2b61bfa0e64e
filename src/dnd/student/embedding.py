"""OGB's integer features as vectors: the sum of one learnt vector per feature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, product

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.common.errors import ShapeError

_MOST_COMBINATIONS = 128  # of values; bonds have 60


class FeatureEmbedding(nn.Module):
    r""":math:`e(x) = \sum_f T_f[x_f]`, the tables of all features stacked into one.

    Where there are few combinations of values, as with bonds, their sums are made once and looked up: one row is read
    for an item instead of one for each feature, and in the backward pass one is added.

    Args:
        sizes: vocabulary size of each feature.
        width: D.
    """

    row_of_feature_F: Tensor
    combinations_KF: Tensor

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.table = nn.Parameter(torch.empty(sum(sizes), width))
        first_rows = list(accumulate(sizes, initial=0))[:-1]
        self.register_buffer("row_of_feature_F", torch.tensor(first_rows), persistent=False)
        few = math.prod(sizes) <= _MOST_COMBINATIONS
        combinations = list(product(*map(range, sizes))) if few else []
        self.register_buffer("combinations_KF", torch.tensor(combinations, dtype=torch.long), persistent=False)
        self.reset_xavier()

    def reset_xavier(self) -> None:
        """Xavier-uniform, table by table, as OGB's encoders start."""
        for table in torch.split(self.table, list(self.sizes)):
            nn.init.xavier_uniform_(table)

    def reset_normal(self, deviation: float) -> None:
        """N(0, deviation), as TokenGT's tables start."""
        nn.init.normal_(self.table, std=deviation)

    def forward(self, features_NF: Int[Tensor, "items features"]) -> Float[Tensor, "items dim"]:
        """`(items, D)` for `(items, F)` integer features; values must lie within the vocabulary."""
        if features_NF.shape[1] != len(self.sizes):
            raise ShapeError("wrong number of features", found=features_NF.shape[1], expected=len(self.sizes))
        if not len(self.combinations_KF):
            return self._sums(features_NF)
        number_N = features_NF[:, 0]
        for column, size in enumerate(self.sizes[1:], start=1):
            number_N = number_N * size + features_NF[:, column]
        return F.embedding(number_N, self._sums(self.combinations_KF))

    def _sums(self, features_NF: Tensor) -> Tensor:
        return F.embedding_bag(features_NF + self.row_of_feature_F, self.table, mode="sum")
