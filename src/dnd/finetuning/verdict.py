"""How good a model is, beside what anyone can have without it, in words that can be quoted.

A model is compared with outside baselines only: the training mean, and random forests on counts and on descriptors.
Its own members are none: the luckiest of six members is ahead of their mean on most small test parts.

Both see the same test molecules, so what is resampled is the difference: molecules are drawn with replacement, all rows
of one together, and the metric of both is taken on each draw. The 95 % interval is that of the percentiles. With folds
it is the interval over folds, corrected for their overlap (`splits.half_width`). The model is better or worse than a
baseline where the interval leaves out 0, and level with it where it does not.

Source: Efron, Annals of Statistics 7 (1979) 1. The first draw is the part itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dnd.chemistry.splits import Split, rows_of_molecules
from dnd.common.compute import derive_seed
from dnd.common.log import counted
from dnd.finetuning.splits import TRAINING_PART, half_width
from dnd.predictor.metrics import LARGER_IS_BETTER, metric_names, significant
from dnd.predictor.targets import Target, groups_of, on_learned_scale

Array = Float[np.ndarray, "molecules targets"]
Draws = Float[np.ndarray, "draws molecules"]
Relation = Literal["better than", "level with", "worse than"]

MOST_DRAWS, FEWEST_DRAWS = 1000, 200
FEWEST_MOLECULES = 10  # fewer say nothing of others
_NUMBERS = 4_000_000  # of an array of draws
BASELINE_WORDS = {
    "mean": "the training mean",
    "random_forest_counts": "a random forest on counts",
    "random_forest_descriptors": "a random forest on descriptors",
}
METRIC_WORDS = {
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "rocauc": "ROC-AUC",
    "rocauc_ovr": "ROC-AUC, one against the rest",
    "ap": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "log_loss": "log loss",
}


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, which is missing where there is too little to resample."""

    value: float
    low: float | None = None
    high: float | None = None

    def words(self) -> str:
        """`0.712 (95 % interval 0.633 to 0.801)`."""
        interval = self.interval()
        return f"{significant(self.value)} ({interval})" if interval else significant(self.value)

    def interval(self) -> str:
        """`95 % interval 0.633 to 0.801`; empty where all draws are alike, as of a ROC-AUC of 1: they say nothing."""
        if self.low is None or self.high is None or self.low == self.high:
            return ""
        return f"95 % interval {significant(self.low)} to {significant(self.high)}"


@dataclass(frozen=True)
class Comparison:
    """The model beside one baseline on the test part.

    Attributes:
        baseline: its name in `metrics.json`.
        value: value of its metric.
        difference: the model's metric less that.
        relation: None where there are too few molecules to say.
    """

    baseline: str
    value: float
    difference: Estimate
    relation: Relation | None


