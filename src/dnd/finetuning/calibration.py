"""How sure a model is, learned from molecules it was not trained on: conformal intervals and Platt scaling.

Regression: split-conformal intervals of one width per target (Lei et al., JASA 113 (2018) 1094, Algorithm 2):
prediction ± the k-th smallest absolute residual, k = ⌈(n + 1) · coverage⌉. For exchangeable molecules such an interval
holds the measured value with at least that probability; molecules of another kind are not exchangeable.

Classification: p → σ(a · logit p + b), fitted with Platt's smoothed labels (Platt 1999). As a > 0 no ranking changes.
With enough molecules an isotonic line (`isotonic.py`) takes its place where its log loss is smaller out of fold.
Sets of classes: `conformal_sets.py`.
Several classes: a temperature per target, see `temperature.py`.

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

from dnd.chemistry.splits import Split
from dnd.common.config import from_dict
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.common.files import read_json, read_manifest, write_json
from dnd.finetuning.conformal_sets import in_set, set_thresholds
from dnd.finetuning.interval_width import COVERAGE, conformal_half_width, mixed_half_width
from dnd.finetuning.isotonic import fit_isotonic, isotonic
from dnd.finetuning.metrics import TaskKind
from dnd.finetuning.multiclass import ClassGroup, normalised
from dnd.finetuning.platt import fit_platt, isotonic_is_better, platt
from dnd.finetuning.temperature import Temperature, apply_temperature, fit_temperature, judge_temperature

Array = Float[np.ndarray, "molecules targets"]
Folds = Sequence[tuple[Split, Array]]

CALIBRATION = "calibration.json"
FEWEST_FOR_MIXING = 30  # labels of a validation part that weighs as much as the training part


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
        knots_x, knots_y: of an isotonic line, which then takes the place of Platt's scaling.
        set_thresholds: of the sets, class 0 and class 1.
        set_coverage: how often the true class was in the set, on those molecules.
        set_single: share of sets with one class, on those molecules.
    """

    half_width: float | None = None
    slope: float | None = None
    intercept: float | None = None
    molecules: int = 0
    judged_on: int = 0
    before: float | None = None
    measured: float | None = None
    knots_x: tuple[float, ...] | None = None
    knots_y: tuple[float, ...] | None = None
    set_thresholds: tuple[float, ...] | None = None
    set_coverage: float | None = None
    set_single: float | None = None

    def scaled(self, predictions_N: Float[np.ndarray, "molecules"]) -> Float[np.ndarray, "molecules"]:
        """Calibrated probabilities; unchanged where no scaling was learned."""
        if self.knots_x is not None and self.knots_y is not None:
            return isotonic(predictions_N, (self.knots_x, self.knots_y))
        if self.slope is None or self.intercept is None:
            return predictions_N
        return platt(predictions_N, self.slope, self.intercept)


@dataclass(frozen=True)
class Calibration:
    """One entry per target.

    Attributes:
        targets: in the order of the model's targets.
        coverage: that the intervals aim at.
        temperatures: of the targets of several classes.
    """

    targets: tuple[TargetCalibration, ...]
    coverage: float = COVERAGE
    temperatures: tuple[Temperature, ...] = ()

    def half_widths(self) -> Float[np.ndarray, "targets"]:
        """NaN where there is no interval."""
        return np.array([math.nan if one.half_width is None else one.half_width for one in self.targets])

    def scaled(self, predictions_NC: Array) -> Array:
        """Calibrated probabilities; unchanged where no scaling was learned."""
        columns = [one.scaled(column_N) for one, column_N in zip(self.targets, predictions_NC.T, strict=True)]
        return apply_temperature(np.stack(columns, axis=1), self.temperatures)


