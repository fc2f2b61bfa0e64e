"""Targets: what is predicted, how labels are read, and the scale a network is trained in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from dnd.common.errors import ConfigError, InputError
from dnd.finetuning.metrics import TaskKind

TaskChoice = Literal["auto", "regression", "classification"]
TaskName = Literal["regression", "classification", "mixed"]
MISSING_WORDS = frozenset({"", "nan", "na", "n/a", "null", "none", "?", "-"})
_TRUTH = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


@dataclass(frozen=True)
class Target:
    """One predicted property.

    Attributes:
        name: the column of the training data.
        unit: as the user gave it; empty = not given.
        mean: of the training labels, in `unit`; 0 for classes and for `raw` targets.
        std: of the training labels, in `unit`; 1 for classes and for `raw` targets.
        kind: value or class.
    """

    name: str
    unit: str = ""
    mean: float = 0.0
    std: float = 1.0
    kind: TaskKind = "regression"


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


def parse_label(text: str, *, row: int, column: str) -> float:
    """The number in a cell; NaN where the label is missing.

    Raises:
        InputError: the cell is neither a finite number, nor true/false, nor one of the words for a missing value.
    """
    word = text.strip().lower()
    if word in MISSING_WORDS:
        return math.nan
    if word in _TRUTH:
        return _TRUTH[word]
    try:
        value = float(word)
    except ValueError:
        value = math.inf
    if not math.isfinite(value) or "_" in word:
        raise InputError(
            f"row {row}, column {column}: the label is not a number",
            found=repr(text[:40]),
            expected="a finite number",
            next_step="Correct the cell, or empty it where the label is missing",
        )
    return value


def choose_task(
    targets_NC: Float[np.ndarray, "molecules targets"], names: Sequence[str], choice: TaskChoice
) -> tuple[TaskKind, str]:
    """The kind of task and one sentence that says why.

    Raises:
        InputError: `classification` was asked for and a label is neither 0 nor 1.
    """
    known = targets_NC[~np.isnan(targets_NC)]
    binary = bool(np.isin(known, (0.0, 1.0)).all())
    if choice == "classification" and not binary:
        row, column = np.argwhere(~np.isnan(targets_NC) & ~np.isin(targets_NC, (0.0, 1.0)))[0]
        raise InputError(
            f"target {names[column]} can't be a class",
            found=f"the label {targets_NC[row, column]:g}",
            expected="0 or 1",
            next_step="Use --task regression, or recode the column",
        )
    if choice != "auto":
        return choice, f"{choice}, as asked for"
    if binary:
        return "classification", "classification, because every label is 0 or 1 (--task regression overrules this)"
    distinct = len(np.unique(known))
    example = known[~np.isin(known, (0.0, 1.0))][0]
    return (
        "regression",
        f"regression, because there are labels other than 0 and 1, such as {example:g} ({distinct} values)",
    )


def choose_tasks(
    targets_NC: Float[np.ndarray, "molecules targets"],
    names: Sequence[str],
    choices: Sequence[TaskChoice],
    *,
    several_files: bool = False,
) -> Tasks:
    """The kind of every target.

    One kind for one table is trained as OGB does it, on the mean over all labels. Targets of two kinds or of several
    files weigh the same instead, however many labels each has: else the largest file would drown the others.

    Args:
        targets_NC: labels; NaN = missing.
        names: of the targets.
        choices: one for all targets, or one for each.
        several_files: the targets come from more than one file.

    Raises:
        ConfigError: the number of choices is another.
        InputError: `classification` was asked for and a label is neither 0 nor 1.
    """
    if len(choices) not in (1, len(names)):
        raise ConfigError("tasks and targets differ in number", found=len(choices), expected=f"1 or {len(names)}")
    each = list(choices) * len(names) if len(choices) == 1 else list(choices)
    columns = [targets_NC[:, [column]] for column in range(len(names))]
    found = [choose_task(column, [name], choice) for column, name, choice in zip(columns, names, each, strict=True)]
    kinds = tuple(kind for kind, _ in found)
    if len(set(kinds)) == 1 and len(set(each)) == 1:
        reason = choose_task(targets_NC, names, each[0])[1]
    else:
        of_kind = {kind: [name for name, own in zip(names, kinds, strict=True) if own == kind] for kind in kinds}
        reason = "; ".join(f"{kind} for {', '.join(own)}" for kind, own in of_kind.items())
        reason += ", by the labels of each (0 and 1 are classes)" if set(each) == {"auto"} else ", as asked for"
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
) -> list[Target]:
    """Targets with the mean and standard deviation of the training labels (population form).

    Args:
        training_NC: labels of the training part only, so that nothing of the test part leaks; NaN = missing.
        names: of the targets.
        units: of the targets; empty = none given.
        kinds: of the targets; classes have no scale.
        standardise: False for `raw` regression.

    Raises:
        InputError: a target has no label, or a single value, in the training part.
    """
    targets = []
    for name, unit, kind, target_N in zip(names, units or [""] * len(names), kinds, training_NC.T, strict=True):
        known = target_N[~np.isnan(target_N)]
        if not standardise or kind == "classification":
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
        targets.append(Target(name, unit, float(known.mean()), std, kind))
    return targets
