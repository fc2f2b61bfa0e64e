"""What a target of several classes is in numbers: its columns, its probabilities, and its metrics.

The metrics are equal to scikit-learn's where that defines them.

Legend: N molecules, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dnd.finetuning.ranking import roc_auc

MULTICLASS_METRICS = ("balanced_accuracy", "accuracy", "macro_f1", "log_loss", "rocauc_ovr")
Array = Float[np.ndarray, "molecules classes"]


@dataclass(frozen=True)
class ClassGroup:
    """A target of several classes and its columns; see `classes.py`.

    Attributes:
        name: of the target.
        classes: their names, in the order of the columns.
        first: the first of the columns.
    """

    name: str
    classes: tuple[str, ...]
    first: int

    @property
    def columns(self) -> range:
        """Its columns."""
        return range(self.first, self.first + len(self.classes))

    @property
    def span(self) -> slice:
        """Its columns, to cut an array or a tensor with."""
        return slice(self.first, self.first + len(self.classes))


def one_hot(codes_N: Float[np.ndarray, "molecules"], count: int) -> Float[np.ndarray, "molecules classes"]:
    """0 and 1 per class; a row of NaN where the code is NaN."""
    found: np.ndarray = (codes_N[:, None] == np.arange(count)).astype(np.float64)
    found[np.isnan(codes_N)] = math.nan
    return found


def softmax(scores_NK: Float[np.ndarray, "molecules classes"]) -> Float[np.ndarray, "molecules classes"]:
    """Probabilities of the classes from scores, per molecule."""
    powers_NK = np.exp(scores_NK - scores_NK.max(axis=1, keepdims=True))
    found: np.ndarray = powers_NK / powers_NK.sum(axis=1, keepdims=True)
    return found


def normalised(
    values_NC: Float[np.ndarray, "molecules columns"], groups: Sequence[ClassGroup]
) -> Float[np.ndarray, "molecules columns"]:
    """Predictions whose classes sum to 1 in each group; equal shares where a sum is 0."""
    found = values_NC.copy()
    for group in groups:
        own_NK = found[:, group.columns].clip(0.0, None)
        total_N1 = own_NK.sum(axis=1, keepdims=True)
        share = np.full_like(own_NK, 1 / len(group.classes))
        share[np.isnan(total_N1[:, 0])] = math.nan
        found[:, group.columns] = np.divide(own_NK, total_N1, out=share, where=total_N1 > 0)
    return found


def class_scores(targets_NK: Array, probabilities_NK: Array) -> dict[str, float | None]:
    r"""All metrics of one target; None where no molecule has a label.

    Balanced accuracy is the mean recall of the classes that occur; macro F1 the mean of
    :math:`2 TP / (2 TP + FP + FN)` over the classes that occur or are predicted; log loss the mean of
    :math:`-\log p` of the true class; `rocauc_ovr` the mean ROC-AUC of each class against the rest, over the classes
    that occur without being all.

    Args:
        targets_NK: 0 and 1, a row of NaN = missing.
        probabilities_NK: rows that sum to 1.
    """
    known_N = ~np.isnan(targets_NK).any(axis=1)
    if not known_N.any():
        return dict.fromkeys(MULTICLASS_METRICS)
    truth_NK, probabilities_NK = targets_NK[known_N] > 0, probabilities_NK[known_N]
    confusion_KK = confusion(truth_NK.argmax(axis=1), probabilities_NK.argmax(axis=1), truth_NK.shape[1])
    hits_K, true_K, called_K = np.diag(confusion_KK), confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    occurs_K, counts_K = true_K > 0, true_K + called_K
    likelihood_N = probabilities_NK[truth_NK].clip(np.finfo(np.float64).eps, 1.0)
    return {
        "balanced_accuracy": float((hits_K[occurs_K] / true_K[occurs_K]).mean()),
        "accuracy": float(hits_K.sum() / len(truth_NK)),
        "macro_f1": float((2 * hits_K[counts_K > 0] / counts_K[counts_K > 0]).mean()),
        "log_loss": float(-np.log(likelihood_N).mean()),
        "rocauc_ovr": _one_against_rest(truth_NK, probabilities_NK),
    }


def confusion(true_N: np.ndarray, called_N: np.ndarray, count: int) -> np.ndarray:
    """`(K, K)` counts: row = true class, column = predicted class."""
    return np.bincount(true_N * count + called_N, minlength=count * count).reshape(count, count)


def _one_against_rest(truth_NK: np.ndarray, probabilities_NK: np.ndarray) -> float | None:
    values = [
        roc_auc(truth_N.astype(np.float64), scores_N)
        for truth_N, scores_N in zip(truth_NK.T, probabilities_NK.T, strict=True)
        if 0 < truth_N.sum() < len(truth_N)
    ]
    return float(np.mean(values)) if values and math.isfinite(sum(values)) else None
