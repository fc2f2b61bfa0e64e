r"""Conformal intervals of a regression, from errors on molecules that the model was not trained on.

The interval is :math:`T^{-1}(T(\hat y) \pm q\, u)` with the target's transform T. One width for all molecules has
:math:`u = 1`; a width of its own for each has :math:`u = s + \beta`, s the spread of the members' predictions and β its
median. q is the conformal quantile of :math:`|T(y) - T(\hat y)| / u`: the k-th smallest, k = ⌈(n + 1) · coverage⌉. For
exchangeable molecules such an interval holds the measured value with at least that probability; molecules of another
kind are not exchangeable.

Source: split-conformal prediction (Lei et al., JASA 113 (2018) 1094, Algorithm 2), normalised by the spread
(Papadopoulos et al., ECML 2002), with weights (Tibshirani et al., NeurIPS 2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dnd.predictor.transforms import AS_IT_IS, Transform
from dnd.predictor.uncertainty.protocol import COVERAGE, Calibrator, HeldOut, Predicted

FEWEST_FOR_MIXING = 30  # labels of a validation part that weighs as much as the training part
_LARGEST = 700.0  # whose exponential is a number still

Vector = Float[np.ndarray, "molecules"]


@dataclass(frozen=True)
class ConformalIntervals(Calibrator):
    """Intervals around predictions.

    Attributes:
        half_width: in the target's unit (in the scale of its transform), or per unit of spread; q above.
        spread_floor: β, added to the spread of the members, where the interval goes with it; None = one width for all.
    """

    half_width: float
    spread_floor: float | None = None

    @classmethod
    def fit(cls, data: HeldOut) -> ConformalIntervals | None:
        """One width, or with a spread in `data` a width by it; None where the molecules are too few for the coverage.

        A spread that is the same for all, 0 or unknown for half of the molecules gives None as well.
        """
        residuals_N, spread_N = data.residuals_N, data.predicted.spread_N
        if spread_N is None:
            half = _quantile(residuals_N, data.weights_N)
            return None if half is None else cls(half)
        floor = float(np.median(spread_N)) if len(spread_N) else 0.0
        if not 0 < floor < math.inf:
            return None
        half = _quantile(residuals_N / (spread_N + floor), data.weights_N)
        return None if half is None else cls(half, floor)

    def half_widths(self, predicted: Predicted) -> Vector:
        """Half the width for each molecule, in the scale of the transform."""
        if self.spread_floor is None:
            return np.full(len(predicted), self.half_width)
        assert predicted.spread_N is not None, "a width by the spread needs the spread"
        return np.asarray(self.half_width * (predicted.spread_N + self.spread_floor))

    def apply(self, predicted: Predicted) -> Float[np.ndarray, "molecules ends"]:
        """Lower and upper end in the target's unit."""
        transform, half_N = predicted.transform, self.half_widths(predicted)
        centre_N = transform.forward(predicted.values)
        return np.stack([transform.inverse(centre_N - half_N), transform.inverse(centre_N + half_N)], axis=1)

    def scores(self, data: HeldOut) -> Mapping[str, np.ndarray]:
        """`coverage`: whether the label is inside; `width`: from end to end, in the scale of the transform."""
        half_N = self.half_widths(data.predicted)
        return {"coverage": data.residuals_N <= half_N, "width": 2 * half_N}

    def describe(self, transform: Transform = AS_IT_IS) -> str:
        """The width in words, for a target with `transform`."""
        if transform.name == "log":
            return f"of the prediction divided and multiplied by {math.exp(min(self.half_width, _LARGEST)):.4g}"
        if transform.name == "yeo-johnson":
            return f"± {self.half_width:.4g} in the scale of the Yeo-Johnson map"
        if self.spread_floor is not None:
            return f"± {self.half_width:.4g} × (spread of the members + {self.spread_floor:.4g})"
        return f"± {self.half_width:.4g}"


def conformal_half_width(residuals_N: Vector, coverage: float = COVERAGE) -> float | None:
    """The ⌈(n + 1) · coverage⌉-th smallest absolute residual; None where n is too small for that coverage."""
    place = math.ceil((len(residuals_N) + 1) * coverage)
    return float(np.sort(np.abs(residuals_N))[place - 1]) if 0 < place <= len(residuals_N) else None


def weighted_half_width(residuals_N: Vector, weights_N: Vector, coverage: float = COVERAGE) -> float | None:
    """`conformal_half_width` where molecules count with weights that sum to 1; None where they reach no such coverage.

    Source: weighted conformal prediction (Tibshirani et al., NeurIPS 2019).
    """
    order = np.argsort(residuals_N, kind="stable")
    wanted = coverage * (1 + 1 / len(residuals_N)) - 1e-12
    place = int(np.searchsorted(np.cumsum(weights_N[order]), wanted))
    return float(residuals_N[order[place]]) if place < len(residuals_N) else None


def mixing_weights(is_valid_N: np.ndarray) -> Vector | None:
    """Weights for a molecule that is as likely to be of the training part's kind as of the validation part's.

    A scaffold split gives the rare scaffolds to the validation and the test part, so that the errors of all development
    molecules together promise too much; those of the validation part alone are few. None where either is too small.
    """
    valid, train = int(is_valid_N.sum()), int((~is_valid_N).sum())
    if not train or valid < FEWEST_FOR_MIXING:
        return None
    return np.where(is_valid_N, 0.5 / valid, 0.5 / train)


def _quantile(residuals_N: Vector, weights_N: Vector | None) -> float | None:
    mixed = None if weights_N is None else weighted_half_width(residuals_N, weights_N)
    return conformal_half_width(residuals_N) if mixed is None else mixed
