"""What ours is compared with: padded TokenGT and torchmd-net's equivariant transformer, both on our weights."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.graphs.batch import ConformerBatch, GraphBatch
from dnd.graphs.identifiers import laplacian_identifiers
from dnd.models.students.base import known
from dnd.models.students.tokengt import NUM_SPECIAL_TOKENS, TokenGT, TokenLayout, token_layout
from dnd.models.teachers.base import TeacherOutput
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer


def checksum(states_TD: Float[Tensor, "tokens dim"]) -> Float[Tensor, ""]:
    """The sum over tokens and features, features weighted 0 to 1: without weights a LayerNorm would make it 0."""
    return (states_TD * torch.linspace(0, 1, states_TD.shape[1])).sum()


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
        student, (layout, tokens_TD) = self.student, self.embedded(graph)
        sequences = torch.split(tokens_TD, layout.lengths.tolist())
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
        student, (layout, tokens_TD) = self.student, self.embedded(graph)
        for layer in student.layers:
            tokens_TD = layer(tokens_TD, layout)
        tokens_TD = student.final_norm(tokens_TD)
        return checksum(tokens_TD.index_select(0, torch.cat([layout.atoms_N, layout.edges_E])))


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
