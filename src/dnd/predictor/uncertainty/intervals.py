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
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from dnd.predictor.targets import AS_IT_IS, Transform
from dnd.predictor.uncertainty.protocol import COVERAGE, Calibrator, HeldOut, Predicted

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

        None where the molecules are too few for the coverage, or where the spread is the same for all, 0 or unknown
        for half of them. Fewer than 200 molecules say nothing about the similarity.
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
        if transform.name == "log" and self.similarity_factors is not None:
            line += " in the logarithm"
        elif transform.name == "log":
            line = (
                f"of the prediction divided and multiplied by {significant(math.exp(min(self.half_width, _LARGEST)))}"
            )
        elif transform.name == "yeo-johnson":
            line += " in the scale of the Yeo-Johnson map"
        elif self.spread_floor is not None:
            line += f" × (spread of the members + {significant(self.spread_floor)})"
        if self.similarity_knots is None or self.similarity_factors is None:
            return line
        far, near = self.similarity_factors[0], self.similarity_factors[-1]
        line += f", × {far:.2f} for molecules whose similarity to the nearest training molecule is at most "
        return line + f"{self.similarity_knots[0]:.2f}, × {near:.2f} from {self.similarity_knots[-1]:.2f} on"


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
