"""GINE with a virtual node, the architecture of OGB's `gin-virtual` baseline (Hu et al., NeurIPS 2020)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.chemistry.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES
from dnd.graphs.batch import GraphBatch, mean_per_molecule
from dnd.models.students.base import (
    FeatureEmbedding,
    PackedBatchNorm,
    Student,
    StudentConfig,
    StudentOutput,
    known,
    linear_then_norm,
)


class Gine(Student):
    r"""Graph isomorphism network with bond features.

    .. math:: h_i \leftarrow \mathrm{BN}(\mathrm{MLP}((1 + \epsilon) h_i + \sum_{j \to i} \mathrm{relu}(h_j + e_{ji})))

    followed by ReLU except after the last layer, and by the residual h_i. Between layers a virtual node v per molecule
    takes :math:`v \leftarrow \mathrm{MLP}(v + \sum_i h_i)` and is added to every atom. `virtual_BD` is v after its
    last update plus the mean of the last layer's atoms, so that +VN sees the last layer (OGB has no such readout).

    The sum over all atoms grows with the molecule: at 1,000 atoms representations are hundreds of times those of a
    drug. With `bounded` (ours) what is summed is normalised:

    .. math:: v \leftarrow \mathrm{MLP}(\mathrm{LN}(v + \tfrac{1}{\sqrt N} \sum_i h_i)), \quad
        h_i \leftarrow \mathrm{LN}(h_i)\ \text{and}\ v \leftarrow \mathrm{LN}(v)\ \text{after the last layer}

    How large a molecule is stays visible in v, as the share of the sum beside the v before. A representation then has
    no entry above :math:`\sqrt D \max|\gamma| + \max|\beta|`, γ and β the weights of the last norm.
    """

    bf16_devices = ("cpu",)

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config, self.width, self.num_layers = config, config.width, config.num_layers
        momentum = known(config.batch_norm_momentum)
        self.atom = FeatureEmbedding(ATOM_FEATURE_SIZES, self.width)
        self.layers = nn.ModuleList([GineLayer(self.width, momentum) for _ in range(self.num_layers)])
        self.virtual_node = nn.Parameter(torch.zeros(self.width)) if config.virtual_node else None
        updates = self.num_layers - 1 if config.virtual_node else 0
        self.virtual_updates = nn.ModuleList([NormedMLP(self.width, momentum, last_relu=True) for _ in range(updates)])
        bounded = bool(config.bounded)
        self.virtual_norms = nn.ModuleList([nn.LayerNorm(self.width) for _ in range(updates if bounded else 0)])
        self.final_norm = (
            nn.LayerNorm(self.width) if bounded else None
        )  # one for both, so that either pooling trains it

    def forward(self, graph: GraphBatch, *, collect_layers: bool = False) -> StudentOutput:
        """Atoms after the last layer and, with a virtual node, its state."""
        batch_N = graph.batch_N
        atoms_ND = self.atom(graph.node_features_NF)
        virtual_BD = None if self.virtual_node is None else self.virtual_node.expand(graph.num_molecules, -1)
        states = []
        for number, layer in enumerate(self.layers):
            is_last = number == self.num_layers - 1
            if virtual_BD is not None:
                atoms_ND = atoms_ND + virtual_BD.index_select(0, batch_N)
            before_ND, atoms_ND = atoms_ND, self._after(layer(atoms_ND, graph), atoms_ND, is_last)
            if virtual_BD is not None:
                virtual_BD = self._update(number, virtual_BD, before_ND, atoms_ND, graph)
            if collect_layers:
                states.append((atoms_ND, virtual_BD))
        if self.final_norm is not None:
            atoms_ND = self.final_norm(atoms_ND)
            virtual_BD = None if virtual_BD is None else self.final_norm(virtual_BD)
        return StudentOutput(atoms_ND, virtual_BD, states)

    def layer_of(self, parameter_name: str) -> int:
        """0 atom table and initial virtual node; `i + 1` layer `i` and the virtual node's update after it."""
        room, _, rest = parameter_name.partition(".")
        if room == "final_norm":
            return self.num_layers + 1
        return 0 if room in ("atom", "virtual_node") else int(rest.partition(".")[0]) + 1

    def _after(self, update_ND: Tensor, before_ND: Tensor, is_last: bool) -> Tensor:
        active_ND = F.dropout(update_ND if is_last else F.relu(update_ND), self.config.dropout, self.training)
        return active_ND + before_ND if self.config.residual else active_ND

    def _update(
        self, number: int, virtual_BD: Tensor, before_ND: Tensor, atoms_ND: Tensor, graph: GraphBatch
    ) -> Tensor:
        if number == self.num_layers - 1:
            return virtual_BD + mean_per_molecule(atoms_ND, graph.atom_offsets)
        total_BD = before_ND.new_zeros(virtual_BD.shape).index_add_(0, graph.batch_N, before_ND)
        if self.config.bounded:
            share_BD = total_BD / graph.atoms_per_molecule_B[:, None].to(total_BD.dtype).sqrt()
            total_BD = self.virtual_norms[number](virtual_BD + share_BD)
        else:
            total_BD = virtual_BD + total_BD
        updated_BD = self.virtual_updates[number](total_BD)
        return F.dropout(updated_BD, self.config.dropout, self.training)


class GineLayer(nn.Module):
    """One GINE convolution and its batch norm; every layer has its own bond vectors, as in OGB."""

    def __init__(self, width: int, momentum: float) -> None:
        super().__init__()
        self.bond = FeatureEmbedding(BOND_FEATURE_SIZES, width)
        self.epsilon = nn.Parameter(torch.zeros(1))
        self.mlp = NormedMLP(width, momentum, last_relu=False)

    def forward(self, atoms_ND: Float[Tensor, "atoms dim"], graph: GraphBatch) -> Float[Tensor, "atoms dim"]:
        """Normalised update of every atom, before the activation."""
        source_E, target_E = graph.edge_index_2E
        messages_ED = F.relu(atoms_ND.index_select(0, source_E) + self.bond(graph.edge_features_EF), inplace=True)
        own_ND = (1 + self.epsilon) * atoms_ND
        return self.mlp(own_ND.index_add_(0, target_E, messages_ED.to(own_ND.dtype)))  # type: ignore[no-any-return]


class NormedMLP(nn.Module):
    """D → 2D → D with a batch norm after each map, ReLU between and on request at the end; as in OGB."""

    def __init__(self, width: int, momentum: float, *, last_relu: bool) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Linear(width, 2 * width), PackedBatchNorm(2 * width, momentum=momentum)
        self.second, self.second_norm = nn.Linear(2 * width, width), PackedBatchNorm(width, momentum=momentum)
        self.last_relu = last_relu

    def forward(self, values_XD: Float[Tensor, "items dim"]) -> Float[Tensor, "items dim"]:
        """Row by row in evaluation mode."""
        hidden_XD = F.relu(linear_then_norm(self.first, self.first_norm, values_XD), inplace=True)
        out_ND = linear_then_norm(self.second, self.second_norm, hidden_XD)
        return F.relu(out_ND) if self.last_relu else out_ND
