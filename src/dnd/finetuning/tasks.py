"""Targets: what is predicted, how labels are read, and the scale a network is trained in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from dnd.common.errors import InputError
from dnd.finetuning.metrics import TaskKind

TaskChoice = Literal["auto", "regression", "classification"]
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
    """

    name: str
    unit: str = ""
    mean: float = 0.0
    std: float = 1.0


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
    *,
    standardise: bool,
) -> list[Target]:
    """Targets with the mean and standard deviation of the training labels (population form).

    Args:
        training_NC: labels of the training part only, so that nothing of the test part leaks; NaN = missing.
        names: of the targets.
        units: of the targets; empty = none given.
        standardise: False for classes and for `raw` regression.

    Raises:
        InputError: a target has no label, or a single value, in the training part.
    """
    targets = []
    for name, unit, target_N in zip(names, units or [""] * len(names), training_NC.T, strict=True):
        known = target_N[~np.isnan(target_N)]
        if not standardise:
            targets.append(Target(name, unit))
            continue
        with np.errstate(over="ignore"):
            std = float(known.std()) if len(known) else 0.0
        if not 0 < std < math.inf:
            raise InputError(
                f"target {name} has no usable spread in the training part",
                found=f"standard deviation {std:g} of {len(known)} labels",
                next_step="Use another --split, or leave the target out",
            )
        targets.append(Target(name, unit, float(known.mean()), std))
    return targets
