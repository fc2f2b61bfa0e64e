"""Losses over the entries that are known, and numbers in units of their own spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dnd.common.errors import InputError

# Losses over the entries that are known.


class AuxiliaryLoss(NamedTuple):
    """How far a head is off.

    Attributes:
        loss: mean over the known entries of the batch; 0 with gradient 0 where there is none.
        constant: the same for the best constant prediction, that of the training rows.
        known: number of known entries; of labels, of molecules that have one.
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


# Numbers in units of their own spread: which columns there are, and their mean and deviation over training rows.
#


CLIPPED_SHARE = 0.001
"""Share of the known training values at either end of a column that its limits leave out."""

_SMALLEST_DEVIATION = 1e-6


class Standardiser(nn.Module):
    r""":math:`z = (\min(\max(x, l), u) - \mu) / s` for the columns that vary; NaN stays NaN.

    Limits, mean and deviation are buffers, so every checkpoint holds them; they come from training rows alone, limits
    from their 0.1 % and 99.9 % quantiles, so that one broken value can't set the scale of a column.

    Args:
        values_XF: values of training rows, NaN = missing; or the known values of each column, where few are known.
        what: for messages.
        pooled: keep one deviation for all columns, the root of their mean variance, and no limits: columns then count
            by how much they vary, and a place that is nearly always 0 does not outweigh the others.

    Raises:
        InputError: no column varies.
    """

    kept_S: Tensor
    low_S: Tensor
    high_S: Tensor
    mean_S: Tensor
    deviation_S: Tensor

    def __init__(
        self, values_XF: Float[np.ndarray, "items columns"] | Sequence[np.ndarray], what: str, *, pooled: bool = False
    ) -> None:
        super().__init__()
        given = values_XF.astype(np.float64).T if isinstance(values_XF, np.ndarray) else values_XF
        columns = [_column(column_X[np.isfinite(column_X)], clip=not pooled) for column_X in given]
        low_F, high_F, mean_F, deviation_F = np.array(columns, dtype=np.float64).reshape(-1, 4).T
        kept_S = np.flatnonzero(deviation_F > _SMALLEST_DEVIATION)
        if not len(kept_S):
            found = f"{max(map(len, given), default=0):,} training items, none that vary"
            raise InputError(f"{what} has nothing to learn", found=found)
        if pooled:
            deviation_F = np.full_like(deviation_F, np.sqrt(np.mean(deviation_F[kept_S] ** 2)))
        self.register_buffer("kept_S", torch.from_numpy(kept_S))
        for name, values_F in (("low", low_F), ("high", high_F), ("mean", mean_F), ("deviation", deviation_F)):
            self.register_buffer(f"{name}_S", torch.from_numpy(values_F[kept_S].astype(np.float32)))

    @property
    def width(self) -> int:
        """S, the number of columns that are kept."""
        return len(self.kept_S)

    def forward(self, values_XF: Float[Tensor, "items columns"]) -> Float[Tensor, "items kept"]:
        """The kept columns in units of their deviation."""
        clipped_XS = torch.clamp(values_XF[:, self.kept_S], self.low_S, self.high_S)
        return (clipped_XS - self.mean_S) / self.deviation_S

    def record(self, names: list[str]) -> list[dict[str, Any]]:
        """Name, limits, mean and deviation of each kept column, for the run's folder."""
        rows = zip(
            self.kept_S.tolist(),
            *(values.tolist() for values in (self.low_S, self.high_S, self.mean_S, self.deviation_S)),
            strict=True,
        )
        keys = ("low", "high", "mean", "deviation")
        return [{"name": names[place], **dict(zip(keys, values, strict=True))} for place, *values in rows]


def _column(known_X: np.ndarray, *, clip: bool) -> tuple[float, float, float, float]:
    """Limits, mean and deviation of the known values of one column; deviation 0 where there is nothing to learn."""
    largest = float(np.finfo(np.float32).max)
    if len(known_X) < 2:
        return -largest, largest, 0.0, 0.0
    low, high = -largest, largest
    if clip:
        low, high = np.quantile(known_X, [CLIPPED_SHARE, 1 - CLIPPED_SHARE], method="nearest").tolist()
        known_X = known_X.clip(low, high)
    return low, high, float(known_X.mean()), float(known_X.std())
