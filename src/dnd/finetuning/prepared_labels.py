"""Labels as they are learned: classes as columns, and repeated measurements of a molecule kept together or combined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from dnd.chemistry.splits import Split, rows_of_molecules
from dnd.common.errors import InputError
from dnd.finetuning.labelled_data import LabelledMolecules
from dnd.finetuning.tasks import Tasks, number_word
from dnd.predictor.metrics import Repeats, one_hot, pooled_deviation
from dnd.predictor.targets import (
    ClassGroup,
    Target,
    TaskKind,
    Transform,
    TransformName,
    groups_of,
    refuse_unclear_outputs,
)
from dnd.tables.labels import class_key, unread_labels

# Targets of several classes: one word per molecule outside, one column of 0 and 1 per class inside.
#
# With a column per class, labels and predictions have the same shape for every kind of target: whatever works column by
# column (ensembles, forests, blends) works on the class columns as one against the rest. Only the loss, the metrics,
# the calibration and the output look at a group as a whole.

Array = Float[np.ndarray, "molecules columns"]


def expand_classes(molecules: LabelledMolecules, tasks: Tasks) -> tuple[LabelledMolecules, Tasks]:
    """The same data with a column per class for each multiclass target, and the tasks of those columns.

    The classes are those of the training and validation parts. A test label that is none of them, or neither 0 nor 1
    where these are the classes, counts as missing, and `notes` has a line about it.

    Raises:
        InputError: two columns would have the same name, or a label of a class is a limit.
    """
    _refuse_limits_of_classes(molecules, tasks.kinds)
    molecules = _zero_one(_without_unknown(molecules, tasks.kinds), tasks.kinds)
    if "multiclass" not in tasks.kinds:
        return molecules, tasks
    names: list[str] = []
    columns: list[np.ndarray] = []
    groups: list[ClassGroup] = []
    class_names: list[tuple[str, ...]] = []
    sides: list[np.ndarray] = []
    for column, (name, kind) in enumerate(zip(molecules.names, tasks.kinds, strict=True)):
        values_B = molecules.targets_BC[:, column]
        own_sides_B = np.zeros(len(values_B), np.int8) if molecules.sides_BC is None else molecules.sides_BC[:, column]
        if kind != "multiclass":
            names.append(name)
            columns.append(values_B)
            class_names.append(molecules.class_names[column])
            sides.append(own_sides_B)
            continue
        words = molecules.classes[column] if molecules.classes else ()
        if words:  # those of a class that only rows had that contradict each other are left out
            words, values_B = _occurring(words, values_B, _known(molecules, column))
        classes, codes_B = _codes(values_B, words)
        groups.append(ClassGroup(name, classes, len(names)))
        names += [f"{name}_prob_{one}" for one in classes]
        columns += list(one_hot(codes_B, len(classes)).T)
        class_names += [()] * len(classes)
        sides += [np.zeros(len(values_B), np.int8)] * len(classes)
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"two targets would be called {repeated}", next_step="Rename a column or a class")
    expanded = replace(
        molecules,
        names=tuple(names),
        targets_BC=np.stack(columns, axis=1),
        groups=tuple(groups),
        class_names=tuple(class_names),
        sides_BC=None if molecules.sides_BC is None else np.stack(sides, axis=1),
    )
    kinds = ["multiclass" if group_at(groups, column) else "" for column in range(len(names))]
    plain = iter([kind for kind in tasks.kinds if kind != "multiclass"])
    kinds = [kind or next(plain) for kind in kinds]
    return expanded, Tasks(tuple(kinds), tasks.reason, balanced=tasks.balanced or len(groups) > 1)  # type: ignore[arg-type]


def _refuse_limits_of_classes(molecules: LabelledMolecules, kinds: Sequence[TaskKind]) -> None:
    """Refuse `>3` among classes, which would be the class 3."""
    if molecules.sides_BC is None:
        return
    for name, kind, sides_B, labels_B in zip(
        molecules.names, kinds, molecules.sides_BC.T, molecules.targets_BC.T, strict=True
    ):
        limits = np.flatnonzero(sides_B)
        if kind == "regression" or not len(limits):
            continue
        row = int(limits[0])
        sign = ">" if sides_B[row] > 0 else "<"
        raise InputError(
            f"target {name} has limits, which are of values and not of classes",
            found=f"row {molecules.place_of(int(molecules.rows_B[row]))}, {sign}{number_word(float(labels_B[row]))}",
            next_step="Use --task regression, or --censored drop or limit",
        )


def _without_unknown(molecules: LabelledMolecules, kinds: Sequence[TaskKind]) -> LabelledMolecules:
    """Without the labels that no training or validation molecule has, of targets that are classes."""
    targets_BC, notes = molecules.targets_BC.copy(), list(molecules.notes)
    for column, (name, kind) in enumerate(zip(molecules.names, kinds, strict=True)):
        known = _known(molecules, column)
        if kind == "classification" and np.isin(known, (0.0, 1.0)).all():
            known = np.array([0.0, 1.0])
        unknown = np.flatnonzero(~np.isnan(targets_BC[:, column]) & ~np.isin(targets_BC[:, column], known))
        if kind == "regression" or not len(unknown):
            continue
        place = molecules.place_of(int(molecules.rows_B[unknown[0]]))
        first = f"row {place}, {number_word(float(targets_BC[unknown[0], column]))}"
        notes.append(f"{unread_labels(name, len(unknown), 'class')}: {first}")
        targets_BC[unknown, column] = math.nan
    return replace(molecules, targets_BC=targets_BC, notes=tuple(notes))


def _known(molecules: LabelledMolecules, column: int) -> np.ndarray:
    """The different labels that a target has in the training and validation parts, ascending."""
    labels_B = molecules.learned_BC[:, column]
    return np.unique(labels_B[~np.isnan(labels_B)])


def _zero_one(molecules: LabelledMolecules, kinds: Sequence[TaskKind]) -> LabelledMolecules:
    """Labels of two classes as 0 and 1, and the names the user has for them where these are others."""
    targets_BC, class_names = molecules.targets_BC.copy(), []
    for column, kind in enumerate(kinds):
        labels_B, known = targets_BC[:, column], _known(molecules, column)
        own = molecules.classes[column] if molecules.classes else ()
        if kind == "classification" and not own and not np.isin(known, (0.0, 1.0)).all():
            own = tuple(map(number_word, known))
            targets_BC[:, column] = np.where(np.isnan(labels_B), np.nan, labels_B == known[-1])
        class_names.append(own if kind == "classification" else ())
    return replace(molecules, targets_BC=targets_BC, class_names=tuple(class_names))


def require_unique_outputs(molecules: LabelledMolecules, kinds: Sequence[TaskKind]) -> None:
    """Refuse targets whose columns in tables and predictions would have one name.

    Raises:
        InputError: such as targets `y` and `y_pred`, or one called `smiles`.
    """
    every = {group.name: group.classes for group in molecules.groups}
    every |= {name: own for name, own in zip(molecules.names, molecules.class_names, strict=True) if own}
    refuse_unclear_outputs({name: every.get(name, ()) for name in user_names(molecules.names, molecules.groups)})


def with_groups(
    targets: Sequence[Target], groups: Sequence[ClassGroup], class_names: Sequence[tuple[str, ...]] = ()
) -> list[Target]:
    """Targets that know the group and the class of their column, or the names of their two classes."""
    found = [
        replace(target, classes=own) for target, own in zip(targets, class_names or ((),) * len(targets), strict=True)
    ]
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
        counts_K = np.nansum(molecules.targets_BC[:, group.span], axis=0).astype(int)
        each = ", ".join(f"{name} {count}" for name, count in zip(group.classes, counts_K, strict=True))
        lines.append(f"classes of {group.name}: {each}")
    for column, own in enumerate(molecules.class_names):
        if own:
            labels_B = molecules.targets_BC[:, column]
            each = ", ".join(f"{one} {int((labels_B == place).sum())}" for place, one in enumerate(own))
            lines.append(f"classes of {molecules.names[column]}: {each}; the second is the one predicted")
    return lines


def counts_of(molecules: LabelledMolecules) -> dict[str, int]:
    """Rows, molecules and labels, for `metrics.json`; what did not happen has no entry.

    `molecules` are the rows that are used, `different` the molecules in them, `merged` the rows that became part of
    another row of their molecule, `in_no_part` other rows that are in no part of the split. Labels are those of the
    rows that are used.
    """
    used = np.unique(np.concatenate([rows for part in molecules.parts for rows in part.parts().values()]))
    found = {
        "rows": molecules.num_rows,
        "molecules": len(used),
        "different": len({molecules.identities[row] for row in used}),
        "rejected": len(molecules.rejects),
        "labels": _label_count(molecules, used),
    }
    limits = 0 if molecules.sides_BC is None else int(np.count_nonzero(molecules.sides_BC[used]))
    in_no_part = len(molecules.rows_B) - molecules.merged - len(used)
    happened = {"merged": molecules.merged, "not_drawn": molecules.not_drawn, "in_no_part": in_no_part}
    happened["censored_labels"] = limits
    found |= {name: count for name, count in happened.items() if count}
    return found if molecules.standardized is None else {**found, "standardized": molecules.standardized}


def counts_line(counts: Mapping[str, int], files: str = "") -> str:
    """`counts_of` in words: what was used of the table and what was not. Older models have fewer entries."""
    used, different = counts["molecules"], counts.get("different", counts["molecules"])
    words = f"{used} molecules of {counts['rows']} rows"
    if different < used:
        words = f"{different} molecules in {used} of {counts['rows']} rows"
    merged = f"; {counts['merged']} rows merged into another row of their molecule" if "merged" in counts else ""
    unused = f"; {counts['in_no_part']} in no part of the split" if "in_no_part" in counts else ""
    return f"{words}{files}{merged}{unused}; {counts['rejected']} left out"


def _label_count(molecules: LabelledMolecules, rows: Int[np.ndarray, "rows"]) -> int:
    """Known labels of some molecules; one of several classes counts once."""
    later = [column for group in molecules.groups for column in group.columns[1:]]
    return int((~np.isnan(np.delete(molecules.targets_BC[rows], later, axis=1))).sum())


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
            named = {"class_names": list(target.classes)} if target.classes else {}
            found.append({"name": target.name, "unit": target.unit, "kind": target.kind, **mapped, **named})
        elif column == group.first:
            found.append({"name": group.name, "unit": "", "kind": "multiclass", "classes": list(group.classes)})
    return found


def labels_of_model(molecules: LabelledMolecules, targets: Sequence[Target], groups: Sequence[ClassGroup]) -> Array:
    """Labels that were read as the user has them, in the columns of a model.

    Args:
        molecules: a column per target of the user, in the model's order.
        targets: targets of the model.
        groups: groups of the model.

    Raises:
        InputError: a label is not a class of the model, or is a word where a number is expected.
    """
    columns: list[np.ndarray] = []
    wanted = [target for column, target in enumerate(targets) if not is_later_class(groups, column)]
    by_name = {group.name: group for group in groups}
    for column, target in enumerate(wanted):
        values_B = molecules.targets_BC[:, column]
        words = molecules.classes[column] if molecules.classes else ()
        if not target.group and not target.classes:
            if words:
                raise InputError(f"target {target.name} has words as labels", found=words[0], expected="numbers")
            columns.append(values_B)
        elif target.classes:
            columns.append(_places(values_B, words, target.name, target.classes))
        else:
            group = by_name[target.group]
            columns += list(one_hot(_places(values_B, words, group.name, group.classes), len(group.classes)).T)
    return np.stack(columns, axis=1)


def _places(values_B: np.ndarray, words: Sequence[str], name: str, of_model: Sequence[str]) -> np.ndarray:
    """For each label its place among the classes of the model; letter case and blanks don't count."""
    classes, codes_B = _codes(values_B, words)
    keys = [class_key(one) for one in of_model]
    unknown = next((one for one in classes if class_key(one) not in keys), None)
    if unknown is not None:
        known = ", ".join(of_model[:10])
        raise InputError(f"a label of {name} is not a class of the model", found=unknown, expected=known)
    place = np.array([keys.index(class_key(one)) for one in classes], dtype=np.float64)
    own_B = np.full(len(codes_B), math.nan)
    known_B = ~np.isnan(codes_B)
    own_B[known_B] = place[codes_B[known_B].astype(int)]
    return own_B


