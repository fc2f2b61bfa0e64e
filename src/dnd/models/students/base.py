"""What any student offers, the settings of the students, and the layers that they share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate, product
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.common.config import look_up
from dnd.common.errors import ConfigError, ShapeError
from dnd.graphs.batch import GraphBatch, mean_per_molecule

# Layers that students share: batch norm of packed items, embeddings of integer features, pooling.

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


# Settings of the students: one flat dataclass, where each student refuses the settings it does not have.


T = TypeVar("T")

LIMIT_WIDTH = 4096
LIMIT_LAYERS = 128
LIMIT_FFN_WIDTH = 32768
LIMIT_IDENTIFIERS = 512

# Optional settings of each student with the value that None stands for; `ffn_width` 0 means "as wide as the student".
OPTIONAL_SETTINGS: dict[str, dict[str, Any]] = {
    "tokengt": {
        "num_heads": 8,
        "ffn_width": 0,
        "identifiers": "laplacian",
        "num_identifiers": 16,
        "identifier_dropout": 0.2,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "drop_path": 0.0,
        "final_norm": True,
    },
    "pna": {"batch_norm_momentum": 0.1},
    "gine": {"virtual_node": True, "residual": True, "bounded": False, "batch_norm_momentum": 0.1},
    "gcn": {"batch_norm_momentum": 0.1},
    "graphsage": {"batch_norm_momentum": 0.1},
    "gatv2": {"num_heads": 4, "attention_dropout": 0.0, "batch_norm_momentum": 0.1},
    "gps": {"num_heads": 4, "num_identifiers": 16, "attention_dropout": 0.0, "batch_norm_momentum": 0.1},
}

# Settings that change no weight: the only ones that may differ between saving and loading an encoder.
TRAINING_SETTINGS = frozenset(
    {"dropout", "identifier_dropout", "attention_dropout", "activation_dropout", "drop_path", "batch_norm_momentum"}
)


@dataclass(frozen=True)
class StudentConfig:
    """A student by name and size.

    `None` takes the student's own default; a value for a setting that the student does not have is an error. After
    construction the settings that apply hold their value and all others are None, so `dataclasses.asdict` is the full
    record of the student.

    Attributes:
        name: `tokengt`, `pna`, `gine`, `gcn`, `graphsage`, `gatv2` or `gps`.
        width: D, the width of the representations.
        num_layers: message passing or attention layers.
        dropout: on the output of each layer's blocks.
        num_heads: attention heads; they divide `width`.
        ffn_width: inner width of the feed-forward block of TokenGT; `width` by default, as in the reference.
        identifiers: node identifiers of TokenGT: Laplacian eigenvectors or orthonormal random vectors.
        num_identifiers: k, columns of the identifiers; for GPS, steps of the random walk.
        identifier_dropout: on single identifier entries, Laplacian only.
        attention_dropout: on attention weights.
        activation_dropout: inside the feed-forward block.
        drop_path: chance of skipping the last layer's blocks for a molecule; rises linearly from the first layer.
        final_norm: LayerNorm after the last layer. The reference of TokenGT leaves it out; the teacher's
            representations end in one, so a distilled student should have it.
        virtual_node: whether GINE has a virtual node.
        residual: whether GINE adds a layer's input to its output.
        bounded: whether GINE normalises its sums, so that no molecule is too large for its representation.
        batch_norm_momentum: weight of the newest batch in the running statistics.
    """

    name: str = "tokengt"
    width: int = 128
    num_layers: int = 6
    dropout: float = 0.0
    num_heads: int | None = None
    ffn_width: int | None = None
    identifiers: Literal["laplacian", "orf"] | None = None
    num_identifiers: int | None = None
    identifier_dropout: float | None = None
    attention_dropout: float | None = None
    activation_dropout: float | None = None
    drop_path: float | None = None
    final_norm: bool | None = None
    virtual_node: bool | None = None
    residual: bool | None = None
    bounded: bool | None = None
    batch_norm_momentum: float | None = None

    def __post_init__(self) -> None:
        own = look_up(OPTIONAL_SETTINGS, self.name, "student")
        if self.identifiers == "orf":
            if self.identifier_dropout:
                raise ConfigError("identifier_dropout is for Laplacian identifiers only", found=self.identifier_dropout)
            own = {**own, "identifier_dropout": 0.0}
        for entry in fields(self):
            if entry.name in ("name", "width", "num_layers", "dropout"):
                continue
            value = getattr(self, entry.name)
            if entry.name not in own and value is not None:
                raise ConfigError(
                    f"student {self.name} has no setting {entry.name}", next_step=f"It has: {', '.join(own)}"
                )
            if entry.name in own and value is None:
                object.__setattr__(self, entry.name, own[entry.name])
        if self.ffn_width == 0:
            object.__setattr__(self, "ffn_width", self.width)
        self._check_ranges()

    def _check_ranges(self) -> None:
        limits = {
            "width": LIMIT_WIDTH,
            "num_layers": LIMIT_LAYERS,
            "num_heads": self.width,
            "ffn_width": LIMIT_FFN_WIDTH,
            "num_identifiers": LIMIT_IDENTIFIERS,
        }
        for name, limit in limits.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= limit:
                raise ConfigError(f"student setting {name} is out of range", found=value, expected=f"1 to {limit}")
        rates = ("dropout", "identifier_dropout", "attention_dropout", "activation_dropout", "drop_path")
        for name in rates:
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise ConfigError(f"student setting {name} is out of range", found=value, expected="0 to below 1")
        if self.batch_norm_momentum is not None and not 0.0 < self.batch_norm_momentum <= 1.0:
            raise ConfigError("student setting batch_norm_momentum is out of range", found=self.batch_norm_momentum)
        if self.num_heads is not None and self.width % self.num_heads:
            raise ConfigError(f"student width {self.width} is not a multiple of num_heads", found=self.num_heads)

    def with_training_settings(self, **changes: Any) -> StudentConfig:
        """The same student with another dropout or batch norm momentum, the only settings that do not shape weights.

        Raises:
            ConfigError: a setting that shapes weights, or that this student does not have.
        """
        for name in changes:
            if name not in TRAINING_SETTINGS:
                raise ConfigError(
                    f"{name} of a trained student can't change", expected=", ".join(sorted(TRAINING_SETTINGS))
                )
        return replace(self, **changes)

    def without_training_settings(self) -> StudentConfig:
        """The same student with the default training settings of its architecture, whatever it was trained with."""
        defaults: dict[str, Any] = {**dict.fromkeys(TRAINING_SETTINGS), "dropout": 0.0}
        return replace(self, **defaults)


_TOKENGT_DROPOUT = {"attention_dropout": 0.1, "activation_dropout": 0.1, "drop_path": 0.1}  # TokenGT's PCQM4Mv2 run

PRESETS: dict[str, StudentConfig] = {
    # 12 layers of 768 with 32 heads: TokenGT-base; the paper's equations need the teacher's width.
    "tokengt-paper": StudentConfig("tokengt", 768, 12, num_heads=32, num_identifiers=16, **_TOKENGT_DROPOUT),  # type: ignore[arg-type]
    "tokengt-table5b": StudentConfig("tokengt", 128, 12, num_heads=32, num_identifiers=16, **_TOKENGT_DROPOUT),  # type: ignore[arg-type]  # Table 5(b) read literally
    # 8 heads of 16: at 96 tokens fused attention with 32 heads of 4 takes five times as long (one CPU thread).
    "tokengt-small": StudentConfig("tokengt", 128, 6, num_heads=8, num_identifiers=16),
    "pna": StudentConfig("pna", 200, 7),  # 3DInfomax
    "gine": StudentConfig("gine", 300, 5),  # OGB's gin-virtual
    "gine-small": StudentConfig("gine", 128, 4),
    "gcn": StudentConfig("gcn", 300, 5),
    "graphsage": StudentConfig("graphsage", 300, 5),
    "gatv2": StudentConfig("gatv2", 300, 5),
    "gps": StudentConfig("gps", 64, 10),  # GPS's ZINC run
}


def known(value: T | None) -> T:
    """A setting that its student always has, for the type checker: None stands only for what a student lacks."""
    assert value is not None
    return value


def preset(name: str) -> StudentConfig:
    """The student settings of a name in `PRESETS`.

    Raises:
        ConfigError: there is no such preset; the message names the nearest ones.
    """
    return look_up(PRESETS, name, "student preset")


# What any student must offer: a packed graph batch in, atom representations and pooled vectors out.


@dataclass
class StudentOutput:
    """Representations of one batch.

    Attributes:
        atoms_ND: `(N, D)` atom representations after the last layer, in the batch's atom order (Z2D of the paper).
        virtual_BD: `(B, D)` state of the graph token or virtual node (+VN), None for students that have none.
        layers: with `collect_layers`, per layer the pair `(atoms_ND, virtual_BD or None)` as the layer leaves it,
            before any final norm; else empty.
    """

    atoms_ND: Float[Tensor, "atoms dim"]
    virtual_BD: Float[Tensor, "molecules dim"] | None = None
    layers: list[tuple[Float[Tensor, "atoms dim"], Float[Tensor, "molecules dim"] | None]] = field(default_factory=list)


class Student(nn.Module, ABC):
    """Base of all students.

    The result for a molecule depends on that molecule alone: not on its neighbours in the batch, on padding or, up
    to the same permutation of the rows, on the order of its atoms. `tests/conformance/student_suite.py` checks it.

    Attributes:
        config: all settings of the student.
        width: D, the width of the representations.
        num_layers: number of message passing or attention layers.
        bf16_devices: kinds of device on which training was measured to be faster in bfloat16.
    """

    config: StudentConfig
    width: int
    num_layers: int
    bf16_devices: Collection[str] = ()

    @abstractmethod
    def forward(self, graph: GraphBatch, *, collect_layers: bool = False) -> StudentOutput:
        """Representations of every atom and, if the student has one, of the virtual node."""

    @abstractmethod
    def layer_of(self, parameter_name: str) -> int:
        """Depth of a parameter for layer decay: 0 embeddings, `i + 1` layer `i`, `num_layers + 1` the final norm."""

    def reset_sampling(self, seed: int) -> None:  # most students draw nothing
        """Seed the random draws of a student in evaluation mode (ORF identifiers); a deterministic student has none."""
