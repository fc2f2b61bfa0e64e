"""Calibrated probabilities of several classes: one temperature per target.

p_k → p_k^(1/T) / Σ_j p_j^(1/T). T > 1 makes a model that is too sure less sure; the order of the classes stays.

Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), §4.2. Legend: N molecules, C columns,
K classes of one target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from dnd.finetuning.multiclass import ClassGroup, softmax

Array = Float[np.ndarray, "molecules columns"]
FEWEST = 30
_RANGE = (-2.5, 2.5)  # of log T, so T is 0.08 to 12
_EDGE = 1e-15


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
            found[:, one.span] = softmax(np.log(found[:, one.span].clip(_EDGE, 1.0)) / one.value)
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
    return labels_NC[known_N, span], np.log(predictions_NC[known_N, span].clip(_EDGE, 1.0))


def _losses(labels_NK: np.ndarray, logs_NK: np.ndarray) -> np.ndarray:
    found: np.ndarray = -(labels_NK * np.log(softmax(logs_NK).clip(_EDGE, 1.0))).sum(axis=1)
    return found
