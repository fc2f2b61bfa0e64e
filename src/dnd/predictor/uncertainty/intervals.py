r"""Half the width of conformal intervals, from errors on molecules that were not trained on.

The interval is :math:`T^{-1}(T(\hat y) \pm q\, u)` with the target's transform T. One width for all molecules has
:math:`u = 1`; a width of its own for each has :math:`u = s + \beta`, s the spread of the members' predictions and β its
median, and q is the conformal quantile of :math:`|T(y) - T(\hat y)| / u`: normalised conformal prediction (Papadopoulos
et al., ECML 2002). Both cover the molecules that taught them equally often, so the one that is narrower there is taken,
where there are 100 of them to tell.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

COVERAGE = 0.9
FEWEST_FOR_MIXING = 30  # labels of a validation part that weighs as much as the training part
FEWEST_FOR_SPREAD = 100  # molecules that choose between both kinds of width
NARROWER = 0.95  # of the one width is what the mean of widths by the spread must come to: less is chance

Vector = Float[np.ndarray, "molecules"]


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


def fit_width(
    residuals_N: Vector, weights_N: Vector | None = None, spread_N: Vector | None = None
) -> tuple[float | None, float | None]:
    """q, and β where the spread makes the intervals narrower; None where there is none.

    Args:
        residuals_N: absolute errors, in the scale of the target's transform.
        weights_N: see `mixing_weights`; None = all count alike.
        spread_N: s of the same molecules; None = not known.
    """
    half = _quantile(residuals_N, weights_N)
    if half is None or spread_N is None or len(residuals_N) < FEWEST_FOR_SPREAD:
        return half, None
    floor = float(np.median(spread_N))
    if not 0 < floor < math.inf:
        return half, None
    unit_N = spread_N + floor
    own = _quantile(residuals_N / unit_N, weights_N)
    if own is None or own * float(np.average(unit_N, weights=weights_N)) >= NARROWER * half:
        return half, None
    return own, floor


def _quantile(residuals_N: Vector, weights_N: Vector | None) -> float | None:
    mixed = None if weights_N is None else weighted_half_width(residuals_N, weights_N)
    return conformal_half_width(residuals_N) if mixed is None else mixed
