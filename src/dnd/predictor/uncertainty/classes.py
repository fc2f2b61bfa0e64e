"""Classes: probabilities that are frequencies, and sets that hold the true class as often as promised."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from dnd.predictor.targets import SEPARATOR, softmax
from dnd.predictor.uncertainty.intervals import Calibrator, HeldOut, Predicted, conformal_quantile

FEWEST_PER_CLASS = 5  # for Platt's scaling: from here on it helps on average (docs/results/properties.md)
FEWEST_FOR_TEMPERATURE = 30
LOGIT_EDGE = 1e-15  # keeps logits and logarithms finite
_KNOT_EDGE = 1e-6
_RANGE = (-2.5, 2.5)  # of log T, so T is 0.08 to 12
_CONFIDENCE_BINS = 10


class Probabilities(Calibrator):
    """What maps the probabilities of a model to calibrated ones."""

    @abstractmethod
    def apply(self, predicted: Predicted) -> Float[np.ndarray, "molecules *classes"]:
        """Calibrated probabilities, in the shape of the model's."""

    def evaluate(self, data: HeldOut) -> dict[str, float]:
        """Log loss and Brier score, before and after, and the expected calibration error (`ece`) after."""
        own = Predicted(self.apply(data.predicted))
        return super().evaluate(data) | {"ece": calibration_error(data.places_B, own.by_class_BK)}

    def scores(self, data: HeldOut) -> Mapping[str, np.ndarray]:
        """Log loss and squared error of each molecule, of the model's and of the calibrated probabilities."""
        before, after = _with_sum_1(data.predicted), Predicted(self.apply(data.predicted))
        return {
            "log_loss_before": log_losses(data.labels_B, before),
            "log_loss": log_losses(data.labels_B, after),
            "brier_before": _squared_errors(data, before),
            "brier": _squared_errors(data, after),
        }


@dataclass(frozen=True)
class Platt(Probabilities):
    r"""Platt's scaling of the probability of class 1.

    .. math:: p \to \sigma(a \cdot \mathrm{logit}\, p + b)

    It is fitted with smoothed labels (Platt, Advances in Large Margin Classifiers (1999) 61). As a > 0 no ranking
    changes.

    Attributes:
        slope: a.
        intercept: b.
    """

    slope: float
    intercept: float

    @classmethod
    def fit(cls, data: HeldOut, fewest: int = FEWEST_PER_CLASS) -> Platt | None:
        """None with fewer than `fewest` molecules of a class, or where the ranking would turn round."""
        from scipy.optimize import minimize  # prediction without probabilities need not load SciPy
        from scipy.special import expit, logit

        labels_B, probabilities_B = data.labels_B, data.predicted.values
        positive, count = int(labels_B.sum()), len(labels_B)
        if min(positive, count - positive) < fewest:
            return None
        counts_B = data.each_counts_B
        weight = float(counts_B[labels_B > 0].sum())
        scores_B = logit(probabilities_B.clip(LOGIT_EDGE, 1 - LOGIT_EDGE))
        wanted_B = np.where(labels_B > 0, (weight + 1) / (weight + 2), 1 / (count - weight + 2))

        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            outputs_B = parameters[0] * scores_B + parameters[1]
            errors_B = counts_B * (expit(outputs_B) - wanted_B)
            value = (counts_B * (np.logaddexp(0, outputs_B) - wanted_B * outputs_B)).sum()
            return float(value), np.array([(errors_B * scores_B).sum(), errors_B.sum()])

        slope, intercept = map(float, minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x)
        return cls(slope, intercept) if slope > 0 and math.isfinite(intercept) else None

    def apply(self, predicted: Predicted) -> Float[np.ndarray, "molecules"]:
        """σ(slope · logit p + intercept)."""
        from scipy.special import expit, logit

        scores_B = logit(predicted.values.clip(LOGIT_EDGE, 1 - LOGIT_EDGE))
        return np.asarray(expit(self.slope * scores_B + self.intercept))

    def describe(self) -> str:
        """The name of the scaling."""
        return "Platt"


