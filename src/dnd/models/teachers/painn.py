"""PaiNN: equivariant message passing without attention, the second teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dnd.graphs.batch import ConformerBatch
from dnd.models.teachers.base import Teacher, TeacherConfig, TeacherOutput, check_elements
from dnd.models.teachers.fast_pairs.pairs import find_pairs
from dnd.models.teachers.layers import NORM_EPSILON, cosine_cutoff, initialise_linear

CELLS_PER_BLOCK = 2**20
"""Number of cells of a block in which pairs are found; nothing wide is dense here."""


@dataclass(frozen=True)
class _Edges:
    """Directed edges j → i, each pair twice: first all (second → first), then all (first → second).

    Attributes:
        sender_E: j.
        receiver_E: i.
        radial_PR: radial functions of each pair.
        cutoff_P: C(d) of each pair.
        direction_E3: unit vectors from i to j.
    """

    sender_E: Int[Tensor, "edges"]
    receiver_E: Int[Tensor, "edges"]
    radial_PR: Float[Tensor, "pairs rbf"]
    cutoff_P: Float[Tensor, "pairs"]
    direction_E3: Float[Tensor, "edges 3"]


class PaiNNLayer(nn.Module):
    r"""Message and update block (Schütt et al., 2021, Eq. 7-10 and Figure 2).

    With :math:`\phi, W, a` split into three pieces of width D:

    .. math::
        \Delta s_i &= \textstyle\sum_j \phi_s(s_j) \circ W_s(d_{ij}), \quad
        \Delta v_i = \textstyle\sum_j v_j \circ \phi_{vv}(s_j) \circ W_{vv}(d_{ij})
            + \phi_{vs}(s_j) \circ W_{vs}(d_{ij}) \otimes u_{ij} \\
        \Delta s_i &= a_{ss} + a_{sv} \langle U v_i, V v_i \rangle, \quad \Delta v_i = a_{vv} \circ U v_i,
            \quad a = a(s_i, \lVert V v_i \rVert)
    """

    def __init__(self, width: int, num_rbf: int) -> None:
        super().__init__()
        self.filter = nn.Linear(num_rbf, 3 * width)
        self.message = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * width))
        self.mix = nn.Linear(width, 2 * width, bias=False)
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 3 * width))
        initialise_linear(self)

    def forward(
        self, scalars_AD: Float[Tensor, "atoms width"], vectors_A3D: Float[Tensor, "atoms 3 width"], edges: _Edges
    ) -> tuple[Float[Tensor, "atoms width"], Float[Tensor, "atoms 3 width"]]:
        """New scalars and vectors."""
        scalars_AD, vectors_A3D = self._receive(scalars_AD, vectors_A3D, edges)
        left_A3D, right_A3D = self.mix(vectors_A3D).chunk(2, dim=-1)
        # the epsilon keeps the gradient of the norm finite where all vectors are 0
        norms_AD = (right_A3D.square().sum(1) + NORM_EPSILON).sqrt()
        to_vectors, coupling, to_scalars = self.update(torch.cat([scalars_AD, norms_AD], dim=1)).chunk(3, dim=-1)
        scalars_AD = scalars_AD + to_scalars + coupling * (left_A3D * right_A3D).sum(1)
        return scalars_AD, vectors_A3D + to_vectors[:, None] * left_A3D

    def _receive(
        self, scalars_AD: Float[Tensor, "atoms width"], vectors_A3D: Float[Tensor, "atoms 3 width"], edges: _Edges
    ) -> tuple[Float[Tensor, "atoms width"], Float[Tensor, "atoms 3 width"]]:
        filters_PD = self.filter(edges.radial_PR) * edges.cutoff_P[:, None]
        weighted_ED = self.message(scalars_AD)[edges.sender_E] * filters_PD.repeat(2, 1)
        scalar_ED, transport_ED, directed_ED = weighted_ED.chunk(3, dim=-1)
        gathered = []
        for axis in range(3):  # axis by axis, so that no tensor of edges x 3 x width is made
            message_ED = vectors_A3D[edges.sender_E, axis] * transport_ED
            message_ED = message_ED + directed_ED * edges.direction_E3[:, axis, None]
            gathered.append(torch.zeros_like(scalars_AD).index_add(0, edges.receiver_E, message_ED))
        scalars_AD = scalars_AD.index_add(0, edges.receiver_E, scalar_ED)
        return scalars_AD, vectors_A3D + torch.stack(gathered, dim=1)


class PaiNN(Teacher):
    r"""Polarizable atom interaction network.

    Source: Schütt, Unke and Gastegger, "Equivariant message passing for the prediction of tensorial properties and
    molecular spectra", ICML 2021. Radial functions are :math:`\sin(k \pi d / r_c) / d`. Unlike the publication the
    scalars pass a final LayerNorm, as the equivariant transformer's do, so that what is distilled has unit variance.

    Args:
        config: architecture; `num_heads`, `vector_cutoff`, `whiten_vectors` and `chiral` do not apply.
    """

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.num_layers, self.cutoff = config.width, config.num_layers, config.cutoff
        self.embedding = nn.Embedding(config.max_atomic_number, config.width)
        self.layers = nn.ModuleList(PaiNNLayer(config.width, config.num_rbf) for _ in range(config.num_layers))
        self.out_norm = nn.LayerNorm(config.width)

    def forward(self, conformers: ConformerBatch, *, collect_layers: bool = False) -> TeacherOutput:
        """Representations of every conformer atom.

        Raises:
            CoincidentAtomsError: two atoms of a molecule are closer than `closest_approach`.
            InputError: an element beyond the table.
        """
        check_elements(conformers, self.config.max_atomic_number)
        with torch.autocast(conformers.positions_A3.device.type, enabled=False):
            edges = self._edges(conformers)
            scalars_AD = self.embedding(conformers.atomic_numbers_A)
            vectors_A3D = scalars_AD.new_zeros(len(scalars_AD), 3, self.width)
            collected = []
            for layer in self.layers:
                scalars_AD, vectors_A3D = layer(scalars_AD, vectors_A3D, edges)
                if collect_layers:
                    collected.append(scalars_AD)
            return TeacherOutput(self.out_norm(scalars_AD), vectors_A3D, collected)

    def _edges(self, conformers: ConformerBatch) -> _Edges:
        with torch.no_grad():
            near = find_pairs(conformers, self.cutoff, cells_per_block=CELLS_PER_BLOCK, closest=self.closest_approach)
        first_P, second_P = near.packed_Z[near.first_P], near.packed_Z[near.second_P]
        positions_A3 = conformers.positions_A3.to(self.embedding.weight.dtype)
        offset_P3 = positions_A3[second_P] - positions_A3[first_P]
        distance_P = offset_P3.norm(dim=-1)
        order_R = torch.arange(1, self.config.num_rbf + 1, device=distance_P.device, dtype=distance_P.dtype)
        radial_PR = torch.sin(distance_P[:, None] * order_R * (math.pi / self.cutoff)) / distance_P[:, None]
        direction_P3 = offset_P3 / distance_P[:, None]
        return _Edges(
            sender_E=torch.cat([second_P, first_P]),
            receiver_E=torch.cat([first_P, second_P]),
            radial_PR=radial_PR,
            cutoff_P=cosine_cutoff(distance_P, self.cutoff),
            direction_E3=torch.cat([direction_P3, -direction_P3]),
        )
