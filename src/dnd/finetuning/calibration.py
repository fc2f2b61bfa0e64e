"""How sure a model is, learned from molecules it was not trained on: conformal intervals and Platt scaling.

Regression: split-conformal intervals of one width per target (Lei et al., JASA 113 (2018) 1094, Algorithm 2):
prediction ± the k-th smallest absolute residual, k = ⌈(n + 1) · coverage⌉. For exchangeable molecules such an interval
holds the measured value with at least that probability; molecules of another kind are not exchangeable.

Classification: p → σ(a · logit p + b), fitted with Platt's smoothed labels (Platt 1999). As a > 0 no ranking changes.

With one partition, both learn from the validation part, which also chose the epoch, so they are a little optimistic.
With folds they learn from each fold's test part, predicted by members that never saw it. Either way they are judged on
molecules they did not learn from. Legend: N molecules, C targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit, logit

from dnd.chemistry.splits import Split
from dnd.common.config import from_dict
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.common.files import read_json, read_manifest, write_json
from dnd.finetuning.metrics import TaskKind

Array = Float[np.ndarray, "molecules targets"]
Folds = Sequence[tuple[Split, Array]]

CALIBRATION = "calibration.json"
COVERAGE = 0.9
FEWEST_PER_CLASS = 10
_EDGE = 1e-15  # keeps logit finite


@dataclass(frozen=True)
class TargetCalibration:
    """What was learned for one target; None where there were too few labels.

    Attributes:
        half_width: of the interval, in the target's unit.
        slope: a of Platt's scaling.
        intercept: b.
        molecules: it was learned from.
        judged_on: molecules that judged it.
        before: Brier score of the raw probabilities on those molecules; None for intervals.
        measured: coverage of the intervals, or Brier score after scaling, on those molecules.
    """

    half_width: float | None = None
    slope: float | None = None
    intercept: float | None = None
    molecules: int = 0
    judged_on: int = 0
    before: float | None = None
    measured: float | None = None


@dataclass(frozen=True)
class Calibration:
    """One entry per target.

    Attributes:
        targets: in the order of the model's targets.
        coverage: that the intervals aim at.
    """

    targets: tuple[TargetCalibration, ...]
    coverage: float = COVERAGE

    def half_widths(self) -> Float[np.ndarray, "targets"]:
        """NaN where there is no interval."""
        return np.array([math.nan if one.half_width is None else one.half_width for one in self.targets])

    def scaled(self, predictions_NC: Array) -> Array:
        """Calibrated probabilities; unchanged where no scaling was learned."""
        columns = [
            column_N if one.slope is None or one.intercept is None else platt(column_N, one.slope, one.intercept)
            for one, column_N in zip(self.targets, predictions_NC.T, strict=True)
        ]
        return np.stack(columns, axis=1)


def conformal_half_width(residuals_N: Float[np.ndarray, "molecules"], coverage: float = COVERAGE) -> float | None:
    """The ⌈(n + 1) · coverage⌉-th smallest absolute residual; None where n is too small for that coverage."""
    place = math.ceil((len(residuals_N) + 1) * coverage)
    return float(np.sort(np.abs(residuals_N))[place - 1]) if 0 < place <= len(residuals_N) else None


def fit_platt(
    labels_N: Float[np.ndarray, "molecules"], probabilities_N: Float[np.ndarray, "molecules"]
) -> tuple[float, float] | None:
    """Slope and intercept; None with fewer than ten molecules of a class, or where the ranking would turn round."""
    positive, count = int(labels_N.sum()), len(labels_N)
    if min(positive, count - positive) < FEWEST_PER_CLASS:
        return None
    scores_N = logit(probabilities_N.clip(_EDGE, 1 - _EDGE))
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
    scaled_N: np.ndarray = expit(slope * logit(probabilities_N.clip(_EDGE, 1 - _EDGE)) + intercept)
    return scaled_N


def calibrate(
    folds: Folds, targets_NC: Array, kinds: Sequence[TaskKind]
) -> tuple[list[tuple[Split, Array]], Calibration]:
    """Learn and judge the calibration; the predictions come back calibrated, as the model will give them.

    With folds, each fold's predictions are calibrated by what the other folds taught, so that its test part judges;
    where folds are repeated, molecules of that test part teach nothing either.

    Args:
        folds: partitions and their predictions for all molecules.
        targets_NC: labels; NaN = missing.
        kinds: of the targets.
    """
    lessons = [(part.valid if len(folds) == 1 else part.test, values) for part, values in folds]
    final = _learn(lessons, targets_NC, kinds)
    own = [final if len(folds) == 1 else _learn(_without(lessons, part.test), targets_NC, kinds) for part, _ in folds]
    tests = [(part.test, values, one) for (part, values), one in zip(folds, own, strict=True)]
    judged = [_judge(tests, targets_NC, column, target) for column, target in enumerate(final.targets)]
    calibrated = [(part, one.scaled(values)) for (part, values), one in zip(folds, own, strict=True)]
    return calibrated, Calibration(tuple(judged))


def _without(lessons: Sequence[tuple[np.ndarray, Array]], judged: np.ndarray) -> list[tuple[np.ndarray, Array]]:
    return [(rows[~np.isin(rows, judged)], values) for rows, values in lessons]


def _learn(lessons: Sequence[tuple[np.ndarray, Array]], targets_NC: Array, kinds: Sequence[TaskKind]) -> Calibration:
    every = np.concatenate([rows for rows, _ in lessons])
    labels = targets_NC[every]
    predictions = np.concatenate([values[rows] for rows, values in lessons])
    found = []
    for kind, labels_N, predictions_N in zip(kinds, labels.T, predictions.T, strict=True):
        known_N = ~np.isnan(labels_N)
        labels_N, predictions_N, count = labels_N[known_N], predictions_N[known_N], len(np.unique(every[known_N]))
        if kind == "regression":
            found.append(TargetCalibration(conformal_half_width(labels_N - predictions_N), molecules=count))
        else:
            slope, intercept = fit_platt(labels_N, predictions_N) or (None, None)
            found.append(TargetCalibration(slope=slope, intercept=intercept, molecules=count))
    return Calibration(tuple(found))


def _judge(
    tests: Sequence[tuple[np.ndarray, Array, Calibration]],
    targets_NC: Array,
    column: int,
    final: TargetCalibration,
) -> TargetCalibration:
    """`final` with what each fold's own calibration reached on its test part."""
    inside: list[np.ndarray] = []
    raw: list[np.ndarray] = []
    for rows, values_NC, learned in tests:
        own = learned.targets[column]
        labels_N, predictions_N = targets_NC[rows, column], values_NC[rows, column]
        known_N = ~np.isnan(labels_N)
        labels_N, predictions_N = labels_N[known_N], predictions_N[known_N]
        if own.half_width is not None:
            inside.append(np.abs(labels_N - predictions_N) <= own.half_width)
        elif own.slope is not None and own.intercept is not None:
            raw.append((predictions_N - labels_N) ** 2)
            inside.append((platt(predictions_N, own.slope, own.intercept) - labels_N) ** 2)
    judged = np.concatenate(inside) if inside else np.zeros(0)
    if not len(judged):
        return final
    before = float(np.concatenate(raw).mean()) if raw else None
    return replace(final, judged_on=len(judged), before=before, measured=float(judged.mean()))