@dataclass(frozen=True)
class Isotonic(Probabilities):
    """A rising line through how often class 1 occurred.

    Isotonic regression (Zadrozny and Elkan, KDD 2002) gives steps, and two molecules on one step lose their order. So
    each step becomes a point at its middle and the points are joined (centred isotonic regression, Oron and Flournoy,
    Stat. Biopharm. Res. 9 (2017) 258): the line rises everywhere and every order is kept.

    Attributes:
        knots_x: probabilities of the model, rising from 0 to 1.
        knots_y: calibrated ones, rising.
    """

    knots_x: tuple[float, ...]
    knots_y: tuple[float, ...]

    @classmethod
    def fit(cls, data: HeldOut) -> Isotonic | None:
        """None where there are fewer than two steps."""
        from sklearn.isotonic import IsotonicRegression  # a slow import that no prediction needs

        if len(data) < 2:
            return None
        probabilities_B = data.predicted.values
        steps_B = IsotonicRegression(y_min=_KNOT_EDGE, y_max=1 - _KNOT_EDGE).fit_transform(
            probabilities_B, data.labels_B, sample_weight=data.counts_B
        )
        values = np.unique(steps_B)
        if len(values) < 2:
            return None
        counts_B = data.each_counts_B
        on_step = [steps_B == value for value in values]
        centres = np.array([np.average(probabilities_B[own_B], weights=counts_B[own_B]) for own_B in on_step])
        inner = (centres > 0) & (centres < 1)
        centres, values = centres[inner], values[inner]
        if len(values) < 2 or (np.diff(centres) <= 0).any():
            return None
        first, last = values[0] / 2, (1 + values[-1]) / 2
        return cls((0.0, *map(float, centres), 1.0), (float(first), *map(float, values), float(last)))

    def apply(self, predicted: Predicted) -> Float[np.ndarray, "molecules"]:
        """The line at each probability."""
        return np.asarray(np.interp(predicted.values, self.knots_x, self.knots_y))

    def describe(self) -> str:
        """The name of the scaling."""
        return "isotonic"


@dataclass(frozen=True)
class Temperature(Probabilities):
    r"""One temperature for the probabilities of several classes.

    .. math:: p_k \to p_k^{1/T} / \sum_j p_j^{1/T}

    T > 1 makes a model that is too sure less sure; the order of the classes stays. Source: Guo et al., "On Calibration
    of Modern Neural Networks" (ICML 2017), §4.2.

    Attributes:
        value: T.
    """

    value: float

    @classmethod
    def fit(cls, data: HeldOut) -> Temperature | None:
        """The T of the smallest log loss; None with fewer than 30 molecules."""
        from scipy.optimize import minimize_scalar  # prediction need not load it

        if len(data) < FEWEST_FOR_TEMPERATURE:
            return None
        logs_BK, true = _logarithms(data.predicted), (np.arange(len(data)), data.places_B)

        def loss(log_temperature: float) -> float:
            logs_B = np.log(softmax(logs_BK / np.exp(log_temperature)).clip(LOGIT_EDGE, 1.0))[true]
            return -float(np.average(logs_B, weights=data.counts_B))

        best = minimize_scalar(loss, bounds=_RANGE, method="bounded")
        return cls(float(np.exp(best.x)))

    def apply(self, predicted: Predicted) -> Float[np.ndarray, "molecules classes"]:
        """The probabilities at this temperature."""
        return softmax(_logarithms(predicted) / self.value)

    def describe(self) -> str:
        """The temperature."""
        return f"temperature {self.value:.2f}"


def log_losses(labels_B: Float[np.ndarray, "molecules"], predicted: Predicted) -> Float[np.ndarray, "molecules"]:
    """-log of the probability of each molecule's class."""
    if predicted.values.ndim == 1:
        inside_B = predicted.values.clip(LOGIT_EDGE, 1 - LOGIT_EDGE)
        return np.asarray(-(labels_B * np.log(inside_B) + (1 - labels_B) * np.log1p(-inside_B)))
    inside_B = predicted.values[np.arange(len(labels_B)), labels_B.astype(int)].clip(LOGIT_EDGE, 1.0)
    return np.asarray(-np.log(inside_B))


def calibration_error(places_B: np.ndarray, probabilities_BK: Float[np.ndarray, "molecules classes"]) -> float:
    r"""Expected calibration error of the most probable class.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} \lvert \mathrm{accuracy}_b - \mathrm{confidence}_b \rvert

    over ten bins b of equal width of the confidence. Source: Naeini et al., AAAI 2015.
    """
    confidence_B, right_B = probabilities_BK.max(axis=1), probabilities_BK.argmax(axis=1) == places_B
    bin_B = (confidence_B * _CONFIDENCE_BINS).astype(int).clip(0, _CONFIDENCE_BINS - 1)
    gaps = np.bincount(bin_B, weights=right_B - confidence_B, minlength=_CONFIDENCE_BINS)
    return float(np.abs(gaps).sum() / max(1, len(places_B)))


def _squared_errors(data: HeldOut, predicted: Predicted) -> Float[np.ndarray, "molecules"]:
    """(p - y)² of class 1, or its sum over several classes (Brier, Monthly Weather Review 78 (1950) 1)."""
    if predicted.values.ndim == 1:
        return np.asarray((predicted.values - data.labels_B) ** 2)
    truth_BK = np.eye(predicted.values.shape[1])[data.places_B]
    return np.asarray(((predicted.values - truth_BK) ** 2).sum(axis=1))


