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
        self, tokens_SD: Float[Tensor, "tokens dim"], layout: TokenLayout, maps: list[AttentionMap] | None = None
    ) -> Float[Tensor, "tokens dim"]:
        """Attend; with `maps`, by the explicit path, which appends each molecule's map in packed order."""
        query_key_value_SF = self.query_key_value(tokens_SD)
        if tokens_SD.is_cuda and maps is None:
            return self.out(self._attend_padded(query_key_value_SF, layout))  # type: ignore[no-any-return]
        blocks = query_key_value_SF.split([count * length for count, length in layout.runs])
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

    def _attend_padded(self, query_key_value_SF: Tensor, layout: TokenLayout) -> Tensor:
        """One call for the whole batch, with a key mask: on a GPU, launches cost more than padding."""
        index_BT, real_BT = layout.padding
        padded = query_key_value_SF.index_select(0, index_BT.flatten()).view(*index_BT.shape, 3, self.num_heads, -1)
        query_BHTd, key_BHTd, value_BHTd = padded.permute(2, 0, 3, 1, 4)
        dropout, mask_B11T = self.dropout if self.training else 0.0, real_BT[:, None, None, :]
        out_BHTd = F.scaled_dot_product_attention(query_BHTd, key_BHTd, value_BHTd, mask_B11T, dropout)
        return out_BHTd.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, layout.padded_S)