def _occurring(
    words: Sequence[str], values_B: np.ndarray, known: np.ndarray
) -> tuple[tuple[str, ...], Float[np.ndarray, "molecules"]]:
    """The classes at the places `known`, and the labels as places among these."""
    place_of = np.full(len(words), math.nan)
    place_of[known.astype(int)] = np.arange(len(known))
    own_B = np.full(len(values_B), math.nan)
    has_label_B = ~np.isnan(values_B)
    own_B[has_label_B] = place_of[values_B[has_label_B].astype(int)]
    return tuple(words[int(place)] for place in known), own_B


def _codes(values_B: np.ndarray, words: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the classes and, for each molecule, which it has."""
    if words:
        return tuple(words), values_B
    known_B = ~np.isnan(values_B)
    numbers = np.unique(values_B[known_B])
    codes_B = np.full(len(values_B), math.nan)
    codes_B[known_B] = np.searchsorted(numbers, values_B[known_B])
    return tuple(map(number_word, numbers)), codes_B


# Molecules that were measured more than once: how many, how far their values are apart, and their rows as one.
#
# How far these are apart is computed in `dnd.predictor.metrics`.
#
# No rule that draws a split puts two rows of a molecule into different parts, see `chemistry/splits.py`.

Aggregation = Literal["keep", "mean", "median", "geometric-mean"]


def find_repeats(
    molecules: LabelledMolecules,
    kinds: Sequence[TaskKind],
    transforms: Mapping[str, TransformName],
    units: Mapping[str, str],
) -> list[Repeats]:
    """What each target's repeated measurements say; targets without any are left out. It decides nothing.

    Args:
        molecules: before any rows are merged, with a column per class for targets of several classes.
        kinds: tasks of the columns.
        transforms: column → its transform; not listed = none.
        units: column → its unit; not listed = none given.
    """
    repeated = [rows for rows in rows_of_molecules(molecules.identities) if len(rows) > 1]
    spans = {group.first: (group.name, list(group.columns)) for group in molecules.groups}
    found: list[Repeats] = []
    for column, kind in enumerate(kinds):
        if kind == "multiclass" and column not in spans:
            continue
        name, columns = spans.get(column, (molecules.names[column], [column]))
        labels_BK = molecules.exact_BC[:, columns]
        is_factor = kind == "regression" and transforms.get(name) == "log"
        labels_BK = Transform("log").judged(labels_BK) if is_factor else labels_BK
        own = [[row for row in rows if not np.isnan(labels_BK[row]).any()] for rows in repeated]
        own = [places for places in own if len(places) > 1]
        if not own:
            continue
        count, rows = len(own), sum(map(len, own))
        if kind == "regression":
            deviation = pooled_deviation([labels_BK[rows, 0] for rows in own])
            unit = "" if is_factor else units.get(name, "")
            shown = 10**deviation if is_factor else deviation
            found.append(Repeats(name, count, rows, deviation=shown, is_factor=is_factor, unit=unit))
            continue
        contradicting = [rows for rows in own if len(np.unique(labels_BK[rows], axis=0)) > 1]
        first = molecules.smiles[contradicting[0][0]] if contradicting else ""
        found.append(Repeats(name, count, rows, contradicting=len(contradicting), first=first))
    return found


def repeats_of_model(
    molecules: LabelledMolecules, targets: Sequence[Target], targets_BC: Float[np.ndarray, "molecules targets"]
) -> list[Repeats]:
    """`find_repeats` of molecules that a model is judged by.

    Args:
        molecules: as they were read.
        targets: targets of the model.
        targets_BC: exact labels in their columns, see `labels_of_model`.
    """
    groups, names = groups_of(targets), tuple(target.group or target.name for target in targets)
    judged = replace(molecules, targets_BC=targets_BC, sides_BC=None, names=names, groups=groups)
    transforms = {name: target.transform.name for name, target in zip(names, targets, strict=True)}
    units = {name: target.unit for name, target in zip(names, targets, strict=True)}
    return find_repeats(judged, [target.kind for target in targets], transforms, units)


def aggregated(
    molecules: LabelledMolecules, how: Aggregation, kinds: Sequence[TaskKind]
) -> tuple[LabelledMolecules, str | None]:
    """The rows of a molecule in one part as one: the first gets the mean of their values, the others are in no part.

    Rows of different parts stay apart, so that no test label gets into a training label. Classes that contradict each
    other leave no label. Values that are the truth outweigh limits, see `weightiest`.

    Args:
        molecules: with parts; a column per target of the user.
        how: `keep` changes nothing.
        kinds: tasks of the targets.

    Returns:
        The molecules, and a line that says what was done.

    Raises:
        InputError: a geometric mean of values that are learned and not positive.
    """
    if how == "keep":
        return molecules, None
    if how == "geometric-mean":
        _require_positive(molecules, kinds)
    membership = _membership(molecules.parts, len(molecules.smiles))
    groups = [rows for rows in rows_of_molecules(zip(molecules.identities, membership, strict=True)) if len(rows) > 1]
    targets_BC, left_out = molecules.targets_BC.copy(), np.zeros(len(molecules.smiles), bool)
    sides_BC = np.zeros(targets_BC.shape, np.int8) if molecules.sides_BC is None else molecules.sides_BC.copy()
    contradicting = intervals = 0
    for first, *others in groups:
        rows = [first, *others]
        for column, kind in enumerate(kinds):
            own = molecules.targets_BC[rows, column], sides_BC[rows, column]
            intervals += is_interval(*own)
            values, sides_BC[first, column] = weightiest(*own)
            value = _one_of(values, how, kind)
            contradicting += bool(np.isnan(value) and len(values))
            targets_BC[first, column] = value
        left_out[others] = True
        left_out[first] = molecules.learned_B[first] and np.isnan(targets_BC[first]).all()
    targets_BC[left_out] = np.nan
    sides_BC[np.isnan(targets_BC)] = 0
    parts = tuple(Split(*(rows[~left_out[rows]] for rows in part.parts().values())) for part in molecules.parts)
    line = f"replicates: {sum(map(len, groups))} rows of {len(groups)} molecules are {len(groups)} by their {how}"
    line += f"; {contradicting} labels left out that contradict each other" if contradicting else ""
    line += intervals_words(intervals)
    limits_BC = None if molecules.sides_BC is None else sides_BC
    merged = sum(len(rows) - 1 for rows in groups)
    return replace(molecules, targets_BC=targets_BC, sides_BC=limits_BC, parts=parts, merged=merged), line


def weightiest(
    values: Float[np.ndarray, "rows"], sides: Int[np.ndarray, "rows"]
) -> tuple[Float[np.ndarray, "chosen"], int]:
    """Of the labels of one molecule those that count: the truth outweighs limits, and the strictest limit the others.

    Args:
        values: NaN = missing.
        sides: see `LabelledMolecules`.

    Returns:
        The exact values or, without any, the largest lower or the smallest upper limit, and the side of what is
        returned; nothing where there are only limits of both sides, see `is_interval`.
    """
    known = ~np.isnan(values)
    exact = known & (sides == 0)
    if exact.any():
        return values[exact], 0
    if not known.any() or is_interval(values, sides):
        return values[:0], 0
    side = int(sides[known][0])
    strictest = values[known].max() if side > 0 else values[known].min()
    return np.array([strictest]), side


def is_interval(values: Float[np.ndarray, "rows"], sides: Int[np.ndarray, "rows"]) -> bool:
    """Whether the labels of one molecule say only between which limits the truth lies, which can't be learned."""
    return {-1, 1} == set(sides[~np.isnan(values)].tolist())


def intervals_words(count: int) -> str:
    """What is said of labels that were left out, as they have limits on both sides and no value."""
    return f"; {count} labels left out that have limits on both sides and no value" if count else ""


def _one_of(values: Float[np.ndarray, "rows"], how: Aggregation, kind: TaskKind) -> float:
    if not len(values):
        return float("nan")
    if kind != "regression":
        return float(values[0]) if np.ptp(values) == 0 else float("nan")
    if how == "geometric-mean":
        return float(np.exp(Transform("log").forward(values).mean()))  # NaN with a value that is not positive
    return float(np.median(values) if how == "median" else values.mean())


def _require_positive(molecules: LabelledMolecules, kinds: Sequence[TaskKind]) -> None:
    for name, kind, labels_B in zip(molecules.names, kinds, molecules.learned_BC.T, strict=True):
        lowest = float(np.nanmin(labels_B)) if np.isfinite(labels_B).any() else 1.0
        if kind == "regression" and lowest <= 0:
            raise InputError(
                f"target {name} has no geometric mean",
                found=f"the label {lowest:g}",
                expected="labels above 0",
                next_step="Use --replicates mean or median",
            )


def _membership(parts: Sequence[Split], count: int) -> list[tuple[int, ...]]:
    """For each molecule the part that it is in, of each partition; 0 = in none."""
    found_XB = np.zeros((len(parts), count), np.int64)
    for partition, own_B in zip(parts, found_XB, strict=True):
        for number, rows in enumerate(partition.parts().values(), start=1):
            own_B[rows] = number
    return [tuple(own) for own in found_XB.T.tolist()]
