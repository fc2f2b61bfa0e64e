"""Principal neighbourhood aggregation as 3DInfomax has it: the paper's student on QM9.

Every atom combines 4 aggregates of its messages (mean, max, min, standard deviation) at 3 degree-dependent scales.
Atoms are kept sorted by degree, so that each degree is one dense block: aggregates are elementwise operations on
`(atoms, degree, D)`, and since a scale depends on the degree alone, the 12-block linear map becomes a 4-block map per
degree. Same function, 2.3 times fewer operations than the equations as written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.chemistry.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES
from dnd.graphs.batch import GraphBatch
from dnd.models.students.base import FeatureEmbedding, PackedBatchNorm, Student, StudentConfig, StudentOutput, known

NUM_AGGREGATES, NUM_SCALES = 4, 3
VARIANCE_FLOOR = 1e-5  # the reference's, inside the square root


class PNA(Student):
    """PNA with residuals and batch norm, no virtual node; δ of the degree scales is 1 as in the reference."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config, self.width, self.num_layers = config, config.width, config.num_layers
        self.atom = FeatureEmbedding(ATOM_FEATURE_SIZES, self.width)
        self.bond = FeatureEmbedding(BOND_FEATURE_SIZES, self.width)
        self.layers = nn.ModuleList([PNALayer(config) for _ in range(self.num_layers)])

    def forward(self, graph: GraphBatch, *, collect_layers: bool = False) -> StudentOutput:
        """Atoms after the last layer."""
        layout = degree_layout(graph)
        atoms_ND = self.atom(graph.node_features_NF.index_select(0, layout.atoms))
        bonds_ED = self.bond(graph.edge_features_EF.index_select(0, layout.edges))
        states: list[tuple[Tensor, Tensor | None]] = []
        for layer in self.layers:
            atoms_ND = atoms_ND + layer(atoms_ND, bonds_ED, layout)
            if collect_layers:
                states.append((atoms_ND.index_select(0, layout.position), None))
        return StudentOutput(atoms_ND.index_select(0, layout.position), None, states)

    def layer_of(self, parameter_name: str) -> int:
        """0 atom and bond tables; `i + 1` layer `i`."""
        room, _, rest = parameter_name.partition(".")
        return 0 if room in ("atom", "bond") else int(rest.partition(".")[0]) + 1


