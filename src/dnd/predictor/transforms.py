r"""A monotone map for skewed labels: what is learned is the mapped label, what is predicted is its inverse.

The logarithm is for positive labels and does not depend on their unit. Yeo and Johnson's map takes any sign:

.. math:: \psi_\lambda(z) = \frac{(1 + z)^\lambda - 1}{\lambda} \ (z \ge 0), \qquad
          \psi_\lambda(z) = -\frac{(1 - z)^{2 - \lambda} - 1}{2 - \lambda} \ (z < 0)

(at the ends the limits :math:`\pm\log(1 \pm z)`), here of labels in standard deviations from their mean, so that it
does not depend on the unit either, and with :math:`0 \le \lambda \le 2`, where it covers the whole line and has an
inverse everywhere. Source: Yeo and Johnson, Biometrika 87 (2000) 954; λ is scikit-learn's maximum likelihood one.

The inverse of a mean is not the mean of the inverse: such a model predicts the typical value of a molecule rather than
its expectation. Relative errors become smaller by it, squared errors in the target's unit need not. So it is judged on
the scale it learns, with decimal logarithms: an error of 0.5 there is a factor of 3.2. Its unit comes second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from dnd.common.errors import InputError
from dnd.predictor.metrics import TaskKind

TransformName = Literal["none", "log", "yeo-johnson"]
TransformChoice = Literal["auto", "log", "yeo-johnson"]
SKEWED = 2.0  # that of the exponential distribution
_STRAIGHTENED = 0.5  # of the skewness is the most that a map may leave
_MARGIN = 1.0  # deviations of the mapped labels that a prediction may go beyond them
LN_10 = float(np.log(10.0))
_WORDS = {"log": "logarithm", "yeo-johnson": "Yeo-Johnson map"}
Values = Float[np.ndarray, "..."]


@dataclass(frozen=True)
class Transform:
    """A map of one target's labels.

    Attributes:
        name: `none`, `log` or `yeo-johnson`.
        centre: that a Yeo-Johnson map subtracts first, in the target's unit.
        width: that it then divides by.
        power: its λ.
        low: the smallest mapped value that a prediction may have.
        high: the largest. An output that is a little too large would be a hundredfold value after an exponential.
    """

    name: TransformName = "none"
    centre: float = 0.0
    width: float = 1.0
    power: float = 1.0
    low: float | None = None
    high: float | None = None

    def forward(self, values: Values) -> Values:
        """Mapped values; NaN stays NaN, and what has no logarithm becomes NaN."""
        if self.name == "none":
            return values
        if self.name == "log":
            return np.asarray(np.log(np.where(np.asarray(values) > 0, values, np.nan)))
        z = (values - self.centre) / self.width
        upper, lower = _bend(z.clip(0, None), self.power), -_bend((-z).clip(0, None), 2 - self.power)
        return np.asarray(np.where(z < 0, lower, upper))

    def inverse(self, mapped: Values) -> Values:
        """Values in the target's unit."""
        if self.name == "none":
            return mapped
        with np.errstate(over="ignore"):  # an interval may end at infinity
            if self.name == "log":
                return np.asarray(np.exp(mapped))
            upper = _unbend(mapped.clip(0, None), self.power)
            lower = -_unbend((-mapped).clip(0, None), 2 - self.power)
            return np.asarray(self.centre + self.width * np.where(mapped < 0, lower, upper))

    def judged(self, values: Values) -> Values:
        """Values on the scale on which errors are measured: decimal logarithms for `log`, else as they are mapped."""
        return self.forward(values) / LN_10 if self.name == "log" else self.forward(values)

    def unjudged(self, judged: Values) -> Values:
        """The inverse of `judged`: values in the target's unit."""
        return self.inverse(judged * LN_10 if self.name == "log" else judged)

    def judged_unit(self, unit: str) -> str:
        """What errors on the scale of `judged` are measured in, for a target in `unit`."""
        if self.name == "none":
            return unit
        return "log10 units" if self.name == "log" else "deviations after the Yeo-Johnson map"

    def predicted(self, mapped: Values) -> Values:
        """`inverse` of outputs, kept near the range of the training labels."""
        inside = mapped if self.low is None or self.high is None else mapped.clip(self.low, self.high)
        return self.inverse(inside)


AS_IT_IS = Transform()