def calibrate(
    folds: Folds,
    targets_NC: Array,
    kinds: Sequence[TaskKind],
    teachers: Sequence[np.ndarray] | None = None,
    *,
    groups: Sequence[ClassGroup] = (),
) -> tuple[list[tuple[Split, Array]], Calibration]:
    """Learn and judge the calibration; the predictions come back calibrated, as the model will give them.

    With folds, each fold's predictions are calibrated by what the other folds taught, so that its test part judges;
    where folds are repeated, molecules of that test part teach nothing either.

    Args:
        folds: partitions and their predictions for all molecules.
        targets_NC: labels; NaN = missing.
        kinds: of the targets.
        teachers: per partition the molecules that teach, predicted out of fold; for the intervals of a single
            partition its validation part weighs as much as its training part. None = its validation part, or with
            folds its test part.
        groups: columns that are the classes of one target.
    """
    folds = [(part, normalised(values, groups)) for part, values in folds]
    given = teachers is not None
    if teachers is None:
        teachers = [part.valid if len(folds) == 1 else part.test for part, _ in folds]
    lessons = [(rows, values) for rows, (_, values) in zip(teachers, folds, strict=True)]
    final = _learn(lessons, targets_NC, kinds, groups)
    if given and len(folds) == 1:
        final = _mixed(final, folds[0], targets_NC)
    own = [
        final if len(folds) == 1 else _learn(_without(lessons, part.test), targets_NC, kinds, groups)
        for part, _ in folds
    ]
    tests = [(part.test, values, one) for (part, values), one in zip(folds, own, strict=True)]
    judged = [_judge(tests, targets_NC, column, target) for column, target in enumerate(final.targets)]
    temperatures = [
        judge_temperature(one, targets_NC, [(rows, values, own.temperatures[place]) for rows, values, own in tests])
        for place, one in enumerate(final.temperatures)
    ]
    calibrated = [(part, one.scaled(values)) for (part, values), one in zip(folds, own, strict=True)]
    return calibrated, Calibration(tuple(judged), temperatures=tuple(temperatures))


def _mixed(learned: Calibration, fold: tuple[Split, Array], targets_NC: Array) -> Calibration:
    """Intervals to which the training and the validation part contribute alike, where the latter has labels enough."""
    part, values_NC = fold
    found = []
    for one, labels_N, predictions_N in zip(learned.targets, targets_NC.T, values_NC.T, strict=True):
        residuals_N = np.abs(labels_N - predictions_N)
        train, valid = (residuals_N[rows][np.isfinite(residuals_N[rows])] for rows in (part.train, part.valid))
        if one.half_width is not None and len(train) and len(valid) >= FEWEST_FOR_MIXING:
            one = replace(one, half_width=mixed_half_width(train, valid) or one.half_width)
        found.append(one)
    return replace(learned, targets=tuple(found))


def _without(lessons: Sequence[tuple[np.ndarray, Array]], judged: np.ndarray) -> list[tuple[np.ndarray, Array]]:
    return [(rows[~np.isin(rows, judged)], values) for rows, values in lessons]


def _learn(
    lessons: Sequence[tuple[np.ndarray, Array]],
    targets_NC: Array,
    kinds: Sequence[TaskKind],
    groups: Sequence[ClassGroup],
) -> Calibration:
    every = np.concatenate([rows for rows, _ in lessons])
    labels = targets_NC[every]
    predictions = np.concatenate([values[rows] for rows, values in lessons])
    found = []
    for kind, labels_N, predictions_N in zip(kinds, labels.T, predictions.T, strict=True):
        known_N = ~np.isnan(labels_N) & np.isfinite(predictions_N)
        labels_N, predictions_N, count = labels_N[known_N], predictions_N[known_N], len(np.unique(every[known_N]))
        if kind == "regression":
            found.append(TargetCalibration(conformal_half_width(labels_N - predictions_N), molecules=count))
        elif kind == "multiclass":
            found.append(TargetCalibration(molecules=count))
        else:
            found.append(_learn_classes(labels_N, predictions_N, count))
    learned = [fit_temperature(group, labels, predictions) for group in groups]
    return Calibration(tuple(found), temperatures=tuple(learned))


