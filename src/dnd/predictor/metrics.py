"""Metrics as OGB's evaluator computes them: per target over its labelled molecules, then the plain mean.

Beside them their floor: how far repeated measurements of one molecule are apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from dnd.common.config import look_up
from dnd.predictor.targets import ClassGroup, Target, TaskKind, Weights, groups_of, on_learned_scale

# How far repeated measurements of one molecule are apart.
#
# The repeat deviation of a target is pooled over the molecules with several values,
#
# .. math:: s = \sqrt{\frac{\sum_i \sum_j (y_{ij} - \bar y_i)^2}{\sum_i (n_i - 1)}}
#
# It is the floor of the error: no model can be nearer to a single measurement than a second one is. A target that is
# learned as its logarithm has it as a factor, :math:`10^s` of decimal logarithms.


@dataclass(frozen=True)
class Repeats:
    """What the repeated measurements of one target say.

    Attributes:
        target: as the user knows it.
        molecules: with two labels or more.
        rows: number of rows of these molecules.
        deviation: pooled; a factor where `is_factor`; None for classes.
        is_factor: whether the logarithm is learned.
        unit: unit of `deviation`.
        contradicting: molecules of several classes at once.
        first: the first of these.
    """

    target: str
    molecules: int
    rows: int
    deviation: float | None = None
    is_factor: bool = False
    unit: str = ""
    contradicting: int = 0
    first: str = ""

    def sentence(self) -> str:
        """In words."""
        many = "molecule was" if self.molecules == 1 else "molecules were"
        start = f"{self.target}: {self.molecules} {many} measured more than once ({self.rows} rows)"
        if self.deviation is None:
            if not self.contradicting:
                return f"{start}, each with one class only."
            said = "contradicts itself" if self.contradicting == 1 else "contradict themselves"
            return f"{start}; {self.contradicting} {said}, such as {self.first[:60]}."
        value = significant(self.deviation)
        said = f"a factor of {value}" if self.is_factor else f"{value} {self.unit}".rstrip()
        return f"{start}; repeat deviation {said}, the floor of the error."

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `metrics.json`, the sentence with them."""
        return {**asdict(self), "sentence": self.sentence()}


def pooled_deviation(values: Sequence[Float[np.ndarray, "_rows"]]) -> float:
    """The pooled deviation `s` of the values of several molecules, two or more of each."""
    squares = sum(float(((own - own.mean()) ** 2).sum()) for own in values)
    return float(np.sqrt(squares / sum(len(own) - 1 for own in values)))


# ROC-AUC and average precision of one target, as scikit-learn defines them.
#
# With hundreds of targets scikit-learn's checks of its arguments, some milliseconds a call, would take as long as the
# training. P positives, Q negatives; :math:`t_k, f_k` are the positives and negatives with one of the k largest
# distinct scores.
#
# .. math:: \mathrm{AUC} = \frac{1}{PQ} \sum_k (f_k - f_{k-1}) \frac{t_k + t_{k-1}}{2}, \quad
#     \mathrm{AP} = \sum_k \frac{t_k - t_{k-1}}{P} \cdot \frac{t_k}{t_k + f_k}
#
# Where molecules have weights, sums of weights take the place of numbers of molecules, in all that follows.


def roc_auc(
    labels_B: Float[np.ndarray, "labels"], scores_B: Float[np.ndarray, "labels"], weight_B: Weights = None
) -> float:
    """Probability that a positive has the larger score, ties counted half; both classes must occur."""
    true, false = _counts(labels_B, scores_B, weight_B)
    area = np.sum(np.diff(false) * (true[1:] + true[:-1])) / 2
    return float(area / (true[-1] * false[-1]))


def average_precision(
    labels_B: Float[np.ndarray, "labels"], scores_B: Float[np.ndarray, "labels"], weight_B: Weights = None
) -> float:
    """Precision at each distinct score, weighted by the recall it adds; there must be a positive."""
    true, false = _counts(labels_B, scores_B, weight_B)
    return float(np.sum(np.diff(true) * true[1:] / (true[1:] + false[1:])) / true[-1])


