"""How the calibration of a model is learned from its partitions, and judged on molecules that it did not learn from.

With one partition it learns from the validation part, or from development molecules that were predicted out of fold.
With folds it learns from each fold's test part, predicted by members that never saw it. Which calibrators a target
gets, every choice between two of a kind, is decided here, from held-out molecules alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dnd.chemistry.splits import Split
from dnd.predictor.targets import AS_IT_IS, ClassGroup, TaskKind, Transform, Weights, normalised
from dnd.predictor.uncertainty.calibration import (
    Array,
    Calibration,
    Chosen,
    GroupCalibration,
    Judged,
    TargetCalibration,
)
from dnd.predictor.uncertainty.classes import (
    FEWEST_EACH,
    ClassSets,
    ClassWiseSets,
    Isotonic,
    MarginalSets,
    Platt,
    Temperature,
    log_losses,
)
from dnd.predictor.uncertainty.intervals import ConformalIntervals, HeldOut, Predicted, mixing_weights, pooled_scores

FEWEST_FOR_SPREAD = 100  # molecules that choose between both kinds of width
NARROWER = 0.95  # of the one width is what the mean of widths by the spread must come to: less is chance
FEWEST_FOR_ISOTONIC = 100  # of each class
GAIN = 0.005  # of the log loss, by which an isotonic line must be better
_FOLDS = 5

Folds = Sequence[tuple[Split, Array]]


@dataclass(frozen=True)
class PartitionPredictions:
    """What a partition is fitted on or evaluated on.

    Attributes:
        rows: molecules that teach.
        values_BC: predictions for all molecules.
        partition: partition of the molecules.
        mixed: its validation part weighs as much as its training part, for intervals and sets.
        spread_BC: spread of the members for all molecules; None = widths do not depend on it.
        similarity_B: similarity of all molecules to the nearest one that their predictions were learned from; None =
            not known.
        molecule_B: number of the molecule of each row, the same for replicates; None = every row is a molecule.
        weight_B: weight of each molecule's labels; None = 1.
    """

    rows: np.ndarray
    values_BC: Array
    partition: Split
    mixed: bool = False
    spread_BC: Array | None = None
    similarity_B: np.ndarray | None = None
    molecule_B: np.ndarray | None = None
    weight_B: Weights = None


@dataclass(frozen=True)
class Column:
    """A target as the calibration sees it: one column, or those of its classes.

    Attributes:
        kind: kind of the target.
        transform: transform of the target.
        group: its classes; None = one column.
        place: index of the column.
    """

    kind: TaskKind
    transform: Transform
    place: int
    group: ClassGroup | None = None

    @property
    def is_class(self) -> bool:
        """Whether it is one class of a target that is calibrated as a whole."""
        return self.kind == "multiclass" and self.group is None

    def held_out(self, part: PartitionPredictions, rows: np.ndarray, targets_BC: Array) -> tuple[HeldOut, np.ndarray]:
        """Those of `rows` that have a label and a prediction, without weights; and which rows they are."""
        if self.group is not None:
            labels_BK, values = targets_BC[rows, self.group.span], part.values_BC[rows, self.group.span]
            known_B = np.isfinite(labels_BK).all(axis=1) & np.isfinite(values).all(axis=1)
            labels_B = labels_BK.argmax(axis=1).astype(float)
        else:
            labels_B, values = targets_BC[rows, self.place], part.values_BC[rows, self.place]
            known_B = ~np.isnan(labels_B) & np.isfinite(values)
        own = rows[known_B]
        by_spread = part.spread_BC is not None and self.transform.name == "none"
        spread_B = part.spread_BC[own, self.place] if by_spread and part.spread_BC is not None else None
        similarity_B = None if part.similarity_B is None else part.similarity_B[own]
        predicted = Predicted(values[known_B], spread_B, self.transform, similarity_B)
        molecule_B = None if part.molecule_B is None else part.molecule_B[own]
        counts_B = None
        if part.weight_B is not None and len(own):
            counts_B = part.weight_B[own] / part.weight_B[own].mean()
        return HeldOut(labels_B[known_B], predicted, molecule_B=molecule_B, counts_B=counts_B), own


def calibrate(
    folds: Folds,
    targets_BC: Array,
    kinds: Sequence[TaskKind],
    fit_rows: Sequence[np.ndarray] | None = None,
    *,
    groups: Sequence[ClassGroup] = (),
    transforms: Sequence[Transform] = (),
    spread_BC: Array | None = None,
    similarity_B: np.ndarray | None = None,
    identities: Sequence[str] = (),
    held_out_BC: Array | None = None,
    weight_B: Weights = None,
) -> tuple[list[tuple[Split, Array]], Calibration]:
    """Fit and evaluate the calibration, and return the predictions calibrated, as the model will return them.

    With folds, each fold's predictions are calibrated on the other folds, so that its test part can evaluate them. If
    folds are repeated, the calibration is not fitted on molecules of that test part in other repeats either.

    Args:
        folds: partitions and their predictions for all molecules.
        targets_BC: labels; NaN = missing.
        kinds: tasks of the targets.
        fit_rows: per partition the molecules that the calibration is fitted on, predicted out of fold; for intervals
            and sets of a single partition its validation part weighs as much as its training part. None = its
            validation part, or with folds its test part.
        groups: columns that are the classes of one target.
        transforms: transforms of the targets; empty = none.
        spread_BC: spread of a single partition's members, for all molecules as the model will have it for new ones; the
            intervals may then depend on it, except for targets with a transform. None = they do not.
        similarity_B: similarity of a single partition's molecules, all of them, to the nearest one that their
            prediction was learned from; the intervals then depend on it. None = they do not.
        identities: identities of all molecules, such as canonical SMILES; empty = every row is a molecule of its own.
        held_out_BC: what a single partition's calibration is fitted to in place of its predictions, where these had a
            part in stopping the training and so err less than those of new molecules will. None = the predictions.
        weight_B: weights of all molecules' labels, by which probabilities are scaled; None = 1. Intervals and sets are
            made for a share of the molecules, whatever they weigh.
    """
    folds = [(part, normalised(values, groups)) for part, values in folds]
    single, given = len(folds) == 1, fit_rows is not None
    if fit_rows is None:
        fit_rows = [part.valid if single else part.test for part, _ in folds]
    molecule_B = np.unique(np.asarray(identities), return_inverse=True)[1] if identities else None
    known = (spread_BC, similarity_B) if single else (None, None)
    fitted_to = [normalised(held_out_BC, groups)] if single and held_out_BC is not None else [own for _, own in folds]
    partitions = [
        PartitionPredictions(rows, values, part, single and given, *known, molecule_B, weight_B)
        for rows, values, (part, _) in zip(fit_rows, fitted_to, folds, strict=True)
    ]
    maps = list(transforms) or [AS_IT_IS] * len(kinds)
    columns = [Column(kind, own, place) for place, (kind, own) in enumerate(zip(kinds, maps, strict=True))]
    columns += [Column("multiclass", AS_IT_IS, group.first, group) for group in groups]
    final = [_learn(column, partitions, targets_BC) for column in columns]
    own = [
        final if single else [_learn(column, _without(partitions, part.test), targets_BC) for column in columns]
        for part, _ in folds
    ]
    judged = [
        _judge(
            column,
            [(part, learned[place]) for part, learned in zip(partitions, own, strict=True)],
            targets_BC,
        )
        for place, column in enumerate(columns)
    ]
    judged = [
        replace(one, molecules=_count(column, partitions, targets_BC))
        for column, one in zip(columns, judged, strict=True)
    ]
    unjudged = [Judged()] * len(columns)
    calibrated = [
        (part, _calibration(columns, learned, unjudged).scaled(values))
        for (part, values), learned in zip(folds, own, strict=True)
    ]
    return calibrated, _calibration(columns, final, judged)


def _calibration(columns: Sequence[Column], chosen: Sequence[Chosen], judged: Sequence[Judged]) -> Calibration:
    found = list(zip(columns, chosen, judged, strict=True))
    return Calibration(
        tuple(TargetCalibration(own, was) for column, own, was in found if column.group is None),
        groups=tuple(GroupCalibration.of(column.group, own, was) for column, own, was in found if column.group),
    )


def _without(partitions: Sequence[PartitionPredictions], judged: np.ndarray) -> list[PartitionPredictions]:
    return [replace(one, rows=one.rows[~np.isin(one.rows, judged)]) for one in partitions]


def _count(column: Column, partitions: Sequence[PartitionPredictions], targets_BC: Array) -> int:
    """How many molecules teach."""
    return _distinct([column.held_out(own, own.rows, targets_BC)[1] for own in partitions])


def _learn(column: Column, partitions: Sequence[PartitionPredictions], targets_BC: Array) -> Chosen:
    """The calibrators of a column; several partitions count alike, a single one may mix its parts or know spreads."""
    if column.is_class:
        return Chosen()
    found = [column.held_out(part, part.rows, targets_BC) for part in partitions]
    if len(found) > 1:
        return choose(column.kind, _joined([data for data, _ in found]))
    ((data, rows),), (part,) = found, partitions
    if part.mixed:
        data = replace(data, weights_B=mixing_weights(np.isin(rows, part.partition.valid)))
    return choose(column.kind, data)


def _joined(parts: Sequence[HeldOut]) -> HeldOut:
    """All molecules one behind the other, without spread and similarity."""
    first = parts[0].predicted
    values = np.concatenate([one.predicted.values for one in parts])
    known, weighted = parts[0].molecule_B is not None, parts[0].counts_B is not None
    return HeldOut(
        np.concatenate([one.labels_B for one in parts]),
        replace(first, values=values, spread_B=None, similarity_B=None),
        molecule_B=np.concatenate([one.molecule_B for one in parts if one.molecule_B is not None]) if known else None,
        counts_B=np.concatenate([one.each_counts_B for one in parts]) if weighted else None,
    )


def _judge(column: Column, tests: Sequence[tuple[PartitionPredictions, Chosen]], targets_BC: Array) -> Judged:
    """How well each fold's own calibrators did on its test part, over all test parts together.

    Repeated folds test a molecule several times: each time gives a score, but the molecule counts once.
    """
    found = Judged()
    parts = [(*column.held_out(part, part.partition.test, targets_BC), own) for part, own in tests]
    widths = pooled_scores([(own.intervals, test) for test, _, own in parts])
    scaling = pooled_scores([(own.scaling, test) for test, _, own in parts])
    sets = pooled_scores([(own.sets, replace(test, predicted=own.scaled(test.predicted))) for test, _, own in parts])
    if widths and len(widths["coverage"]):
        count = _distinct([rows for _, rows, own in parts if own.intervals is not None])
        found = replace(found, judged_on=count, measured=float(widths["coverage"].mean()))
    score = "log_loss" if column.group else "brier"
    if scaling and len(scaling[score]):
        count = _distinct([rows for _, rows, own in parts if own.scaling is not None])
        before, after = float(scaling[f"{score}_before"].mean()), float(scaling[score].mean())
        found = replace(found, judged_on=count, before=before, measured=after)
    if sets and len(sets["coverage"]):
        count = _distinct([rows for _, rows, own in parts if own.sets is not None])
        coverage, size, single = (float(sets[name].mean()) for name in ("coverage", "size", "single"))
        found = replace(found, set_coverage=coverage)
        of_group = replace(found, set_judged_on=count, set_size=size)
        found = of_group if column.group else replace(found, set_single=single)  # what the file has of each
    return found


def _distinct(rows: Sequence[np.ndarray]) -> int:
    """How many different rows there are."""
    return len(np.unique(np.concatenate(rows)))


# Which calibrators a target gets.


def choose(kind: TaskKind, data: HeldOut) -> Chosen:
    """Fit the calibrators of a target and keep the better of each pair.

    - Intervals: a width without the members' spread, or with it where that is narrower on average for at least 100
      molecules. Both cover the molecules that taught them equally often. Both go with the similarity to the nearest
      training molecule where `data` has it.
    - Two classes: Platt's scaling, or an isotonic line where there are 100 molecules of each class and its log loss is
      smaller out of fold.
    - Sets of several classes: a threshold of each class where every class has 20 molecules, else one for all. Of two
      classes always one for each.

    Args:
        kind: kind of the target.
        data: held-out molecules; `predicted.spread_B` allows widths by it.
    """
    if kind == "regression":
        one = ConformalIntervals.fit(replace(data, predicted=replace(data.predicted, spread_B=None)))
        by_spread = ConformalIntervals.fit(data) if data.predicted.spread_B is not None else None
        return Chosen(by_spread if _is_narrower(by_spread, one, data) else one)
    if kind == "multiclass":
        found = Chosen(temperature=Temperature.fit(data))
        places_B, classes = data.places_B, data.predicted.values.shape[1]
        enough = bool(np.bincount(places_B, minlength=classes).min() >= FEWEST_EACH)
        own: type[ClassSets] = ClassWiseSets if enough else MarginalSets
    else:
        platt = Platt.fit(data)
        found = Chosen(platt=platt, isotonic=Isotonic.fit(data) if platt and isotonic_is_better(data) else None)
        own = ClassWiseSets
    return replace(found, sets=own.fit(replace(data, predicted=found.scaled(data.predicted))))


def _is_narrower(by_spread: ConformalIntervals | None, one: ConformalIntervals | None, data: HeldOut) -> bool:
    if by_spread is None or one is None or len(data) < FEWEST_FOR_SPREAD:
        return False
    means = [float(np.average(own.half_widths(data.predicted), weights=data.weights_B)) for own in (by_spread, one)]
    return means[0] < NARROWER * means[1]


def isotonic_is_better(data: HeldOut) -> bool:
    """Log loss of both scalings, each fitted on four fifths of the molecules and judged on the rest.

    Replicates of a molecule are in one fifth.
    """
    labels_B = data.labels_B
    if min(labels_B.sum(), len(labels_B) - labels_B.sum()) < FEWEST_FOR_ISOTONIC:
        return False
    given_B = np.arange(len(labels_B)) if data.molecule_B is None else data.molecule_B
    molecule_B = np.unique(given_B, return_inverse=True)[1]
    fold_B = (np.random.default_rng(0).permutation(molecule_B.max() + 1) % _FOLDS)[molecule_B]
    losses = np.zeros(2)
    for fold in range(_FOLDS):
        taught, judged = data[fold_B != fold], data[fold_B == fold]
        line, scaling = Isotonic.fit(taught), Platt.fit(taught)
        if line is None or scaling is None:
            return False
        counts_B = data.each_counts_B[fold_B == fold]
        losses += [
            (counts_B * log_losses(judged.labels_B, Predicted(own.apply(judged.predicted)))).sum()
            for own in (scaling, line)
        ]
    return bool(losses[1] < (1 - GAIN) * losses[0])
