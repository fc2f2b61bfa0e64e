"""TokenGT: a plain Transformer over atoms and bonds as tokens (Kim et al., NeurIPS 2022). The paper's student."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.chemistry.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES
from dnd.graphs.batch import GraphBatch, padding_index
from dnd.graphs.identifiers import KeptIdentifiers, flip_signs, laplacian_identifiers, orthonormal_identifiers
from dnd.models.students.base import FeatureEmbedding, Student, StudentConfig, StudentOutput, known

# How the tokens of a batch lie in memory: packed, molecules of equal token count side by side.
#
# Each molecule's sequence is [graph], [null], its atoms, its directed bonds: T = n + 2m + 2 tokens. Packed, linear maps
# and norms see no padding at all; sorted by T, each run of equal T is a dense block that attention takes without a mask
# and without a copy.


NUM_SPECIAL_TOKENS = 2  # [graph], [null]


@dataclass(frozen=True)
class TokenLayout:
    """Positions of all tokens of a batch in the packed `(T, D)` layout.

    Attributes:
        graph_B: `(B,)` position of each molecule's [graph] token; [null] follows it.
        atoms_N: `(N,)` position of each atom.
        edges_E: `(E,)` position of each directed bond.
        runs: `(molecules, tokens each)` of each run of equal token count, in packed order.
        lengths: token counts in packed order.
        molecules: batch index of the molecules in packed order.
    """

    graph_B: Int[Tensor, "molecules"]
    atoms_N: Int[Tensor, "atoms"]
    edges_E: Int[Tensor, "edges"]
    runs: list[tuple[int, int]]
    lengths: Int[Tensor, "molecules"]
    molecules: Int[Tensor, "molecules"]

    @cached_property
    def source_T(self) -> Tensor:
        """`(S,)` where each packed token lies in the order [graph]s, [null]s, atoms, bonds."""
        position_T = torch.cat([self.graph_B, self.graph_B + 1, self.atoms_N, self.edges_E])
        return torch.empty_like(position_T).scatter_(
            0, position_T, torch.arange(len(position_T), device=position_T.device)
        )

    @cached_property
    def molecule_T(self) -> Tensor:
        """`(S,)` molecule of each token, in packed order."""
        return torch.repeat_interleave(self.molecules, self.lengths, output_size=len(self.source_T))

    @cached_property
    def padding(self) -> tuple[Tensor, Tensor]:
        """Packed position behind each cell of a padded `(B, t)` layout, and which cells are real."""
        ends_B = torch.cumsum(self.lengths, 0)
        return padding_index(torch.cat([ends_B.new_zeros(1), ends_B]), self.runs[-1][1])

    @cached_property
    def padded_T(self) -> Tensor:
        """`(S,)` cell of the flattened padded layout of each packed token."""
        rows = torch.arange(len(self.lengths), device=self.lengths.device)
        length, first = self.runs[-1][1], torch.cumsum(self.lengths, 0) - self.lengths
        row_T = torch.repeat_interleave(rows, self.lengths, output_size=len(self.source_T))
        return row_T * length + torch.arange(len(row_T), device=rows.device) - first[row_T]


def token_layout(graph: GraphBatch) -> TokenLayout:
    """Lay out the tokens of `graph`; one transfer of B numbers to the host."""
    atoms_B, edges_B = graph.atoms_per_molecule_B, graph.edge_offsets.diff()
    tokens_B = atoms_B + edges_B + NUM_SPECIAL_TOKENS
    molecules = torch.argsort(tokens_B, stable=True)
    lengths = tokens_B[molecules]
    first_B = torch.empty_like(tokens_B).scatter_(0, molecules, torch.cumsum(lengths, 0) - lengths)
    shift_atoms_B = first_B + NUM_SPECIAL_TOKENS - graph.atom_offsets[:-1]
    shift_edges_B = first_B + NUM_SPECIAL_TOKENS + atoms_B - graph.edge_offsets[:-1]
    counted = torch.unique_consecutive(lengths.cpu(), return_counts=True)
    return TokenLayout(
        graph_B=first_B,
        atoms_N=torch.arange(len(graph.node_features_NF), device=tokens_B.device) + shift_atoms_B[graph.batch_N],
        edges_E=torch.arange(graph.edge_index_2E.shape[1], device=tokens_B.device) + shift_edges_B[graph.edge_batch_E],
        runs=list(zip(counted[1].tolist(), counted[0].tolist(), strict=True)),
        lengths=lengths,
        molecules=molecules,
    )


# Multi-head self-attention over packed tokens, each molecule attending to itself.


@dataclass(frozen=True)
class AttentionMap:
    """Attention of one layer within one molecule.

    Attributes:
        scores_Htt: `(H, t, t)` q·k/√d, query by key, before the softmax.
        weights_Htt: `(H, t, t)` its softmax; each row sums to 1.
    """

    scores_Htt: Float[Tensor, "heads tokens tokens"]
    weights_Htt: Float[Tensor, "heads tokens tokens"]


class PackedAttention(nn.Module):
    r"""Softmax attention, :math:`\mathrm{softmax}(Q K^\top / \sqrt{d}) V` per head, within each molecule.

    The linear maps run on packed tokens; on a CPU the attention itself runs once per run of equal token count, so no
    step works on padding and no mask is needed.

    Args:
        width: D.
        num_heads: H.
        dropout: on the attention weights.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, tokens_TD: Float[Tensor, "tokens dim"], layout: TokenLayout, maps: list[AttentionMap] | None = None
    ) -> Float[Tensor, "tokens dim"]:
        """Attend; with `maps`, by the explicit path, which appends each molecule's map in packed order."""
        query_key_value_TD = self.query_key_value(tokens_TD)
        if tokens_TD.is_cuda and maps is None:
            return self.out(self._attend_padded(query_key_value_TD, layout))  # type: ignore[no-any-return]
        blocks = query_key_value_TD.split([count * length for count, length in layout.runs])
        attended = [
            self._attend(block, count, length, maps) for block, (count, length) in zip(blocks, layout.runs, strict=True)
        ]
        return self.out(torch.cat(attended))  # type: ignore[no-any-return]

    def _attend(self, block: Tensor, count: int, length: int, maps: list[AttentionMap] | None) -> Tensor:
        query_GHtd, key_GHtd, value_GHtd = block.view(count, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        if maps is None:
            out_GHtd = F.scaled_dot_product_attention(query_GHtd, key_GHtd, value_GHtd, dropout_p=dropout)
        else:
            scores_GHtt = (query_GHtd * query_GHtd.shape[-1] ** -0.5) @ key_GHtd.transpose(-1, -2)
            weights_GHtt = torch.softmax(scores_GHtt, dim=-1)
            maps += [AttentionMap(*pair) for pair in zip(scores_GHtt.detach(), weights_GHtt.detach(), strict=True)]
            out_GHtd = F.dropout(weights_GHtt, dropout) @ value_GHtd
        return out_GHtd.transpose(1, 2).reshape(count * length, -1)

    def _attend_padded(self, query_key_value_TD: Tensor, layout: TokenLayout) -> Tensor:
        """One call for the whole batch, with a key mask: on a GPU, launches cost more than padding."""
        index_Bt, real_Bt = layout.padding
        padded = query_key_value_TD.index_select(0, index_Bt.flatten()).view(*index_Bt.shape, 3, self.num_heads, -1)
        query_BHtd, key_BHtd, value_BHtd = padded.permute(2, 0, 3, 1, 4)
        dropout, mask_B11t = self.dropout if self.training else 0.0, real_Bt[:, None, None, :]
        out_BHtd = F.scaled_dot_product_attention(query_BHtd, key_BHtd, value_BHtd, mask_B11t, dropout)
        return out_BHtd.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, layout.padded_T)


