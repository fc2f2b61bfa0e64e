"""Platt's scaling of probabilities, and whether an isotonic line would do better.

p → σ(a · logit p + b), fitted with smoothed labels (Platt 1999). As a > 0 no ranking changes. Legend: N molecules.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from dnd.finetuning.isotonic import fit_isotonic, isotonic

FEWEST_PER_CLASS = 10
FEWEST_FOR_ISOTONIC = 100  # of each class
_GAIN = 0.005  # of the log loss, by which an isotonic line must be better
_EDGE = 1e-15  # keeps logit finite


def fit_platt(
    labels_N: Float[np.ndarray, "molecules"], probabilities_N: Float[np.ndarray, "molecules"]
) -> tuple[float, float] | None:
    """Slope and intercept; None with fewer than ten molecules of a class, or where the ranking would turn round."""
    from scipy.optimize import minimize  # prediction without probabilities need not load SciPy
    from scipy.special import expit, logit

    positive, count = int(labels_N.sum()), len(labels_N)
    if min(positive, count - positive) < FEWEST_PER_CLASS:
        return None
    scores_N = logit(probabilities_N.clip(_EDGE, 1 - _EDGE))
    wanted_N = np.where(labels_N > 0, (positive + 1) / (positive + 2), 1 / (count - positive + 2))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        outputs_N = parameters[0] * scores_N + parameters[1]
        errors_N = expit(outputs_N) - wanted_N
        value = (np.logaddexp(0, outputs_N) - wanted_N * outputs_N).sum()
        return float(value), np.array([(errors_N * scores_N).sum(), errors_N.sum()])

    slope, intercept = map(float, minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x)
    return (slope, intercept) if slope > 0 and math.isfinite(intercept) else None


def platt(probabilities_N: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """σ(slope · logit p + intercept)."""
    from scipy.special import expit, logit

    scaled_N: np.ndarray = expit(slope * logit(probabilities_N.clip(_EDGE, 1 - _EDGE)) + intercept)
    return scaled_N


def isotonic_is_better(labels_N: Float[np.ndarray, "molecules"], predictions_N: Float[np.ndarray, "molecules"]) -> bool:
    """Log loss of both scalings, each fitted on four fifths of the molecules and judged on the rest."""
    if min(labels_N.sum(), len(labels_N) - labels_N.sum()) < FEWEST_FOR_ISOTONIC:
        return False
    fold_N = np.random.default_rng(0).permutation(len(labels_N)) % 5
    losses = np.zeros(2)
    for fold in range(5):
        train, judged = fold_N != fold, fold_N == fold
        line = fit_isotonic(labels_N[train], predictions_N[train])
        scaling = fit_platt(labels_N[train], predictions_N[train])
        if line is None or scaling is None:
            return False
        losses += [
            _log_loss(labels_N[judged], platt(predictions_N[judged], *scaling)),
            _log_loss(labels_N[judged], isotonic(predictions_N[judged], line)),
        ]
    return bool(losses[1] < (1 - _GAIN) * losses[0])


def _log_loss(labels_N: np.ndarray, probabilities_N: np.ndarray) -> float:
    inside_N = probabilities_N.clip(_EDGE, 1 - _EDGE)
    return float(-(labels_N * np.log(inside_N) + (1 - labels_N) * np.log1p(-inside_N)).sum())
