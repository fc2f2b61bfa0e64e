"""Targets: what is predicted, how labels are read, and the scale a network is trained in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dnd.common.config import from_dict
from dnd.common.errors import ConfigError, InputError
from dnd.predictor.metrics import REGRESSION_METRICS, ClassGroup, TaskKind, judge
from dnd.predictor.transforms import AS_IT_IS, Transform, TransformName, fit_transform

TaskChoice = Literal["auto", "regression", "classification", "multiclass"]
TWO_CLASSES = ((0.0, 1.0), (-1.0, 1.0), (1.0, 2.0))
"""Pairs of numbers that are taken for two classes, the second for class 1."""
TaskName = Literal["regression", "classification", "multiclass", "mixed"]
_NO_TRANSFORM: tuple[TransformName, ...] = ("none",)


@dataclass(frozen=True)
class Target:
    """One predicted property.

    Attributes:
        name: the column of the training data.
        unit: as the user gave it; empty = not given.
        mean: of the training labels, in `unit` or mapped; 0 for classes and for `raw` targets.
        std: of the training labels, in `unit` or mapped; 1 for classes and for `raw` targets.
        kind: value, class, or one of several classes.
        group: the column of the training data, where this target is one of its classes.
        class_name: which.
        transform: of the labels, before `mean` and `std`.
        classes: names of the two classes of a binary target, class 0 first, where the user has names for them.
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

    def scaled(self, labels_N: Float[np.ndarray, "molecules"]) -> Float[np.ndarray, "molecules"]:
        """Labels as they are learned."""
        return (self.transform.forward(labels_N) - self.mean) / self.std

    def raw(self, outputs_N: Float[np.ndarray, "molecules"]) -> Float[np.ndarray, "molecules"]:
        """What outputs mean, in `unit`."""
        return self.transform.predicted(outputs_N * self.std + self.mean)

    def scale(self) -> dict[str, Any]:
        """What `with_scale` needs, as plain values."""
        mapped = {} if self.transform.name == "none" else {"transform": asdict(self.transform)}
        return {"mean": self.mean, "std": self.std, **mapped}

    def with_scale(self, scale: Mapping[str, Any]) -> Target:
        """The same target in the scale of another member."""
        transform = from_dict(Transform, scale.get("transform", {}))
        return replace(self, mean=float(scale["mean"]), std=float(scale["std"]), transform=transform)


def groups_of(targets: Sequence[Target]) -> tuple[ClassGroup, ...]:
    """The targets of several classes among the columns."""
    first: dict[str, int] = {}
    classes: dict[str, list[str]] = {}
    for column, target in enumerate(targets):
        if target.group:
            first.setdefault(target.group, column)
            classes.setdefault(target.group, []).append(target.class_name)
    return tuple(ClassGroup(name, tuple(classes[name]), column) for name, column in first.items())


RAW = "_raw"  # at the end of a metric's name: in the unit of a target that is learned, and judged, through a transform
RAW_METRICS = tuple(f"{name}{RAW}" for name in REGRESSION_METRICS)


def on_learned_scale(
    targets: Sequence[Target], values_NC: Float[np.ndarray, "molecules targets"]
) -> Float[np.ndarray, "molecules targets"]:
    """Labels or predictions on the scale on which errors are judged; see `Transform.judged`."""
    found: np.ndarray = values_NC.copy()
    for column, target in enumerate(targets):
        if target.transform.name != "none":
            found[:, column] = target.transform.judged(found[:, column])
    return found


def from_learned_scale(
    targets: Sequence[Target], judged_NC: Float[np.ndarray, "molecules targets"]
) -> Float[np.ndarray, "molecules targets"]:
    """The inverse of `on_learned_scale`: values in the targets' units."""
    found: np.ndarray = judged_NC.copy()
    for column, target in enumerate(targets):
        if target.transform.name != "none":
            found[:, column] = target.transform.unjudged(found[:, column])
    return found


def weighted_mean(
    targets: Sequence[Target],
    weights_MC: Float[np.ndarray, "members targets"],
    members: Sequence[Float[np.ndarray, "molecules targets"]],
) -> Float[np.ndarray, "molecules targets"]:
    """The mean of several predictions, taken on the learned scale: members and weights are fitted there."""
    scaled_MNC = np.stack([on_learned_scale(targets, values_NC) for values_NC in members])
    return from_learned_scale(targets, np.einsum("mc,mnc->nc", weights_MC, scaled_MNC))


