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


def require_finite(loss: float, gradient_norm: float, *, step: int, molecules: list[str], folder: Path | None) -> None:
    """Stop the run before an update that would ruin it.

    Args:
        loss: of the global batch.
        gradient_norm: over all parameters.
        step: optimizer steps taken before.
        molecules: a line for each of the batch.
        folder: gets `nonfinite-step-<step>.json` with them; None on the ranks that write nothing.

    Raises:
        NonFiniteError: loss or gradient norm is not finite.
    """
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    name = f"nonfinite-step-{step}.json"
    if folder is not None:
        record = {"step": step, "loss": str(loss), "gradient_norm": str(gradient_norm), "molecules": molecules}
        write_json(folder / name, record)
    raise NonFiniteError(
        f"step {step} was not taken",
        found=f"loss {loss}, gradient norm {gradient_norm}",
        next_step=f"{name} in the run folder lists its {len(molecules)} molecules; the last checkpoint is intact",
    )
