r"""Targets: what is predicted, its classes, and the scale and map in which a network learns it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from dnd.common.config import from_dict
from dnd.common.errors import InputError

# A monotone map for skewed labels: what is learned is the mapped label, what is predicted is its inverse.
#
# The logarithm is for positive labels and does not depend on their unit. Yeo and Johnson's map takes any sign:
#
# .. math:: \psi_\lambda(z) = \frac{(1 + z)^\lambda - 1}{\lambda} \ (z \ge 0), \qquad
#           \psi_\lambda(z) = -\frac{(1 - z)^{2 - \lambda} - 1}{2 - \lambda} \ (z < 0)
#
# (at the ends the limits :math:`\pm\log(1 \pm z)`), here of labels in standard deviations from their mean, so that it
# does not depend on the unit either, and with :math:`0 \le \lambda \le 2`, where it covers the whole line and has an
# inverse everywhere. Source: Yeo and Johnson, Biometrika 87 (2000) 954; λ is scikit-learn's maximum likelihood one.
#
# The inverse of a mean is not the mean of the inverse: such a model predicts the typical value of a molecule rather
# than its expectation. Relative errors become smaller by it, squared errors in the target's unit need not. So it is
# judged on the scale it learns, with decimal logarithms: an error of 0.5 there is a factor of 3.2. Its unit comes
# second.


TransformName = Literal["none", "log", "yeo-johnson"]
LN_10 = float(np.log(10.0))
Values = Float[np.ndarray, "..."]

# How much the labels of each molecule count; 2 is as much as two rows of that molecule, None is 1 for all.
Weights = Float[np.ndarray, "molecules"] | None


def weighted_moments(values: Float[np.ndarray, "molecules ..."], weight_B: Weights = None) -> tuple[Values, Values]:
    """Mean and population deviation over molecules, in double precision."""
    if weight_B is None:
        mean, deviation = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    else:
        mean = np.average(values, axis=0, weights=weight_B)
        deviation = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weight_B))
    return np.asarray(mean), np.asarray(deviation)


def weighted_count(has_BF: Bool[np.ndarray, "molecules features"], weight_B: Weights = None) -> np.ndarray:
    """Of each feature how many molecules have it, or the sum of their weights."""
    return np.asarray(has_BF.sum(axis=0) if weight_B is None else weight_B @ has_BF)


@dataclass(frozen=True)
class Transform:
    """A map of one target's labels.

    Attributes:
        name: `none`, `log` or `yeo-johnson`.
        centre: value that a Yeo-Johnson map subtracts first, in the target's unit.
        width: value that it then divides by.
        power: λ of the map.
        low: the smallest mapped value that a prediction may have.
        high: the largest. Without it, a slightly too large output would be a hundredfold value after an exponential.
    """

    name: TransformName = "none"
    centre: float = 0.0
    width: float = 1.0
    power: float = 1.0
    low: float | None = None
    high: float | None = None

    def forward(self, values: Values) -> Values:
        """Mapped values; NaN stays NaN, and a value without a logarithm becomes NaN."""
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
        """Values on the scale on which errors are measured: decimal logarithms for `log`, else the mapped values."""
        return self.forward(values) / LN_10 if self.name == "log" else self.forward(values)

    def unjudged(self, judged: Values) -> Values:
        """The inverse of `judged`: values in the target's unit."""
        return self.inverse(judged * LN_10 if self.name == "log" else judged)

    def judged_unit(self, unit: str) -> str:
        """The unit of errors on the scale of `judged`, for a target in `unit`."""
        if self.name == "none":
            return unit
        return "log10 units" if self.name == "log" else "deviations after the Yeo-Johnson map"

    def predicted(self, mapped: Values) -> Values:
        """`inverse` of outputs, kept near the range of the training labels."""
        inside = mapped if self.low is None or self.high is None else mapped.clip(self.low, self.high)
        return self.inverse(inside)


def _bend(x: Values, power: float) -> Values:
    """((1 + x)^power - 1) / power of x ≥ 0, its limit log(1 + x) for 0."""
    return np.asarray(np.log1p(x) if power == 0 else np.expm1(power * np.log1p(x)) / power)


