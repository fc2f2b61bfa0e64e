"""Losses over the entries that are known. Legend: X items, S columns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class AuxiliaryLoss(NamedTuple):
    """How far a head is off.

    Attributes:
        loss: mean over the known entries of the batch; 0 with gradient 0 where there is none.
        constant: the same for the best constant prediction, that of the training rows.
        known: number of known entries.
    """

    loss: Float[Tensor, ""]
    constant: Float[Tensor, ""]
    known: Int[Tensor, ""]


def masked_squares(
    predicted_XS: Float[Tensor, "items columns"], target_XS: Float[Tensor, "items columns"]
) -> AuxiliaryLoss:
    """Mean squared error over the targets that are not NaN; the constant prediction is 0, the training mean."""
    known_XS = target_XS.isfinite()
    known = known_XS.sum()
    target_XS = torch.where(known_XS, target_XS, 0.0)
    error_XS = torch.where(known_XS, predicted_XS - target_XS, 0.0)
    number = known.clamp(min=1)
    return AuxiliaryLoss(error_XS.square().sum() / number, target_XS.square().sum() / number, known)
