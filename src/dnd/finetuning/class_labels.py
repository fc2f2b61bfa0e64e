"""Targets of several classes: one word per molecule outside, one column of 0 and 1 per class inside.

With a column per class, labels and predictions have the same shape for every kind of target: whatever works column by
column (ensembles, forests, blends) works on the class columns as one against the rest. Only the loss, the metrics, the
calibration and the output look at a group as a whole. Legend: N molecules, C columns, K classes of a group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from dnd.common.errors import InputError
from dnd.finetuning.labelled_data import LabelledMolecules
from dnd.predictor.metrics import ClassGroup, TaskKind, one_hot
from dnd.predictor.targets import Target, Tasks, number_word

Array = Float[np.ndarray, "molecules columns"]


def expand_classes(molecules: LabelledMolecules, tasks: Tasks) -> tuple[LabelledMolecules, Tasks]:
    """The same data with a column per class for each multiclass target, and the tasks of those columns.

    The classes are those of the training and validation parts. A test label that is none of them, or neither 0 nor 1
    where these are the classes, counts as missing, and `notes` has a line about it.

    Raises:
        InputError: two columns would have the same name.
    """
    molecules = _without_unknown(molecules, tasks.kinds)
    if "multiclass" not in tasks.kinds:
        return molecules, tasks
    names: list[str] = []
    columns: list[np.ndarray] = []
    groups: list[ClassGroup] = []
    for column, (name, kind) in enumerate(zip(molecules.names, tasks.kinds, strict=True)):
        values_N = molecules.targets_NC[:, column]
        if kind != "multiclass":
            names.append(name)
            columns.append(values_N)
            continue
        classes, codes_N = _codes(values_N, molecules.classes[column] if molecules.classes else ())
        groups.append(ClassGroup(name, classes, len(names)))
        names += [f"{name}_prob_{one}" for one in classes]
        columns += list(one_hot(codes_N, len(classes)).T)
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"two targets would be called {repeated}", next_step="Rename a column or a class")
    expanded = replace(molecules, names=tuple(names), targets_NC=np.stack(columns, axis=1), groups=tuple(groups))
    kinds = ["multiclass" if group_at(groups, column) else "" for column in range(len(names))]
    plain = iter([kind for kind in tasks.kinds if kind != "multiclass"])
    kinds = [kind or next(plain) for kind in kinds]
    return expanded, Tasks(tuple(kinds), tasks.reason, balanced=tasks.balanced or len(groups) > 1)  # type: ignore[arg-type]


def _without_unknown(molecules: LabelledMolecules, kinds: Sequence[TaskKind]) -> LabelledMolecules:
    """Without the test labels that no training or validation molecule has, of targets that are classes."""
    targets_NC, notes = molecules.targets_NC.copy(), list(molecules.notes)
    for column, (name, kind) in enumerate(zip(molecules.names, kinds, strict=True)):
        known = np.unique(molecules.learned_NC[:, column])  # with NaN, if there is any
        known = np.array([0.0, 1.0]) if kind == "classification" else known
        unknown = np.flatnonzero(~np.isnan(targets_NC[:, column]) & ~np.isin(targets_NC[:, column], known))
        if kind == "regression" or not len(unknown):
            continue
        first = f"row {molecules.rows_N[unknown[0]]}, {number_word(float(targets_NC[unknown[0], column]))}"
        many = "label is" if len(unknown) == 1 else "labels are"
        notes.append(
            f"target {name}: {len(unknown)} test {many} no class of the training and validation parts, "
            f"and count as missing: {first}"
        )
        targets_NC[unknown, column] = math.nan
    return replace(molecules, targets_NC=targets_NC, notes=tuple(notes))


def with_groups(targets: Sequence[Target], groups: Sequence[ClassGroup]) -> list[Target]:
    """Targets that know the group and the class of their column."""
    found = list(targets)
    for group in groups:
        for place, name in zip(group.columns, group.classes, strict=True):
            found[place] = replace(found[place], group=group.name, class_name=name)
    return found


def spread_units(units: Sequence[str], names: Sequence[str], groups: Sequence[ClassGroup]) -> tuple[str, ...]:
    """Units of the targets as units of their columns; classes have none. Another number is handed on as it is."""
    if not groups or len(units) != len(user_names(names, groups)):
        return tuple(units)
    of_target = dict(zip(user_names(names, groups), units, strict=True))
    return tuple("" if group_at(groups, column) else of_target[name] for column, name in enumerate(names))


def group_at(groups: Sequence[ClassGroup], column: int) -> ClassGroup | None:
    """The group that a column belongs to."""
    return next((group for group in groups if column in group.columns), None)


def class_counts(molecules: LabelledMolecules) -> list[str]:
    """One line per target of several classes: how many molecules each class has."""
    lines = []
    for group in molecules.groups:
        counts_K = np.nansum(molecules.targets_NC[:, group.span], axis=0).astype(int)
        each = ", ".join(f"{name} {count}" for name, count in zip(group.classes, counts_K, strict=True))
        lines.append(f"classes of {group.name}: {each}")
    return lines


def label_count(molecules: LabelledMolecules) -> int:
    """Known labels; one of several classes counts once."""
    later = [column for group in molecules.groups for column in group.columns[1:]]
    return int((~np.isnan(np.delete(molecules.targets_NC, later, axis=1))).sum())


def is_later_class(groups: Sequence[ClassGroup], column: int) -> bool:
    """Whether a column is a class of a target, but not its first."""
    group = group_at(groups, column)
    return group is not None and column != group.first


def user_names(names: Sequence[str], groups: Sequence[ClassGroup]) -> list[str]:
    """Names of the targets as the user knows them, in order: a group once, by its own name."""
    owners = [group_at(groups, column) for column in range(len(names))]
    return list(dict.fromkeys(owner.name if owner else name for name, owner in zip(names, owners, strict=True)))


def describe_targets(targets: Sequence[Target], groups: Sequence[ClassGroup]) -> list[dict[str, Any]]:
    """The targets as the user knows them, for `metrics.json`."""
    found: list[dict[str, Any]] = []
    for column, target in enumerate(targets):
        group = group_at(groups, column)
        if group is None:
            mapped = {} if target.transform.name == "none" else {"transform": target.transform.name}
            found.append({"name": target.name, "unit": target.unit, "kind": target.kind, **mapped})
        elif column == group.first:
            found.append({"name": group.name, "unit": "", "kind": "multiclass", "classes": list(group.classes)})
    return found


def labels_of_model(molecules: LabelledMolecules, targets: Sequence[Target], groups: Sequence[ClassGroup]) -> Array:
    """Labels that were read as the user has them, in the columns of a model.

    Args:
        molecules: a column per target of the user, in the model's order.
        targets: of the model.
        groups: of the model.

    Raises:
        InputError: a label is no class of the model, or words stand where numbers are expected.
    """
    columns: list[np.ndarray] = []
    wanted = [target for column, target in enumerate(targets) if not is_later_class(groups, column)]
    by_name = {group.name: group for group in groups}
    for column, target in enumerate(wanted):
        values_N = molecules.targets_NC[:, column]
        words = molecules.classes[column] if molecules.classes else ()
        if not target.group:
            if words:
                raise InputError(f"target {target.name} has words for labels", found=words[0], expected="numbers")
            columns.append(values_N)
            continue
        group = by_name[target.group]
        classes, codes_N = _codes(values_N, words)
        unknown = next((one for one in classes if one not in group.classes), None)
        if unknown is not None:
            known = ", ".join(group.classes[:10])
            raise InputError(f"a label of {group.name} is no class of the model", found=unknown, expected=known)
        place = np.array([group.classes.index(one) for one in classes], dtype=np.float64)
        own_N = np.full(len(codes_N), math.nan)
        known_N = ~np.isnan(codes_N)
        own_N[known_N] = place[codes_N[known_N].astype(int)]
        columns += list(one_hot(own_N, len(group.classes)).T)
    return np.stack(columns, axis=1)


def _codes(values_N: np.ndarray, words: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the classes and, for each molecule, which it has."""
    if words:
        return tuple(words), values_N
    known_N = ~np.isnan(values_N)
    numbers = np.unique(values_N[known_N])
    codes_N = np.full(len(values_N), math.nan)
    codes_N[known_N] = np.searchsorted(numbers, values_N[known_N])
    return tuple(map(number_word, numbers)), codes_N
