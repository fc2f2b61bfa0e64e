"""How sure a model is, learned from molecules it was not trained on: conformal intervals and Platt scaling.

Regression: split-conformal intervals (Lei et al., JASA 113 (2018) 1094, Algorithm 2): prediction ± the k-th smallest
absolute residual, k = ⌈(n + 1) · coverage⌉, of one width per target or wider where the members disagree
(`interval_width.py`). For exchangeable molecules such an interval holds the measured value with at least that
probability; molecules of another kind are not exchangeable.

Classification: p → σ(a · logit p + b), fitted with Platt's smoothed labels (Platt 1999). As a > 0 no ranking changes.
With enough molecules an isotonic line (`isotonic.py`) takes its place where its log loss is smaller out of fold.
Sets of classes: `conformal_sets.py`.
Several classes: a temperature per target, see `temperature.py`, and sets, see `group_sets.py`.

With one partition, both learn from the validation part, which also chose the epoch, so they are a little optimistic.
With folds they learn from each fold's test part, predicted by members that never saw it. Either way they are judged on
molecules they did not learn from. Legend: N molecules, C targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dnd.chemistry.splits import Split
from dnd.predictor.metrics import ClassGroup, TaskKind, normalised
from dnd.predictor.transforms import AS_IT_IS, Transform
from dnd.predictor.uncertainty.calibration import Array, Calibration, TargetCalibration, both_classes
from dnd.predictor.uncertainty.class_sets import fit_group_sets, in_set, judge_group_sets, set_thresholds
from dnd.predictor.uncertainty.intervals import COVERAGE, fit_width, mixing_weights
from dnd.predictor.uncertainty.probabilities import (
    apply_temperature,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    isotonic_is_better,
    judge_temperature,
)

Folds = Sequence[tuple[Split, Array]]


@dataclass(frozen=True)
class Lesson:
    """What a partition teaches or is judged by.

    Attributes:
        rows: molecules that teach.
        values_NC: predictions for all molecules.
        residuals_NC: their absolute errors, in the scale of each target's transform.
        partition: of the molecules.
        mixed: its validation part weighs as much as its training part, for the intervals.
        spread_NC: of the members for all molecules; None = widths do not go with it.
    """

    rows: np.ndarray
    values_NC: Array
    residuals_NC: Array
    partition: Split
    mixed: bool = False
    spread_NC: Array | None = None


def calibrate(
    folds: Folds,
    targets_NC: Array,
    kinds: Sequence[TaskKind],
    teachers: Sequence[np.ndarray] | None = None,
    *,
    groups: Sequence[ClassGroup] = (),
    transforms: Sequence[Transform] = (),
    spread_NC: Array | None = None,
    identities: Sequence[str] = (),
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
        transforms: of the targets; empty = none.
        spread_NC: of a single partition's members, for all molecules as the model will have it for new ones; the
            intervals may then go with it, but for targets with a transform. None = one width per target.
        identities: of all molecules, such as canonical SMILES; empty = every row is a molecule of its own.
    """
    folds = [(part, normalised(values, groups)) for part, values in folds]
    single, given = len(folds) == 1, teachers is not None
    if teachers is None:
        teachers = [part.valid if single else part.test for part, _ in folds]
    maps = list(transforms) or [AS_IT_IS] * len(kinds)
    residuals = [
        np.stack([_residuals(*columns) for columns in zip(maps, targets_NC.T, values.T, strict=True)], axis=1)
        for _, values in folds
    ]
    if spread_NC is not None:
        spread_NC = np.where([own.name == "none" for own in maps], spread_NC, np.nan)
    lessons = [
        Lesson(rows, values, residuals_NC, part, single and given, spread_NC if single else None)
        for rows, (part, values), residuals_NC in zip(teachers, folds, residuals, strict=True)
    ]
    final = _learn(lessons, targets_NC, kinds, groups, identities)
    own = [
        final if single else _learn(_without(lessons, part.test), targets_NC, kinds, groups, identities)
        for part, _ in folds
    ]
    tests = [(lesson, one) for lesson, one in zip(lessons, own, strict=True)]
    judged = [_judge(tests, targets_NC, column, target) for column, target in enumerate(final.targets)]
    calibrated = [(part, one.scaled(values)) for (part, values), one in zip(folds, own, strict=True)]
    temperatures, sets = [], []
    for place in range(len(groups)):
        before = [(part.test, values, one.temperatures[place]) for (part, values), one in zip(folds, own, strict=True)]
        after = [(part.test, values, one.sets[place]) for (part, values), one in zip(calibrated, own, strict=True)]
        temperatures.append(judge_temperature(final.temperatures[place], targets_NC, before))
        sets.append(judge_group_sets(final.sets[place], targets_NC, after))
    return calibrated, Calibration(tuple(judged), temperatures=tuple(temperatures), sets=tuple(sets))