def _learn_classes(labels_N: np.ndarray, predictions_N: np.ndarray, count: int) -> TargetCalibration:
    """Scaling by Platt, or by an isotonic line where that is better out of fold; then the sets."""
    slope, intercept = fit_platt(labels_N, predictions_N) or (None, None)
    learned = TargetCalibration(slope=slope, intercept=intercept, molecules=count)
    if slope is not None and isotonic_is_better(labels_N, predictions_N):
        knots = fit_isotonic(labels_N, predictions_N)
        if knots is not None:
            learned = replace(learned, knots_x=knots[0], knots_y=knots[1])
    thresholds = set_thresholds(labels_N.astype(int), both_classes(learned.scaled(predictions_N)), COVERAGE)
    return replace(learned, set_thresholds=thresholds)


def both_classes(probabilities_N: Float[np.ndarray, "molecules"]) -> Float[np.ndarray, "molecules classes"]:
    """Probabilities of class 0 and class 1."""
    return np.stack([1 - probabilities_N, probabilities_N], axis=1)


def _judge(
    tests: Sequence[tuple[np.ndarray, Array, Calibration]],
    targets_NC: Array,
    column: int,
    final: TargetCalibration,
) -> TargetCalibration:
    """`final` with what each fold's own calibration reached on its test part."""
    inside: list[np.ndarray] = []
    raw: list[np.ndarray] = []
    held: list[np.ndarray] = []
    single: list[np.ndarray] = []
    for rows, values_NC, learned in tests:
        own = learned.targets[column]
        labels_N, predictions_N = targets_NC[rows, column], values_NC[rows, column]
        known_N = ~np.isnan(labels_N) & np.isfinite(predictions_N)
        labels_N, predictions_N = labels_N[known_N], predictions_N[known_N]
        if own.half_width is not None:
            inside.append(np.abs(labels_N - predictions_N) <= own.half_width)
        elif own.slope is not None:
            raw.append((predictions_N - labels_N) ** 2)
            inside.append((own.scaled(predictions_N) - labels_N) ** 2)
        if own.set_thresholds is not None:
            members_NK = in_set(both_classes(own.scaled(predictions_N)), own.set_thresholds)
            held.append(members_NK[np.arange(len(labels_N)), labels_N.astype(int)])
            single.append(members_NK.sum(axis=1) == 1)
    if held and sum(map(len, held)):
        coverage, share = float(np.concatenate(held).mean()), float(np.concatenate(single).mean())
        final = replace(final, set_coverage=coverage, set_single=share)
    judged = np.concatenate(inside) if inside else np.zeros(0)
    if not len(judged):
        return final
    before = float(np.concatenate(raw).mean()) if raw else None
    return replace(final, judged_on=len(judged), before=before, measured=float(judged.mean()))


def sentences(calibration: Calibration, names: Sequence[str], kinds: Sequence[TaskKind], source: str) -> list[str]:
    """What was learned from the molecules of `source` and how it did, one line per target."""
    found = []
    for name, kind, one in zip(names, kinds, calibration.targets, strict=True):
        if kind == "multiclass":
            continue
        judged = one.judged_on and one.measured is not None
        if one.half_width is not None:
            line = f"{name}: interval ± {one.half_width:.4g}, made for {calibration.coverage:.0%} coverage"
            line += f", learned from {one.molecules} molecules of {source}"
            line += f"; measured coverage {one.measured:.1%} of {one.judged_on} test molecules" if judged else ""
        elif one.slope is not None:
            how = "Platt" if one.knots_x is None else "isotonic"
            line = f"{name}: probabilities calibrated ({how}) on {one.molecules} molecules of {source}"
            brier = "; Brier score of the test part"
            line += f"{brier} {one.before:.4f} before, {one.measured:.4f} after" if judged else ""
        else:
            what = "no interval" if kind == "regression" else "probabilities as the network gives them"
            line = f"{name}: {what}, because {one.molecules} held-out labels are too few"
        found.append(line)
        if one.set_thresholds is not None and one.set_coverage is not None:
            made = f"sets of classes made for {calibration.coverage:.0%} coverage of each class"
            held = f"{one.set_coverage:.1%} of the test molecules have theirs in the set"
            found.append(f"{name}: {made}; {held}, {one.set_single:.0%} of the sets name one class")
    return [*found, *(one.sentence(source) for one in calibration.temperatures)]


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
