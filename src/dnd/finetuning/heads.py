"""From the pooled vector of a molecule to its targets."""

from __future__ import annotations

from typing import Literal

from torch import nn

from dnd.student.pna import PNAHead

HeadName = Literal["mlp", "linear", "pna"]


def build_head(
    name: HeadName, inputs: int, num_targets: int, *, width: int | None = None, batch_norm_momentum: float | None = None
) -> nn.Module:
    r"""A new prediction head `(B, I) -> (B, C)`.

    .. math:: \text{mlp}: \hat y = W_2\, \mathrm{LN}(\mathrm{GELU}(W_1 h + b_1)) + b_2, \qquad
              \text{linear}: \hat y = W h + b

    Source: D&D does not state its head; `mlp` is the head of TokenGT's reference code, `pna` that of 3DInfomax on QM9.
    But for `pna` the last layer starts small and without bias, so that training starts from the mean of the
    standardised targets.

    Args:
        name: `mlp`, `linear` or `pna`.
        inputs: I, the width of the pooled vector.
        num_targets: C.
        width: inner width; I when None.
        batch_norm_momentum: of `pna`'s batch norm; 0.1 when None.
    """
    width = width or inputs
    if name == "pna":
        return PNAHead(inputs, width, num_targets, 0.1 if batch_norm_momentum is None else batch_norm_momentum)
    last = nn.Linear(inputs if name == "linear" else width, num_targets)
    nn.init.normal_(last.weight, std=0.02)
    nn.init.zeros_(last.bias)
    if name == "linear":
        return last
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.LayerNorm(width), last)