def _counts(
    labels_B: np.ndarray, scores_B: np.ndarray, weight_B: Weights
) -> tuple[Num[np.ndarray, "steps"], Num[np.ndarray, "steps"]]:
    """t and f for k = 0, 1, ….

    Raises:
        ValueError: a score is not finite.
    """
    if not np.isfinite(scores_B).all():
        raise ValueError("scores to be ranked are not finite")
    order = np.argsort(-scores_B, kind="stable")
    last_of_score = np.append(np.flatnonzero(np.diff(scores_B[order])), len(order) - 1)
    positive = labels_B[order] == 1
    if weight_B is None:
        true = np.cumsum(positive)[last_of_score]
        return np.append(0, true), np.append(0, 1 + last_of_score - true)
    own = weight_B[order]
    true, false = (np.cumsum(np.where(which, own, 0.0))[last_of_score] for which in (positive, ~positive))
    return np.append(0.0, true), np.append(0.0, false)


# The metrics of a target of several classes.
#
# The metrics are equal to scikit-learn's where that defines them.
#


MULTICLASS_METRICS = ("balanced_accuracy", "accuracy", "macro_f1", "log_loss", "rocauc_ovr")
ClassArray = Float[np.ndarray, "molecules classes"]


def one_hot(codes_B: Float[np.ndarray, "molecules"], count: int) -> Float[np.ndarray, "molecules classes"]:
    """0 and 1 per class; a row of NaN where the code is NaN."""
    found: np.ndarray = (codes_B[:, None] == np.arange(count)).astype(np.float64)
    found[np.isnan(codes_B)] = math.nan
    return found


def class_scores(
    targets_BK: ClassArray, probabilities_BK: ClassArray, weight_B: Weights = None
) -> dict[str, float | None]:
    r"""All metrics of one target; None if no molecule has a label.

    Balanced accuracy is the mean recall of the classes that occur; macro F1 the mean of
    :math:`2 TP / (2 TP + FP + FN)` over the classes that occur or are predicted; log loss the mean of
    :math:`-\log p` of the true class; `rocauc_ovr` the mean ROC-AUC of each class against the rest, over the classes
    that occur without being all.

    Args:
        targets_BK: 0 and 1, a row of NaN = missing.
        probabilities_BK: rows that sum to 1.
        weight_B: weight of each molecule; None = 1.
    """
    known_B = ~np.isnan(targets_BK).any(axis=1)
    if not known_B.any():
        return dict.fromkeys(MULTICLASS_METRICS)
    truth_BK, probabilities_BK = targets_BK[known_B] > 0, probabilities_BK[known_B]
    own_B = None if weight_B is None else weight_B[known_B]
    confusion_KK = confusion(truth_BK.argmax(axis=1), probabilities_BK.argmax(axis=1), truth_BK.shape[1], own_B)
    hits_K, true_K, called_K = np.diag(confusion_KK), confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    occurs_K, counts_K = true_K > 0, true_K + called_K
    likelihood_B = probabilities_BK[truth_BK].clip(np.finfo(np.float64).eps, 1.0)
    return {
        "balanced_accuracy": float((hits_K[occurs_K] / true_K[occurs_K]).mean()),
        "accuracy": float(hits_K.sum() / true_K.sum()),
        "macro_f1": float((2 * hits_K[counts_K > 0] / counts_K[counts_K > 0]).mean()),
        "log_loss": float(-np.average(np.log(likelihood_B), weights=own_B)),
        "rocauc_ovr": _one_against_rest(truth_BK, probabilities_BK, own_B),
    }


def confusion(true_B: np.ndarray, called_B: np.ndarray, count: int, weight_B: Weights = None) -> np.ndarray:
    """`(K, K)` counts, or sums of weights: row = true class, column = predicted class."""
    return np.bincount(true_B * count + called_B, weight_B, minlength=count * count).reshape(count, count)


def _one_against_rest(truth_BK: np.ndarray, probabilities_BK: np.ndarray, weight_B: Weights) -> float | None:
    values = [
        roc_auc(truth_B.astype(np.float64), scores_B, weight_B)
        for truth_B, scores_B in zip(truth_BK.T, probabilities_BK.T, strict=True)
        if 0 < truth_B.sum() < len(truth_B)
    ]
    return float(np.mean(values)) if values and math.isfinite(sum(values)) else None


