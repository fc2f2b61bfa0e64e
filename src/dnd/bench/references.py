"""What ours is compared with: padded TokenGT, and the equivariant transformer written out, both on our weights."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.graphs.batch import ConformerBatch, GraphBatch, padding_index
from dnd.graphs.identifiers import laplacian_identifiers
from dnd.models.students.base import known
from dnd.models.students.tokengt import NUM_SPECIAL_TOKENS, TokenGT, TokenLayout, token_layout
from dnd.models.teachers.base import TeacherOutput
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer
from dnd.models.teachers.layers import cosine_cutoff


def checksum(states_SD: Float[Tensor, "tokens dim"]) -> Float[Tensor, ""]:
    """The sum over tokens and features, features weighted 0 to 1: without weights a LayerNorm would make it 0."""
    return (states_SD * torch.linspace(0, 1, states_SD.shape[1])).sum()


class _SameWeights(nn.Module):
    """A way to compute TokenGT, on the weights of `student`."""

    def __init__(self, student: TokenGT) -> None:
        super().__init__()
        self.student = student

    def embedded(self, graph: GraphBatch) -> tuple[TokenLayout, Float[Tensor, "tokens dim"]]:
        """Where the tokens are, and what enters the first layer."""
        layout = token_layout(graph)
        identifiers = laplacian_identifiers(graph, known(self.student.config.num_identifiers)).to(torch.float32)
        return layout, self.student.embedding(graph, layout, identifiers)


class PaddedTokenGT(_SameWeights):
    """TokenGT as it is usually written: sequences padded to the longest of the batch, a key mask, fused attention."""

    def forward(self, graph: GraphBatch) -> Tensor:
        """`checksum` of the final states of atoms and bonds."""
        student, (layout, tokens_SD) = self.student, self.embedded(graph)
        sequences = torch.split(tokens_SD, layout.lengths.tolist())
        tokens = nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
        real = torch.arange(tokens.shape[1]) < layout.lengths[:, None]
        layer: Any
        for layer in student.layers:
            heads = layer.attention.num_heads
            query_key_value = layer.attention.query_key_value(layer.attention_norm(tokens))
            query, key, value = query_key_value.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None, :])
            tokens = tokens + layer.attention.out(out.transpose(1, 2).flatten(2))
            hidden = F.gelu(layer.feed_forward_in(layer.feed_forward_norm(tokens)))
            tokens = tokens + layer.feed_forward_out(hidden)
        return checksum((student.final_norm(tokens) * real[:, :, None])[:, NUM_SPECIAL_TOKENS:].flatten(0, 1))


class PackedTokenGT(_SameWeights):
    """Ours, with the same result, so that the two can be compared."""

    def forward(self, graph: GraphBatch) -> Tensor:
        """`checksum` of the final states of atoms and bonds."""
        student, (layout, tokens_SD) = self.student, self.embedded(graph)
        for layer in student.layers:
            tokens_SD = layer(tokens_SD, layout)
        tokens_SD = student.final_norm(tokens_SD)
        return checksum(tokens_SD.index_select(0, torch.cat([layout.atoms_N, layout.edges_E])))


class DenseTransformer(nn.Module):
    """The same network as `EquivariantTransformer` on `(B, T, T, F)` tensors: an equation a line, nothing shared.

    Legend as there; plain autograd, padding to the largest molecule of the batch.
    """

    def __init__(self, teacher: EquivariantTransformer) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, conformers: ConformerBatch) -> TeacherOutput:
        """Representations of every conformer atom."""
        teacher = self.teacher
        index, real = padding_index(conformers.atom_offsets)
        position, numbers = conformers.positions_A3[index], conformers.atomic_numbers_A[index]
        offset = position[:, None] - position[:, :, None]
        itself = torch.eye(index.shape[1], dtype=torch.bool)
        zero = itself | ~(real[:, None] & real[:, :, None])
        distance = torch.where(zero, 1.0, offset.square().sum(-1)).sqrt()
        distance = torch.where(zero, 0.0, distance)
        near = real[:, None] & real[:, :, None] & (distance < teacher.cutoff)
        unit = offset / torch.where(zero, 1.0, distance)[..., None]
        cutoff = cosine_cutoff(distance, teacher.cutoff) * near
        radial = teacher.distance_expansion(distance.flatten()).view(*distance.shape, -1)
        embedding = teacher.neighbor_embedding
        filters = embedding.distance_proj(radial) * (cutoff * ~itself)[..., None]
        around = (filters * embedding.embedding(numbers)[:, None]).sum(2)
        x = embedding.combine(torch.cat([teacher.embedding(numbers), around], -1))
        v = x.new_zeros(*x.shape[:2], 3, x.shape[-1])
        for layer in teacher.attention_layers:
            dx, dv = self._layer(layer, x, v, radial, cutoff, unit, near)
            x, v = x + dx, v + dv
        return TeacherOutput(teacher.out_norm(x)[real], v[real])

    @staticmethod
    def _layer(
        layer: Any, x: Tensor, v: Tensor, radial: Tensor, cutoff: Tensor, unit: Tensor, near: Tensor
    ) -> tuple[Tensor, Tensor]:
        heads, width, silu = layer.num_heads, x.shape[-1], F.silu
        h = layer.layernorm(x)
        split = [*x.shape[:2], heads, -1]
        q, k, val = (linear(h).view(split) for linear in (layer.q_proj, layer.k_proj, layer.v_proj))
        dk = silu(layer.dk_proj(radial)).view(*near.shape, heads, -1)
        dv = silu(layer.dv_proj(radial)).view(*near.shape, heads, -1) * near[..., None, None]
        attention = silu((q[:, :, None] * k[:, None] * dk).sum(-1)) * cutoff[..., None]
        s0, s1, s2 = (val[:, None] * dv).chunk(3, dim=-1)
        message = (s0 * attention[..., None]).sum(2).flatten(2)
        s1, s2 = s1.flatten(3), s2.flatten(3)
        # axis by axis, so that no tensor of pairs x 3 x width is made
        gathered = [(v[:, None, :, axis] * s1 + s2 * unit[..., axis, None]).sum(2) for axis in range(3)]
        o1, o2, o3 = layer.o_proj(message).split(width, -1)
        p1, p2, p3 = layer.vec_proj(v).split(width, -1)
        return (p1 * p2).sum(2) * o2 + o3, p3 * o1[:, :, None] + torch.stack(gathered, 2)


class PublishedTransformer(nn.Module):
    """torchmd-net's own ET with the weights of ours."""

    def __init__(self, teacher: EquivariantTransformer, neighbours: int) -> None:
        super().__init__()
        config = teacher.config
        self.et = import_module("torchmdnet.models.torchmd_et").TorchMD_ET(
            hidden_channels=config.width, num_layers=config.num_layers, num_rbf=config.num_rbf, trainable_rbf=False,
            num_heads=config.num_heads, cutoff_upper=config.cutoff, max_num_neighbors=neighbours,
        )  # fmt: skip
        self.et.load_state_dict(teacher.state_dict(), strict=False)

    def forward(self, conformers: ConformerBatch) -> TeacherOutput:
        """Representations of every conformer atom."""
        x, v, *_ = self.et(conformers.atomic_numbers_A, conformers.positions_A3, conformers.batch_A)
        return TeacherOutput(x, v)


def has_torchmdnet() -> bool:
    """Whether torchmd-net can be imported."""
    return find_spec("torchmdnet") is not None