def fit_transform(name: TransformName, labels_N: Float[np.ndarray, "molecules"]) -> Transform:
    """The map `name` for training labels, without NaN and not all equal."""
    if name == "none":
        return AS_IT_IS
    found = Transform("log")
    if name == "yeo-johnson":
        from sklearn.preprocessing import PowerTransformer  # a slow import that no prediction needs

        centre, width = float(labels_N.mean()), float(labels_N.std())
        power = PowerTransformer(standardize=False).fit(((labels_N - centre) / width)[:, None]).lambdas_[0]
        found = Transform(name, centre, width, float(np.clip(power, 0.0, 2.0)))
    mapped_N = found.forward(labels_N)
    margin = _MARGIN * float(mapped_N.std())
    return replace(found, low=float(mapped_N.min()) - margin, high=float(mapped_N.max()) + margin)


def choose_transforms(
    choice: TransformChoice | None,
    targets_NC: Float[np.ndarray, "molecules targets"],
    names: Sequence[str],
    kinds: Sequence[TaskKind],
    trainings: Sequence[np.ndarray],
) -> tuple[tuple[TransformName, ...], list[str]]:
    """The map of each target, and what was chosen in words.

    `auto` maps a target whose training labels have a skewness of 2 or more, up or down: by the logarithm where all its
    labels are positive, else by Yeo and Johnson's map, and only if no more than half of the skewness is left. With
    several partitions the training parts of all must say so. Of labels of the validation part only the sign is looked
    at: what is zero or negative has no logarithm. A test label decides nothing.

    Args:
        choice: none = no map.
        targets_NC: labels of the training and validation parts; NaN = missing, and everywhere else.
        names: of the targets.
        kinds: of the targets; classes have no map.
        trainings: rows of the training part of each partition.

    Raises:
        InputError: logarithms were asked for and a label is not positive.
    """
    found: list[TransformName] = []
    lines: list[str] = []
    plain: list[str] = []
    for name, kind, labels_N in zip(names, kinds, targets_NC.T, strict=True):
        if choice is None or kind != "regression":
            found.append("none")
            continue
        known_N = labels_N[~np.isnan(labels_N)]
        positive = bool((known_N > 0).all())
        if choice == "log" and not positive:
            raise InputError(
                f"target {name} has no logarithm",
                found=f"the label {known_N.min():g}",
                expected="labels above 0",
                next_step="Use transform=yeo-johnson",
            )
        own: TransformName = choice if choice != "auto" else "log" if positive else "yeo-johnson"
        skews = [_skewness(own, labels_N[rows]) for rows in trainings]
        taken = choice != "auto" or all(
            abs(before) >= SKEWED and abs(after) <= _STRAIGHTENED * abs(before) for before, after in skews
        )
        found.append(own if taken else "none")
        before, after = skews[0]
        if taken:
            count = int((~np.isnan(labels_N[trainings[0]])).sum())
            asked = "as asked for" if choice != "auto" else "transform=none overrules this"
            lines.append(
                f"target {name}: learned as its {_WORDS[own]}, skewness {after:.1f} of {count} training labels instead "
                f"of {before:.1f} ({asked})"
            )
        else:
            plain.append(f"{name} (skewness {before:.1f})")
    if plain:
        lines.append(f"no transform of {', '.join(plain)}: the training labels are not skewed, or no map helps")
    return tuple(found), lines


def _skewness(name: TransformName, labels_N: Float[np.ndarray, "molecules"]) -> tuple[float, float]:
    """Of labels before and after a map; 0 where they do not vary."""
    known_N = labels_N[~np.isnan(labels_N)]
    if len(known_N) < 3 or np.ptp(known_N) == 0:
        return 0.0, 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # of huge labels, which `check_learnable` refuses
        return _skew(known_N), _skew(fit_transform(name, known_N).forward(known_N))


def _skew(values_N: np.ndarray) -> float:
    return float((((values_N - values_N.mean()) / values_N.std()) ** 3).mean())


def _bend(x: Values, power: float) -> Values:
    """((1 + x)^power - 1) / power of x ≥ 0, its limit log(1 + x) for 0."""
    return np.asarray(np.log1p(x) if power == 0 else np.expm1(power * np.log1p(x)) / power)


def _unbend(x: Values, power: float) -> Values:
    return np.asarray(np.expm1(x) if power == 0 else np.expm1(np.log1p(power * x) / power))
