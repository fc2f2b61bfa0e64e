"""Calibrated probabilities without a formula: a rising line through how often class 1 occurred.

Isotonic regression (Zadrozny and Elkan, KDD 2002) gives steps, and two molecules on one step lose their order. So each
step becomes a point at its middle and the points are joined (centred isotonic regression, Oron and Flournoy,
Stat. Biopharm. Res. 9 (2017) 258): the line rises everywhere and every order is kept.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Knots = tuple[tuple[float, ...], tuple[float, ...]]
_EDGE = 1e-6


def fit_isotonic(
    labels_N: Float[np.ndarray, "molecules"], probabilities_N: Float[np.ndarray, "molecules"]
) -> Knots | None:
    """Points of the line, both coordinates rising from 0 to 1; None where there are fewer than two steps."""
    from sklearn.isotonic import IsotonicRegression  # a slow import that no prediction needs

    steps_N = IsotonicRegression(y_min=_EDGE, y_max=1 - _EDGE).fit_transform(probabilities_N, labels_N)
    values = np.unique(steps_N)
    if len(values) < 2:
        return None
    centres = np.array([probabilities_N[steps_N == value].mean() for value in values])
    inner = (centres > 0) & (centres < 1)
    centres, values = centres[inner], values[inner]
    if len(values) < 2 or (np.diff(centres) <= 0).any():
        return None
    first, last = values[0] / 2, (1 + values[-1]) / 2
    return (0.0, *map(float, centres), 1.0), (float(first), *map(float, values), float(last))


def isotonic(probabilities_N: np.ndarray, knots: Knots) -> np.ndarray:
    """The line at each probability."""
    return np.asarray(np.interp(probabilities_N, *knots))
