r"""Conformal intervals of a regression, from errors on molecules that the model was not trained on.

The interval is :math:`T^{-1}(T(\hat y) \pm q\, u)` with the target's transform T. One width for all molecules has
:math:`u = 1`; a width of its own for each has :math:`u = s + \beta`, s the spread of the members' predictions and β its
median. Where the similarity to the nearest training molecule is known, u is multiplied by :math:`g`, the usual error of
molecules that are as similar: a falling line through three bins. q is the conformal quantile of
:math:`|T(y) - T(\hat y)| / u`: the k-th smallest, k = ⌈(n + 1) · coverage⌉. For exchangeable molecules such an interval
holds the measured value with at least that probability. Molecules of new scaffolds are not exchangeable with those that
taught the width; they are less similar to the training molecules, and by g their intervals are wider.

Source: split-conformal prediction (Lei et al., JASA 113 (2018) 1094, Algorithm 2), normalised by the spread
(Papadopoulos et al., ECML 2002), with weights (Tibshirani et al., NeurIPS 2019).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Float, Int

from dnd.common.config import from_dict
from dnd.predictor.targets import AS_IT_IS, Transform

# The protocol of everything that says how sure a model is: fit, apply, evaluate, describe.
#
# A calibrator is a frozen dataclass of numbers. It learns from molecules that the model was not trained on, it is
# applied to the model's predictions for any molecules, it is evaluated on labelled molecules, and it describes itself
# in words. Conformal intervals are in this file, calibrated probabilities and sets of likely classes in `classes.py`;
# which of them suits given molecules is decided in `fitting.py`.

COVERAGE = 0.9  # that intervals and sets are made for
C = TypeVar("C", bound="Calibrator")


@dataclass(frozen=True)
class Predicted:
    """Predictions of a model for one target.

    Attributes:
        values: values in the target's unit or probabilities of class 1, (B,); or probabilities of each class, (B, K).
        spread_B: deviation between the members of the model, in the target's unit; None = not known.
        transform: transform of the target; errors are measured in its scale.
        similarity_B: Tanimoto similarity to the nearest molecule that the model learned from, as the applicability
            domain measures it; None = not known.
    """

    values: Float[np.ndarray, "molecules *classes"]
    spread_B: Float[np.ndarray, "molecules"] | None = None
    transform: Transform = AS_IT_IS
    similarity_B: Float[np.ndarray, "molecules"] | None = None

    def __len__(self) -> int:
        """Number of molecules."""
        return len(self.values)

    @property
    def by_class_BK(self) -> Float[np.ndarray, "molecules classes"]:
        """Probabilities of each class; of class 0 and class 1 where the values are those of class 1."""
        return self.values if self.values.ndim == 2 else np.stack([1 - self.values, self.values], axis=1)


@dataclass(frozen=True)
class HeldOut:
    """Labelled molecules that the model was not trained on.

    Attributes:
        labels_B: values in the target's unit, or the place of the true class; none is NaN.
        predicted: the model's predictions for them.
        weights_B: weight of each label, with the sum 1; None = equal weights.
        molecule_B: number of the molecule of each row, the same for replicates; None = every row is a molecule.
        counts_B: how often each label counts where probabilities are scaled, with the mean 1; None = once.
    """

    labels_B: Float[np.ndarray, "molecules"]
    predicted: Predicted
    weights_B: Float[np.ndarray, "molecules"] | None = None
    molecule_B: Int[np.ndarray, "molecules"] | None = None
    counts_B: Float[np.ndarray, "molecules"] | None = None

    def __len__(self) -> int:
        """Number of molecules."""
        return len(self.labels_B)

    @property
    def each_counts_B(self) -> Float[np.ndarray, "molecules"]:
        """`counts_B`, 1 where there is none."""
        return np.ones(len(self)) if self.counts_B is None else self.counts_B

    @property
    def places_B(self) -> np.ndarray:
        """Places of the true classes as integers."""
        return self.labels_B.astype(int)

    @property
    def residuals_B(self) -> Float[np.ndarray, "molecules"]:
        """Absolute errors, in the scale of the transform."""
        forward = self.predicted.transform.forward
        return np.asarray(np.abs(forward(self.labels_B) - forward(self.predicted.values)))

    def __getitem__(self, rows: np.ndarray) -> HeldOut:
        """Some of the molecules. Weights, which would not sum to 1, are dropped; counts get the mean 1 again."""
        own, spread_B, similarity_B = self.predicted, self.predicted.spread_B, self.predicted.similarity_B
        part = replace(
            own,
            values=own.values[rows],
            spread_B=None if spread_B is None else spread_B[rows],
            similarity_B=None if similarity_B is None else similarity_B[rows],
        )
        molecule_B, counts_B = (None if own is None else own[rows] for own in (self.molecule_B, self.counts_B))
        counts_B = None if counts_B is None else counts_B / counts_B.mean()
        return HeldOut(self.labels_B[rows], part, molecule_B=molecule_B, counts_B=counts_B)


class Calibrator(ABC):
    """Uncertainty of a model for one target, learned from held-out molecules.

    Subclasses are frozen dataclasses whose fields are numbers and tuples of numbers; the fields are what
    `calibration.json` holds.
    """

    optional: ClassVar[frozenset[str]] = frozenset()  # fields that the first files did not have: absent where None

    @classmethod
    @abstractmethod
    def fit(cls, data: HeldOut) -> Calibrator | None:
        """Fit to held-out molecules; None if they are too few or do not suit the calibrator."""

    @abstractmethod
    def apply(self, predicted: Predicted) -> np.ndarray:
        """The calibrated predictions, one row per molecule; NaN rows stay NaN or empty."""

    @abstractmethod
    def scores(self, data: HeldOut) -> Mapping[str, np.ndarray]:
        """Scores of the calibrator on each molecule, (B,) per measure."""

    @abstractmethod
    def describe(self) -> str:
        """What was learned, in a few words that fit into a sentence."""

    def evaluate(self, data: HeldOut) -> dict[str, float]:
        """Means of `scores` over molecules it was not fitted on, and measures of all molecules together.

        Args:
            data: at least one molecule.
        """
        return {name: float(values_B.mean()) for name, values_B in self.scores(data).items()}

    def to_dict(self) -> dict[str, Any]:
        """Its fields, ready for JSON."""
        entry: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return {name: value for name, value in entry.items() if value is not None or name not in self.optional}

    @classmethod
    def from_dict(cls: type[C], entry: Mapping[str, Any]) -> C:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: an unknown field, or a value of the wrong kind.
            TypeError: a field is missing.
        """
        return from_dict(cls, entry)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Names of the fields, in order."""
        return tuple(field.name for field in fields(cls))  # type: ignore[arg-type]


def pooled_scores(tests: Sequence[tuple[Calibrator | None, HeldOut]]) -> dict[str, np.ndarray]:
    """The concatenated scores of several calibrators, each on its own molecules; None has none."""
    found = [own.scores(data) for own, data in tests if own is not None]
    names = found[0].keys() if found else ()
    return {name: np.concatenate([scores[name] for scores in found]) for name in names}


FEWEST_FOR_MIXING = 30  # labels of a validation part that weighs as much as the training part
SIMILARITY_BINS = 3  # see docs/results/uncertainty
FEWEST_PER_BIN = 100  # with 40 the widths of a small data set are too wide for most of its molecules
_LEAST_FACTOR = 0.25  # of the mean error is the least that a bin may have
_LARGEST = 700.0  # whose exponential is a number still

Vector = Float[np.ndarray, "molecules"]


@dataclass(frozen=True)
class ConformalIntervals(Calibrator):
    """Intervals around predictions.

    Attributes:
        half_width: in the target's unit (in the scale of its transform), or per unit of spread; q above.
        spread_floor: β, added to the spread of the members, where the interval goes with it; None = it does not.
        similarity_knots: similarities to the nearest training molecule, rising; None = the width does not go with it.
        similarity_factors: g at those, falling, and level beyond the first and the last.
    """

    optional: ClassVar[frozenset[str]] = frozenset({"similarity_knots", "similarity_factors"})

    half_width: float
    spread_floor: float | None = None
    similarity_knots: tuple[float, ...] | None = None
    similarity_factors: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """A line needs both coordinates of each point."""
        if len(self.similarity_knots or ()) != len(self.similarity_factors or ()):
            raise ValueError("similarities and factors differ in number")

    @classmethod
    def fit(cls, data: HeldOut) -> ConformalIntervals | None:
        """A width that goes with the spread and with the similarity, as far as `data` has them.

        None where the molecules are too few for the coverage, or where the spread is 0 for half of them or unknown for
        one. Fewer than 200 molecules say nothing about the similarity.
        """
        found, spread_B = cls(1.0), data.predicted.spread_B
        if spread_B is not None:
            floor = float(np.median(spread_B)) if len(spread_B) else 0.0
            if not 0 < floor < math.inf:
                return None
            found = cls(1.0, floor)
        ratios_B = data.residuals_B / found.half_widths(data.predicted)
        if data.predicted.similarity_B is not None:
            line = error_by_similarity(data.predicted.similarity_B, ratios_B, data.weights_B)
            if line is not None:
                found = replace(found, similarity_knots=line[0], similarity_factors=line[1])
                ratios_B = data.residuals_B / found.half_widths(data.predicted)
        half = conformal_quantile(ratios_B, data.weights_B)
        return None if half is None else replace(found, half_width=half)

    def half_widths(self, predicted: Predicted) -> Vector:
        """Half the width for each molecule, in the scale of the transform."""
        half_B = np.full(len(predicted), self.half_width)
        if self.spread_floor is not None:
            assert predicted.spread_B is not None, "a width by the spread needs the spread"
            half_B = half_B * (predicted.spread_B + self.spread_floor)
        if self.similarity_knots is not None and self.similarity_factors is not None:
            assert predicted.similarity_B is not None, "a width by the similarity needs the similarity"
            half_B = half_B * np.interp(predicted.similarity_B, self.similarity_knots, self.similarity_factors)
        return half_B

    def apply(self, predicted: Predicted) -> Float[np.ndarray, "molecules ends"]:
        """Lower and upper end in the target's unit."""
        transform, half_B = predicted.transform, self.half_widths(predicted)
        centre_B = transform.forward(predicted.values)
        return np.stack([transform.inverse(centre_B - half_B), transform.inverse(centre_B + half_B)], axis=1)

    def scores(self, data: HeldOut) -> Mapping[str, np.ndarray]:
        """`coverage`: whether the label is inside; `width`: from end to end, in the scale of the transform."""
        half_B = self.half_widths(data.predicted)
        return {"coverage": data.residuals_B <= half_B, "width": 2 * half_B}

    def describe(self, transform: Transform = AS_IT_IS) -> str:
        """The width in words, for a target with `transform`."""
        from dnd.predictor.metrics import significant  # to predict takes no metric

        line = f"± {significant(self.half_width)}"
        if transform.name == "log":
            return self._describe_factor()
        if transform.name == "yeo-johnson":
            line += " in the scale of the Yeo-Johnson map"
        elif self.spread_floor is not None:
            line += f" × (spread of the members + {significant(self.spread_floor)})"
        if self.similarity_knots is None or self.similarity_factors is None:
            return line
        far, near = self.similarity_factors[0], self.similarity_factors[-1]
        line += f" (× {far:.2f} for molecules whose similarity to the nearest training molecule is at most "
        return line + f"{self.similarity_knots[0]:.2f}, × {near:.2f} from {self.similarity_knots[-1]:.2f} on)"

    def _describe_factor(self) -> str:
        """The width where the logarithm is learned, as a factor of the prediction."""
        from dnd.predictor.metrics import significant

        def factor(share: float) -> str:
            return significant(math.exp(min(share * self.half_width, _LARGEST)))

        line = f"from the prediction / {factor(1.0)} to the prediction × {factor(1.0)}"
        if self.similarity_knots is None or self.similarity_factors is None:
            return line
        line += f" ({factor(self.similarity_factors[0])} for molecules whose similarity to the nearest training "
        line += f"molecule is at most {self.similarity_knots[0]:.2f}, {factor(self.similarity_factors[-1])} from "
        return line + f"{self.similarity_knots[-1]:.2f} on)"