def _with_sum_1(predicted: Predicted) -> Predicted:
    """The same probabilities, of several classes with the sum 1."""
    return predicted if predicted.values.ndim == 1 else Predicted(softmax(_logarithms(predicted)))


def _logarithms(predicted: Predicted) -> Float[np.ndarray, "molecules classes"]:
    return np.asarray(np.log(predicted.values.clip(LOGIT_EDGE, 1.0)))


# Sets of classes that hold the true class with a promised probability, of a target of two classes or of several.
#
# A class is in the set when its probability is not unusually small for molecules that have it: s = 1 - p_k against the
# ⌈(n + 1) · coverage⌉-th smallest s of n held-out molecules. With the molecules of class k alone the promise is kept
# for each class by itself, also for a rare one; one threshold for all classes keeps it for all molecules together, and
# may keep it by naming the common class every time. For exchangeable molecules P(true class in the set) ≥ coverage.
#
# Source: Sadinle, Lei and Wasserman, JASA 114 (2019) 223 (least ambiguous sets, class-wise and marginal).


FEWEST_EACH = 20  # of a class, or a threshold of its own would be one of its two most extreme molecules
ALWAYS = 1.0  # the threshold of a class with too few molecules: it is in every set
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
        found = cls.quantiles(data.places_B, data.predicted.by_class_BK, data.weights_B)
        return None if all(value == ALWAYS for value in found) else cls(found)

    @classmethod
    @abstractmethod
    def quantiles(
        cls,
        places_B: Int[np.ndarray, "molecules"],
        probabilities_BK: Float[np.ndarray, "molecules classes"],
        weights_B: Float[np.ndarray, "molecules"] | None = None,
    ) -> tuple[float, ...]:
        """The threshold of each class, `ALWAYS` where there are too few molecules."""

    def apply(self, predicted: Predicted) -> Bool[np.ndarray, "molecules classes"]:
        """Which classes are in the set of each molecule.

        A set that would be empty contains the most probable class; where there is no prediction, the set is empty.
        """
        probabilities_BK = predicted.by_class_BK
        known_B = np.isfinite(probabilities_BK).all(axis=1)
        inside_BK = 1 - probabilities_BK <= np.asarray(self.thresholds) + _SLACK
        empty_B = known_B & ~inside_BK.any(axis=1)
        inside_BK[empty_B, probabilities_BK[empty_B].argmax(axis=1)] = True
        return np.asarray(inside_BK & known_B[:, None])

    def words(self, predicted: Predicted, names: Sequence[str]) -> list[str]:
        """The names in each set, as in `0|1`; empty where there is no prediction."""
        return [
            SEPARATOR.join(name for name, own in zip(names, inside, strict=True) if own)
            for inside in self.apply(predicted)
        ]

    def scores(self, data: HeldOut) -> Mapping[str, np.ndarray]:
        """`coverage`: whether the true class is in the set; `size` of the set; `single`: whether it names one class."""
        inside_BK = self.apply(data.predicted)
        size_B = inside_BK.sum(axis=1)
        return {"coverage": inside_BK[np.arange(len(data)), data.places_B], "size": size_B, "single": size_B == 1}

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
        places_B: Int[np.ndarray, "molecules"],
        probabilities_BK: Float[np.ndarray, "molecules classes"],
        weights_B: Float[np.ndarray, "molecules"] | None = None,
    ) -> tuple[float, ...]:
        """The conformal quantile of 1 - p over the molecules of each class."""
        count = probabilities_BK.shape[1]
        found = []
        for place in range(count):
            own = places_B == place
            found.append(_quantile(1 - probabilities_BK[own, place], None if weights_B is None else weights_B[own]))
        return tuple(found)


@dataclass(frozen=True)
class MarginalSets(ClassSets):
    """Sets with one threshold for all classes: the promise is kept for all molecules together."""

    each_class: ClassVar[bool] = False

    @classmethod
    def quantiles(
        cls,
        places_B: Int[np.ndarray, "molecules"],
        probabilities_BK: Float[np.ndarray, "molecules classes"],
        weights_B: Float[np.ndarray, "molecules"] | None = None,
    ) -> tuple[float, ...]:
        """The conformal quantile of 1 - p of the true class over all molecules."""
        shared = _quantile(1 - probabilities_BK[np.arange(len(places_B)), places_B], weights_B)
        return tuple(shared for _ in range(probabilities_BK.shape[1]))


def _quantile(scores_B: Float[np.ndarray, "molecules"], weights_B: Float[np.ndarray, "molecules"] | None) -> float:
    share_B = weights_B / weights_B.sum() if weights_B is not None and len(weights_B) else None
    found = conformal_quantile(scores_B, share_B)
    return ALWAYS if found is None else found
