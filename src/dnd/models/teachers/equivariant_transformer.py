"""TorchMD-NET's equivariant transformer (Thölke & De Fabritiis, ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from dnd.graphs.batch import ConformerBatch, padding_index
from dnd.models.teachers.base import Teacher, TeacherConfig, TeacherOutput, check_elements
from dnd.models.teachers.fast_pairs.messages import WORKSPACE_WIDTHS, pair_messages
from dnd.models.teachers.fast_pairs.pairs import Neighbourhood, check_closest_approach, find_pairs
from dnd.models.teachers.layers import (
    ExpNormBasis,
    Handedness,
    MoleculeToken,
    WhiteningNorm,
    cosine_cutoff,
    initialise_linear,
)

# One equivariant attention layer of TorchMD-NET's equivariant transformer.


class EquivariantAttention(nn.Module):
    r"""Updates of scalars and vectors by attention over neighbours.

    With :math:`h = \mathrm{LayerNorm}(x)`, q, k, val linear in h, and filters
    :math:`D = \mathrm{silu}(W e(d_{ij}) + b)`:

    .. math::
        a_{ij} &= \mathrm{silu}\big(\textstyle\sum_{head} q_i \circ k_j \circ D^K_{ij}\big) C(d_{ij}), \quad
        (s_0, s_1, s_2)_{ij} = val_j \circ D^V_{ij} \\
        m_i &= \textstyle\sum_j a_{ij} s_{0,ij}, \quad
        w_i = \textstyle\sum_j v_j \circ s_{1,ij} + s_{2,ij} \otimes u_{ij} \\
        \Delta x_i &= \langle p_1, p_2 \rangle \circ o_2 + o_3, \quad \Delta v_i = p_3 \circ o_1 + w_i

    with :math:`(o_1, o_2, o_3) = W_o m_i` and :math:`(p_1, p_2, p_3) = W_v v_i`. No softmax and no scaling; the sum
    includes the atom itself (d = 0, u = 0). Source: Thölke and De Fabritiis, "TorchMD-NET", ICLR 2022. With
    `vector_cutoff` the cutoff multiplies val instead of a, so the vector messages vanish smoothly too.

    The same in plain PyTorch, a line per equation: `attend` below.

    Parameter names and layouts are TorchMD-NET's: rows of `v_proj` and `dv_proj` are heads x (s0 | s1 | s2).
    """

    def __init__(self, width: int, num_heads: int, num_rbf: int, *, vector_cutoff: bool) -> None:
        super().__init__()
        self.num_heads, self.vector_cutoff = num_heads, vector_cutoff
        self.layernorm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, 3 * width)
        self.o_proj = nn.Linear(width, 3 * width)
        self.vec_proj = nn.Linear(width, 3 * width, bias=False)
        self.dk_proj = nn.Linear(num_rbf, width)
        self.dv_proj = nn.Linear(num_rbf, 3 * width)
        initialise_linear(self)

    def forward(
        self,
        scalars_ZD: Float[Tensor, "cells width"],
        vectors_Z3D: Float[Tensor, "cells 3 width"],
        radial: tuple[Float[Tensor, "_rows rbf"], ...],
        near: Neighbourhood,
        workspace: Float[Tensor, "numbers"],
    ) -> tuple[Float[Tensor, "cells width"], Float[Tensor, "cells 3 width"]]:
        """Updates (Δx, Δv), to be added by the caller.

        Args:
            scalars_ZD: x in the padded layout of `near`.
            vectors_Z3D: v in the same layout.
            radial: radial functions of each block's rows.
            near: pairs.
            workspace: scratch memory for `pair_messages`.
        """
        message_ZD, gathered_Z3D = self._messages(self.layernorm(scalars_ZD), vectors_Z3D, radial, near, workspace)
        o1_ZD, o2_ZD, o3_ZD = self.o_proj(message_ZD).chunk(3, dim=-1)
        p1_Z3D, p2_Z3D, p3_Z3D = self.vec_proj(vectors_Z3D).chunk(3, dim=-1)
        delta_scalars_ZD = torch.addcmul(o3_ZD, (p1_Z3D * p2_Z3D).sum(1), o2_ZD)
        return delta_scalars_ZD, torch.addcmul(gathered_Z3D, p3_Z3D, o1_ZD[:, None])

    def _messages(
        self,
        hidden_ZD: Float[Tensor, "cells width"],
        vectors_Z3D: Float[Tensor, "cells 3 width"],
        radial: tuple[Float[Tensor, "_rows rbf"], ...],
        near: Neighbourhood,
        workspace: Float[Tensor, "numbers"],
    ) -> tuple[Float[Tensor, "cells width"], Float[Tensor, "cells 3 width"]]:
        v0_ZD, v1_ZD, v2_ZD = nn.functional.linear(hidden_ZD, *self._by_piece(self.v_proj)).chunk(3, dim=-1)
        per_atom = (self.q_proj(hidden_ZD), self.k_proj(hidden_ZD), v0_ZD, vectors_Z3D * v1_ZD[:, None], v2_ZD)
        cells = near.cells_per_block()
        weight, bias = self._by_piece(self.dv_proj)
        # (inputs, outputs) in memory: the gradient of the weight is then the faster of two products
        weight = torch.cat([self.dk_proj.weight, weight]).t().contiguous()
        bias = torch.cat([self.dk_proj.bias, bias])
        messages, gathered = [], []
        for block, radial_PR, *parts in zip(
            near.blocks, radial, *(torch.split(part, cells) for part in per_atom), strict=True
        ):
            filters = nn.functional.silu(torch.addmm(bias, radial_PR, weight))
            cutoff_Z = block.cutoff_Z
            if self.vector_cutoff:
                filters, cutoff_Z = self._cut_values(filters, block.pair_cutoff()), torch.ones_like(cutoff_Z)
            query, key, scalar, vector, directed = (part.view(*block.shape, *part.shape[1:]) for part in parts)
            message, gather = pair_messages(
                filters, query, key, scalar, vector, directed, cutoff_Z, block, self.num_heads, workspace
            )
            messages.append(message.flatten(0, 1))
            gathered.append(gather.flatten(0, 1))
        return torch.cat(messages), torch.cat(gathered)

    def _by_piece(self, linear: nn.Linear) -> tuple[Float[Tensor, "outputs inputs"], Float[Tensor, "outputs"]]:
        """Weights with rows (s0 | s1 | s2) x heads instead of heads x (s0 | s1 | s2), so that pieces are contiguous."""
        weight = linear.weight.view(self.num_heads, 3, -1, linear.in_features).transpose(0, 1)
        return weight.flatten(0, 2), linear.bias.view(self.num_heads, 3, -1).transpose(0, 1).flatten()

    @staticmethod
    def _cut_values(
        filters: Float[Tensor, "rows filters"], cutoff: Float[Tensor, "rows"]
    ) -> Float[Tensor, "rows filters"]:
        keys, values = torch.split(filters, [filters.shape[1] // 4, 3 * filters.shape[1] // 4], dim=1)
        return torch.cat([keys, values * cutoff[:, None]], dim=1)


# TorchMD-NET's equivariant transformer: its weights, its equations in plain PyTorch, and the tuned kernel.
#
# The functions at the end of the file, from `find_edges` on, are the definition: a list of edges, an equation a line,
# automatic gradients. The default, `kernel="tiles"`, computes the same outputs and gradients from the same weights
# faster and in less memory (`docs/performance.md`); the conformance suite of the teachers compares the two.


Kernel = Literal["tiles", "plain"]
"""How the equations are computed: on dense tiles with gradients written by hand, or as they stand."""

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
        atomic_numbers_Z: Int[Tensor, "cells"],
        scalars_ZD: Float[Tensor, "cells width"],
        radial_PR: Float[Tensor, "pairs rbf"],
        cutoff_P: Float[Tensor, "pairs"],
        near: Neighbourhood,
    ) -> Float[Tensor, "cells width"]:
        """New scalars; `radial_PR` and `cutoff_P` without the atoms themselves."""
        filters_PD = self.distance_proj(radial_PR) * cutoff_P[:, None]
        elements_ZD = self.embedding(atomic_numbers_Z)
        around_ZD = torch.zeros_like(elements_ZD)
        around_ZD = around_ZD.index_add(0, near.first_P, filters_PD * elements_ZD[near.second_P])
        around_ZD = around_ZD.index_add(0, near.second_P, filters_PD * elements_ZD[near.first_P])
        combined: Tensor = self.combine(torch.cat([scalars_ZD, around_ZD], dim=1))
        return combined


class EquivariantTransformer(Teacher):
    r"""Scalars and vectors per atom by attention over all atoms within the cutoff, without a limit on their number.

    .. math:: x_i \leftarrow x_i + \Delta x_i, \quad v_i \leftarrow v_i + \Delta v_i \quad (L \text{ layers}), \quad
        Z_i = \mathrm{LayerNorm}(x_i)

    Scalars are invariant under rotation, translation and reflection, so mirror images have the same representation;
    vectors rotate with the molecule. With `config.chiral` each layer also adds the pseudoscalars of `Handedness` to the
    scalars, and mirror images differ. Source: Thölke and De Fabritiis, "TorchMD-NET", ICLR 2022; equal to torchmd-net
    3.1's `TorchMD_ET` on the same weights. Always computed in the precision of its weights, also under autocast.

    Args:
        config: architecture; `config.name` is ignored.
        kernel: `tiles` for speed; `plain` for the definition, which can also be differentiated twice. A choice of how
            to compute, not of what: it is no setting, it can be changed at any time, and weights do not depend on it.
    """

    def __init__(self, config: TeacherConfig, kernel: Kernel = "tiles") -> None:
        super().__init__()
        self.config, self.kernel = config, kernel
        self.width, self.num_layers, self.cutoff = config.width, config.num_layers, config.cutoff
        self.embedding = nn.Embedding(config.max_atomic_number, config.width)
        self.distance_expansion = ExpNormBasis(config.num_rbf, config.cutoff)
        self.neighbor_embedding = NeighbourEmbedding(config.width, config.num_rbf, config.max_atomic_number)
        self.attention_layers = nn.ModuleList(
            EquivariantAttention(config.width, config.num_heads, config.num_rbf, vector_cutoff=config.vector_cutoff)
            for _ in range(config.num_layers)
        )
        if config.chiral:
            self.handedness_layers = nn.ModuleList(Handedness(config.width) for _ in range(config.num_layers))
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
        check_elements(conformers, self.config.max_atomic_number)
        compute = {"tiles": self._in_tiles, "plain": self._plainly}[self.kernel]
        with torch.autocast(conformers.positions_A3.device.type, enabled=False):
            return compute(conformers, collect_layers)

    def _plainly(self, conformers: ConformerBatch, collect_layers: bool) -> TeacherOutput:
        check_closest_approach(conformers, self.closest_approach)
        positions_A3 = conformers.positions_A3.to(self.embedding.weight.dtype)
        edges = find_edges(positions_A3, conformers.atom_offsets, self.cutoff, self.distance_expansion)
        x_AD = self.embedding(conformers.atomic_numbers_A)
        x_AD = embed_neighbours(self.neighbor_embedding, conformers.atomic_numbers_A, x_AD, edges)
        v_A3D = x_AD.new_zeros(len(x_AD), 3, self.width)
        layers = []
        for number, layer in enumerate(self.attention_layers):
            assert isinstance(layer, EquivariantAttention)
            delta_x_AD, delta_v_A3D = attend(layer, x_AD, v_A3D, edges)
            x_AD, v_A3D = x_AD + delta_x_AD, v_A3D + delta_v_A3D
            if self.config.chiral:
                x_AD = x_AD + self.handedness_layers[number](v_A3D)
            layers.append(x_AD)
        return self._output(x_AD, v_A3D, layers if collect_layers else [], conformers)

    def _in_tiles(self, conformers: ConformerBatch, collect_layers: bool) -> TeacherOutput:
        dtype, device = self.embedding.weight.dtype, conformers.positions_A3.device
        cells = CELL_BYTES.get(device.type, CELL_BYTES["cuda"]) // (4 * self.width * dtype.itemsize)
        rows = ROWS_PER_TILE.get(device.type)
        near = find_pairs(
            conformers, self.cutoff, cells_per_block=cells, rows_per_tile=rows, closest=self.closest_approach
        )
        distances = near.distances.to(dtype)
        radial = self.distance_expansion(distances)
        per_block = torch.split(radial, near.rows_per_block())

        numbers_Z = conformers.atomic_numbers_A[near.packed_Z]
        pair_distances_P = distances[near.is_pair]
        x_ZD = self.neighbor_embedding(
            numbers_Z,
            self.embedding(numbers_Z),
            radial[near.is_pair],
            cosine_cutoff(pair_distances_P, self.cutoff),
            near,
        )
        v_Z3D = x_ZD.new_zeros(len(x_ZD), 3, self.width)
        workspace = x_ZD.new_empty(max(block.largest_tile for block in near.blocks) * WORKSPACE_WIDTHS * self.width)
        layers = []
        for number, layer in enumerate(self.attention_layers):
            delta_x_ZD, delta_v_Z3D = layer(x_ZD, v_Z3D, per_block, near, workspace)
            x_ZD, v_Z3D = x_ZD + delta_x_ZD, v_Z3D + delta_v_Z3D
            if self.config.chiral:
                x_ZD = x_ZD + self.handedness_layers[number](v_Z3D)
            if collect_layers:
                layers.append(x_ZD[near.slot_A])
        return self._output(x_ZD[near.slot_A], v_Z3D[near.slot_A], layers, conformers)

    def _output(
        self,
        x_AD: Float[Tensor, "conformer_atoms width"],
        v_A3D: Float[Tensor, "conformer_atoms 3 width"],
        layers: list[Tensor],
        conformers: ConformerBatch,
    ) -> TeacherOutput:
        tokens = self.token(layers, conformers.batch_A, conformers.num_molecules) if layers and self.has_token else []
        return TeacherOutput(self.out_norm(x_AD), self.out_norm_vec(v_A3D), layers, tokens)


@dataclass(frozen=True)
class Edges:
    """Directed edges j → i between the atoms of a molecule that are closer than the cutoff, each atom with itself too.

    Attributes:
        receiver_E, sender_E: atoms i and j.
        radial_ER: e(d_ij).
        cutoff_E: C(d_ij).
        direction_E3: u_ij, the unit vector from i to j; 0 for an atom with itself.
    """

    receiver_E: Int[Tensor, "edges"]
    sender_E: Int[Tensor, "edges"]
    radial_ER: Float[Tensor, "edges rbf"]
    cutoff_E: Float[Tensor, "edges"]
    direction_E3: Float[Tensor, "edges 3"]


def find_edges(
    positions_A3: Float[Tensor, "conformer_atoms 3"],
    atom_offsets: Int[Tensor, "boundaries"],
    cutoff: float,
    basis: ExpNormBasis,
) -> Edges:
    r"""The edges of a batch, with their features.

    .. math:: r_{ij} = r_j - r_i, \quad d_{ij} = \lVert r_{ij} \rVert < r_c, \quad u_{ij} = r_{ij} / d_{ij}

    Args:
        positions_A3: angstrom.
        atom_offsets: `(B + 1,)`, boundaries of the molecules.
        cutoff: :math:`r_c`, angstrom.
        basis: radial functions.
    """
    index_Bn, real_Bn = padding_index(atom_offsets)
    placed_Bn3 = positions_A3.detach()[index_Bn]
    near_Bnn = (placed_Bn3[:, None] - placed_Bn3[:, :, None]).norm(dim=-1) < cutoff
    near_Bnn &= real_Bn[:, :, None] & real_Bn[:, None]
    molecule, first, second = near_Bnn.nonzero().unbind(1)
    molecule, first, second = (index[first != second] for index in (molecule, first, second))
    i, j = index_Bn[molecule, first], index_Bn[molecule, second]
    r_E3 = positions_A3[j] - positions_A3[i]
    d_E = r_E3.norm(dim=1)
    itself_A = torch.arange(len(positions_A3), device=positions_A3.device)
    distance_E = torch.cat([d_E, d_E.new_zeros(len(itself_A))])
    return Edges(
        receiver_E=torch.cat([i, itself_A]),
        sender_E=torch.cat([j, itself_A]),
        radial_ER=basis(distance_E),
        cutoff_E=cosine_cutoff(distance_E, cutoff),
        direction_E3=torch.cat([r_E3 / d_E[:, None], torch.zeros_like(positions_A3)]),
    )


def embed_neighbours(
    embedding: NeighbourEmbedding,
    atomic_numbers_A: Int[Tensor, "conformer_atoms"],
    x_AD: Float[Tensor, "conformer_atoms width"],
    edges: Edges,
) -> Float[Tensor, "conformer_atoms width"]:
    """Scalars before the first layer: the equation of `NeighbourEmbedding` ("embedding layer" of the publication)."""
    i, j = edges.receiver_E, edges.sender_E
    filter_ED = embedding.distance_proj(edges.radial_ER) * (edges.cutoff_E * (i != j))[:, None]
    around_AD = torch.zeros_like(x_AD).index_add(0, i, embedding.embedding(atomic_numbers_A)[j] * filter_ED)
    combined_AD: Tensor = embedding.combine(torch.cat([x_AD, around_AD], dim=1))
    return combined_AD


def attend(
    layer: EquivariantAttention,
    x_AD: Float[Tensor, "conformer_atoms width"],
    v_A3D: Float[Tensor, "conformer_atoms 3 width"],
    edges: Edges,
) -> tuple[Float[Tensor, "conformer_atoms width"], Float[Tensor, "conformer_atoms 3 width"]]:
    """(Δx, Δv) of a layer: the equations of `EquivariantAttention` in their order.

    In the publication these are "modified attention mechanism" (down to m) and "update layer" (w and what follows).
    """
    i, j, heads = edges.receiver_E, edges.sender_E, layer.num_heads
    cutoff_E1 = edges.cutoff_E[:, None]
    h_AD = layer.layernorm(x_AD)
    q_AHd, k_AHd, val_AHd = (
        linear(h_AD).view(len(h_AD), heads, -1) for linear in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    dk_EHd, dv_EHd = (
        silu(linear(edges.radial_ER)).view(len(i), heads, -1) for linear in (layer.dk_proj, layer.dv_proj)
    )
    a_EH = silu((q_AHd[i] * k_AHd[j] * dk_EHd).sum(-1))
    value_EHd = val_AHd[j] * dv_EHd
    if layer.vector_cutoff:
        value_EHd = value_EHd * cutoff_E1[..., None]
    else:
        a_EH = a_EH * cutoff_E1
    s0_EHd, s1_EHd, s2_EHd = value_EHd.chunk(3, dim=-1)
    m_AD = torch.zeros_like(x_AD).index_add(0, i, (a_EH[..., None] * s0_EHd).flatten(1))
    s1_E1D, s2_E1D = s1_EHd.flatten(1)[:, None], s2_EHd.flatten(1)[:, None]
    w_E3D = v_A3D[j] * s1_E1D + s2_E1D * edges.direction_E3[..., None]
    w_A3D = torch.zeros_like(v_A3D).index_add(0, i, w_E3D)
    o1_AD, o2_AD, o3_AD = layer.o_proj(m_AD).chunk(3, dim=-1)
    p1_A3D, p2_A3D, p3_A3D = layer.vec_proj(v_A3D).chunk(3, dim=-1)
    return (p1_A3D * p2_A3D).sum(1) * o2_AD + o3_AD, p3_A3D * o1_AD[:, None] + w_A3D
