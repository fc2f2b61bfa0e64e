"""Sets of classes that hold the true class with a promised probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from dnd.predictor.metrics import ClassGroup
from dnd.predictor.uncertainty.intervals import COVERAGE

# Sets of classes that hold the true class with a promised probability.
#
# A class is in the set when its probability is not unusually small for molecules that have it: s = 1 - p_k against the
# ⌈(n + 1) · coverage⌉-th smallest s of the n held-out molecules of class k. So the promise is kept for each class by
# itself, also for a rare one; a set made for all classes together would keep it by naming the common class every time.
# For exchangeable molecules P(class k is in the set | the molecule has it) ≥ coverage.
#
# Source: Sadinle, Lei and Wasserman, JASA 114 (2019) 223 (least ambiguous sets, with class-wise coverage).
# Legend: N molecules, K classes.


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


# Sets of likely classes for a target of several classes, learned from molecules that the model did not train on.
#
# Where every class has enough of them, each has its own threshold and the promise is kept for each class by itself, as
# for two classes (`conformal_sets.py`). Else all share one, and the promise is for all molecules together: it may be
# kept by the common classes. Both are the least ambiguous sets (LAC) of Sadinle, Lei and Wasserman, JASA 114 (2019)
# 223, by split-conformal quantiles of 1 - p of the true class. Legend: N molecules, C columns, K classes.


Array = Float[np.ndarray, "molecules columns"]
FEWEST_EACH = 20  # of a class, or a threshold of its own would be one of its two most extreme molecules


@dataclass(frozen=True)
class GroupSets:
    """What was learned for one target of several classes.

    Attributes:
        name: of the target.
        first: the first of its columns.
        thresholds: largest 1 - p of each class that is in a set; None where there were too few molecules.
        each_class: whether the promise is for each class, or for all molecules together.
        molecules: it was learned from.
        judged_on: molecules that judged it.
        coverage: how often the true class was in the set, on those molecules.
        size: mean number of classes in a set, on those molecules.
    """

    name: str
    first: int
    thresholds: tuple[float, ...] | None = None
    each_class: bool = False
    molecules: int = 0
    judged_on: int = 0
    coverage: float | None = None
    size: float | None = None

    def sentence(self) -> str:
        """What was promised and how often it was kept."""
        if self.thresholds is None:
            return f"{self.name}: no sets of classes, because {self.molecules} held-out labels are too few"
        kind = "of each class" if self.each_class else f"of all molecules together (a class has under {FEWEST_EACH})"
        line = f"{self.name}: sets of classes made for {COVERAGE:.0%} coverage {kind}, from {self.molecules} molecules"
        if self.coverage is not None and self.size is not None:
            held = f"{self.coverage:.1%} of {self.judged_on} test molecules have theirs in the set"
            line += f"; {held}, which names {self.size:.1f} of {len(self.thresholds)} classes on average"
        return line


def fit_group_sets(group: ClassGroup, labels_NC: Array, predictions_NC: Array) -> GroupSets:
    """Thresholds from labels and calibrated probabilities of held-out molecules."""
    labels_N, probabilities_NK = _known(group.first, len(group.classes), labels_NC, predictions_NC)
    counts_K = np.bincount(labels_N, minlength=len(group.classes))
    each = bool(counts_K.min() >= FEWEST_EACH)
    learn = set_thresholds if each else shared_threshold
    thresholds = learn(labels_N, probabilities_NK, COVERAGE)
    return GroupSets(group.name, group.first, thresholds, each, molecules=len(labels_N))


def judge_group_sets(
    final: GroupSets, targets_NC: Array, tests: Sequence[tuple[np.ndarray, Array, GroupSets]]
) -> GroupSets:
    """`final` with the coverage that each fold's own sets reached on its test part.

    Args:
        final: of the model.
        targets_NC: labels of all molecules.
        tests: per fold the rows of its test part, calibrated predictions for all molecules, and its own sets.
    """
    held: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    for rows, values_NC, own in tests:
        if own.thresholds is None:
            continue
        labels_N, probabilities_NK = _known(own.first, len(own.thresholds), targets_NC[rows], values_NC[rows])
        inside_NK = in_set(probabilities_NK, own.thresholds)
        held.append(inside_NK[np.arange(len(labels_N)), labels_N])
        sizes.append(inside_NK.sum(axis=1))
    count = sum(map(len, held))
    if not count:
        return final
    coverage, size = float(np.concatenate(held).mean()), float(np.concatenate(sizes).mean())
    return replace(final, judged_on=count, coverage=coverage, size=size)


def _known(first: int, count: int, labels_NC: Array, predictions_NC: Array) -> tuple[np.ndarray, np.ndarray]:
    """Places of the true classes and probabilities where there is a label."""
    labels_NK, values_NK = labels_NC[:, first : first + count], predictions_NC[:, first : first + count]
    known_N = np.isfinite(labels_NK).all(axis=1) & np.isfinite(values_NK).all(axis=1)
    return labels_NK[known_N].argmax(axis=1), values_NK[known_N]