# Metrics as OGB's evaluator computes them: per target over its labelled molecules, then the plain mean.
#
# All molecules of a part of the data are judged at once.


Array = Float[np.ndarray, "molecules targets"]

REGRESSION_METRICS = ("rmse", "mae", "r2")
CLASSIFICATION_METRICS = ("rocauc", "ap")
LARGER_IS_BETTER = frozenset({"r2", *CLASSIFICATION_METRICS, *MULTICLASS_METRICS} - {"log_loss"})
RAW = "_raw"  # at the end of a metric's name: in the unit of a target that is learned, and judged, through a transform
RAW_METRICS = tuple(f"{name}{RAW}" for name in REGRESSION_METRICS)


@dataclass(frozen=True)
class Score:
    """One metric of one part of the data.

    Attributes:
        value: mean over the counted targets; None when none could be counted.
        per_target: each target's value, None where it was skipped.
        skipped: number of targets with too few labels or a single class.
    """

    value: float | None
    per_target: tuple[float | None, ...]
    skipped: int


def score(metric: str, targets_BC: Array, predictions_BC: Array, weight_B: Weights = None) -> Score:
    """`metric` over all targets.

    Args:
        metric: `rmse`, `mae`, `r2`, `rocauc` or `ap`.
        targets_BC: NaN = missing; 0 and 1 for the class metrics.
        predictions_BC: values, or scores that grow with the probability of class 1.
        weight_B: weight of each molecule; None = 1.
    """
    is_class_metric = metric in CLASSIFICATION_METRICS
    function = look_up(_METRICS, metric, "metric")
    values: list[float | None] = []
    for target_B, prediction_B in zip(targets_BC.T, predictions_BC.T, strict=True):
        known_B = ~np.isnan(target_B)
        countable = len(np.unique(target_B[known_B])) == 2 if is_class_metric else known_B.any()
        own_B = None if weight_B is None else weight_B[known_B]
        value = float(function(target_B[known_B], prediction_B[known_B], own_B)) if countable else math.nan
        values.append(value if math.isfinite(value) else None)
    counted = [value for value in values if value is not None]
    mean = float(np.mean(counted)) if counted else None
    return Score(mean, tuple(values), len(values) - len(counted))


def scores(kind: TaskKind, targets_BC: Array, predictions_BC: Array, weight_B: Weights = None) -> dict[str, Score]:
    """All metrics of a task kind, the main one first."""
    names = REGRESSION_METRICS if kind == "regression" else CLASSIFICATION_METRICS
    return {name: score(name, targets_BC, predictions_BC, weight_B) for name in names}


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
    weight_B: Weights = None,
) -> dict[str, Any]:
    """`summary` of each target by the metrics of its kind; a metric's mean is over the targets of that kind.

    Args:
        names: names of the columns.
        kinds: tasks of the columns.
        targets_BC: NaN = missing.
        predictions_BC: values, or probabilities that sum to 1 in each group.
        groups: the columns that are the classes of one target; it has one entry, by its own name.
        weight_B: weight of each molecule; None = 1.
    """
    means: dict[str, Any] = {}
    targets: dict[str, Any] = {}
    for kind in sorted(set(kinds) - {"multiclass"}, reverse=True):
        columns = [column for column, own in enumerate(kinds) if own == kind]
        found = scores(kind, targets_BC[:, columns], predictions_BC[:, columns], weight_B)
        part = summary([names[column] for column in columns], found)
        targets |= part.pop("targets")
        part["skipped_targets"] += means.pop("skipped_targets", 0)
        means |= part
    of_group = {group.first: group for group in groups}
    for group in groups:
        targets[group.name] = class_scores(targets_BC[:, group.span], predictions_BC[:, group.span], weight_B)
    if groups:
        means.setdefault("skipped_targets", 0)
        means["skipped_targets"] += sum(targets[group.name]["accuracy"] is None for group in groups)
        means |= {metric: _mean(targets[group.name][metric] for group in groups) for metric in MULTICLASS_METRICS}
    shown = [of_group[column].name if column in of_group else name for column, name in enumerate(names)]
    return {**means, "targets": {name: targets[name] for name in shown if name in targets}}