def error_by_similarity(
    similarity_B: Vector, errors_B: Vector, weights_B: Vector | None = None, fewest: int = FEWEST_PER_BIN
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """A falling line through the mean errors of molecules that are about as similar to their nearest training molecule.

    The molecules, by their similarity, lie in three bins of equal number with at least `fewest` each, else in two. A
    bin whose mean error is larger than that of a less similar one shares a mean with it (pool adjacent violators).

    Returns:
        Mean similarity of each bin, and its error over the mean of all; None where there are too few molecules for two
        bins, or where the error does not fall.
    """
    bins = min(SIMILARITY_BINS, len(similarity_B) // fewest)
    mean = float(np.average(errors_B, weights=weights_B)) if bins > 1 else 0.0
    if bins < 2 or not 0 < mean < math.inf:
        return None
    order = np.argsort(similarity_B, kind="stable")
    knots, means = [], []
    for own in np.array_split(order, bins):
        knots.append(float(similarity_B[own].mean()))
        means.append(float(np.average(errors_B[own], weights=None if weights_B is None else weights_B[own])))
    factors = np.maximum(_falling(np.array(means)) / mean, _LEAST_FACTOR)
    if not (np.diff(knots) > 0).all() or factors[0] == factors[-1]:
        return None
    return tuple(knots), tuple(map(float, factors))


def _falling(values: np.ndarray) -> np.ndarray:
    """The nearest sequence that does not rise, by least squares."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, count = float(value), 1
        while blocks and blocks[-1][0] < mean:
            before, others = blocks.pop()
            mean, count = (before * others + mean * count) / (others + count), others + count
        blocks.append((mean, count))
    return np.repeat([mean for mean, _ in blocks], [count for _, count in blocks])


def conformal_half_width(residuals_B: Vector, coverage: float = COVERAGE) -> float | None:
    """The ⌈(n + 1) · coverage⌉-th smallest absolute residual; None where n is too small for that coverage."""
    place = math.ceil((len(residuals_B) + 1) * coverage)
    return float(np.sort(np.abs(residuals_B))[place - 1]) if 0 < place <= len(residuals_B) else None


def weighted_half_width(residuals_B: Vector, weights_B: Vector, coverage: float = COVERAGE) -> float | None:
    """`conformal_half_width` where molecules count with weights that sum to 1; None where they reach no such coverage.

    Source: weighted conformal prediction (Tibshirani et al., NeurIPS 2019).
    """
    order = np.argsort(residuals_B, kind="stable")
    wanted = coverage * (1 + 1 / len(residuals_B)) - 1e-12
    place = int(np.searchsorted(np.cumsum(weights_B[order]), wanted))
    return float(residuals_B[order[place]]) if place < len(residuals_B) else None


def mixing_weights(is_valid_B: np.ndarray) -> Vector | None:
    """Weights for a molecule that is as likely to be of the training part's kind as of the validation part's.

    A scaffold split gives the rare scaffolds to the validation and the test part, so that the errors of all development
    molecules together promise too much; those of the validation part alone are few. None where either is too small.
    """
    valid, train = int(is_valid_B.sum()), int((~is_valid_B).sum())
    if not train or valid < FEWEST_FOR_MIXING:
        return None
    return np.where(is_valid_B, 0.5 / valid, 0.5 / train)


def conformal_quantile(residuals_B: Vector, weights_B: Vector | None) -> float | None:
    """`weighted_half_width` where there are weights that reach the coverage, else `conformal_half_width`."""
    mixed = None if weights_B is None else weighted_half_width(residuals_B, weights_B)
    return conformal_half_width(residuals_B) if mixed is None else mixed
