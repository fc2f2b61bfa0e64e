"""Multi-head self-attention over packed tokens, each molecule attending to itself.

Legend: S tokens of the whole batch, G molecules with T tokens each, H heads, d = D / H.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.student.tokens import TokenLayout


@dataclass(frozen=True)
class AttentionMap:
    """Attention of one layer within one molecule.

    Attributes:
        scores_HTT: `(H, T, T)` q·k/√d, query by key, before the softmax.
        weights_HTT: `(H, T, T)` its softmax; each row sums to 1.
    """

    scores_HTT: Float[Tensor, "heads tokens tokens"]
    weights_HTT: Float[Tensor, "heads tokens tokens"]


class PackedAttention(nn.Module):
    r"""Softmax attention, :math:`\mathrm{softmax}(Q K^\top / \sqrt{d}) V` per head, within each molecule.

    The linear maps run on packed tokens; the attention itself once per run of equal token count, so no step works on
    padding and no mask is needed.

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
        self, tokens_SD: Float[Tensor, "tokens dim"], layout: TokenLayout, maps: list[AttentionMap] | None = None
    ) -> Float[Tensor, "tokens dim"]:
        """Attend; with `maps`, by the explicit path, which appends each molecule's map in packed order."""
        blocks = self.query_key_value(tokens_SD).split([count * length for count, length in layout.runs])
        attended = [
            self._attend(block, count, length, maps) for block, (count, length) in zip(blocks, layout.runs, strict=True)
        ]
        return self.out(torch.cat(attended))  # type: ignore[no-any-return]

    def _attend(self, block: Tensor, count: int, length: int, maps: list[AttentionMap] | None) -> Tensor:
        query_GHTd, key_GHTd, value_GHTd = block.view(count, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        if maps is None:
            out_GHTd = F.scaled_dot_product_attention(query_GHTd, key_GHTd, value_GHTd, dropout_p=dropout)
        else:
            scores_GHTT = (query_GHTd * query_GHTd.shape[-1] ** -0.5) @ key_GHTd.transpose(-1, -2)
            weights_GHTT = torch.softmax(scores_GHTT, dim=-1)
            maps += [AttentionMap(*pair) for pair in zip(scores_GHTT.detach(), weights_GHTT.detach(), strict=True)]
            out_GHTd = F.dropout(weights_GHTT, dropout) @ value_GHTd
        return out_GHTd.transpose(1, 2).reshape(count * length, -1)
