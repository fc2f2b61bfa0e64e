"""Net3D, the 3D encoder of 3DInfomax: a complete graph of distances, no atom types, trained from scratch.

Legend: A conformer atoms, E ordered pairs without loops, H hidden width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.distillation.readout import min_max_mean_per_molecule
from dnd.graphs.batch import ConformerBatch

NUM_FREQUENCIES = 4


class Net3D(nn.Module):
    r"""Distances to one vector per conformer.

    All atoms start from one learnt vector; a pair starts from its encoded distance. One message layer:

    .. math:: m_{ij} = \mathrm{BN}(\mathrm{SiLU}(W_m [h_i, h_j, e_{ij}])), \quad
              \bar m_j = \operatorname{mean}_{i \neq j} \sigma(w \cdot m_{ij}) m_{ij}, \quad
              h_j' = \mathrm{BN}(W_u (\bar m_j + h_j)) + h_j

    and the output is a linear map of [min | max | mean] over the atoms.

    Source: Stärk et al., 3DInfomax (ICML 2022), public code with its QM9 settings; equal to recordings of it. Differs
    from usual message networks in that each activation comes before its batch norm, and that the encoded distance is
    activated once more after the norm. With one layer, the reference's update of the pair states has no effect and is
    left out.

    Args:
        hidden: H, 20.
        width: of the output, 256.
        momentum: of the batch norms; 0.93 makes the statistics follow the newest batch.
    """

    def __init__(self, hidden: int = 20, width: int = 256, momentum: float = 0.93) -> None:
        super().__init__()
        self.width = width
        self.node_embedding = nn.Parameter(torch.randn(hidden))
        self.edge_linear = nn.Linear(2 * NUM_FREQUENCIES + 1, hidden)
        self.edge_norm = nn.BatchNorm1d(hidden, momentum=momentum)
        self.message_linear = nn.Linear(3 * hidden, hidden)
        self.message_norm = nn.BatchNorm1d(hidden, momentum=momentum)
        self.gate = nn.Linear(hidden, 1)
        self.update_linear = nn.Linear(hidden, hidden)
        self.update_norm = nn.BatchNorm1d(hidden, momentum=momentum)
        self.output = nn.Linear(3 * hidden, width)

    def forward(self, conformers: ConformerBatch) -> Float[Tensor, "molecules dim"]:
        """One vector per conformer, invariant to rotation, translation, reflection and the order of the atoms."""
        pooled: Tensor = self.output(min_max_mean_per_molecule(self.atom_states(conformers), conformers.atom_offsets))
        return pooled

    def atom_states(self, conformers: ConformerBatch) -> Float[Tensor, "conformer_atoms hidden"]:
        """State of every atom after the message layer. A lone atom has no pair and receives the zero message."""
        source_E, target_E = ordered_pairs(conformers.atom_offsets)
        offset_E3 = conformers.positions_A3[source_E] - conformers.positions_A3[target_E]
        edge_EH = self.pair_states(offset_E3.norm(dim=1, keepdim=True))
        h_AH = self.node_embedding.expand(len(conformers.positions_A3), -1)
        message_EH = F.silu(self.message_linear(torch.cat([h_AH[source_E], h_AH[target_E], edge_EH], dim=1)))
        message_EH = _normalised(self.message_norm, message_EH)
        message_EH = message_EH * torch.sigmoid(self.gate(message_EH))
        neighbours_A = (conformers.atom_offsets.diff() - 1)[conformers.batch_A].clamp(min=1)
        total_AH = torch.zeros_like(h_AH, dtype=message_EH.dtype).index_add(0, target_E, message_EH)
        mean_AH = total_AH / neighbours_A[:, None].to(total_AH.dtype)
        return _normalised(self.update_norm, self.update_linear(mean_AH + h_AH)) + h_AH

    def pair_states(self, distance_E1: Float[Tensor, "pairs 1"]) -> Float[Tensor, "pairs hidden"]:
        """Encoded distances after linear map, SiLU, batch norm and SiLU again."""
        hidden_EH = F.silu(self.edge_linear(fourier_encoding(distance_E1)))
        return F.silu(_normalised(self.edge_norm, hidden_EH))


def fourier_encoding(distance_E1: Float[Tensor, "pairs 1"]) -> Float[Tensor, "pairs codes"]:
    r""":math:`[\sin(d / 2^k) \mid \cos(d / 2^k) \mid d]`, k = 0..3, for distances in angstrom: 9 numbers."""
    scale_K = 2.0 ** torch.arange(NUM_FREQUENCIES, device=distance_E1.device, dtype=distance_E1.dtype)
    angle_EK = distance_E1 / scale_K
    return torch.cat([angle_EK.sin(), angle_EK.cos(), distance_E1], dim=1)


def ordered_pairs(offsets: Int[Tensor, "offsets"]) -> tuple[Int[Tensor, "pairs"], Int[Tensor, "pairs"]]:
    """Source and target of every ordered pair of different items of one molecule, source-major, packed numbering."""
    size_B = offsets.diff()
    pairs_B = size_B * size_B
    index_E = torch.arange(int(pairs_B.sum()), device=offsets.device)
    molecule_E = torch.repeat_interleave(torch.arange(len(size_B), device=offsets.device), pairs_B)
    within_E = index_E - (pairs_B.cumsum(0) - pairs_B)[molecule_E]
    source_E = offsets[:-1][molecule_E] + within_E // size_B[molecule_E]
    target_E = offsets[:-1][molecule_E] + within_E % size_B[molecule_E]
    different_E = source_E != target_E
    return source_E[different_E], target_E[different_E]


def _normalised(norm: nn.BatchNorm1d, values: Tensor) -> Tensor:
    """Batch norm, with the running statistics where a batch of fewer than two rows has none of its own."""
    if norm.training and len(values) < 2:
        return F.batch_norm(values, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    normalised: Tensor = norm(values)
    return normalised
