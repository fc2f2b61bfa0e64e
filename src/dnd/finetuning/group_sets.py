"""Sets of likely classes for a target of several classes, learned from molecules that the model did not train on.

Where every class has enough of them, each has its own threshold and the promise is kept for each class by itself, as
for two classes (`conformal_sets.py`). Else all share one, and the promise is for all molecules together: it may be
kept by the common classes. Both are the least ambiguous sets (LAC) of Sadinle, Lei and Wasserman, JASA 114 (2019) 223,
by split-conformal quantiles of 1 - p of the true class. Legend: N molecules, C columns, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from dnd.finetuning.conformal_sets import in_set, set_thresholds, shared_threshold
from dnd.finetuning.interval_width import COVERAGE
from dnd.finetuning.multiclass import ClassGroup

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