def judge_targets(
    targets: Sequence[Target],
    labels_NC: Float[np.ndarray, "molecules targets"],
    predictions_NC: Float[np.ndarray, "molecules targets"],
) -> dict[str, Any]:
    """`judge` on the learned scale, and `rmse_raw`, `mae_raw`, `r2_raw` in the unit of targets that have a transform.

    An error of a Ki of 10 nM and one of a Ki of 1 mM are the same factor, but the second alone would decide a mean of
    errors in nM: a target that is learned as its logarithm is judged by factors.

    Args:
        targets: of the columns.
        labels_NC: in their units; NaN = missing.
        predictions_NC: in their units, or probabilities.
    """
    names, kinds, groups = [one.name for one in targets], [one.kind for one in targets], groups_of(targets)
    scaled_NC = on_learned_scale(targets, labels_NC)
    found = judge(names, kinds, scaled_NC, on_learned_scale(targets, predictions_NC), groups)
    mapped = [column for column, target in enumerate(targets) if target.transform.name != "none"]
    if mapped:
        own = [names[column] for column in mapped]
        raw = judge(own, [kinds[column] for column in mapped], labels_NC[:, mapped], predictions_NC[:, mapped])
        found |= {f"{metric}{RAW}": raw[metric] for metric in REGRESSION_METRICS}
        for name in own:
            found["targets"][name] |= {f"{metric}{RAW}": raw["targets"][name][metric] for metric in REGRESSION_METRICS}
    return found


@dataclass(frozen=True)
class Tasks:
    """What the targets of one model are.

    Attributes:
        kinds: of each target.
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


def task_name(kinds: Sequence[TaskKind]) -> TaskName:
    """The kind that all targets have, or `mixed`."""
    return kinds[0] if len(set(kinds)) == 1 else "mixed"


def number_word(value: float) -> str:
    """A number as the name of a class: 2, not 2.0."""
    return f"{value:.0f}" if value == round(value) else f"{value:g}"


def choose_task(
    targets_NC: Float[np.ndarray, "molecules targets"],
    names: Sequence[str],
    choice: TaskChoice,
    words: Sequence[str] = (),
) -> tuple[TaskKind, str]:
    """The kind of task and one sentence that says why.

    Args:
        targets_NC: labels as numbers; places in `words` where the labels are words.
        names: of the targets.
        choice: what the user asked for.
        words: the labels of a single target, where they are words.

    Raises:
        InputError: classes were asked for and the labels are no classes, or numbers and the labels are words.
    """
    from dnd.tables.labels import MOST_CLASSES  # labels are read where a model is made, not where it predicts

    known = targets_NC[~np.isnan(targets_NC)]
    if words:
        if choice == "regression":
            raise InputError(f"target {names[0]} has words for labels", found=words[0], expected="numbers")
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
        broken = ~np.isnan(targets_NC) & (targets_NC != np.round(targets_NC))
        row, column = np.argwhere(broken if broken.any() else ~np.isnan(targets_NC))[0]
        raise InputError(
            f"target {names[column]} can't be a class",
            found=f"the label {targets_NC[row, column]:g}, one of {len(distinct)}",
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
    targets_NC: Float[np.ndarray, "molecules targets"],
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
        targets_NC: labels; NaN = missing.
        names: of the targets.
        choices: one for all targets, or one for each.
        words: for each target its labels, where they are words.
        several_files: the targets come from more than one file.

    Raises:
        ConfigError: the number of choices is another.
        InputError: see `choose_task`.
    """
    if len(choices) not in (1, len(names)):
        raise ConfigError("tasks and targets differ in number", found=len(choices), expected=f"1 or {len(names)}")
    each = list(choices) * len(names) if len(choices) == 1 else list(choices)
    columns = [targets_NC[:, [column]] for column in range(len(names))]
    known = list(words) or [()] * len(names)
    found = [
        choose_task(column, [name], choice, own)
        for column, name, choice, own in zip(columns, names, each, known, strict=True)
    ]
    kinds = tuple(kind for kind, _ in found)
    if len(names) == 1:
        reason = found[0][1]
    elif len(set(kinds)) == 1 and len(set(each)) == 1 and kinds[0] != "multiclass":
        labels = targets_NC[~np.isnan(targets_NC)]
        plain = kinds[0] != "classification" or (not any(known) and bool(np.isin(labels, (0, 1)).all()))
        two_each = "classification, because every target has two classes (--task regression overrules this)"
        reason = choose_task(targets_NC, names, each[0])[1] if plain else two_each
    else:
        of_kind = {kind: [name for name, own in zip(names, kinds, strict=True) if own == kind] for kind in kinds}
        reason = "; ".join(f"{kind} for {', '.join(own)}" for kind, own in of_kind.items())
        by_labels = ", by the labels of each (0 and 1 are classes, and so are words)"
        reason += by_labels if set(each) == {"auto"} else ", as asked for"
    return Tasks(kinds, reason, balanced=several_files or len(set(kinds)) > 1)


