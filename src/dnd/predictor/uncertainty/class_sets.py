"""Sets of classes that hold the true class with a promised probability, of a target of two classes or of several.

A class is in the set when its probability is not unusually small for molecules that have it: s = 1 - p_k against the
⌈(n + 1) · coverage⌉-th smallest s of n held-out molecules. With the molecules of class k alone the promise is kept for
each class by itself, also for a rare one; one threshold for all classes keeps it for all molecules together, and may
keep it by naming the common class every time. For exchangeable molecules P(true class in the set) ≥ coverage.

Source: Sadinle, Lei and Wasserman, JASA 114 (2019) 223 (least ambiguous sets, class-wise and marginal).
Legend: N molecules, K classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from dnd.predictor.uncertainty.intervals import conformal_quantile
from dnd.predictor.uncertainty.protocol import Calibrator, HeldOut, Predicted

FEWEST_EACH = 20  # of a class, or a threshold of its own would be one of its two most extreme molecules
ALWAYS = 1.0  # the threshold of a class with too few molecules: it is in every set
SEPARATOR = "|"
_SLACK = 1e-12  # so that a molecule of the lesson is on its own side of its threshold


@dataclass(frozen=True)
class ClassSets(Calibrator):
    """Which classes are likely.

    Attributes:
        thresholds: largest 1 - p of each class that is in a set.
    """

    each_class: ClassVar[bool]  # whether the promise is for each class, or for all molecules together

    thresholds: tuple[float, ...]

    @classmethod
    def fit(cls, data: HeldOut) -> ClassSets | None:
        """None where every class has too few molecules."""
        found = cls.quantiles(data.places_N, data.predicted.by_class_NK, data.weights_N)
        return None if all(value == ALWAYS for value in found) else cls(found)

    @classmethod
    @abstractmethod
    def quantiles(
        cls,
        places_N: Int[np.ndarray, "molecules"],
        probabilities_NK: Float[np.ndarray, "molecules classes"],
        weights_N: Float[np.ndarray, "molecules"] | None = None,
    ) -> tuple[float, ...]:
        """The threshold of each class, `ALWAYS` where there are too few molecules."""

    def apply(self, predicted: Predicted) -> Bool[np.ndarray, "molecules classes"]:
        """Which classes are in the set of each molecule.

        A set that would be empty holds the most probable class; where there is no prediction, the set is empty.
        """
        probabilities_NK = predicted.by_class_NK
        known_N = np.isfinite(probabilities_NK).all(axis=1)
        inside_NK = 1 - probabilities_NK <= np.asarray(self.thresholds) + _SLACK
        empty_N = known_N & ~inside_NK.any(axis=1)
        inside_NK[empty_N, probabilities_NK[empty_N].argmax(axis=1)] = True
        return np.asarray(inside_NK & known_N[:, None])

    def words(self, predicted: Predicted, names: Sequence[str]) -> list[str]:
        """The names in each set, as in `0|1`; empty where there is no prediction."""
        return [
            SEPARATOR.join(name for name, own in zip(names, inside, strict=True) if own)
            for inside in self.apply(predicted)
        ]

    def scores(self, data: HeldOut) -> Mapping[str, np.ndarray]:
        """`coverage`: whether the true class is in the set; `size` of the set; `single`: whether it names one class."""
        inside_NK = self.apply(data.predicted)
        size_N = inside_NK.sum(axis=1)
        return {"coverage": inside_NK[np.arange(len(data)), data.places_N], "size": size_N, "single": size_N == 1}

    def describe(self) -> str:
        """What the coverage is promised for."""
        return "of each class" if self.each_class else f"of all molecules together (a class has under {FEWEST_EACH})"


@dataclass(frozen=True)
class ClassWiseSets(ClassSets):
    """Sets with a threshold from the molecules of each class: the promise is kept for each class by itself."""

    each_class: ClassVar[bool] = True

    @classmethod
    def quantiles(
        cls,
        places_N: Int[np.ndarray, "molecules"],
        probabilities_NK: Float[np.ndarray, "molecules classes"],
        weights_N: Float[np.ndarray, "molecules"] | None = None,
    ) -> tuple[float, ...]:
        """The conformal quantile of 1 - p over the molecules of each class."""
        count = probabilities_NK.shape[1]
        found = []
        for place in range(count):
            own = places_N == place
            found.append(_quantile(1 - probabilities_NK[own, place], None if weights_N is None else weights_N[own]))
        return tuple(found)


@dataclass(frozen=True)
class MarginalSets(ClassSets):
    """Sets with one threshold for all classes: the promise is kept for all molecules together."""

    each_class: ClassVar[bool] = False

    @classmethod
    def quantiles(
        cls,
        places_N: Int[np.ndarray, "molecules"],
        probabilities_NK: Float[np.ndarray, "molecules classes"],
        weights_N: Float[np.ndarray, "molecules"] | None = None,
    ) -> tuple[float, ...]:
        """The conformal quantile of 1 - p of the true class over all molecules."""
        shared = _quantile(1 - probabilities_NK[np.arange(len(places_N)), places_N], weights_N)
        return tuple(shared for _ in range(probabilities_NK.shape[1]))


def _quantile(scores_N: Float[np.ndarray, "molecules"], weights_N: Float[np.ndarray, "molecules"] | None) -> float:
    share_N = weights_N / weights_N.sum() if weights_N is not None and len(weights_N) else None
    found = conformal_quantile(scores_N, share_N)
    return ALWAYS if found is None else found
