"""GCN, GraphSAGE, GATv2 and GPS from torch-geometric's layers, the maintained form of the published ones.

Needs the `gnn` extra; torch-geometric is imported when such a student is built.
"""

from __future__ import annotations

from abc import abstractmethod
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.chemistry.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES
from dnd.common.errors import ConfigError
from dnd.graphs.batch import GraphBatch
from dnd.graphs.identifiers import random_walk_identifiers
from dnd.models.students.base import FeatureEmbedding, PackedBatchNorm, Student, StudentConfig, StudentOutput, known


class _Convolutional(Student):
    r"""A stack of :math:`h \leftarrow h + \mathrm{dropout}(\mathrm{relu}(\mathrm{BN}(\mathrm{conv}(h))))`.

    Layers that were published without bond features get them at the input: :math:`h^0_i = e(i) + \sum_{j \to i} e(ji)`.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config, self.width, self.num_layers = config, config.width, config.num_layers
        layers = _torch_geometric()
        self.atom = FeatureEmbedding(ATOM_FEATURE_SIZES, self.width)
        self.bond = FeatureEmbedding(BOND_FEATURE_SIZES, self.width)
        self.layers = nn.ModuleList([self._layer(layers, config) for _ in range(self.num_layers)])
        momentum = known(config.batch_norm_momentum)
        self.norms = nn.ModuleList([PackedBatchNorm(self.width, momentum=momentum) for _ in range(self.num_layers)])

    def forward(self, graph: GraphBatch, *, collect_layers: bool = False) -> StudentOutput:
        """Atoms after the last layer."""
        bonds_ED = self.bond(graph.edge_features_EF)
        atoms_ND = self._input(graph, bonds_ED)
        states: list[tuple[Tensor, Tensor | None]] = []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            update_ND = F.relu(norm(self._convolve(layer, atoms_ND, graph, bonds_ED)))
            atoms_ND = atoms_ND + F.dropout(update_ND, self.config.dropout, self.training)
            if collect_layers:
                states.append((atoms_ND, None))
        return StudentOutput(atoms_ND, None, states)

    def layer_of(self, parameter_name: str) -> int:
        """0 tables; `i + 1` layer `i` and its norm."""
        room, _, rest = parameter_name.partition(".")
        return int(rest.partition(".")[0]) + 1 if room in ("layers", "norms") else 0

    @abstractmethod
    def _layer(self, layers: Any, config: StudentConfig) -> nn.Module:
        """One layer of `torch_geometric.nn`."""

    def _input(self, graph: GraphBatch, bonds_ED: Float[Tensor, "edges dim"]) -> Float[Tensor, "atoms dim"]:
        return self.atom(graph.node_features_NF).index_add(0, graph.edge_index_2E[1], bonds_ED)  # type: ignore[no-any-return]

    def _convolve(self, layer: nn.Module, atoms_ND: Tensor, graph: GraphBatch, bonds_ED: Tensor) -> Tensor:
        return layer(atoms_ND, graph.edge_index_2E)  # type: ignore[no-any-return]


class GCN(_Convolutional):
    """Graph convolutional network (Kipf and Welling, ICLR 2017)."""

    def _layer(self, layers: Any, config: StudentConfig) -> nn.Module:
        return layers.GCNConv(config.width, config.width)  # type: ignore[no-any-return]


class GraphSAGE(_Convolutional):
    """GraphSAGE with mean aggregation (Hamilton et al., NeurIPS 2017)."""

    def _layer(self, layers: Any, config: StudentConfig) -> nn.Module:
        return layers.SAGEConv(config.width, config.width)  # type: ignore[no-any-return]


class GATv2(_Convolutional):
    """Graph attention with dynamic attention and bond features in its scores (Brody et al., ICLR 2022)."""

    def _layer(self, layers: Any, config: StudentConfig) -> nn.Module:
        heads, dropout = known(config.num_heads), known(config.attention_dropout)
        return layers.GATv2Conv(  # type: ignore[no-any-return]
            config.width, config.width // heads, heads=heads, dropout=dropout, edge_dim=config.width
        )

    def _input(self, graph: GraphBatch, bonds_ED: Float[Tensor, "edges dim"]) -> Float[Tensor, "atoms dim"]:
        return self.atom(graph.node_features_NF)  # type: ignore[no-any-return]

    def _convolve(self, layer: nn.Module, atoms_ND: Tensor, graph: GraphBatch, bonds_ED: Tensor) -> Tensor:
        return layer(atoms_ND, graph.edge_index_2E, bonds_ED)  # type: ignore[no-any-return]


class GPS(Student):
    """GPS: GINE and full attention side by side in each layer (Rampášek et al., NeurIPS 2022).

    With random-walk identifiers, as the paper uses on molecules. Its blocks hold their own norms and residuals.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config, self.width, self.num_layers = config, config.width, config.num_layers
        layers = _torch_geometric()
        self.atom = FeatureEmbedding(ATOM_FEATURE_SIZES, self.width)
        self.bond = FeatureEmbedding(BOND_FEATURE_SIZES, self.width)
        self.identifiers = nn.Linear(known(config.num_identifiers), self.width)
        self.layers = nn.ModuleList([_gps_layer(layers, config) for _ in range(self.num_layers)])

    def forward(self, graph: GraphBatch, *, collect_layers: bool = False) -> StudentOutput:
        """Atoms after the last layer."""
        with torch.no_grad():
            walks_NI = random_walk_identifiers(graph, known(self.config.num_identifiers))
        walks_NI = walks_NI.to(self.identifiers.weight.dtype)
        atoms_ND = self.atom(graph.node_features_NF) + self.identifiers(walks_NI)
        bonds_ED, batch_N = self.bond(graph.edge_features_EF), graph.batch_N
        states: list[tuple[Tensor, Tensor | None]] = []
        for layer in self.layers:
            atoms_ND = layer(atoms_ND, graph.edge_index_2E, batch_N, edge_attr=bonds_ED)
            if collect_layers:
                states.append((atoms_ND, None))
        return StudentOutput(atoms_ND, None, states)

    def layer_of(self, parameter_name: str) -> int:
        """0 tables and identifier projection; `i + 1` layer `i`."""
        room, _, rest = parameter_name.partition(".")
        return int(rest.partition(".")[0]) + 1 if room == "layers" else 0


def _gps_layer(layers: Any, config: StudentConfig) -> nn.Module:
    width = config.width
    network = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    return layers.GPSConv(  # type: ignore[no-any-return]
        width,
        layers.GINEConv(network),
        heads=known(config.num_heads),
        dropout=config.dropout,
        norm="batch_norm",
        # A lone atom in training has no variance: use the running statistics, as our own batch norm does.
        norm_kwargs={"momentum": known(config.batch_norm_momentum), "allow_single_element": True},
        attn_kwargs={"dropout": known(config.attention_dropout)},
    )


def _torch_geometric() -> ModuleType:
    """torch-geometric's layers.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        import torch_geometric.nn as layers
    except ImportError as error:
        raise ConfigError(
            "gcn, graphsage, gatv2 and gps need torch-geometric",
            found=str(error),
            next_step="Run: pip install 'dnd-mol[gnn]'",
        ) from error
    return layers  # type: ignore[no-any-return]