def sentences(calibration: Calibration, names: Sequence[str], kinds: Sequence[TaskKind], num_folds: int) -> list[str]:
    """What was learned and how it did, one line per target."""
    source = "the validation part, which also chose the epoch" if num_folds == 1 else "the test parts of the folds"
    found = []
    for name, kind, one in zip(names, kinds, calibration.targets, strict=True):
        judged = one.judged_on and one.measured is not None
        if one.half_width is not None:
            line = f"{name}: interval ± {one.half_width:.4g}, made for {calibration.coverage:.0%} coverage"
            line += f", learned from {one.molecules} molecules of {source}"
            line += f"; measured coverage {one.measured:.1%} of {one.judged_on} test molecules" if judged else ""
        elif one.slope is not None:
            line = f"{name}: probabilities calibrated (Platt) on {one.molecules} molecules of {source}"
            line += (
                f"; Brier score of the test part {one.before:.4f} before, {one.measured:.4f} after" if judged else ""
            )
        else:
            what = "no interval" if kind == "regression" else "probabilities as the network gives them"
            line = f"{name}: {what}, because {one.molecules} held-out labels are too few"
        found.append(line)
    return found


def write_calibration(folder: Path, calibration: Calibration, lines: Sequence[str]) -> None:
    """Write `calibration.json` into a MODEL folder that is not sealed yet."""
    write_json(folder / CALIBRATION, {"calibration": asdict(calibration), "sentences": list(lines)})


def read_calibration(folder: Path) -> Calibration | None:
    """The calibration of a verified MODEL folder; None where it was made without one.

    Raises:
        CorruptFileError: the file is not what `write_calibration` writes.
    """
    if CALIBRATION not in read_manifest(folder)["files"]:
        return None
    try:
        return from_dict(Calibration, read_json(folder / CALIBRATION)["calibration"])
    except (KeyError, TypeError, ConfigError) as error:
        raise CorruptFileError(
            f"{folder / CALIBRATION} is no calibration", found=repr(error), next_step="Finetune the model again"
        ) from error
