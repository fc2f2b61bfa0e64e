"""What a column of labels is learned as: its task, a map of skewed labels, and the scale of the training part.

The predictor only applies what is decided here; see `dnd.predictor.targets`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from dnd.common.errors import ConfigError, InputError
from dnd.finetuning.blend_weights import Metric
from dnd.predictor.metrics import significant
from dnd.predictor.targets import (
    AS_IT_IS,
    Target,
    TaskKind,
    TaskName,
    Transform,
    TransformName,
    Weights,
    task_name,
    weighted_moments,
)
from dnd.tables.labels import MOST_CLASSES

TaskChoice = Literal["auto", "regression", "classification", "multiclass"]
TWO_CLASSES = ((0.0, 1.0), (-1.0, 1.0), (1.0, 2.0))
"""Pairs of numbers that are taken for two classes, the second for class 1."""
_ROUNDING = 1e-12  # of the largest label; labels that are no further apart are one value, computed in several ways
_NO_TRANSFORM: tuple[TransformName, ...] = ("none",)


@dataclass(frozen=True)
class Tasks:
    """What the targets of one model are.

    Attributes:
        kinds: tasks of each target.
        reason: one sentence that says why.
        balanced: the loss is the mean over targets of each target's own loss; else the mean over all labels.
    """

    kinds: tuple[TaskKind, ...]
    reason: str
    balanced: bool

    @property
    def name(self) -> TaskName:
        """The kind of all targets, or `mixed`."""
        return task_name(self.kinds)

    @property
    def judged_one_by_one(self) -> bool:
        """Whether a mean over the targets would say nothing: of several kinds, or values in units of their own."""
        return self.balanced or (len(self.kinds) > 1 and "regression" in self.kinds)


def number_word(value: float) -> str:
    """A number as the name of a class: 2, not 2.0."""
    return f"{value:.0f}" if value == round(value) else f"{value:g}"


def choose_task(
    targets_BC: Float[np.ndarray, "molecules targets"],
    names: Sequence[str],
    choice: TaskChoice,
    words: Sequence[str] = (),
) -> tuple[TaskKind, str]:
    """The kind of task and one sentence that says why.

    Args:
        targets_BC: labels as numbers; places in `words` where the labels are words.
        names: names of the targets.
        choice: what the user asked for.
        words: the labels of a single target, where they are words.

    Raises:
        InputError: the labels are not classes though classes were requested, or words though numbers were requested.
    """

    known = targets_BC[~np.isnan(targets_BC)]
    if words:
        if choice == "regression":
            raise InputError(f"target {names[0]} has words as labels", found=words[0], expected="numbers")
        listed = ", ".join(words[:5]) + (" …" if len(words) > 5 else "")
        kind: TaskKind = "classification" if len(words) == 2 and choice != "multiclass" else "multiclass"
        return kind, f"{kind}, because the labels of {names[0]} are {len(words)} words: {listed}"
    distinct = np.unique(known)
    whole = bool((known == np.round(known)).all()) and 2 <= len(distinct) <= MOST_CLASSES
    binary = bool(np.isin(known, (0.0, 1.0)).all())
    coded = tuple(distinct.tolist()) in TWO_CLASSES or (choice == "classification" and whole and len(distinct) == 2)
    if coded and choice in ("auto", "classification") and not binary:
        both = " or ".join(map(number_word, distinct))
        why = f"every label is {both} (--task regression overrules this)" if choice == "auto" else "it was asked for"
        return "classification", f"classification, because {why}"
    if choice in ("classification", "multiclass") and not (binary or whole):
        broken = ~np.isnan(targets_BC) & (targets_BC != np.round(targets_BC))
        row, column = np.argwhere(broken if broken.any() else ~np.isnan(targets_BC))[0]
        raise InputError(
            f"target {names[column]} can't be a class",
            found=f"the label {targets_BC[row, column]:g}, one of {len(distinct)}",
            expected=f"0 or 1, or whole numbers or words for up to {MOST_CLASSES} classes",
            next_step="Use --task regression, or recode the column",
        )
    if choice == "multiclass" or (choice == "classification" and not binary):
        return "multiclass", f"multiclass, {len(distinct)} classes by their numbers, as asked for"
    if choice != "auto":
        return choice, f"{choice}, as asked for"
    if binary:
        return "classification", "classification, because every label is 0 or 1 (--task regression overrules this)"
    example = known[~np.isin(known, (0.0, 1.0))][0]
    reason = f"regression, because there are labels other than 0 and 1, such as {example:g} ({len(distinct)} values)"
    hint = "; if they are names of classes, say --task multiclass" if whole else ""
    return "regression", reason + hint


def choose_tasks(
    targets_BC: Float[np.ndarray, "molecules targets"],
    names: Sequence[str],
    choices: Sequence[TaskChoice],
    *,
    words: Sequence[Sequence[str]] = (),
    several_files: bool = False,
) -> Tasks:
    """The kind of every target.

    One kind for one table is trained as OGB does it, on the mean over all labels. Targets of two kinds or of several
    files weigh the same instead, however many labels each has: else the largest file would drown the others.

    Args:
        targets_BC: labels; NaN = missing.
        names: names of the targets.
        choices: one for all targets, or one for each.
        words: labels of each target whose labels are words.
        several_files: the targets come from more than one file.

    Raises:
        ConfigError: the number of choices is another.
        InputError: see `choose_task`.
    """
    if len(choices) not in (1, len(names)):
        raise ConfigError("tasks and targets differ in number", found=len(choices), expected=f"1 or {len(names)}")
    each = list(choices) * len(names) if len(choices) == 1 else list(choices)
    columns = [targets_BC[:, [column]] for column in range(len(names))]
    known = list(words) or [()] * len(names)
    found = [
        choose_task(column, [name], choice, own)
        for column, name, choice, own in zip(columns, names, each, known, strict=True)
    ]
    kinds = tuple(kind for kind, _ in found)
    if len(names) == 1:
        reason = found[0][1]
    elif len(set(kinds)) == 1 and len(set(each)) == 1 and kinds[0] != "multiclass":
        labels = targets_BC[~np.isnan(targets_BC)]
        plain = kinds[0] != "classification" or (not any(known) and bool(np.isin(labels, (0, 1)).all()))
        two_each = "classification, because every target has two classes (--task regression overrules this)"
        reason = choose_task(targets_BC, names, each[0])[1] if plain else two_each
    else:
        of_kind = {kind: [name for name, own in zip(names, kinds, strict=True) if own == kind] for kind in kinds}
        reason = "; ".join(f"{kind} for {', '.join(own)}" for kind, own in of_kind.items())
        by_labels = ", by the labels of each (0 and 1 are classes, and so are words)"
        reason += by_labels if set(each) == {"auto"} else ", as asked for"
    return Tasks(kinds, reason, balanced=several_files or len(set(kinds)) > 1)


def check_tasks(
    targets_BC: Float[np.ndarray, "molecules targets"], names: Sequence[str], kinds: Sequence[TaskKind]
) -> list[str]:
    """`check_targets` for targets of both kinds."""
    notices: list[str] = []
    for kind in dict.fromkeys(kinds):
        columns = [column for column, own in enumerate(kinds) if own == kind]
        notices += check_targets(targets_BC[:, columns], [names[column] for column in columns], kind)
    return notices


def check_targets(
    targets_BC: Float[np.ndarray, "molecules targets"], names: Sequence[str], kind: TaskKind
) -> list[str]:
    """Refuse targets that can't be learned; return a notice for each that can only be learned in part.

    Raises:
        InputError: a target without labels, a constant one, or no target with both classes.
    """
    notices: list[str] = []
    for name, target_B in zip(names, targets_BC.T, strict=True):
        values = np.unique(target_B[~np.isnan(target_B)])
        if len(values) == 0:
            raise InputError(f"target {name} has no label", next_step="Leave it out of --target-columns")
        if kind == "regression" and np.ptp(values) <= _ROUNDING * np.abs(values).max():
            raise InputError(f"target {name} is constant", found=f"only {values[0]:g}", expected="two values or more")
        if len(values) == 1:
            if kind == "multiclass":
                raise InputError(f"target {name.rsplit('_prob_', 1)[0]} has one class only", expected="two or more")
            notices.append(f"target {name} has one class only ({values[0]:g}); metrics skip it")
    if kind == "classification" and len(notices) == len(names):
        what = "there is one class only" if len(names) == 1 else "each target has one class only"
        raise InputError(what, found="; ".join(notices)[:200], expected="labels 0 and 1")
    return notices


# Which map a target's labels get, and the scale of its training labels.


TransformChoice = Literal["auto", "log", "yeo-johnson"]
SKEWED = 2.0  # that of the exponential distribution
_SKEWED_FOR_MAE = 1.0  # from here on a map lowers the absolute error, and often raises the squared one
_STRAIGHTENED = 0.5  # of the skewness is the most that a map may leave
_WIDE, _WIDE_SKEW = 10.0, 1.0  # positive labels that span such a factor, and are as skewed, may be better as logarithms
_MARGIN = 1.0  # deviations of the mapped labels that a prediction may go beyond them
_WORDS = {"log": "logarithm", "yeo-johnson": "Yeo-Johnson map"}


def fit_transform(name: TransformName, labels_B: Float[np.ndarray, "molecules"]) -> Transform:
    """The map `name` for training labels, without NaN and not all equal."""
    if name == "none":
        return AS_IT_IS
    found = Transform("log")
    if name == "yeo-johnson":
        from sklearn.preprocessing import PowerTransformer  # a slow import that no prediction needs

        centre, width = float(labels_B.mean()), float(labels_B.std())
        power = PowerTransformer(standardize=False).fit(((labels_B - centre) / width)[:, None]).lambdas_[0]
        found = Transform(name, centre, width, float(np.clip(power, 0.0, 2.0)))
    mapped_B = found.forward(labels_B)
    margin = _MARGIN * float(mapped_B.std())
    return replace(found, low=float(mapped_B.min()) - margin, high=float(mapped_B.max()) + margin)


def choose_transforms(
    choice: TransformChoice | None,
    targets_BC: Float[np.ndarray, "molecules targets"],
    names: Sequence[str],
    kinds: Sequence[TaskKind],
    trainings: Sequence[np.ndarray],
    metric: Metric | None = None,
) -> tuple[tuple[TransformName, ...], list[str]]:
    """The map of each target, and what was chosen in words.

    `auto` maps a target whose training labels have a skewness of 2 or more, up or down, or of 1 where the mean absolute
    error is asked for (docs/results/label_maps.md): by the logarithm where all its labels are positive, else by Yeo and
    Johnson's map, and only if no more than half of the skewness is left. With several partitions the training parts of
    all must say so. Of labels of the validation part only the sign is looked at: what is zero or negative has no
    logarithm. A test label decides nothing.

    Args:
        choice: none = no map.
        targets_BC: labels of the training and validation parts; NaN = missing, and everywhere else.
        names: names of the targets.
        kinds: tasks of the targets; classes have no map.
        trainings: rows of the training part of each partition.
        metric: that the blend is chosen for; None = that of the task.

    Raises:
        InputError: logarithms were asked for and a label is not positive.
    """
    found: list[TransformName] = []
    lines: list[str] = []
    plain: list[_Fit] = []
    least = 0.0 if choice != "auto" else _SKEWED_FOR_MAE if metric == "mae" else SKEWED
    for name, kind, labels_B in zip(names, kinds, targets_BC.T, strict=True):
        if choice is None or kind != "regression":
            found.append("none")
            continue
        one = _fit_of(choice, name, labels_B, trainings, least)
        taken = choice != "auto" or one.straightens(least)
        found.append(one.transform if taken else "none")
        if taken:
            asked = "as asked for" if choice != "auto" else "transform=none overrules this"
            lines.append(
                f"target {name}: learned as its {_WORDS[one.transform]}, skewness {one.after:.1f} of {one.count} "
                f"training labels instead of {one.before:.1f} ({asked})"
            )
        elif abs(one.before) >= least:
            lines.append(f"no transform of {name}: its skewness is {one.before:.1f}, but {one.reason}")
        else:
            plain.append(one)
    if plain:
        listed = ", ".join(f"{one.name} (skewness {_below(one.before, least):.1f})" for one in plain)
        wide = ", and for ".join(one.span for one in plain if one.is_wide)
        overrule = f"; transform=log overrules this for {wide}" if wide else ""
        lines.append(f"no transform of {listed}: the skewness is below {least:g}{overrule}")
    return tuple(found), lines


@dataclass(frozen=True)
class _Fit:
    """A map of a target's labels, and how skewed these are.

    Attributes:
        name: name of the target.
        transform: the map.
        skews: skewness before and after the map, of the training part of each partition.
        count: labels of the first training part.
        low, high: smallest and largest label of training and validation parts.
    """

    name: str
    transform: TransformName
    skews: list[tuple[float, float]]
    count: int
    low: float
    high: float

    @property
    def before(self) -> float:
        return self.skews[0][0]

    @property
    def after(self) -> float:
        return self.skews[0][1]

    def straightens(self, least: float) -> bool:
        """Whether the labels of all partitions are as skewed as `least`, and the map leaves half of that or less."""
        return all(abs(before) >= least and _is_straighter(before, after) for before, after in self.skews)

    @property
    def reason(self) -> str:
        """Why the map of skewed labels is not taken."""
        no_log = f"a logarithm needs labels above 0 (found {significant(self.low)}), and " if self.low <= 0 else ""
        helps = _is_straighter(self.before, self.after)
        left = "helps in some folds only" if helps else f"leaves a skewness of {self.after:.1f}"
        return f"{no_log}its {_WORDS[self.transform]} {left}"

    @property
    def is_wide(self) -> bool:
        """Whether a logarithm may be better although the skewness is small."""
        return self.before >= _WIDE_SKEW and self.low > 0 and self.high >= _WIDE * self.low

    @property
    def span(self) -> str:
        return f"{self.name}, whose labels span a factor of {significant(self.high / self.low)}"


def _fit_of(
    choice: TransformChoice,
    name: str,
    labels_B: Float[np.ndarray, "molecules"],
    trainings: Sequence[np.ndarray],
    least: float,
) -> _Fit:
    """The map that is asked for or, with `auto`, the one that suits the signs of the labels."""
    known_B = labels_B[~np.isnan(labels_B)]
    low, high = float(known_B.min(initial=math.inf)), float(known_B.max(initial=-math.inf))
    if choice == "log" and low <= 0:
        raise InputError(
            f"target {name} can't be log-transformed",
            found=f"the label {low:g}",
            expected="labels above 0",
            next_step="Use transform=yeo-johnson",
        )
    own: TransformName = choice if choice != "auto" else "log" if low > 0 else "yeo-johnson"
    skews = [_skewness(own, labels_B[rows], least) for rows in trainings]
    return _Fit(name, own, skews, int((~np.isnan(labels_B[trainings[0]])).sum()), low, high)


def _is_straighter(before: float, after: float) -> bool:
    return abs(after) <= _STRAIGHTENED * abs(before)


def _below(skewness: float, least: float) -> float:
    """A skewness below the limit as it is shown: 1.96 is not 2.0."""
    return skewness if abs(round(skewness, 1)) < least else math.trunc(10 * skewness) / 10


def without_logarithm(
    names: Sequence[str],
    transforms: Sequence[TransformName],
    labels_BC: Float[np.ndarray, "molecules targets"],
    what: str = "label",
) -> list[str]:
    """A line per target that is learned as its logarithm, with the number of labels to be judged that have none.

    Args:
        names: names of the targets.
        transforms: transforms of the targets.
        labels_BC: that are judged; NaN = missing.
        what: word for such a label.
    """
    lines = []
    for name, chosen, labels_B in zip(names, transforms, labels_BC.T, strict=True):
        count = int((labels_B <= 0).sum()) if chosen == "log" else 0
        if count:
            many = f"1 {what} is" if count == 1 else f"{count} {what}s are"
            lines.append(f"target {name}: {many} not above 0 and can be judged in its unit only")
    return lines


def _skewness(name: TransformName, labels_B: Float[np.ndarray, "molecules"], least: float) -> tuple[float, float]:
    """Of labels before and after a map; 0 where they do not vary.

    No map is fitted to labels of a smaller skewness than `least`: both numbers are then that of before.
    """
    known_B = labels_B[~np.isnan(labels_B)]
    if len(known_B) < 3 or np.ptp(known_B) == 0:
        return 0.0, 0.0
    known_B = known_B / np.abs(known_B).max()  # no square of a tiny or a huge label is 0 or infinite
    with np.errstate(over="ignore", invalid="ignore"):
        before = _skew(known_B)
        if abs(before) < least:
            return before, before
        return before, _skew(fit_transform(name, known_B).forward(known_B))


def _skew(values_B: np.ndarray) -> float:
    return float((((values_B - values_B.mean()) / values_B.std()) ** 3).mean())


def _has_spread(known_B: Float[np.ndarray, "labels"]) -> bool:
    """Whether labels give a scale: they differ by more than rounding, and their deviation is finite."""
    return math.inf > _deviation(known_B) > _ROUNDING * float(np.abs(known_B).max(initial=0.0))


def _deviation(known_B: Float[np.ndarray, "labels"]) -> float:
    with np.errstate(over="ignore"):
        return float(known_B.std()) if len(known_B) else 0.0


def scale_labels(
    targets_BC: Float[np.ndarray, "molecules targets"], own: Int[np.ndarray, "own"], others: Int[np.ndarray, "others"]
) -> Float[np.ndarray, "rows targets"]:
    """Labels for `fit_targets` of a member that learns from `own` rows: of a target with a few labels also `others`.

    All labels of such a target may be in the fold that the member does not learn from. Then it learns nothing of it,
    and its scale is that of the members of the other folds.

    Returns:
        The labels of `own` and then of `others`, which are NaN for each target that has a scale by `own` alone.
    """
    found_BC: np.ndarray = targets_BC[np.concatenate([own, others])]
    for labels_B in found_BC.T:
        of_own = labels_B[: len(own)]
        if _has_spread(of_own[~np.isnan(of_own)]):
            labels_B[len(own) :] = np.nan
    return found_BC


def fit_targets(
    training_BC: Float[np.ndarray, "molecules targets"],
    names: Sequence[str],
    units: Sequence[str],
    kinds: Sequence[TaskKind],
    *,
    standardise: bool,
    transforms: Sequence[TransformName] = (),
    weight_B: Weights = None,
) -> list[Target]:
    """Targets with the mean and standard deviation of the training labels (population form).

    Args:
        training_BC: labels of the training part only, so that nothing of the test part leaks; NaN = missing.
        names: names of the targets.
        units: units of the targets; empty = none given.
        kinds: tasks of the targets; classes have no scale.
        standardise: False for `raw` regression.
        transforms: transforms of the targets; empty = none.
        weight_B: weight of each molecule in mean and deviation; None = 1.

    Raises:
        InputError: a target has no label, or a single value, in the training part.
    """
    targets = []
    columns = zip(
        names, units or [""] * len(names), kinds, transforms or _NO_TRANSFORM * len(names), training_BC.T, strict=True
    )
    for name, unit, kind, chosen, target_B in columns:
        known = target_B[~np.isnan(target_B)]
        if not standardise or kind != "regression":
            targets.append(Target(name, unit, kind=kind))
            continue
        if not _has_spread(known):
            raise InputError(
                f"target {name} has no usable spread in the training part",
                found=f"standard deviation {_deviation(known):g} of {len(known)} labels",
                next_step="Use another --split, or leave the target out",
            )
        transform = fit_transform(chosen, known)
        mapped = transform.forward(known)
        own_B = None if weight_B is None else weight_B[~np.isnan(target_B)]
        mean, deviation = weighted_moments(mapped, own_B)
        targets.append(Target(name, unit, float(mean), float(deviation), kind, transform=transform))
    return targets
