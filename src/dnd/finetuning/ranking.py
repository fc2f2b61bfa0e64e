r"""ROC-AUC and average precision of one target, as scikit-learn defines them.

With hundreds of targets scikit-learn's checks of its arguments, some milliseconds a call, would take as long as the
training. P positives, Q negatives; :math:`t_k, f_k` are the positives and negatives with one of the k largest distinct
scores.

.. math:: \mathrm{AUC} = \frac{1}{PQ} \sum_k (f_k - f_{k-1}) \frac{t_k + t_{k-1}}{2}, \quad
    \mathrm{AP} = \sum_k \frac{t_k - t_{k-1}}{P} \cdot \frac{t_k}{t_k + f_k}
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def roc_auc(labels_N: Float[np.ndarray, "labels"], scores_N: Float[np.ndarray, "labels"]) -> float:
    """Chance that a positive has the larger score, ties counted half; both classes must be there."""
    true, false = _counts(labels_N, scores_N)
    area = np.sum(np.diff(false) * (true[1:] + true[:-1])) / 2
    return float(area / (true[-1] * false[-1]))


def average_precision(labels_N: Float[np.ndarray, "labels"], scores_N: Float[np.ndarray, "labels"]) -> float:
    """Precision at each distinct score, weighted by the recall it adds; a positive must be there."""
    true, false = _counts(labels_N, scores_N)
    return float(np.sum(np.diff(true) * true[1:] / (true[1:] + false[1:])) / true[-1])


def _counts(labels_N: np.ndarray, scores_N: np.ndarray) -> tuple[Int[np.ndarray, "steps"], Int[np.ndarray, "steps"]]:
    """t and f for k = 0, 1, ….

    Raises:
        ValueError: a score is not finite.
    """
    if not np.isfinite(scores_N).all():
        raise ValueError("scores to be ranked are not finite")
    order = np.argsort(-scores_N, kind="stable")
    last_of_score = np.append(np.flatnonzero(np.diff(scores_N[order])), len(order) - 1)
    true = np.cumsum(labels_N[order] == 1)[last_of_score]
    return np.append(0, true), np.append(0, 1 + last_of_score - true)
