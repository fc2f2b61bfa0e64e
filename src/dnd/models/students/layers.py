"""Layers that students share: batch norm of packed items, embeddings of integer features, pooling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate, product
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.common.config import look_up
from dnd.common.errors import ConfigError, ShapeError
from dnd.graphs.batch import GraphBatch, mean_per_molecule
from dnd.models.students.base import StudentOutput

# Batch normalisation for packed items.


class PackedBatchNorm(nn.BatchNorm1d):
    """Batch norm over packed rows that also takes a batch of one row or none.

    One row has no variance: in training it is normalised by the running statistics, which then stay as they are. In
    evaluation mode a row's result never depends on the other rows.
    """

    def forward(self, values_XD: Float[Tensor, "items dim"]) -> Float[Tensor, "items dim"]:
        """Normalise each column."""
        if len(values_XD) > 1 or not self.training:
            return super().forward(values_XD)
        return F.batch_norm(
            values_XD, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
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
    linear: nn.Linear, norm: PackedBatchNorm, values_XD: Float[Tensor, "items dim"]
) -> Float[Tensor, "items other_dim"]:
    r"""Batch norm of a linear map; in evaluation mode one linear map with the norm folded into its weights.

    .. math:: \mathrm{BN}(W x + b) = (s W) x + s (b - \mu) + \beta, \quad s = \gamma / \sqrt{\sigma^2 + \epsilon}

    Args:
        linear: W and b.
        norm: γ, β and the running statistics μ, σ².
        values_XD: x.
    """
    if norm.training:
        return norm(linear(values_XD))  # type: ignore[no-any-return]
    folds = _folds.get()
    if folds is None:
        return F.linear(values_XD, *folded(linear, norm))
    if linear not in folds:
        folds[linear] = folded(linear, norm)
    return F.linear(values_XD, *folds[linear])


def folded(linear: nn.Linear, norm: PackedBatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one map, see `linear_then_norm`."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale_D = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias_D = scale_D * (linear.bias - norm.running_mean) + norm.bias
    return scale_D[:, None] * linear.weight, bias_D


# OGB's integer features as vectors: the sum of one learnt vector per feature.


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
    combinations_XF: Tensor

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.table = nn.Parameter(torch.empty(sum(sizes), width))
        first_rows = list(accumulate(sizes, initial=0))[:-1]
        self.register_buffer("row_of_feature_F", torch.tensor(first_rows), persistent=False)
        few = math.prod(sizes) <= _MOST_COMBINATIONS
        combinations = list(product(*map(range, sizes))) if few else []
        self.register_buffer("combinations_XF", torch.tensor(combinations, dtype=torch.long), persistent=False)
        self.reset_xavier()

    def reset_xavier(self) -> None:
        """Xavier-uniform, table by table, as OGB's encoders start."""
        for table in torch.split(self.table, list(self.sizes)):
            nn.init.xavier_uniform_(table)

    def reset_normal(self, deviation: float) -> None:
        """N(0, deviation), as TokenGT's tables start."""
        nn.init.normal_(self.table, std=deviation)

    def forward(self, features_XF: Int[Tensor, "items features"]) -> Float[Tensor, "items dim"]:
        """`(items, D)` for `(items, F)` integer features; values must lie within the vocabulary."""
        if features_XF.shape[1] != len(self.sizes):
            raise ShapeError("wrong number of features", found=features_XF.shape[1], expected=len(self.sizes))
        if not len(self.combinations_XF):
            return self._sums(features_XF)
        number_X = features_XF[:, 0]
        for column, size in enumerate(self.sizes[1:], start=1):
            number_X = number_X * size + features_XF[:, column]
        return F.embedding(number_X, self._sums(self.combinations_XF))

    def _sums(self, features_XF: Tensor) -> Tensor:
        return F.embedding_bag(features_XF + self.row_of_feature_F, self.table, mode="sum")


# From atoms to a molecule: +MP and +VN of the paper, and the four aggregates of 3DInfomax's protocol on QM9.


Pooling = Literal["mean", "virtual_node", "min_max_mean_sum"]
# Width of the pooled vector in widths of the student.
_POOLED_WIDTHS: dict[Pooling, int] = {"mean": 1, "virtual_node": 1, "min_max_mean_sum": 4}


def pooling_named(name: str) -> Pooling:
    """The pooling of that name.

    Raises:
        ConfigError: there is no such name; the message lists the nearest ones.
    """
    return look_up({str(known): known for known in _POOLED_WIDTHS}, name, "pooling")


def pooled_width(width: int, pooling: Pooling) -> int:
    """Numbers per molecule that `pool` makes of a student of this width."""
    return width * _POOLED_WIDTHS[pooling]


def pool(output: StudentOutput, graph: GraphBatch, pooling: Pooling) -> Float[Tensor, "molecules pooled"]:
    r"""One vector per molecule.

    +MP is :math:`\frac{1}{N_b} \sum_{i \in b} h_i`; +VN is the state of the graph token or virtual node. No loss of the
    paper supervises that token directly, so after distillation +VN starts from a nearly untrained readout.
    `min_max_mean_sum` puts four aggregates side by side; the sum grows with the molecule, which a mean forgets.

    Args:
        output: what the student returned for `graph`.
        graph: the batch, B molecules.
        pooling: `mean`, `virtual_node` or `min_max_mean_sum`.

    Raises:
        ConfigError: `virtual_node` of a student that has none.
    """
    if pooling == "mean":
        return mean_per_molecule(output.atoms_ND, graph.atom_offsets)
    if pooling == "min_max_mean_sum":
        return pool_four(output.atoms_ND, graph)
    if output.virtual_BD is None:
        raise ConfigError(
            "this student has no virtual node to pool",
            next_step="Use pooling=mean, or tokengt or gine with virtual_node=true",
        )
    return output.virtual_BD


def pool_four(atoms_ND: Float[Tensor, "atoms dim"], graph: GraphBatch) -> Float[Tensor, "molecules four_dim"]:
    """min | max | mean | sum over the atoms of each molecule."""
    index_ND = graph.batch_N[:, None].expand_as(atoms_ND)
    empty_BD = atoms_ND.new_zeros(graph.num_molecules, atoms_ND.shape[1])
    low_BD = empty_BD.scatter_reduce(0, index_ND, atoms_ND, "amin", include_self=False)
    high_BD = empty_BD.scatter_reduce(0, index_ND, atoms_ND, "amax", include_self=False)
    total_BD = empty_BD.index_add(0, graph.batch_N, atoms_ND)
    count_B1 = graph.atoms_per_molecule_B[:, None].to(atoms_ND.dtype)
    return torch.cat([low_BD, high_BD, total_BD / count_B1, total_BD], dim=1)
