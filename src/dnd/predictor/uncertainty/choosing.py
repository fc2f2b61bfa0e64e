"""Which calibrators a target gets: every choice between two of a kind is made here, from held-out molecules alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dnd.predictor.metrics import TaskKind
from dnd.predictor.uncertainty.class_sets import FEWEST_EACH, ClassSets, ClassWiseSets, MarginalSets
from dnd.predictor.uncertainty.intervals import ConformalIntervals
from dnd.predictor.uncertainty.probabilities import Isotonic, Platt, Temperature, log_losses
from dnd.predictor.uncertainty.protocol import HeldOut, Predicted

FEWEST_FOR_SPREAD = 100  # molecules that choose between both kinds of width
NARROWER = 0.95  # of the one width is what the mean of widths by the spread must come to: less is chance
FEWEST_FOR_ISOTONIC = 100  # of each class
GAIN = 0.005  # of the log loss, by which an isotonic line must be better
_FOLDS = 5


@dataclass(frozen=True)
class Chosen:
    """The calibrators of one target; None where there were too few molecules, or where the kind has none.

    Attributes:
        intervals: of a regression.
        platt: of two classes; kept beside an isotonic line that takes its place.
        isotonic: of two classes, where it is better than Platt's scaling.
        temperature: of several classes.
        sets: of two classes or several.
    """

    intervals: ConformalIntervals | None = None
    platt: Platt | None = None
    isotonic: Isotonic | None = None
    temperature: Temperature | None = None
    sets: ClassSets | None = None

    @property
    def scaling(self) -> Platt | Isotonic | Temperature | None:
        """What calibrates the probabilities."""
        return self.temperature or self.isotonic or self.platt

    def scaled(self, predicted: Predicted) -> Predicted:
        """Predictions with calibrated probabilities; unchanged where no scaling was learned."""
        return predicted if self.scaling is None else replace(predicted, values=self.scaling.apply(predicted))


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
        kind: of the target.
        data: held-out molecules; `predicted.spread_N` allows widths by it.
    """
    if kind == "regression":
        one = ConformalIntervals.fit(replace(data, predicted=replace(data.predicted, spread_N=None)))
        by_spread = ConformalIntervals.fit(data) if data.predicted.spread_N is not None else None
        return Chosen(by_spread if _is_narrower(by_spread, one, data) else one)
    if kind == "multiclass":
        found = Chosen(temperature=Temperature.fit(data))
        places_N, classes = data.places_N, data.predicted.values.shape[1]
        enough = bool(np.bincount(places_N, minlength=classes).min() >= FEWEST_EACH)
        own: type[ClassSets] = ClassWiseSets if enough else MarginalSets
    else:
        platt = Platt.fit(data)
        found = Chosen(platt=platt, isotonic=Isotonic.fit(data) if platt and isotonic_is_better(data) else None)
        own = ClassWiseSets
    return replace(found, sets=own.fit(replace(data, predicted=found.scaled(data.predicted))))


def _is_narrower(by_spread: ConformalIntervals | None, one: ConformalIntervals | None, data: HeldOut) -> bool:
    if by_spread is None or one is None or len(data) < FEWEST_FOR_SPREAD:
        return False
    means = [float(np.average(own.half_widths(data.predicted), weights=data.weights_N)) for own in (by_spread, one)]
    return means[0] < NARROWER * means[1]


def isotonic_is_better(data: HeldOut) -> bool:
    """Log loss of both scalings, each fitted on four fifths of the molecules and judged on the rest.

    Replicates of a molecule are in one fifth.
    """
    labels_N = data.labels_N
    if min(labels_N.sum(), len(labels_N) - labels_N.sum()) < FEWEST_FOR_ISOTONIC:
        return False
    given_N = np.arange(len(labels_N)) if data.molecule_N is None else data.molecule_N
    molecule_N = np.unique(given_N, return_inverse=True)[1]
    fold_N = (np.random.default_rng(0).permutation(molecule_N.max() + 1) % _FOLDS)[molecule_N]
    losses = np.zeros(2)
    for fold in range(_FOLDS):
        taught, judged = data[fold_N != fold], data[fold_N == fold]
        line, scaling = Isotonic.fit(taught), Platt.fit(taught)
        if line is None or scaling is None:
            return False
        losses += [log_losses(judged.labels_N, Predicted(own.apply(judged.predicted))).sum() for own in (scaling, line)]
    return bool(losses[1] < (1 - GAIN) * losses[0])