def _residuals(transform: Transform, labels_N: np.ndarray, predictions_N: np.ndarray) -> np.ndarray:
    """Absolute errors in the scale of the transform."""
    return np.asarray(np.abs(transform.forward(labels_N) - transform.forward(predictions_N)))


def _without(lessons: Sequence[Lesson], judged: np.ndarray) -> list[Lesson]:
    return [replace(one, rows=one.rows[~np.isin(one.rows, judged)]) for one in lessons]


def _learn(
    lessons: Sequence[Lesson],
    targets_NC: Array,
    kinds: Sequence[TaskKind],
    groups: Sequence[ClassGroup],
    identities: Sequence[str],
) -> Calibration:
    every = np.concatenate([one.rows for one in lessons])
    labels = targets_NC[every]
    predictions = np.concatenate([one.values_NC[one.rows] for one in lessons])
    found = []
    for column, kind in enumerate(kinds):
        labels_N, predictions_N = labels[:, column], predictions[:, column]
        known_N = ~np.isnan(labels_N) & np.isfinite(predictions_N)
        count = len(np.unique(every[known_N]))
        if kind == "regression":
            half_width, floor = _learn_width(lessons, column)
            found.append(TargetCalibration(half_width, molecules=count, spread_floor=floor))
        elif kind == "multiclass":
            found.append(TargetCalibration(molecules=count))
        else:
            names = [identities[row] for row in every[known_N]] if identities else ()
            found.append(_learn_classes(labels_N[known_N], predictions_N[known_N], count, names))
    temperatures = tuple(fit_temperature(group, labels, predictions) for group in groups)
    predictions = apply_temperature(predictions, temperatures)
    sets = tuple(fit_group_sets(group, labels, predictions) for group in groups)
    return Calibration(tuple(found), temperatures=temperatures, sets=sets)


def _learn_width(lessons: Sequence[Lesson], column: int) -> tuple[float | None, float | None]:
    """See `fit_width`; several lessons count alike, and a single one may mix its parts or know the spread."""
    residuals = [one.residuals_NC[one.rows, column] for one in lessons]
    known = [np.isfinite(own_N) for own_N in residuals]
    if len(lessons) > 1:
        return fit_width(np.concatenate([own_N[known_N] for own_N, known_N in zip(residuals, known, strict=True)]))
    (one,), (residuals_N,), (known_N,) = lessons, residuals, known
    is_valid_N = np.isin(one.rows, one.partition.valid)[known_N]
    return fit_width(
        residuals_N[known_N],
        mixing_weights(is_valid_N) if one.mixed else None,
        None if one.spread_NC is None else one.spread_NC[one.rows, column][known_N],
    )


def _learn_classes(
    labels_N: np.ndarray, predictions_N: np.ndarray, count: int, identities: Sequence[str]
) -> TargetCalibration:
    """Scaling by Platt, or by an isotonic line where that is better out of fold; then the sets."""
    slope, intercept = fit_platt(labels_N, predictions_N) or (None, None)
    learned = TargetCalibration(slope=slope, intercept=intercept, molecules=count)
    if slope is not None and isotonic_is_better(labels_N, predictions_N, identities):
        knots = fit_isotonic(labels_N, predictions_N)
        if knots is not None:
            learned = replace(learned, knots_x=knots[0], knots_y=knots[1])
    thresholds = set_thresholds(labels_N.astype(int), both_classes(learned.scaled(predictions_N)), COVERAGE)
    return replace(learned, set_thresholds=thresholds)


def _judge(
    tests: Sequence[tuple[Lesson, Calibration]], targets_NC: Array, column: int, final: TargetCalibration
) -> TargetCalibration:
    """`final` with what each fold's own calibration reached on its test part."""
    inside: list[np.ndarray] = []
    raw: list[np.ndarray] = []
    held: list[np.ndarray] = []
    single: list[np.ndarray] = []
    for lesson, learned in tests:
        own, rows = learned.targets[column], lesson.partition.test
        rows = rows[~np.isnan(targets_NC[rows, column]) & np.isfinite(lesson.values_NC[rows, column])]
        labels_N, predictions_N = targets_NC[rows, column], lesson.values_NC[rows, column]
        if own.half_width is not None:
            unit: float | np.ndarray = 1.0
            if own.spread_floor is not None and lesson.spread_NC is not None:
                unit = lesson.spread_NC[rows, column] + own.spread_floor
            inside.append(lesson.residuals_NC[rows, column] <= own.half_width * unit)
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
