"""Sets of classes that hold the true class with a promised probability.

A class is in the set when its probability is not unusually small for molecules that have it: s = 1 - p_k against the
⌈(n + 1) · coverage⌉-th smallest s of the n held-out molecules of class k. So the promise is kept for each class by
itself, also for a rare one; a set made for all classes together would keep it by naming the common class every time.
For exchangeable molecules P(class k is in the set | the molecule has it) ≥ coverage.

Source: Sadinle, Lei and Wasserman, JASA 114 (2019) 223 (least ambiguous sets, with class-wise coverage).
Legend: N molecules, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

ALWAYS = 1.0  # the threshold of a class with too few molecules: it is in every set
SEPARATOR = "|"
_SLACK = 1e-12  # so that a molecule of the lesson is on its own side of its threshold


def set_thresholds(
    labels_N: Int[np.ndarray, "molecules"], probabilities_NK: Float[np.ndarray, "molecules classes"], coverage: float
) -> tuple[float, ...] | None:
    """Largest 1 - p of each class that is in a set; None where every class has too few molecules.

    Args:
        labels_N: place of the true class.
        probabilities_NK: of molecules that the model did not learn from.
        coverage: of each class.
    """
    scores = [1 - probabilities_NK[labels_N == place, place] for place in range(probabilities_NK.shape[1])]
    found = tuple(_quantile(own, coverage) for own in scores)
    return None if all(value == ALWAYS for value in found) else found


def shared_threshold(
    labels_N: Int[np.ndarray, "molecules"], probabilities_NK: Float[np.ndarray, "molecules classes"], coverage: float
) -> tuple[float, ...] | None:
    """`set_thresholds` with one for all classes: the coverage is that of all molecules together."""
    found = _quantile(1 - probabilities_NK[np.arange(len(labels_N)), labels_N], coverage)
    return None if found == ALWAYS else (found,) * probabilities_NK.shape[1]


def _quantile(scores_N: Float[np.ndarray, "molecules"], coverage: float) -> float:
    rank = math.ceil((len(scores_N) + 1) * coverage)
    return float(np.sort(scores_N)[rank - 1]) if 0 < rank <= len(scores_N) else ALWAYS


def in_set(
    probabilities_NK: Float[np.ndarray, "molecules classes"], thresholds: Sequence[float]
) -> Bool[np.ndarray, "molecules classes"]:
    """Which classes are in the set of each molecule; a set that would be empty holds the most probable class."""
    inside_NK = 1 - probabilities_NK <= np.asarray(thresholds) + _SLACK
    empty_N = ~inside_NK.any(axis=1)
    inside_NK[empty_N, probabilities_NK[empty_N].argmax(axis=1)] = True
    return inside_NK


def set_words(
    probabilities_NK: Float[np.ndarray, "molecules classes"], thresholds: Sequence[float], names: Sequence[str]
) -> list[str]:
    """The names in each set, as in `0|1`; empty where there is no prediction."""
    known_N = np.isfinite(probabilities_NK).all(axis=1)
    inside_NK = in_set(np.where(known_N[:, None], probabilities_NK, 0.0), thresholds)
    return [
        SEPARATOR.join(name for name, own in zip(names, inside, strict=True) if own) if known else ""
        for known, inside in zip(known_N, inside_NK, strict=True)
    ]