def check_tasks(
    targets_NC: Float[np.ndarray, "molecules targets"], names: Sequence[str], kinds: Sequence[TaskKind]
) -> list[str]:
    """`check_targets` for targets of both kinds."""
    notices: list[str] = []
    for kind in dict.fromkeys(kinds):
        columns = [column for column, own in enumerate(kinds) if own == kind]
        notices += check_targets(targets_NC[:, columns], [names[column] for column in columns], kind)
    return notices


def check_targets(
    targets_NC: Float[np.ndarray, "molecules targets"], names: Sequence[str], kind: TaskKind
) -> list[str]:
    """Refuse targets that can't be learned; return a notice for each that can only be learned in part.

    Raises:
        InputError: a target without labels, a constant one, or no target with both classes.
    """
    notices: list[str] = []
    for name, target_N in zip(names, targets_NC.T, strict=True):
        values = np.unique(target_N[~np.isnan(target_N)])
        if len(values) == 0:
            raise InputError(f"target {name} has no label", next_step="Leave it out of --target-columns")
        if len(values) == 1 and kind == "regression":
            raise InputError(f"target {name} is constant", found=f"only {values[0]:g}", expected="two values or more")
        if len(values) == 1:
            if kind == "multiclass":
                raise InputError(f"target {name.rsplit('_prob_', 1)[0]} has one class only", expected="two or more")
            notices.append(f"target {name} has one class only ({values[0]:g}); metrics skip it")
    if kind == "classification" and len(notices) == len(names):
        raise InputError("there is one class only", found="; ".join(notices)[:200], expected="labels 0 and 1")
    return notices


def fit_targets(
    training_NC: Float[np.ndarray, "molecules targets"],
    names: Sequence[str],
    units: Sequence[str],
    kinds: Sequence[TaskKind],
    *,
    standardise: bool,
    transforms: Sequence[TransformName] = (),
) -> list[Target]:
    """Targets with the mean and standard deviation of the training labels (population form).

    Args:
        training_NC: labels of the training part only, so that nothing of the test part leaks; NaN = missing.
        names: of the targets.
        units: of the targets; empty = none given.
        kinds: of the targets; classes have no scale.
        standardise: False for `raw` regression.
        transforms: of the targets; empty = none.

    Raises:
        InputError: a target has no label, or a single value, in the training part.
    """
    targets = []
    columns = zip(
        names, units or [""] * len(names), kinds, transforms or _NO_TRANSFORM * len(names), training_NC.T, strict=True
    )
    for name, unit, kind, chosen, target_N in columns:
        known = target_N[~np.isnan(target_N)]
        if not standardise or kind != "regression":
            targets.append(Target(name, unit, kind=kind))
            continue
        with np.errstate(over="ignore"):
            std = float(known.std()) if len(known) else 0.0
        if not 0 < std < math.inf:
            raise InputError(
                f"target {name} has no usable spread in the training part",
                found=f"standard deviation {std:g} of {len(known)} labels",
                next_step="Use another --split, or leave the target out",
            )
        transform = fit_transform(chosen, known)
        mapped = transform.forward(known)
        targets.append(Target(name, unit, float(mapped.mean()), float(mapped.std()), kind, transform=transform))
    return targets
