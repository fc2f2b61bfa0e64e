"""Nothing non-finite reaches the weights: loss and gradient are checked before the optimizer moves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dnd.common.errors import NonFiniteError
from dnd.common.files import write_json


def clip_gradient(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scale all gradients together so that their norm is at most `limit`; returns the norm before."""
    own = [parameter for parameter in parameters if parameter.grad is not None]
    norm = get_total_norm([parameter.grad for parameter in own if parameter.grad is not None])
    if limit is not None:
        clip_grads_with_norm_(own, limit, norm)
    return norm


def require_finite(loss: float, gradient_norm: float, *, step: int, molecules: list[str], folder: Path) -> None:
    """Stop the run before an update that would ruin it.

    Raises:
        NonFiniteError: loss or gradient norm is not finite; `nonfinite-step-<step>.json` in `folder` lists the batch.
    """
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    path = folder / f"nonfinite-step-{step}.json"
    write_json(path, {"step": step, "loss": str(loss), "gradient_norm": str(gradient_norm), "molecules": molecules})
    raise NonFiniteError(
        f"step {step} was not taken",
        found=f"loss {loss}, gradient norm {gradient_norm}",
        next_step=f"{path} lists its {len(molecules)} molecules; the last checkpoint is intact",
    )
