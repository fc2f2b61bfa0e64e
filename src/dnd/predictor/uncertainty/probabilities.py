"""Calibrated probabilities: Platt's scaling or an isotonic line for two classes, a temperature for several.

Legend: N molecules, K classes of one target.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dnd.predictor.metrics import softmax
from dnd.predictor.uncertainty.protocol import Calibrator, HeldOut, Predicted

FEWEST_PER_CLASS = 10  # for Platt's scaling
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
        return super().evaluate(data) | {"ece": calibration_error(data.places_N, own.by_class_NK)}

    def scores(self, data: HeldOut) -> Mapping[str, np.ndarray]:
        """Log loss and squared error of each molecule, of the model's and of the calibrated probabilities."""
        before, after = _with_sum_1(data.predicted), Predicted(self.apply(data.predicted))
        return {
            "log_loss_before": log_losses(data.labels_N, before),
            "log_loss": log_losses(data.labels_N, after),
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
    def fit(cls, data: HeldOut) -> Platt | None:
        """None with fewer than ten molecules of a class, or where the ranking would turn round."""
        from scipy.optimize import minimize  # prediction without probabilities need not load SciPy
        from scipy.special import expit, logit

        labels_N, probabilities_N = data.labels_N, data.predicted.values
        positive, count = int(labels_N.sum()), len(labels_N)
        if min(positive, count - positive) < FEWEST_PER_CLASS:
            return None
        scores_N = logit(probabilities_N.clip(LOGIT_EDGE, 1 - LOGIT_EDGE))
        wanted_N = np.where(labels_N > 0, (positive + 1) / (positive + 2), 1 / (count - positive + 2))

        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            outputs_N = parameters[0] * scores_N + parameters[1]
            errors_N = expit(outputs_N) - wanted_N
            value = (np.logaddexp(0, outputs_N) - wanted_N * outputs_N).sum()
            return float(value), np.array([(errors_N * scores_N).sum(), errors_N.sum()])

        slope, intercept = map(float, minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x)
        return cls(slope, intercept) if slope > 0 and math.isfinite(intercept) else None

    def apply(self, predicted: Predicted) -> Float[np.ndarray, "molecules"]:
        """σ(slope · logit p + intercept)."""
        from scipy.special import expit, logit

        scores_N = logit(predicted.values.clip(LOGIT_EDGE, 1 - LOGIT_EDGE))
        return np.asarray(expit(self.slope * scores_N + self.intercept))

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
        probabilities_N = data.predicted.values
        steps_N = IsotonicRegression(y_min=_KNOT_EDGE, y_max=1 - _KNOT_EDGE).fit_transform(
            probabilities_N, data.labels_N
        )
        values = np.unique(steps_N)
        if len(values) < 2:
            return None
        centres = np.array([probabilities_N[steps_N == value].mean() for value in values])
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
        logs_NK, true = _logarithms(data.predicted), (np.arange(len(data)), data.places_N)

        def loss(log_temperature: float) -> float:
            return float(-np.log(softmax(logs_NK / np.exp(log_temperature)).clip(LOGIT_EDGE, 1.0))[true].mean())

        best = minimize_scalar(loss, bounds=_RANGE, method="bounded")
        return cls(float(np.exp(best.x)))

    def apply(self, predicted: Predicted) -> Float[np.ndarray, "molecules classes"]:
        """The probabilities at this temperature."""
        return softmax(_logarithms(predicted) / self.value)

    def describe(self) -> str:
        """The temperature."""
        return f"temperature {self.value:.2f}"


def log_losses(labels_N: Float[np.ndarray, "molecules"], predicted: Predicted) -> Float[np.ndarray, "molecules"]:
    """-log of the probability of each molecule's class."""
    if predicted.values.ndim == 1:
        inside_N = predicted.values.clip(LOGIT_EDGE, 1 - LOGIT_EDGE)
        return np.asarray(-(labels_N * np.log(inside_N) + (1 - labels_N) * np.log1p(-inside_N)))
    inside_N = predicted.values[np.arange(len(labels_N)), labels_N.astype(int)].clip(LOGIT_EDGE, 1.0)
    return np.asarray(-np.log(inside_N))


def calibration_error(places_N: np.ndarray, probabilities_NK: Float[np.ndarray, "molecules classes"]) -> float:
    r"""Expected calibration error of the most probable class.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} \lvert \mathrm{accuracy}_b - \mathrm{confidence}_b \rvert

    over ten bins b of equal width of the confidence. Source: Naeini et al., AAAI 2015.
    """
    confidence_N, right_N = probabilities_NK.max(axis=1), probabilities_NK.argmax(axis=1) == places_N
    bin_N = (confidence_N * _CONFIDENCE_BINS).astype(int).clip(0, _CONFIDENCE_BINS - 1)
    gaps = np.bincount(bin_N, weights=right_N - confidence_N, minlength=_CONFIDENCE_BINS)
    return float(np.abs(gaps).sum() / max(1, len(places_N)))


def _squared_errors(data: HeldOut, predicted: Predicted) -> Float[np.ndarray, "molecules"]:
    """(p - y)² of class 1, or its sum over several classes (Brier, Monthly Weather Review 78 (1950) 1)."""
    if predicted.values.ndim == 1:
        return np.asarray((predicted.values - data.labels_N) ** 2)
    truth_NK = np.eye(predicted.values.shape[1])[data.places_N]
    return np.asarray(((predicted.values - truth_NK) ** 2).sum(axis=1))


def _with_sum_1(predicted: Predicted) -> Predicted:
    """The same probabilities, of several classes with the sum 1."""
    return predicted if predicted.values.ndim == 1 else Predicted(softmax(_logarithms(predicted)))


def _logarithms(predicted: Predicted) -> Float[np.ndarray, "molecules classes"]:
    return np.asarray(np.log(predicted.values.clip(LOGIT_EDGE, 1.0)))