@dataclass(frozen=True)
class Verdict:
    """How good the model is for one target, or for all of them together.

    Attributes:
        target: its name; empty = the mean over all targets.
        metric: named by the task; on the learned scale.
        own: the model's metric on the test part.
        typical: mean absolute error of a single target of values: a factor where its logarithm is learned, else in its
            unit.
        is_factor: whether `typical` is one.
        unit: unit of `typical`.
        molecules: distinct ones with a label in the test part.
        folds: test parts; 1 = a single one.
        comparisons: with each baseline.
    """

    target: str
    metric: str
    own: Estimate | None
    typical: Estimate | None
    is_factor: bool
    unit: str
    molecules: int
    folds: int
    comparisons: tuple[Comparison, ...]

    def sentence(self) -> str:
        """The verdict in words, as the command line, the card and the report have it."""
        start = f"{self.target}: " if self.target else "Mean of all targets: "
        if self.own is None:
            why = "no usable label" if not self.molecules else "too few labels, or one class only"
            return f"{start}the test part can't judge the model: {why}."
        metric = METRIC_WORDS[self.metric]
        where = counted(self.molecules, "test molecule") + (f" in {self.folds} folds" if self.folds > 1 else "")
        if self.typical is None:
            quoted = f"{metric} {self.own.words()}"
        elif self.is_factor:
            quoted = f"typical error a factor of {self.typical.words()}"
        else:
            value, _, interval = self.typical.words().partition(" ")
            quoted = " ".join(part for part in ("typical error", value, self.unit, interval) if part)
        return f"{start}{quoted} on {where}{self._compared(metric)}."

    def _compared(self, metric: str) -> str:
        if not self.comparisons:
            return "; not compared with a baseline"
        assert self.own is not None, "what has no value is not compared"
        by_relation: dict[str, list[str]] = {}
        for one in self.comparisons:
            name = BASELINE_WORDS.get(one.baseline, one.baseline.replace("_", " "))
            by_relation.setdefault(one.relation or "too few molecules to compare with", []).append(name)
        best = self._best()
        said = "; ".join(f"{relation} {_listed(names)}" for relation, names in by_relation.items())
        interval = best.difference.interval()
        name = BASELINE_WORDS.get(best.baseline, best.baseline.replace("_", " "))
        which = f" of {name}, the best of them" if len(self.comparisons) > 1 else ""
        return (
            f"; {said} ({metric} {significant(self.own.value)} against {significant(best.value)}{which}; "
            f"difference {', '.join(filter(None, [significant(best.difference.value), interval]))})"
        )

    def _best(self) -> Comparison:
        sign = -1.0 if self.metric in LARGER_IS_BETTER else 1.0
        return min(self.comparisons, key=lambda one: sign * one.value)

    def ranked(self) -> dict[str, Any]:
        """The members by their metric, the best first, without a verdict, as they are parts of the model."""
        sign = -1.0 if self.metric in LARGER_IS_BETTER else 1.0
        found = sorted(self.comparisons, key=lambda one: sign * one.value)
        members = [{"member": one.baseline, "value": one.value, "difference": asdict(one.difference)} for one in found]
        return {"target": self.target, "metric": self.metric, "molecules": self.molecules, "members": members}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `metrics.json`, the sentence with them."""
        comparisons = [asdict(one) for one in self.comparisons]
        return {**asdict(self), "comparisons": comparisons, "sentence": self.sentence()}


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """The verdicts of a finished model in words; older models have none."""
    return [one["sentence"] for one in metrics.get("verdicts", ())]


@dataclass(frozen=True)
class Judged:
    """What is judged: labels and, per fold, predictions of the model and of each baseline.

    Attributes:
        targets: targets of the columns.
        labels_BC: in raw units; NaN = missing.
        identities: identities of all molecules, such as canonical SMILES.
        folds: partitions and the model's predictions.
        baselines: name → predictions for each partition.
        learned: the parts that the model learned from.
    """

    targets: Sequence[Target]
    labels_BC: Array
    identities: Sequence[str]
    folds: Sequence[tuple[Split, Array]]
    baselines: Mapping[str, Sequence[Array]]
    learned: Sequence[str] = TRAINING_PART


def judge_beside_baselines(judged: Judged, *, per_target: bool) -> list[Verdict]:
    """One verdict, or with `per_target` one for each target as the user knows it."""
    groups = {group.first: group for group in groups_of(judged.targets)}
    own: list[tuple[str, list[int]]] = []
    for column, target in enumerate(judged.targets):
        if not target.group:
            own.append((target.name, [column]))
        elif column in groups:
            own.append((target.group, list(groups[column].columns)))
    if per_target or len(own) == 1:
        return [_verdict(judged, name, columns) for name, columns in own]
    return [_verdict(judged, "", list(range(len(judged.targets))))]


def _verdict(judged: Judged, name: str, columns: list[int]) -> Verdict:
    targets = [judged.targets[column] for column in columns]
    metric = metric_names([target.kind for target in targets])[0]
    scale = [_Scaled(judged, fold, columns) for fold in range(len(judged.folds))]
    molecules = len({judged.identities[row] for one in scale for row in one.rows})
    target = targets[0]
    single = len(targets) == 1 and target.kind == "regression"
    is_factor = single and target.transform.name == "log"
    single_fold = len(scale) == 1
    values = {system: [one.metric(metric, system) for one in scale] for system in ("", *judged.baselines)}
    # An error, and the logarithm of a factor, is at least 0; what is better when larger is a share.
    estimate = _estimate_of(values[""], scale, least=0.0, most=1.0 if metric in LARGER_IS_BETTER else math.inf)
    typical = None
    if single and estimate is not None:
        power = 10.0 if is_factor else None
        typical = _estimate_of([one.typical(target) for one in scale], scale, power, least=0.0)
    comparisons = []
    for system in judged.baselines if estimate is not None else ():
        pairs = [own - other for own, other in zip(values[""], values[system], strict=True)]
        difference, value = _estimate_of(pairs, scale), _mean(draws[0] for draws in values[system])
        if difference is not None and value is not None:
            said = difference if molecules >= FEWEST_MOLECULES else Estimate(difference.value)
            comparisons.append(Comparison(system, value, said, _relation(metric, said)))
    if single_fold and molecules < FEWEST_MOLECULES:
        estimate, typical = (one and Estimate(one.value) for one in (estimate, typical))
    unit = "" if is_factor else target.unit if single else ""
    return Verdict(name, metric, estimate, typical, is_factor, unit, molecules, len(scale), tuple(comparisons))


class _Scaled:
    """Test rows of one fold that everyone predicts, and their draws.

    Args:
        judged: everything.
        fold: its number.
        columns: columns of the targets.
    """

    def __init__(self, judged: Judged, fold: int, columns: list[int]) -> None:
        part, own_BC = judged.folds[fold]
        self.targets = [judged.targets[column] for column in columns]
        self.kind = self.targets[0].kind
        systems = {"": own_BC, **{name: values[fold] for name, values in judged.baselines.items()}}
        labels_BC = judged.labels_BC[part.test][:, columns]
        usable_B = ~np.isnan(on_learned_scale(self.targets, labels_BC)).all(axis=1)
        for values_BC in systems.values():
            usable_B &= np.isfinite(values_BC[part.test][:, columns]).all(axis=1)
        self.rows = part.test[usable_B]
        self.share = len(part.test) / max(1, sum(len(getattr(part, name)) for name in judged.learned))
        self.raw_BC = labels_BC[usable_B]
        self.predictions = {name: values[self.rows][:, columns] for name, values in systems.items()}
        own = [judged.identities[row] for row in self.rows]
        self.draws_JB = _draws(own) if len(judged.folds) == 1 else np.ones((1, len(own)))  # folds have their spread

    def metric(self, name: str, system: str) -> Float[np.ndarray, "draws"]:
        """Of each draw; NaN where it is not defined."""
        labels_BC, values_BC = (
            on_learned_scale(self.targets, values) for values in (self.raw_BC, self.predictions[system])
        )
        if name == "balanced_accuracy":
            return _balanced_accuracy(labels_BC, values_BC, self.draws_JB)
        of_one = _roc_auc if name == "rocauc" else _rmse
        pairs = zip(labels_BC.T, values_BC.T, strict=True)
        found = [of_one(labels_B, values_B, self.draws_JB) for labels_B, values_B in pairs]
        counted = [one for one in found if math.isfinite(one[0])]
        return np.asarray(np.mean(counted, axis=0)) if counted else np.full(len(self.draws_JB), np.nan)

    def typical(self, target: Target) -> Float[np.ndarray, "draws"]:
        """Mean absolute error: of decimal logarithms where those are learned, else in the target's unit."""
        labels_B, values_B = self.raw_BC[:, 0], self.predictions[""][:, 0]
        if target.transform.name == "log":
            labels_B, values_B = target.transform.judged(labels_B), target.transform.judged(values_B)
        return _mean_of(np.abs(values_B - labels_B), self.draws_JB)