def _unbend(x: Values, power: float) -> Values:
    return np.asarray(np.expm1(x) if power == 0 else np.expm1(np.log1p(power * x) / power))


AS_IT_IS = Transform()

# Targets and the classes of one.


DIGITS = 8
"""Significant digits of a number in a table, about those of single precision."""

_DIGITS_TO_SPARE, _MOST_DIGITS = 2, 17
TaskKind = Literal["regression", "classification", "multiclass"]
TaskName = Literal["regression", "classification", "multiclass", "mixed"]


@dataclass(frozen=True)
class Target:
    """One predicted property.

    Attributes:
        name: the column of the training data.
        unit: unit as the user gave it; empty = not given.
        mean: mean of the training labels, in `unit` or mapped; 0 for classes and for `raw` targets.
        std: standard deviation of the training labels, in `unit` or mapped; 1 for classes and for `raw` targets.
        kind: whether it is a value, a class, or one of several classes.
        group: the column of the training data, if this target is one of its classes.
        class_name: name of that class.
        transform: transform of the labels, before `mean` and `std`.
        classes: names of the two classes of a binary target, class 0 first, if the user has names for them.
    """

    name: str
    unit: str = ""
    mean: float = 0.0
    std: float = 1.0
    kind: TaskKind = "regression"
    group: str = ""
    class_name: str = ""
    transform: Transform = AS_IT_IS
    classes: tuple[str, ...] = ()

    @property
    def digits(self) -> int:
        """Significant digits in which a value of it is written: more where labels lie close together, far from 0."""
        spread, centre = self.std, self.mean
        if self.transform.name == "log":
            centre = 1.0  # of logarithms the spread is relative
        elif self.transform.name == "yeo-johnson":
            spread, centre = self.transform.width, self.transform.centre
        lost = math.log10(abs(centre) / spread) if centre and spread > 0 and abs(centre) > spread else 0.0
        return min(_MOST_DIGITS, DIGITS + max(0, int(lost) - _DIGITS_TO_SPARE))

    def scaled(self, labels_B: Float[np.ndarray, "molecules"]) -> Float[np.ndarray, "molecules"]:
        """Labels on the scale that the networks are fitted on."""
        return (self.transform.forward(labels_B) - self.mean) / self.std

    def raw(self, outputs_B: Float[np.ndarray, "molecules"]) -> Float[np.ndarray, "molecules"]:
        """Network outputs mapped back to `unit`."""
        return self.transform.predicted(outputs_B * self.std + self.mean)

    def scale(self) -> dict[str, Any]:
        """The arguments of `with_scale`, as plain values."""
        mapped = {} if self.transform.name == "none" else {"transform": asdict(self.transform)}
        return {"mean": self.mean, "std": self.std, **mapped}

    def with_scale(self, scale: Mapping[str, Any]) -> Target:
        """The same target with the scale of another member."""
        transform = from_dict(Transform, scale.get("transform", {}))
        return replace(self, mean=float(scale["mean"]), std=float(scale["std"]), transform=transform)


def digits_of(targets: Sequence[Target]) -> dict[str, int]:
    """Significant digits of the columns of values in a table, see `Target.digits`; other numbers have `DIGITS`."""
    own = [target for target in targets if target.kind == "regression"]
    return {f"{target.name}_{end}": target.digits for target in own for end in ("pred", "low", "high")}


def task_name(kinds: Sequence[TaskKind]) -> TaskName:
    """The common kind of all targets, or `mixed`."""
    return kinds[0] if len(set(kinds)) == 1 else "mixed"


@dataclass(frozen=True)
class ClassGroup:
    """A target of several classes and its columns.

    Attributes:
        name: name of the target.
        classes: their names, in the order of the columns.
        first: the first of the columns.
    """

    name: str
    classes: tuple[str, ...]
    first: int

    @property
    def columns(self) -> range:
        """Its columns."""
        return range(self.first, self.first + len(self.classes))

    @property
    def span(self) -> slice:
        """Its columns, to cut an array or a tensor with."""
        return slice(self.first, self.first + len(self.classes))


SEPARATOR = "|"
"""Between the names of classes in `<target>_set`."""