# TokenGT: a plain Transformer over atoms and bonds as tokens (Kim et al., NeurIPS 2022). The paper's student.


INITIAL_DEVIATION = 0.02


class TokenGT(Student):
    """TokenGT in its pre-norm form with [graph] and [null] tokens, node and type identifiers.

    Differences from the reference: a final LayerNorm (switch `final_norm`), ORF identifiers that depend on the molecule
    alone, and no limit on size: no molecule is ever dropped.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config, self.width, self.num_layers = config, config.width, config.num_layers
        self.embedding = TokenEmbedding(config)
        # DropPath rises linearly; the reference's first layer already has 1/L of the last one's rate.
        rates = [known(config.drop_path) * (layer + 1) / config.num_layers for layer in range(config.num_layers)]
        self.layers = nn.ModuleList([TransformerLayer(config, rate) for rate in rates])
        self.final_norm: nn.Module = nn.LayerNorm(config.width) if config.final_norm else nn.Identity()
        self._sampling_seed, self._kept = 0, KeptIdentifiers(known(config.num_identifiers))
        if not self.embedding.special_tokens.is_meta:  # else only counted; to draw them loads torch._dynamo
            self.apply(_initialise)

    def forward(
        self,
        graph: GraphBatch,
        *,
        collect_layers: bool = False,
        identifiers_NI: Float[Tensor, "atoms identifiers"] | None = None,
    ) -> StudentOutput:
        """Z2D and the [graph] token.

        Args:
            graph: B molecules.
            collect_layers: also return the states after every layer, before the final norm.
            identifiers_NI: node identifiers to use instead of those computed from `graph`.
        """
        layout = token_layout(graph)
        tokens_TD = self.embedding(graph, layout, self._identifiers(graph, identifiers_NI))
        states = []
        for layer in self.layers:
            tokens_TD = layer(tokens_TD, layout)
            if collect_layers:
                states.append((tokens_TD[layout.atoms_N], tokens_TD[layout.graph_B]))
        atoms_ND = self.final_norm(tokens_TD.index_select(0, layout.atoms_N))
        return StudentOutput(atoms_ND, self.final_norm(tokens_TD.index_select(0, layout.graph_B)), states)

    def attention_maps(
        self, graph: GraphBatch, identifiers_NI: Float[Tensor, "atoms identifiers"] | None = None
    ) -> list[list[AttentionMap]]:
        """The attention of every layer within every molecule, by the explicit path: `maps[layer][molecule]`.

        Tokens are in the order [graph], [null], atoms, directed bonds. Costs O(heads · tokens²) memory per layer and
        molecule, so use it on few molecules at a time.
        """
        layout = token_layout(graph)
        tokens_TD = self.embedding(graph, layout, self._identifiers(graph, identifiers_NI))
        batch_order = torch.argsort(layout.molecules).tolist()
        result = []
        for layer in self.layers:
            packed: list[AttentionMap] = []
            tokens_TD = layer(tokens_TD, layout, packed)
            result.append([packed[position] for position in batch_order])
        return result

    def layer_of(self, parameter_name: str) -> int:
        """0 tables, tokens, identifier projection and embedding norm; `i + 1` layer `i`; then the final norm."""
        room, _, rest = parameter_name.partition(".")
        if room == "layers":
            return int(rest.partition(".")[0]) + 1
        return {"embedding": 0, "final_norm": self.num_layers + 1}[room]

    def reset_sampling(self, seed: int) -> None:
        """Choose another reproducible draw of the ORF identifiers in evaluation mode."""
        self._sampling_seed = seed

    def _identifiers(self, graph: GraphBatch, given_NI: Tensor | None) -> Tensor:
        dtype = self.embedding.identifiers.weight.dtype
        if given_NI is not None:
            return given_NI.to(dtype)
        columns = known(self.config.num_identifiers)
        with torch.no_grad():
            if self.config.identifiers == "orf":
                seed = None if self.training else self._sampling_seed
                return orthonormal_identifiers(graph, columns, seed=seed).to(dtype)
            if self.training and graph.node_features_NF.device.type == "cpu":  # molecules that come again
                vectors_NI = self._kept.of(graph, dtype)
            else:
                vectors_NI = laplacian_identifiers(graph, columns).to(dtype)
            if self.training:
                vectors_NI = flip_signs(vectors_NI, graph.batch_N)
            return F.dropout(vectors_NI, known(self.config.identifier_dropout), self.training)


class TokenEmbedding(nn.Module):
    r"""Graph to tokens.

    Atom token u: :math:`e(u) + W_P [P_u; P_u] + t_1`; bond token (u, v): :math:`e(uv) + W_P [P_u; P_v] + t_0`; the two
    special tokens carry only their own vector. As :math:`W_P = [W_1, W_2]`, atoms are mapped once, not once per bond.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.atom = FeatureEmbedding(ATOM_FEATURE_SIZES, config.width)
        self.bond = FeatureEmbedding(BOND_FEATURE_SIZES, config.width)
        self.special_tokens = nn.Parameter(torch.empty(2, config.width))  # [graph], [null]
        self.token_types = nn.Parameter(torch.empty(2, config.width))  # bond, atom
        self.identifiers = nn.Linear(2 * known(config.num_identifiers), config.width, bias=False)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, graph: GraphBatch, layout: TokenLayout, identifiers_NI: Float[Tensor, "atoms identifiers"]
    ) -> Float[Tensor, "tokens dim"]:
        """Packed tokens after the embedding norm."""
        return self.dropout(self.norm(self.tokens(graph, layout, identifiers_NI)))  # type: ignore[no-any-return]

    def tokens(
        self, graph: GraphBatch, layout: TokenLayout, identifiers_NI: Float[Tensor, "atoms identifiers"]
    ) -> Float[Tensor, "tokens dim"]:
        """Packed sums of features, identifiers and types, before the norm."""
        first_DI, second_DI = self.identifiers.weight.chunk(2, dim=1)
        as_source_ND, as_target_ND = F.linear(identifiers_NI, first_DI), F.linear(identifiers_NI, second_DI)
        source_E, target_E = graph.edge_index_2E
        bond_type_D, atom_type_D = self.token_types
        atoms_ND = self.atom(graph.node_features_NF) + as_source_ND + as_target_ND + atom_type_D
        identified_ED = as_source_ND.index_select(0, source_E) + as_target_ND.index_select(0, target_E)
        bonds_ED = self.bond(graph.edge_features_EF) + identified_ED + bond_type_D
        special_BD = self.special_tokens.repeat_interleave(graph.num_molecules, dim=0)
        return torch.cat([special_BD.to(atoms_ND.dtype), atoms_ND, bonds_ED]).index_select(0, layout.source_T)


