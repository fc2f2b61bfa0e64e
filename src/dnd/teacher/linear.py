"""What the teachers' blocks share: how linear maps start, and how norms of vectors keep their gradient."""

from __future__ import annotations

from torch import nn

NORM_EPSILON = 1e-24
"""Added to squared lengths: the gradient of a length is then finite where a vector is 0 (an atom without neighbour)."""


def initialise_linear(block: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear map in `block`, as TorchMD-NET and PaiNN start."""
    for module in block.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
