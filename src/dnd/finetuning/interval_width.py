"""Half the width of conformal intervals, from absolute errors on molecules that were not trained on."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

COVERAGE = 0.9


def conformal_half_width(residuals_N: Float[np.ndarray, "molecules"], coverage: float = COVERAGE) -> float | None:
    """The ⌈(n + 1) · coverage⌉-th smallest absolute residual; None where n is too small for that coverage."""
    place = math.ceil((len(residuals_N) + 1) * coverage)
    return float(np.sort(np.abs(residuals_N))[place - 1]) if 0 < place <= len(residuals_N) else None


def mixed_half_width(
    train_N: Float[np.ndarray, "train"], valid_N: Float[np.ndarray, "valid"], coverage: float = COVERAGE
) -> float | None:
    """The conformal quantile for a molecule that is as likely to be of the one part's kind as of the other's.

    A scaffold split gives the rare scaffolds to the validation and the test part, so that the errors of all development
    molecules together promise too much; those of the validation part alone are few. Weighted conformal prediction
    (Tibshirani et al., NeurIPS 2019) with half of the weight on each part; None where that reaches no such coverage.
    """
    residuals = np.concatenate([train_N, valid_N])
    weights = np.concatenate([np.full(len(part), 0.5 / len(part)) for part in (train_N, valid_N)])
    order = np.argsort(residuals, kind="stable")
    place = int(np.searchsorted(np.cumsum(weights[order]), coverage * (1 + 1 / len(residuals)) - 1e-12))
    return float(residuals[order[place]]) if place < len(residuals) else None
