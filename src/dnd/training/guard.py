"""Nothing non-finite reaches the weights: loss and gradient are checked before the optimizer moves."""

from __future__ import annotations

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


def nonfinite_error(
    loss: float, gradient_norm: float, *, step: int, molecules: list[str], folder: Path | None
) -> NonFiniteError:
    """Record a batch that would ruin the run, and say so.

    Args:
        loss: of the global batch.
        gradient_norm: over all parameters.
        step: steps before.
        molecules: a line for each of the batch.
        folder: gets `nonfinite-step-<step>.json` with them; None on the ranks that write nothing.

    Returns:
        The error to raise, or to show where such batches may be skipped.
    """
    name = f"nonfinite-step-{step}.json"
    if folder is not None:
        record = {"step": step, "loss": str(loss), "gradient_norm": str(gradient_norm), "molecules": molecules}
        write_json(folder / name, record)
    return NonFiniteError(
        f"step {step} was not taken",
        found=f"loss {loss}, gradient norm {gradient_norm}",
        next_step=f"{name} in the run folder lists its {len(molecules)} molecules; the last checkpoint is intact; "
        "--skip-nonfinite N goes on without up to N such batches",
    )


class Buffers:
    """Running statistics of normalisations, which a forward pass changes before its loss is known.

    Args:
        module: whose buffers are remembered.
    """

    def __init__(self, module: nn.Module) -> None:
        self._before = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]

    def restore(self) -> None:
        """Put back what they were."""
        for buffer, before in self._before:
            buffer.copy_(before)
