"""How good a model is, beside what anyone can have without it, in words that can be quoted.

A model is compared with outside baselines only: the training mean, and random forests on counts and on descriptors.
Its own members are none: the luckiest of six members is ahead of their mean on most small test parts.

Both see the same test molecules, so what is resampled is the difference: molecules are drawn with replacement, all rows
of one together, and the metric of both is taken on each draw. The 95 % interval is that of the percentiles. With folds
it is the interval over folds, corrected for their overlap (`splits.half_width`). The model is better or worse than a
baseline where the interval leaves out 0, and level with it where it does not.

Source: Efron, Annals of Statistics 7 (1979) 1. Legend: N rows, C columns, B draws; the first draw is the part itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dnd.chemistry.splits import Split, rows_of_molecules
from dnd.common.randomness import derive_seed
from dnd.finetuning.splits import half_width
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
METRIC_WORDS = {"rmse": "RMSE", "mae": "MAE", "rocauc": "ROC-AUC", "balanced_accuracy": "balanced accuracy"}


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, which is missing where there is too little to resample."""

    value: float
    low: float | None = None
    high: float | None = None

    def words(self) -> str:
        """`0.712 (95 % interval 0.633 to 0.801)`."""
        if self.low is None or self.high is None:
            return significant(self.value)
        return f"{significant(self.value)} (95 % interval {significant(self.low)} to {significant(self.high)})"


@dataclass(frozen=True)
class Comparison:
    """The model beside one baseline on the test part.

    Attributes:
        baseline: its name in `metrics.json`.
        value: of its metric.
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
        unit: of `typical`.
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
            why = "no label" if not self.molecules else "too few labels, or one class only"
            return f"{start}the test part can't judge the model: {why}."
        metric = METRIC_WORDS[self.metric]
        where = f"{self.molecules} test molecules" + (f" in {self.folds} folds" if self.folds > 1 else "")
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
        low, high = best.difference.low, best.difference.high
        interval = "" if low is None else f", 95 % interval {significant(low)} to {significant(high)}"
        name = BASELINE_WORDS.get(best.baseline, best.baseline.replace("_", " "))
        which = f" of {name}, the best of them" if len(self.comparisons) > 1 else ""
        return (
            f"; {said} ({metric} {significant(self.own.value)} against {significant(best.value)}{which}; "
            f"difference {significant(best.difference.value)}{interval})"
        )

    def _best(self) -> Comparison:
        sign = -1.0 if self.metric in LARGER_IS_BETTER else 1.0
        return min(self.comparisons, key=lambda one: sign * one.value)

    def ranked(self) -> dict[str, Any]:
        """The others by their metric, the best first, without a verdict: they are parts of what they stand beside."""
        sign = -1.0 if self.metric in LARGER_IS_BETTER else 1.0
        found = sorted(self.comparisons, key=lambda one: sign * one.value)
        members = [{"member": one.baseline, "value": one.value, "difference": asdict(one.difference)} for one in found]
        return {"target": self.target, "metric": self.metric, "molecules": self.molecules, "members": members}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `metrics.json`, the sentence with them."""
        comparisons = [asdict(one) for one in self.comparisons]
        return {**asdict(self), "comparisons": comparisons, "sentence": self.sentence()}


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """The verdicts of a finished model in words; models of before have none."""
    return [one["sentence"] for one in metrics.get("verdicts", ())]


@dataclass(frozen=True)
class Judged:
    """What is judged: labels and, per fold, predictions of the model and of each baseline.

    Attributes:
        targets: of the columns.
        labels_NC: in raw units; NaN = missing.
        identities: of all molecules, such as canonical SMILES.
        folds: partitions and the model's predictions.
        baselines: name → predictions for each partition.
    """

    targets: Sequence[Target]
    labels_NC: Array
    identities: Sequence[str]
    folds: Sequence[tuple[Split, Array]]
    baselines: Mapping[str, Sequence[Array]]


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
    estimate = _estimate_of(values[""], scale)
    typical = None
    if single and estimate is not None:
        typical = _estimate_of([one.typical(target) for one in scale], scale, power=10.0 if is_factor else None)
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
        columns: of the targets.
    """

    def __init__(self, judged: Judged, fold: int, columns: list[int]) -> None:
        part, own_NC = judged.folds[fold]
        self.targets = [judged.targets[column] for column in columns]
        self.kind = self.targets[0].kind
        systems = {"": own_NC, **{name: values[fold] for name, values in judged.baselines.items()}}
        labels_NC = judged.labels_NC[part.test][:, columns]
        usable_N = ~np.isnan(on_learned_scale(self.targets, labels_NC)).all(axis=1)
        for values_NC in systems.values():
            usable_N &= np.isfinite(values_NC[part.test][:, columns]).all(axis=1)
        self.rows = part.test[usable_N]
        self.share = len(part.test) / max(1, len(part.train))
        self.raw_NC = labels_NC[usable_N]
        self.predictions = {name: values[self.rows][:, columns] for name, values in systems.items()}
        self.draws_BN = _draws([judged.identities[row] for row in self.rows])

    def metric(self, name: str, system: str) -> Float[np.ndarray, "draws"]:
        """Of each draw; NaN where it is not defined."""
        labels_NC, values_NC = (
            on_learned_scale(self.targets, values) for values in (self.raw_NC, self.predictions[system])
        )
        if name == "balanced_accuracy":
            return _balanced_accuracy(labels_NC, values_NC, self.draws_BN)
        of_one = _roc_auc if name == "rocauc" else _rmse
        pairs = zip(labels_NC.T, values_NC.T, strict=True)
        found = [of_one(labels_N, values_N, self.draws_BN) for labels_N, values_N in pairs]
        counted = [one for one in found if math.isfinite(one[0])]
        return np.asarray(np.mean(counted, axis=0)) if counted else np.full(len(self.draws_BN), np.nan)

    def typical(self, target: Target) -> Float[np.ndarray, "draws"]:
        """Mean absolute error: of decimal logarithms where those are learned, else in the target's unit."""
        labels_N, values_N = self.raw_NC[:, 0], self.predictions[""][:, 0]
        if target.transform.name == "log":
            labels_N, values_N = target.transform.judged(labels_N), target.transform.judged(values_N)
        return _mean_of(np.abs(values_N - labels_N), self.draws_BN)


