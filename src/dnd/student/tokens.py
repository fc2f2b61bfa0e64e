"""How the tokens of a batch lie in memory: packed, molecules of equal token count side by side.

Each molecule's sequence is [graph], [null], its atoms, its directed bonds: T = n + 2m + 2 tokens. Packed, linear maps
and norms see no padding at all; sorted by T, each run of equal T is a dense block that attention takes without a mask
and without a copy.

Legend: B molecules, N atoms, E directed bonds, S tokens of the whole batch, T tokens of one molecule.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from dnd.graphs.batch import GraphBatch, padding_index

NUM_SPECIAL_TOKENS = 2  # [graph], [null]


@dataclass(frozen=True)
class TokenLayout:
    """Positions of all tokens of a batch in the packed `(S, D)` layout.

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
    def source_S(self) -> Tensor:
        """`(S,)` where each packed token lies in the order [graph]s, [null]s, atoms, bonds."""
        position_S = torch.cat([self.graph_B, self.graph_B + 1, self.atoms_N, self.edges_E])
        return torch.empty_like(position_S).scatter_(
            0, position_S, torch.arange(len(position_S), device=position_S.device)
        )

    @cached_property
    def molecule_S(self) -> Tensor:
        """`(S,)` molecule of each token, in packed order."""
        return torch.repeat_interleave(self.molecules, self.lengths, output_size=len(self.source_S))

    @cached_property
    def padding(self) -> tuple[Tensor, Tensor]:
        """Packed position behind each cell of a padded `(B, T)` layout, and which cells are real."""
        ends_B = torch.cumsum(self.lengths, 0)
        return padding_index(torch.cat([ends_B.new_zeros(1), ends_B]), self.runs[-1][1])

    @cached_property
    def padded_S(self) -> Tensor:
        """`(S,)` cell of the flattened padded layout of each packed token."""
        rows = torch.arange(len(self.lengths), device=self.lengths.device)
        length, first = self.runs[-1][1], torch.cumsum(self.lengths, 0) - self.lengths
        row_S = torch.repeat_interleave(rows, self.lengths, output_size=len(self.source_S))
        return row_S * length + torch.arange(len(row_S), device=rows.device) - first[row_S]


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