def refuse_unclear_outputs(classes: Mapping[str, Sequence[str]]) -> None:
    """Refuse targets whose columns in tables and predictions would have one name, and classes that look like a set.

    Args:
        classes: the names of the classes of each target, by its name; none where it has no classes with names.

    Raises:
        InputError: such as targets `y` and `y_pred`, one called `smiles`, or a class `a|b`.
    """
    for name, own in classes.items():
        unclear = next((one for one in own if SEPARATOR in one), None)
        if unclear is not None:
            raise InputError(
                f"a class of {name} has {SEPARATOR!r} in its name, which separates the classes in {name}_set",
                found=repr(unclear[:40]),
                expected="one class in each cell",
                next_step="Rename the class; where cells name several classes, make a column of 0 and 1 for each",
            )
    owners = dict.fromkeys(("row", "smiles", "in_domain", "domain_reason", "error"), "a column of every table")
    for name, own in classes.items():
        ends = ("_pred", "_std", "_set", "_low", "_high", *(f"_prob_{one}" for one in own))
        for output in (name, *(name + end for end in ends)):
            if output in owners and owners[output] != f"target {name}":
                raise InputError(
                    f"target {name!r} and {owners[output]} would both have a column {output!r}",
                    next_step="Rename the column of the target",
                )
            owners[output] = f"target {name}"


def groups_of(targets: Sequence[Target]) -> tuple[ClassGroup, ...]:
    """The targets of several classes among the columns."""
    first: dict[str, int] = {}
    classes: dict[str, list[str]] = {}
    for column, target in enumerate(targets):
        if target.group:
            first.setdefault(target.group, column)
            classes.setdefault(target.group, []).append(target.class_name)
    return tuple(ClassGroup(name, tuple(classes[name]), column) for name, column in first.items())


def softmax(scores_BK: Float[np.ndarray, "molecules classes"]) -> Float[np.ndarray, "molecules classes"]:
    """Probabilities of the classes from scores, per molecule."""
    powers_BK = np.exp(scores_BK - scores_BK.max(axis=1, keepdims=True))
    found: np.ndarray = powers_BK / powers_BK.sum(axis=1, keepdims=True)
    return found


def normalised(
    values_BC: Float[np.ndarray, "molecules columns"], groups: Sequence[ClassGroup]
) -> Float[np.ndarray, "molecules columns"]:
    """Predictions whose classes sum to 1 in each group; equal shares where a sum is 0."""
    found = values_BC.copy()
    for group in groups:
        own_BK = found[:, group.columns].clip(0.0, None)
        total_B1 = own_BK.sum(axis=1, keepdims=True)
        share = np.full_like(own_BK, 1 / len(group.classes))
        share[np.isnan(total_B1[:, 0])] = math.nan
        found[:, group.columns] = np.divide(own_BK, total_B1, out=share, where=total_B1 > 0)
    return found


def on_learned_scale(
    targets: Sequence[Target], values_BC: Float[np.ndarray, "molecules targets"]
) -> Float[np.ndarray, "molecules targets"]:
    """Labels or predictions on the scale on which errors are measured; see `Transform.judged`."""
    found: np.ndarray = values_BC.copy()
    for column, target in enumerate(targets):
        if target.transform.name != "none":
            found[:, column] = target.transform.judged(found[:, column])
    return found


def from_learned_scale(
    targets: Sequence[Target], judged_BC: Float[np.ndarray, "molecules targets"]
) -> Float[np.ndarray, "molecules targets"]:
    """The inverse of `on_learned_scale`: values in the targets' units."""
    found: np.ndarray = judged_BC.copy()
    for column, target in enumerate(targets):
        if target.transform.name != "none":
            found[:, column] = target.transform.unjudged(found[:, column])
    return found


def weighted_mean(
    targets: Sequence[Target],
    weights_MC: Float[np.ndarray, "members targets"],
    members: Sequence[Float[np.ndarray, "molecules targets"]],
) -> Float[np.ndarray, "molecules targets"]:
    """The mean of several predictions on the learned scale, on which members and weights are fitted."""
    scaled_MBC = np.stack([on_learned_scale(targets, values_BC) for values_BC in members])
    return from_learned_scale(targets, np.einsum("mc,mnc->nc", weights_MC, scaled_MBC))