def _draws(identities: Sequence[str]) -> Draws:
    """How often each row is drawn, the rows of a molecule together; the first line is 1 throughout."""
    molecules = rows_of_molecules(identities)
    count = min(MOST_DRAWS, max(FEWEST_DRAWS, _NUMBERS // max(1, len(identities))))
    generator = np.random.default_rng(derive_seed(0, "verdict draws"))
    place_N = np.empty(len(identities), np.int64)
    for place, rows in enumerate(molecules):
        place_N[rows] = place
    drawn = np.ones((count + 1, len(molecules)))
    if len(molecules):
        shares = np.full(len(molecules), 1 / len(molecules))
        drawn[1:] = generator.multinomial(len(molecules), shares, size=count)
    return drawn[:, place_N]


def _mean_of(values_N: np.ndarray, draws_BN: Draws) -> Float[np.ndarray, "draws"]:
    known_N = np.isfinite(values_N)
    total_B, weight_B = draws_BN[:, known_N] @ values_N[known_N], draws_BN[:, known_N].sum(axis=1)
    return _share(total_B, weight_B)


def _rmse(labels_N: np.ndarray, values_N: np.ndarray, draws_BN: Draws) -> Float[np.ndarray, "draws"]:
    return np.asarray(np.sqrt(_mean_of((values_N - labels_N) ** 2, draws_BN)))


def _roc_auc(labels_N: np.ndarray, scores_N: np.ndarray, draws_BN: Draws) -> Float[np.ndarray, "draws"]:
    """Chance that a positive has the larger score, ties counted half, of weighted molecules."""
    known = np.flatnonzero(~np.isnan(labels_N))
    order = known[np.argsort(scores_N[known], kind="stable")]
    if not len(order):
        return np.full(len(draws_BN), np.nan)
    starts = np.append(0, np.flatnonzero(np.diff(scores_N[order])) + 1)
    positive_BS = np.add.reduceat(draws_BN[:, order] * (labels_N[order] == 1), starts, axis=1)
    negative_BS = np.add.reduceat(draws_BN[:, order] * (labels_N[order] == 0), starts, axis=1)
    below_BS = np.cumsum(negative_BS, axis=1) - negative_BS
    pairs_B = positive_BS.sum(axis=1) * negative_BS.sum(axis=1)
    won_B = (positive_BS * (below_BS + negative_BS / 2)).sum(axis=1)
    return _share(won_B, pairs_B)


def _balanced_accuracy(labels_NK: np.ndarray, values_NK: np.ndarray, draws_BN: Draws) -> Float[np.ndarray, "draws"]:
    """Mean recall of the classes that occur in a draw."""
    known_N = ~np.isnan(labels_NK).any(axis=1)
    true_N, called_N = labels_NK[known_N].argmax(axis=1), values_NK[known_N].argmax(axis=1)
    draws_BN, classes = draws_BN[:, known_N], range(labels_NK.shape[1])
    occurs_BK = np.stack([draws_BN @ (true_N == one) for one in classes], axis=1)
    found_BK = np.stack([draws_BN @ ((true_N == one) & (called_N == one)) for one in classes], axis=1)
    recall_BK = np.divide(found_BK, occurs_BK, out=np.zeros_like(found_BK), where=occurs_BK > 0)
    count_B = (occurs_BK > 0).sum(axis=1)
    return _share(recall_BK.sum(axis=1), count_B)


def _share(part_B: np.ndarray, whole_B: np.ndarray) -> Float[np.ndarray, "draws"]:
    """NaN where the whole is 0."""
    found: np.ndarray = np.divide(part_B, whole_B, out=np.full(len(whole_B), np.nan), where=whole_B > 0)
    return found


def _estimate_of(
    draws: Sequence[Float[np.ndarray, "draws"]], scale: Sequence[_Scaled], power: float | None = None
) -> Estimate | None:
    """Of a single part by its draws, of folds by their spread; `power` undoes a logarithm at the end."""
    undo = (lambda value: value) if power is None else (lambda value: float(power**value))
    if len(draws) > 1:
        values = [float(one[0]) for one in draws if math.isfinite(one[0])]
        if not values:
            return None
        half, mean = half_width(values, float(np.mean([one.share for one in scale]))), float(np.mean(values))
        return Estimate(undo(mean), *(() if half is None else (undo(mean - half), undo(mean + half))))
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
