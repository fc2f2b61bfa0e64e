"""Calibrated probabilities: Platt's scaling or an isotonic line for two classes, a temperature for several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from dnd.predictor.metrics import ClassGroup, softmax

# Calibrated probabilities without a formula: a rising line through how often class 1 occurred.
#
# Isotonic regression (Zadrozny and Elkan, KDD 2002) gives steps, and two molecules on one step lose their order. So
# each step becomes a point at its middle and the points are joined (centred isotonic regression, Oron and Flournoy,
# Stat. Biopharm. Res. 9 (2017) 258): the line rises everywhere and every order is kept.


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


# Platt's scaling of probabilities, and whether an isotonic line would do better.
#
# p → σ(a · logit p + b), fitted with smoothed labels (Platt 1999). As a > 0 no ranking changes. Legend: N molecules.


FEWEST_PER_CLASS = 10
FEWEST_FOR_ISOTONIC = 100  # of each class
_GAIN = 0.005  # of the log loss, by which an isotonic line must be better
_LOGIT_EDGE = 1e-15  # keeps logit finite


def fit_platt(
    labels_N: Float[np.ndarray, "molecules"], probabilities_N: Float[np.ndarray, "molecules"]
) -> tuple[float, float] | None:
    """Slope and intercept; None with fewer than ten molecules of a class, or where the ranking would turn round."""
    from scipy.optimize import minimize  # prediction without probabilities need not load SciPy
    from scipy.special import expit, logit

    positive, count = int(labels_N.sum()), len(labels_N)
    if min(positive, count - positive) < FEWEST_PER_CLASS:
        return None
    scores_N = logit(probabilities_N.clip(_LOGIT_EDGE, 1 - _LOGIT_EDGE))
    wanted_N = np.where(labels_N > 0, (positive + 1) / (positive + 2), 1 / (count - positive + 2))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        outputs_N = parameters[0] * scores_N + parameters[1]
        errors_N = expit(outputs_N) - wanted_N
        value = (np.logaddexp(0, outputs_N) - wanted_N * outputs_N).sum()
        return float(value), np.array([(errors_N * scores_N).sum(), errors_N.sum()])

    slope, intercept = map(float, minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x)
    return (slope, intercept) if slope > 0 and math.isfinite(intercept) else None


def platt(probabilities_N: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """σ(slope · logit p + intercept)."""
    from scipy.special import expit, logit

    scaled_N: np.ndarray = expit(slope * logit(probabilities_N.clip(_LOGIT_EDGE, 1 - _LOGIT_EDGE)) + intercept)
    return scaled_N


def isotonic_is_better(
    labels_N: Float[np.ndarray, "molecules"],
    predictions_N: Float[np.ndarray, "molecules"],
    identities: Sequence[str] = (),
) -> bool:
    """Log loss of both scalings, each fitted on four fifths of the molecules and judged on the rest.

    Rows with the same of `identities` are one molecule and in one fifth; without them every row is one.
    """
    if min(labels_N.sum(), len(labels_N) - labels_N.sum()) < FEWEST_FOR_ISOTONIC:
        return False
    molecule_N = np.unique(np.asarray(identities), return_inverse=True)[1] if identities else np.arange(len(labels_N))
    fold_N = (np.random.default_rng(0).permutation(molecule_N.max() + 1) % 5)[molecule_N]
    losses = np.zeros(2)
    for fold in range(5):
        train, judged = fold_N != fold, fold_N == fold
        line = fit_isotonic(labels_N[train], predictions_N[train])
        scaling = fit_platt(labels_N[train], predictions_N[train])
        if line is None or scaling is None:
            return False
        losses += [
            _log_loss(labels_N[judged], platt(predictions_N[judged], *scaling)),
            _log_loss(labels_N[judged], isotonic(predictions_N[judged], line)),
        ]
    return bool(losses[1] < (1 - _GAIN) * losses[0])


def _log_loss(labels_N: np.ndarray, probabilities_N: np.ndarray) -> float:
    inside_N = probabilities_N.clip(_LOGIT_EDGE, 1 - _LOGIT_EDGE)
    return float(-(labels_N * np.log(inside_N) + (1 - labels_N) * np.log1p(-inside_N)).sum())


# Calibrated probabilities of several classes: one temperature per target.
#
# p_k → p_k^(1/T) / Σ_j p_j^(1/T). T > 1 makes a model that is too sure less sure; the order of the classes stays.
#
# Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), §4.2. Legend: N molecules, C columns,
# K classes of one target.


Array = Float[np.ndarray, "molecules columns"]
FEWEST = 30
_RANGE = (-2.5, 2.5)  # of log T, so T is 0.08 to 12
_TEMPERATURE_EDGE = 1e-15


@dataclass(frozen=True)
class Temperature:
    """What was learned for one target of several classes.

    Attributes:
        name: of the target.
        first: the first of its columns.
        classes: how many there are.
        value: T; None where there were too few labels.
        molecules: it was learned from.
        judged_on: molecules that judged it.
        before: log loss of the raw probabilities on those molecules.
        measured: log loss after scaling, on those molecules.
    """

    name: str
    first: int
    classes: int
    value: float | None = None
    molecules: int = 0
    judged_on: int = 0
    before: float | None = None
    measured: float | None = None

    @property
    def span(self) -> slice:
        """Its columns."""
        return slice(self.first, self.first + self.classes)

    def sentence(self, source: str) -> str:
        """What was learned and how it did."""
        if self.value is None:
            found = f"{self.molecules} held-out labels are too few"
            return f"{self.name}: probabilities as the model gives them, because {found}"
        line = f"{self.name}: probabilities calibrated (temperature {self.value:.2f}) on {self.molecules} molecules of "
        line += source
        if self.before is not None and self.measured is not None:
            line += f"; log loss of the test part {self.before:.4f} before, {self.measured:.4f} after"
        return line


def fit_temperature(group: ClassGroup, labels_NC: Array, predictions_NC: Array) -> Temperature:
    """The T of the smallest log loss; none with fewer than 30 labels."""
    from scipy.optimize import minimize_scalar  # prediction need not load it

    labels_NK, logs_NK = _known(group.span, labels_NC, predictions_NC)
    found = Temperature(group.name, group.first, len(group.classes), molecules=len(labels_NK))
    if len(labels_NK) < FEWEST:
        return found

    def loss(log_temperature: float) -> float:
        return float(_losses(labels_NK, logs_NK / np.exp(log_temperature)).mean())

    best = minimize_scalar(loss, bounds=_RANGE, method="bounded")
    return replace(found, value=float(np.exp(best.x)))


def apply_temperature(predictions_NC: Array, temperatures: Sequence[Temperature]) -> Array:
    """Calibrated probabilities; other columns, and targets without a temperature, as they are."""
    found = predictions_NC.copy()
    for one in temperatures:
        if one.value is not None:
            found[:, one.span] = softmax(np.log(found[:, one.span].clip(_TEMPERATURE_EDGE, 1.0)) / one.value)
    return found


def judge_temperature(
    final: Temperature, targets_NC: Array, tests: Sequence[tuple[np.ndarray, Array, Temperature]]
) -> Temperature:
    """`final` with the log loss before and after what each fold's own temperature did to its test part."""
    before: list[np.ndarray] = []
    after: list[np.ndarray] = []
    for rows, values_NC, own in tests:
        labels_NK, logs_NK = _known(final.span, targets_NC[rows], values_NC[rows])
        if own.value is not None and len(labels_NK):
            before.append(_losses(labels_NK, logs_NK))
            after.append(_losses(labels_NK, logs_NK / own.value))
    if not before:
        return final
    return replace(
        final,
        judged_on=sum(map(len, before)),
        before=float(np.concatenate(before).mean()),
        measured=float(np.concatenate(after).mean()),
    )


def _known(span: slice, labels_NC: Array, predictions_NC: Array) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logarithms of the probabilities where there is a label."""
    known_N = np.isfinite(labels_NC[:, span]).all(axis=1) & np.isfinite(predictions_NC[:, span]).all(axis=1)
    return labels_NC[known_N, span], np.log(predictions_NC[known_N, span].clip(_TEMPERATURE_EDGE, 1.0))


def _losses(labels_NK: np.ndarray, logs_NK: np.ndarray) -> np.ndarray:
    found: np.ndarray = -(labels_NK * np.log(softmax(logs_NK).clip(_TEMPERATURE_EDGE, 1.0))).sum(axis=1)
    return found