class PNALayer(nn.Module):
    r"""One layer, without its residual.

    .. math::
        m_{ji} = \mathrm{MLP}([h_j; h_i; e_{ji}]), \quad
        a_i = [\mathrm{mean}, \max, \min, \mathrm{std}]_{j \to i}\, m_{ji}, \quad
        \Delta h_i = \mathrm{BN}(W [h_i;\, a_i;\, a_i \log(d_i + 1);\, a_i / \log(d_i + 1)])

    An atom without bonds has zero aggregates.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        width, momentum = config.width, known(config.batch_norm_momentum)
        self.message_in = _linear(3 * width, width)
        self.message_in_norm = PackedBatchNorm(width, momentum=momentum)
        self.message_out = _linear(width, width)
        self.message_out_norm = PackedBatchNorm(width, momentum=momentum)
        self.update = _linear((1 + NUM_AGGREGATES * NUM_SCALES) * width, width)
        self.update_norm = PackedBatchNorm(width, momentum=momentum)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, atoms_ND: Float[Tensor, "atoms dim"], bonds_ED: Float[Tensor, "edges dim"], layout: DegreeLayout
    ) -> Float[Tensor, "atoms dim"]:
        """Update of every atom, atoms and bonds in the order of `layout`."""
        own_DD, *scaled_DD = self._update_blocks()
        messages_ED = self._messages(atoms_ND, bonds_ED, layout)
        blocks = torch.split(messages_ED, [degree * count for degree, count in layout.runs])
        updates = []
        for (degree, count), block in zip(layout.runs, blocks, strict=True):
            if degree == 0:
                updates.append(atoms_ND.new_zeros(count, atoms_ND.shape[1]))
                continue
            scale = math.log(degree + 1)
            weight_DD = scaled_DD[0] + scale * scaled_DD[1] + scaled_DD[2] / scale
            updates.append(F.linear(aggregates(block.view(count, degree, -1)), weight_DD))
        update_ND = F.linear(atoms_ND, own_DD, self.update.bias) + torch.cat(updates)
        return self.update_norm(self.dropout(update_ND))  # type: ignore[no-any-return]

    def _messages(self, atoms_ND: Tensor, bonds_ED: Tensor, layout: DegreeLayout) -> Tensor:
        """The first linear map acts on atoms before they are gathered: N rows instead of E."""
        source_DD, target_DD, bond_DD = self.message_in.weight.chunk(3, dim=1)
        from_source_ED = F.linear(atoms_ND, source_DD).index_select(0, layout.source_E)
        from_target_ED = F.linear(atoms_ND, target_DD, self.message_in.bias).index_select(0, layout.target_E)
        hidden_ED = F.relu(from_source_ED + from_target_ED + F.linear(bonds_ED, bond_DD))
        hidden_ED = self.message_in_norm(self.dropout(hidden_ED))
        return self.message_out_norm(self.dropout(self.message_out(hidden_ED)))  # type: ignore[no-any-return]

    def _update_blocks(self) -> tuple[Tensor, ...]:
        """The columns of the update map: own state, then the aggregates at each scale."""
        width = self.update.out_features
        return torch.split(self.update.weight, [width] + [NUM_AGGREGATES * width] * NUM_SCALES, dim=1)


class PNAHead(nn.Module):
    r"""The two-layer head of 3DInfomax on QM9.

    .. math:: \hat y = W_2\, \mathrm{BN}(\mathrm{ReLU}(W_1 h + b_1)) + b_2

    Equal to the reference's recorded predictions on `pool_four`, its four pooled vectors.

    Args:
        inputs: width of the pooled vector, 4 D for `pool_four`.
        width: D.
        num_targets: C.
        batch_norm_momentum: weight of the newest batch in the running statistics.
    """

    def __init__(self, inputs: int, width: int, num_targets: int, batch_norm_momentum: float = 0.1) -> None:
        super().__init__()
        self.hidden = _linear(inputs, width)
        self.norm = PackedBatchNorm(width, momentum=batch_norm_momentum)
        self.out = _linear(width, num_targets)

    def forward(self, pooled_BD: Float[Tensor, "molecules inputs"]) -> Float[Tensor, "molecules targets"]:
        """Predictions from pooled vectors."""
        return self.out(self.norm(F.relu(self.hidden(pooled_BD))))  # type: ignore[no-any-return]


def aggregates(messages_SeD: Float[Tensor, "atoms degree dim"]) -> Float[Tensor, "atoms four_dim"]:
    """Mean, max, min and population standard deviation of each atom's messages, side by side."""
    parts = messages_SeD.unbind(1)  # a chain of elementwise operations is faster than a reduction over a short axis
    total_SD, squares_SD, high_SD, low_SD = parts[0], parts[0] ** 2, parts[0], parts[0]
    for part_SD in parts[1:]:
        total_SD, squares_SD = total_SD + part_SD, squares_SD + part_SD**2
        high_SD, low_SD = torch.maximum(high_SD, part_SD), torch.minimum(low_SD, part_SD)
    mean_SD = total_SD / len(parts)
    deviation_SD = torch.sqrt(F.relu(squares_SD / len(parts) - mean_SD**2) + VARIANCE_FLOOR)
    return torch.cat([mean_SD, high_SD, low_SD, deviation_SD], dim=1)


@dataclass(frozen=True)
class DegreeLayout:
    """Atoms sorted by degree, bonds sorted by the atom they point to.

    Attributes:
        atoms: batch index of the atoms in this order.
        position: its inverse.
        edges: batch index of the directed bonds in this order.
        source_E, target_E: the bonds' ends, numbered in this order.
        runs: `(degree, atoms of that degree)`, ascending.
    """

    atoms: Int[Tensor, "atoms"]
    position: Int[Tensor, "atoms"]
    edges: Int[Tensor, "edges"]
    source_E: Int[Tensor, "edges"]
    target_E: Int[Tensor, "edges"]
    runs: list[tuple[int, int]]


def degree_layout(graph: GraphBatch) -> DegreeLayout:
    """Sort `graph` by degree; one transfer of N numbers to the host."""
    source_E, target_E = graph.edge_index_2E
    degree_N = torch.bincount(target_E, minlength=len(graph.node_features_NF))
    degree_N, atoms = torch.sort(degree_N, stable=True)
    position = torch.empty_like(atoms).scatter_(0, atoms, torch.arange(len(atoms), device=atoms.device))
    target_E, edges = torch.sort(position[target_E], stable=True)
    counted = torch.unique_consecutive(degree_N.cpu(), return_counts=True)
    runs = list(zip(counted[0].tolist(), counted[1].tolist(), strict=True))
    return DegreeLayout(atoms, position, edges, position[source_E[edges]], target_E, runs)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Xavier-uniform with gain 1/inputs and zero bias, the reference's start; batch norm restores the scale."""
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight, gain=1 / inputs)
    nn.init.zeros_(linear.bias)
    return linear