class TransformerLayer(nn.Module):
    """x += DropPath(Attention(LayerNorm x)); x += DropPath(FeedForward(LayerNorm x))."""

    def __init__(self, config: StudentConfig, drop_path: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = PackedAttention(config.width, known(config.num_heads), known(config.attention_dropout))
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward_in = nn.Linear(config.width, known(config.ffn_width))
        self.feed_forward_out = nn.Linear(known(config.ffn_width), config.width)
        self.dropout, self.activation_dropout = nn.Dropout(config.dropout), nn.Dropout(known(config.activation_dropout))
        self.drop_path = drop_path

    def forward(
        self, tokens_TD: Float[Tensor, "tokens dim"], layout: TokenLayout, maps: list[AttentionMap] | None = None
    ) -> Float[Tensor, "tokens dim"]:
        """One layer; `maps` collects the attention of every molecule."""
        attended_TD = self.dropout(self.attention(self.attention_norm(tokens_TD), layout, maps))
        tokens_TD = tokens_TD + self._drop_path(attended_TD, layout)
        hidden_TD = self.activation_dropout(F.gelu(self.feed_forward_in(self.feed_forward_norm(tokens_TD))))
        return tokens_TD + self._drop_path(self.dropout(self.feed_forward_out(hidden_TD)), layout)

    def _drop_path(self, branch_TD: Tensor, layout: TokenLayout) -> Tensor:
        """Skip the branch for whole molecules (stochastic depth), rescaled so that its mean stays."""
        if not self.training or self.drop_path == 0.0:
            return branch_TD
        kept_B = torch.rand(len(layout.lengths), device=branch_TD.device) >= self.drop_path
        return branch_TD * (kept_B.to(branch_TD.dtype) / (1 - self.drop_path))[layout.molecule_T, None]


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02) for matrices, tables and tokens, zero biases, as in the reference."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, FeatureEmbedding):
        module.reset_normal(INITIAL_DEVIATION)
    elif isinstance(module, TokenEmbedding):
        nn.init.normal_(module.special_tokens, std=INITIAL_DEVIATION)
        nn.init.normal_(module.token_types, std=INITIAL_DEVIATION)