def _draws(identities: Sequence[str]) -> Draws:
    """How often each row is drawn, the rows of a molecule together; the first line is 1 throughout."""
    molecules = rows_of_molecules(identities)
    count = min(MOST_DRAWS, max(FEWEST_DRAWS, _NUMBERS // max(1, len(identities))))
    generator = np.random.default_rng(derive_seed(0, "verdict draws"))
    place_B = np.empty(len(identities), np.int64)
    for place, rows in enumerate(molecules):
        place_B[rows] = place
    drawn = np.ones((count + 1, len(molecules)))
    if len(molecules):
        shares = np.full(len(molecules), 1 / len(molecules))
        drawn[1:] = generator.multinomial(len(molecules), shares, size=count)
    return drawn[:, place_B]


def _mean_of(values_B: np.ndarray, draws_JB: Draws) -> Float[np.ndarray, "draws"]:
    known_B = np.isfinite(values_B)
    total_J, weight_J = draws_JB[:, known_B] @ values_B[known_B], draws_JB[:, known_B].sum(axis=1)
    return _share(total_J, weight_J)


def _rmse(labels_B: np.ndarray, values_B: np.ndarray, draws_JB: Draws) -> Float[np.ndarray, "draws"]:
    return np.asarray(np.sqrt(_mean_of((values_B - labels_B) ** 2, draws_JB)))


def _roc_auc(labels_B: np.ndarray, scores_B: np.ndarray, draws_JB: Draws) -> Float[np.ndarray, "draws"]:
    """Chance that a positive has the larger score, ties counted half, of weighted molecules."""
    known = np.flatnonzero(~np.isnan(labels_B))
    order = known[np.argsort(scores_B[known], kind="stable")]
    if not len(order):
        return np.full(len(draws_JB), np.nan)
    starts = np.append(0, np.flatnonzero(np.diff(scores_B[order])) + 1)
    positive_JX = np.add.reduceat(draws_JB[:, order] * (labels_B[order] == 1), starts, axis=1)
    negative_JX = np.add.reduceat(draws_JB[:, order] * (labels_B[order] == 0), starts, axis=1)
    below_JX = np.cumsum(negative_JX, axis=1) - negative_JX
    pairs_J = positive_JX.sum(axis=1) * negative_JX.sum(axis=1)
    won_J = (positive_JX * (below_JX + negative_JX / 2)).sum(axis=1)
    return _share(won_J, pairs_J)


def _balanced_accuracy(labels_BK: np.ndarray, values_BK: np.ndarray, draws_JB: Draws) -> Float[np.ndarray, "draws"]:
    """Mean recall of the classes that occur in a draw."""
    known_B = ~np.isnan(labels_BK).any(axis=1)
    true_B, called_B = labels_BK[known_B].argmax(axis=1), values_BK[known_B].argmax(axis=1)
    draws_JB, classes = draws_JB[:, known_B], range(labels_BK.shape[1])
    occurs_JK = np.stack([draws_JB @ (true_B == one) for one in classes], axis=1)
    found_JK = np.stack([draws_JB @ ((true_B == one) & (called_B == one)) for one in classes], axis=1)
    recall_JK = np.divide(found_JK, occurs_JK, out=np.zeros_like(found_JK), where=occurs_JK > 0)
    count_J = (occurs_JK > 0).sum(axis=1)
    return _share(recall_JK.sum(axis=1), count_J)


def _share(part_J: np.ndarray, whole_J: np.ndarray) -> Float[np.ndarray, "draws"]:
    """NaN where the whole is 0."""
    found: np.ndarray = np.divide(part_J, whole_J, out=np.full(len(whole_J), np.nan), where=whole_J > 0)
    return found


def _estimate_of(
    draws: Sequence[Float[np.ndarray, "draws"]],
    scale: Sequence[_Scaled],
    power: float | None = None,
    *,
    least: float = -math.inf,
    most: float = math.inf,
) -> Estimate | None:
    """Of a single part by its draws, of folds by their spread; `power` undoes a logarithm at the end.

    The spread of few folds may reach beyond `least` and `most`, where the number can't be; the interval ends there.
    """
    undo = (lambda value: value) if power is None else (lambda value: float(power**value))
    if len(draws) > 1:
        values = [float(one[0]) for one in draws if math.isfinite(one[0])]
        if not values:
            return None
        half, mean = half_width(values, float(np.mean([one.share for one in scale]))), float(np.mean(values))
        ends = () if half is None else (undo(max(least, mean - half)), undo(min(most, mean + half)))
        return Estimate(undo(mean), *ends)
    (only,) = draws
    if not len(only) or not math.isfinite(only[0]):
        return None
    known = only[1:][np.isfinite(only[1:])]
    if len(known) < FEWEST_DRAWS // 2:
        return Estimate(undo(float(only[0])))
    low, high = np.percentile(known, [2.5, 97.5])
    return Estimate(undo(float(only[0])), undo(float(low)), undo(float(high)))


def _relation(metric: str, difference: Estimate) -> Relation | None:
    if difference.low is None or difference.high is None:
        return None
    if difference.low <= 0 <= difference.high:
        return "level with"
    is_better = (difference.value > 0) == (metric in LARGER_IS_BETTER)
    return "better than" if is_better else "worse than"


def _mean(values: Iterable[float]) -> float | None:
    known = [float(value) for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else None


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
