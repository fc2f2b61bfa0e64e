"""Metrics as OGB's evaluator computes them: per target over its labelled molecules, then the plain mean.

Legend: B molecules of one part of the data, all at once; C targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dnd.common.registry import look_up
from dnd.finetuning.multiclass import MULTICLASS_METRICS, ClassGroup, class_scores
from dnd.finetuning.ranking import average_precision, roc_auc

TaskKind = Literal["regression", "classification", "multiclass"]
Array = Float[np.ndarray, "molecules targets"]

REGRESSION_METRICS = ("rmse", "mae", "r2")
CLASSIFICATION_METRICS = ("rocauc", "ap")
LARGER_IS_BETTER = frozenset({"r2", *CLASSIFICATION_METRICS, *MULTICLASS_METRICS} - {"log_loss"})


@dataclass(frozen=True)
class Score:
    """One metric of one part of the data.

    Attributes:
        value: mean over the counted targets; None when none could be counted.
        per_target: each target's value, None where it was skipped.
        skipped: how many targets had too few labels or a single class.
    """

    value: float | None
    per_target: tuple[float | None, ...]
    skipped: int


def score(metric: str, targets_BC: Array, predictions_BC: Array) -> Score:
    """`metric` over all targets.

    Args:
        metric: `rmse`, `mae`, `r2`, `rocauc` or `ap`.
        targets_BC: NaN = missing; 0 and 1 for the class metrics.
        predictions_BC: values, or scores that grow with the probability of class 1.
    """
    is_class_metric = metric in CLASSIFICATION_METRICS
    function = look_up(_METRICS, metric, "metric")
    values: list[float | None] = []
    for target_B, prediction_B in zip(targets_BC.T, predictions_BC.T, strict=True):
        known_B = ~np.isnan(target_B)
        countable = len(np.unique(target_B[known_B])) == 2 if is_class_metric else known_B.any()
        value = float(function(target_B[known_B], prediction_B[known_B])) if countable else math.nan
        values.append(value if math.isfinite(value) else None)
    counted = [value for value in values if value is not None]
    mean = float(np.mean(counted)) if counted else None
    return Score(mean, tuple(values), len(values) - len(counted))


def scores(kind: TaskKind, targets_BC: Array, predictions_BC: Array) -> dict[str, Score]:
    """All metrics of a task kind, the main one first."""
    names = REGRESSION_METRICS if kind == "regression" else CLASSIFICATION_METRICS
    return {name: score(name, targets_BC, predictions_BC) for name in names}


def summary(names: Sequence[str], found: dict[str, Score]) -> dict[str, Any]:
    """Scores as plain values for `metrics.json`: the means, and each target's own under `targets`."""
    targets = {
        name: {metric: value.per_target[column] for metric, value in found.items()} for column, name in enumerate(names)
    }
    means: dict[str, Any] = {metric: value.value for metric, value in found.items()}
    return {**means, "skipped_targets": next(iter(found.values())).skipped, "targets": targets}


def metric_names(kinds: Sequence[TaskKind]) -> tuple[str, ...]:
    """Metrics of the kinds that occur, each kind's main one first."""
    values: tuple[str, ...] = REGRESSION_METRICS if "regression" in kinds else ()
    values += CLASSIFICATION_METRICS if "classification" in kinds else ()
    return values + (MULTICLASS_METRICS if "multiclass" in kinds else ())


def judge(
    names: Sequence[str],
    kinds: Sequence[TaskKind],
    targets_BC: Array,
    predictions_BC: Array,
    groups: Sequence[ClassGroup] = (),
) -> dict[str, Any]:
    """`summary` of each target by the metrics of its kind; a metric's mean is over the targets of that kind.

    Args:
        names: of the columns.
        kinds: of the columns.
        targets_BC: NaN = missing.
        predictions_BC: values, or probabilities that sum to 1 in each group.
        groups: the columns that are the classes of one target; it has one entry, by its own name.
    """
    means: dict[str, Any] = {}
    targets: dict[str, Any] = {}
    for kind in sorted(set(kinds) - {"multiclass"}, reverse=True):
        columns = [column for column, own in enumerate(kinds) if own == kind]
        found = scores(kind, targets_BC[:, columns], predictions_BC[:, columns])
        part = summary([names[column] for column in columns], found)
        targets |= part.pop("targets")
        part["skipped_targets"] += means.pop("skipped_targets", 0)
        means |= part
    of_group = {group.first: group for group in groups}
    for group in groups:
        targets[group.name] = class_scores(targets_BC[:, group.span], predictions_BC[:, group.span])
    if groups:
        means.setdefault("skipped_targets", 0)
        means["skipped_targets"] += sum(targets[group.name]["accuracy"] is None for group in groups)
        means |= {metric: _mean(targets[group.name][metric] for group in groups) for metric in MULTICLASS_METRICS}
    shown = [of_group[column].name if column in of_group else name for column, name in enumerate(names)]
    return {**means, "targets": {name: targets[name] for name in shown if name in targets}}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _of_sklearn(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    def metric(targets: np.ndarray, predictions: np.ndarray) -> float:
        # Half of the time that a first prediction takes after torch would go into this import, and it needs no metric.
        from sklearn import metrics

        return float(getattr(metrics, name)(targets, predictions))

    return metric


def _r2(targets: np.ndarray, predictions: np.ndarray) -> float:
    constant = len(targets) < 2 or np.ptp(targets) == 0
    return math.nan if constant else _of_sklearn("r2_score")(targets, predictions)


_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "rmse": _of_sklearn("root_mean_squared_error"),
    "mae": _of_sklearn("mean_absolute_error"),
    "r2": _r2,
    "rocauc": roc_auc,
    "ap": average_precision,
}
