"""TorchMD-NET's equivariant transformer."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dnd.graphs.batch import ConformerBatch
from dnd.teacher.attention import EquivariantAttention
from dnd.teacher.config import TeacherConfig
from dnd.teacher.contract import Teacher, TeacherOutput
from dnd.teacher.elements import check_elements
from dnd.teacher.linear import initialise_linear
from dnd.teacher.molecule_token import MoleculeToken
from dnd.teacher.pair_messages import WORKSPACE_WIDTHS
from dnd.teacher.pairs import Neighbourhood, find_pairs
from dnd.teacher.radial import ExpNormBasis, cosine_cutoff
from dnd.teacher.whitening import WhiteningNorm

CELL_BYTES = {"cpu": 4 * 2**20, "cuda": 2**30}
"""Largest dense filter block: on a CPU about what a core's caches hold, on a GPU what memory spares easily."""
ROWS_PER_TILE = {"cpu": 12}
"""Rows of a tile of a large molecule. A GPU takes a block at once: it is short of launches, not of cache."""


class NeighbourEmbedding(nn.Module):
    r"""Mixes into each atom's embedding the elements around it.

    .. math:: x_i = W_c [x_i^0 ; \sum_{j \ne i} \mathrm{Emb}[z_j] \circ (W_d e(d_{ij}) + b) C(d_{ij})] + b_c
    """

    def __init__(self, width: int, num_rbf: int, max_atomic_number: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(max_atomic_number, width)
        self.distance_proj = nn.Linear(num_rbf, width)
        self.combine = nn.Linear(2 * width, width)
        initialise_linear(self)

    def forward(
        self,
        atomic_numbers_R: Int[Tensor, "cells"],
        scalars_RF: Float[Tensor, "cells width"],
        radial_PK: Float[Tensor, "pairs rbf"],
        cutoff_P: Float[Tensor, "pairs"],
        near: Neighbourhood,
    ) -> Float[Tensor, "cells width"]:
        """New scalars; `radial_PK` and `cutoff_P` without the atoms themselves."""
        filters_PF = self.distance_proj(radial_PK) * cutoff_P[:, None]
        elements_RF = self.embedding(atomic_numbers_R)
        around_RF = torch.zeros_like(elements_RF)
        around_RF = around_RF.index_add(0, near.first_P, filters_PF * elements_RF[near.second_P])
        around_RF = around_RF.index_add(0, near.second_P, filters_PF * elements_RF[near.first_P])
        combined: Tensor = self.combine(torch.cat([scalars_RF, around_RF], dim=1))
        return combined


class EquivariantTransformer(Teacher):
    r"""Scalars and vectors per atom by attention over all atoms within the cutoff, without a limit on their number.

    .. math:: x_i \leftarrow x_i + \Delta x_i, \quad v_i \leftarrow v_i + \Delta v_i \quad (L \text{ layers}), \quad
        Z_i = \mathrm{LayerNorm}(x_i)

    Scalars are invariant under rotation, translation and reflection, so mirror images have the same representation;
    vectors rotate with the molecule. Source: Thölke and De Fabritiis, "TorchMD-NET", ICLR 2022; equal to torchmd-net
    3.1's `TorchMD_ET` on the same weights. Always computed in the precision of its weights, also under autocast.

    Args:
        config: architecture; `config.name` is not looked at.
    """

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.num_layers, self.cutoff = config.width, config.num_layers, config.cutoff
        self.embedding = nn.Embedding(config.max_atomic_number, config.width)
        self.distance_expansion = ExpNormBasis(config.num_rbf, config.cutoff)
        self.neighbor_embedding = NeighbourEmbedding(config.width, config.num_rbf, config.max_atomic_number)
        self.attention_layers = nn.ModuleList(
            EquivariantAttention(config.width, config.num_heads, config.num_rbf, vector_cutoff=config.vector_cutoff)
            for _ in range(config.num_layers)
        )
        self.out_norm = nn.LayerNorm(config.width)
        self.out_norm_vec = WhiteningNorm(config.width) if config.whiten_vectors else nn.Identity()
        self.has_token = config.molecule_token
        if self.has_token:
            self.token = MoleculeToken(config.width, config.num_layers, config.num_heads)

    def forward(self, conformers: ConformerBatch, *, collect_layers: bool = False) -> TeacherOutput:
        """Representations of every conformer atom.

        Raises:
            CoincidentAtomsError: two atoms of a molecule are closer than `closest_approach`.
            InputError: an element beyond the tables.
        """
        with torch.autocast(conformers.positions_A3.device.type, enabled=False):
            return self._forward(conformers, collect_layers)

    def _forward(self, conformers: ConformerBatch, collect_layers: bool) -> TeacherOutput:
        check_elements(conformers, self.config.max_atomic_number)
        dtype, device = self.embedding.weight.dtype, conformers.positions_A3.device
        cells = CELL_BYTES.get(device.type, CELL_BYTES["cuda"]) // (4 * self.width * dtype.itemsize)
        rows = ROWS_PER_TILE.get(device.type)
        near = find_pairs(
            conformers, self.cutoff, cells_per_block=cells, rows_per_tile=rows, closest=self.closest_approach
        )
        distances = near.distances.to(dtype)
        radial = self.distance_expansion(distances)
        per_block = torch.split(radial, near.rows_per_block())

        numbers_R = conformers.atomic_numbers_A[near.packed_R]
        pair_distances_P = distances[near.is_pair]
        x_RF = self.neighbor_embedding(
            numbers_R,
            self.embedding(numbers_R),
            radial[near.is_pair],
            cosine_cutoff(pair_distances_P, self.cutoff),
            near,
        )
        v_R3F = x_RF.new_zeros(len(x_RF), 3, self.width)
        workspace = x_RF.new_empty(max(block.largest_tile for block in near.blocks) * WORKSPACE_WIDTHS * self.width)
        layers = []
        for layer in self.attention_layers:
            delta_x_RF, delta_v_R3F = layer(x_RF, v_R3F, per_block, near, workspace)
            x_RF, v_R3F = x_RF + delta_x_RF, v_R3F + delta_v_R3F
            if collect_layers:
                layers.append(x_RF[near.slot_A])
        tokens = self.token(layers, conformers.batch_A, conformers.num_molecules) if layers and self.has_token else []
        return TeacherOutput(self.out_norm(x_RF[near.slot_A]), self.out_norm_vec(v_R3F[near.slot_A]), layers, tokens)