def with_prediction(labels_BC: Array, predictions_BC: Array) -> Array:
    """The labels that can be judged: NaN where there is no prediction, as for what a model had to leave out."""
    return np.where(np.isfinite(predictions_BC), labels_BC, np.nan)


def judge_targets(
    targets: Sequence[Target],
    labels_BC: Float[np.ndarray, "molecules targets"],
    predictions_BC: Float[np.ndarray, "molecules targets"],
    weight_B: Weights = None,
) -> dict[str, Any]:
    """`judge` on the learned scale, and `rmse_raw`, `mae_raw`, `r2_raw` in the unit of targets that have a transform.

    An error of a Ki of 10 nM and one of a Ki of 1 mM are the same factor, but the second alone would decide a mean of
    errors in nM: a target that is learned as its logarithm is evaluated by factors.

    Args:
        targets: targets of the columns.
        labels_BC: in their units; NaN = missing.
        predictions_BC: predictions in their units, or probabilities.
        weight_B: weight of each molecule; None = 1.
    """
    names, kinds, groups = [one.name for one in targets], [one.kind for one in targets], groups_of(targets)
    scaled_BC = on_learned_scale(targets, labels_BC)
    found = judge(names, kinds, scaled_BC, on_learned_scale(targets, predictions_BC), groups, weight_B)
    mapped = [column for column, target in enumerate(targets) if target.transform.name != "none"]
    if mapped:
        own = [names[column] for column in mapped]
        own_kinds = [kinds[column] for column in mapped]
        raw = judge(own, own_kinds, labels_BC[:, mapped], predictions_BC[:, mapped], weight_B=weight_B)
        found |= {f"{metric}{RAW}": raw[metric] for metric in REGRESSION_METRICS}
        for name in own:
            found["targets"][name] |= {f"{metric}{RAW}": raw["targets"][name][metric] for metric in REGRESSION_METRICS}
    return found


SUSPICIOUS = 0.99
"""Rank correlation from which two columns are one in another unit, or one was computed from the other."""
_FEWEST_ROWS = 20


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation over rows with both values; 0 for fewer than 20 rows, or if one does not vary."""
    from scipy import stats  # a slow import that no prediction needs

    known = ~np.isnan(first) & ~np.isnan(second)
    first, second = first[known], second[known]
    if len(first) < _FEWEST_ROWS or min(len(np.unique(first)), len(np.unique(second))) < 2:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)


def significant(value: float | int | None) -> str:
    """A number with three significant digits, as in every table: `0.712`, `12.3`, `6310`; `-` for None.

    Numbers below 0.0001 and from a million on have an exponent.
    """
    if value is None or not math.isfinite(value):
        return "-"
    rounded = float(f"{value:.3g}")
    if rounded == 0:
        return "0"
    size = math.floor(math.log10(abs(rounded)))
    if not -4 <= size < 6:
        return f"{rounded:.3g}"
    return f"{rounded:.{max(0, 2 - size)}f}"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _of_sklearn(name: str) -> Callable[[np.ndarray, np.ndarray, Weights], float]:
    def metric(targets: np.ndarray, predictions: np.ndarray, weights: Weights) -> float:
        # Half of the time that a first prediction takes after torch would go into this import, and it needs no metric.
        from sklearn import metrics

        return float(getattr(metrics, name)(targets, predictions, sample_weight=weights))

    return metric


def _r2(targets: np.ndarray, predictions: np.ndarray, weights: Weights) -> float:
    constant = len(targets) < 2 or np.ptp(targets) == 0
    return math.nan if constant else _of_sklearn("r2_score")(targets, predictions, weights)


_METRICS: dict[str, Callable[[np.ndarray, np.ndarray, Weights], float]] = {
    "rmse": _of_sklearn("root_mean_squared_error"),
    "mae": _of_sklearn("mean_absolute_error"),
    "r2": _r2,
    "rocauc": roc_auc,
    "ap": average_precision,
}
