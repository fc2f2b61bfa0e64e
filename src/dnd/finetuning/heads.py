"""From the pooled vector of a molecule to its targets."""

from __future__ import annotations

from typing import Literal

from torch import nn

HeadName = Literal["mlp", "linear"]


def build_head(name: HeadName, width: int, num_targets: int) -> nn.Module:
    r"""A new prediction head `(B, D) -> (B, C)`.

    .. math:: \text{mlp}: \hat y = W_2\, \mathrm{LN}(\mathrm{GELU}(W_1 h + b_1)) + b_2, \qquad
              \text{linear}: \hat y = W h + b

    Source: D&D does not state its head; `mlp` is the head of TokenGT's reference code. The last layer starts small and
    without bias, so that training starts from the mean of the standardised targets.

    Args:
        name: `mlp` or `linear`.
        width: D.
        num_targets: C.
    """
    last = nn.Linear(width, num_targets)
    nn.init.normal_(last.weight, std=0.02)
    nn.init.zeros_(last.bias)
    if name == "linear":
        return last
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), last)
