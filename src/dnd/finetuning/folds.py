"""Several partitions as one result: means with intervals, and paired comparisons with a baseline.

The training sets of folds overlap, so their results are not independent and the plain standard error is too small. The
variance of a mean over folds is taken as (1/J + n_test/n_train) s² instead, J folds with sample variance s².

Source: Nadeau and Bengio, Machine Learning 52 (2003) 239; for repeated folds Bouckaert and Frank, PAKDD 2004.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from dnd.finetuning.partition import PARTS

CONFIDENCE = 0.95
Fold = Mapping[str, Mapping[str, Any]]


def half_width(values: Sequence[float], share: float) -> float | None:
    r"""Half the 95 % interval of a mean over folds, :math:`t_{J-1} \sqrt{(1/J + n_\text{test}/n_\text{train}) s^2}`.

    Args:
        values: one per fold.
        share: molecules of the test part over those of the training part.

    Returns:
        None for fewer than two folds.
    """
    count = len(values)
    if count < 2:
        return None
    deviation = math.sqrt((1 / count + share) * float(np.var(values, ddof=1)))
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * deviation


def over_folds(folds: Sequence[Fold], metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Mean, sample deviation and half width of each metric of each part; one fold is handed on as it is."""
    if len(folds) == 1:
        return {part: dict(values) for part, values in folds[0].items()}
    share = held_out_share(folds)
    found: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        found[part] = {"molecules": sum(fold[part]["molecules"] for fold in folds), "folds": len(folds)}
        for metric in metrics:
            values = [fold[part][metric] for fold in folds if fold[part][metric] is not None]
            found[part][metric] = float(np.mean(values)) if values else None
            found[part][f"{metric}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
            found[part][f"{metric}_half_width"] = half_width(values, share)
        found[part]["targets"] = {
            name: {metric: _mean_of(fold[part]["targets"][name][metric] for fold in folds) for metric in own}
            for name, own in folds[0][part]["targets"].items()
        }
    return found


def held_out_share(folds: Sequence[Fold]) -> float:
    """Molecules of the test parts over those of the training parts."""
    return float(sum(fold["test"]["molecules"] for fold in folds) / sum(fold["train"]["molecules"] for fold in folds))


def compare_folds(
    own: Sequence[Fold], other: Sequence[Fold], metric: str, *, larger_is_better: bool
) -> tuple[int, int, float, float | None] | None:
    """The model against a baseline on the test part of each fold.

    Returns:
        Folds in which the model is better, folds compared, mean difference, half width of its interval; None where no
        fold has both.
    """
    pairs = [(one["test"][metric], two["test"][metric]) for one, two in zip(own, other, strict=True)]
    differences = [float(one - two) for one, two in pairs if one is not None and two is not None]
    if not differences:
        return None
    better = sum(difference > 0 if larger_is_better else difference < 0 for difference in differences)
    return better, len(differences), float(np.mean(differences)), half_width(differences, held_out_share(own))


def _mean_of(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
