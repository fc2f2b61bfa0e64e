"""What is wrong or remarkable with labelled data, said before training: duplicates, leaks, targets without signal."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dnd.chemistry.splits import Split
from dnd.common.errors import InputError
from dnd.finetuning.labelled_data import LabelledFile, LabelledMolecules, standardized_line
from dnd.finetuning.prepared_labels import class_counts, counts_line, counts_of, group_at, user_names
from dnd.finetuning.splits import split_column
from dnd.finetuning.students import Plan
from dnd.finetuning.tasks import fit_targets
from dnd.models.students.encoders import RANDOM
from dnd.predictor.metrics import SUSPICIOUS, rank_correlation
from dnd.predictor.targets import TaskKind, TransformName
from dnd.tables.labels import NumberReader
from dnd.tables.streams import STANDARD_INPUT

# Molecules that are in more than one part of a split, whatever their spelling: they make a test look easier.


LIMIT_LISTED = 50


def audit_duplicates(
    partitions: Sequence[Split], smiles: Sequence[str], rows_B: Int[np.ndarray, "molecules"]
) -> dict[str, Any]:
    """What `metrics.json` says of molecules in more than one part.

    Args:
        partitions: one, or one per fold.
        smiles: SMILES of the molecules, as `molecule_identity` gives them.
        rows_B: row number of each in the input.

    Returns:
        `duplicates_across_parts`: how many molecules are in two parts or three, in the fold that has most of them;
        `duplicates_in_training_and_test`: those that matter most, counted in the same way;
        `duplicates`: of at most 50 of them the SMILES and the row numbers in each part, of all folds, those in
        training and test first.
    """
    places: dict[str, list[int]] = {}
    for place, text in enumerate(smiles):
        places.setdefault(text, []).append(place)
    repeated = {text: found for text, found in places.items() if len(found) > 1}
    most = leaking = 0
    listed: dict[str, dict[str, Any]] = {}
    for fold, partition in enumerate(partitions):
        part_of = {int(row): part for part, rows in partition.parts().items() for row in rows}
        found: list[dict[str, Any]] = []
        for text, own in repeated.items():
            rows: dict[str, list[int]] = {}
            for place in own:
                if place in part_of:
                    rows.setdefault(part_of[place], []).append(int(rows_B[place]))
            if len(rows) > 1:
                found.append({"smiles": text, "rows": rows, **({"fold": fold} if len(partitions) > 1 else {})})
        most = max(most, len(found))
        leaking = max(leaking, sum(_leaks(one) for one in found))
        for one in found:
            if _is_new(one, listed):
                listed[one["smiles"]] = one
    ordered = sorted(listed.values(), key=lambda one: not _leaks(one))
    return {
        "duplicates_across_parts": most,
        "duplicates_in_training_and_test": leaking,
        "duplicates": ordered[:LIMIT_LISTED],
    }


def warning_line(audit: dict[str, Any], place_of: Callable[[int], int] = lambda row: row) -> str | None:
    """One line for the user, with the first molecule named; None where all parts are apart.

    Args:
        audit: see `audit_duplicates`.
        place_of: how messages call a row of the input.
    """
    if not audit["duplicates_across_parts"]:
        return None
    first = audit["duplicates"][0]
    rows = "; ".join(
        f"{part} row {', '.join(str(place_of(row)) for row in numbers[:3])}" for part, numbers in first["rows"].items()
    )
    many = "molecule is" if audit["duplicates_across_parts"] == 1 else "molecules are"
    return (
        f"warning: {audit['duplicates_across_parts']} {many} in more than one part of the split, "
        f"{audit['duplicates_in_training_and_test']} of them in training and test, "
        f"which makes the test easier than it looks: {first['smiles'][:60]} ({rows})"
    )


def _leaks(found: dict[str, Any]) -> bool:
    return "train" in found["rows"] and "test" in found["rows"]


def _is_new(found: dict[str, Any], listed: dict[str, dict[str, Any]]) -> bool:
    known = listed.get(found["smiles"])
    return known is None or (_leaks(found) and not _leaks(known))


# Columns that hold the answer: another column that orders the molecules as the target does.


LIMIT_ROWS = 5_000
LIMIT_COLUMNS = 200


def leak_warnings(file: LabelledFile, targets: Sequence[str], ignored: Sequence[str] = ()) -> list[str]:
    """One line for each other column of numbers whose rank correlation with a target is 0.99 or more, up or down.

    Only the SMILES are ever learned from, so such a column does no harm here. But it often means that the target is
    known already, in another unit, or was computed from that column, and then a model of it is of little use. The first
    5,000 rows are examined; standard input, which can be read once only, is not.

    Args:
        file: the table.
        targets: its target columns.
        ignored: columns that are something else, such as that of a split.
    """
    if str(file.path) == STANDARD_INPUT:
        return []
    columns = _numbers(file)
    found = []
    for name, other in itertools.product(targets, columns):
        if name not in columns or other in targets or other in ignored:
            continue
        correlation = rank_correlation(columns[name], columns[other])
        if abs(correlation) >= SUSPICIOUS:
            found.append(
                f"warning: column {other} orders the molecules as target {name} does (rank correlation "
                f"{correlation:.3f}); it is not a feature, but {name} may already be known"
            )
    return found


def _numbers(file: LabelledFile) -> dict[str, np.ndarray]:
    """The columns of numbers, NaN where a cell is not a number; ambiguous columns are left out."""
    with file.opened() as table:
        names = [name for name in table.columns if name != table.smiles_column][:LIMIT_COLUMNS]
        rows = list(itertools.islice((row for row in table if row.problem is None), LIMIT_ROWS))
        comma_file = table.style.delimiter == ";"
    found = {}
    for name in names:
        cells = [row.values[name] for row in rows]
        with contextlib.suppress(InputError):
            reader = NumberReader(cells, name, file.rules, comma_file=comma_file)
            found[name] = np.array([reader.read(cell)[0] for cell in cells], dtype=np.float64)
    return found


# Whether the molecules that a model learns from can teach it its targets; said before any training.


def check_learnable(
    targets_BC: Float[np.ndarray, "molecules targets"],
    names: Sequence[str],
    kinds: Sequence[TaskKind],
    parts: Sequence[Split],
    *,
    with_valid: bool,
    transforms: Sequence[TransformName] = (),
) -> list[str]:
    """Refuse a split whose training part can't teach any target, and name the targets that it can't teach.

    Args:
        targets_BC: labels; NaN = missing.
        names: names of the columns.
        kinds: tasks of the columns.
        parts: partitions.
        with_valid: the validation part is learned from too, as by a blend.
        transforms: transforms of the columns; empty = none.

    Returns:
        A notice for each column of 0 and 1 with a single one of them.

    Raises:
        InputError: values without spread, or no column with both 0 and 1 where all are of that kind.
    """
    where = "the training part" if not with_valid else "the training and validation parts"
    where += " of the split" if len(parts) == 1 else " of a fold"
    notices: dict[str, None] = {}
    for part in parts:
        rows = np.concatenate([part.train, part.valid]) if with_valid else part.train
        fit_targets(targets_BC[rows], names, (), kinds, standardise=True, transforms=transforms)
        single = {
            name: np.unique(known_B)
            for name, kind, labels_B in zip(names, kinds, targets_BC[rows].T, strict=True)
            if kind != "regression" and len(np.unique(known_B := labels_B[~np.isnan(labels_B)])) < 2
        }
        if len(single) == len(names):
            name, values = next(iter(single.items()))
            found = f"only {values[0]:g} for {name}" if len(values) else f"no label of {name}"
            next_step = "Use another --split, such as random"
            verb = "has" if not with_valid else "have"
            raise InputError(f"{where} {verb} no two classes of any target", found=found, next_step=next_step)
        for name, values in single.items():
            what = f"one class only ({values[0]:g})" if len(values) else "no label"
            notices[f"target {name} has {what} in {where}: it can't be learned"] = None
    return list(notices)


# What a finetuning says of its data before it trains: encoder, molecules, task, leaks, split.


def preamble(
    plan: Plan, files: Sequence[LabelledFile], notices: Sequence[str], transforms: Sequence[str]
) -> Iterator[str]:
    """One line at a time.

    Args:
        plan: what is settled.
        files: the labelled tables.
        notices: about single targets.
        transforms: lines about the maps of the labels.
    """
    molecules, tasks, parts = plan.molecules, plan.tasks, plan.parts
    random = plan.encoder == RANDOM
    start = "random weights (RandInit)" if plan.config.blend.students else "none"
    yield f"encoder: {start}" if random else f"encoder: {plan.encoder}, hydrogens {plan.hydrogens}"
    yield counts_line(counts_of(molecules))
    if molecules.standardized is not None:
        yield standardized_line(molecules)
    yield f"task: {tasks.reason}"
    for notice in [*molecules.notes, *class_counts(molecules), *notices]:
        yield f"note: {notice}"
    column = split_column(plan.config.split)
    for file in files:
        yield from leak_warnings(file, user_names(molecules.names, molecules.groups), [column] if column else [])
    yield from transforms
    sizes = [f"{len(part.train)} / {len(part.valid)} / {len(part.test)}" for part in parts]
    yield f"split: {plan.config.split}, training / validation / test: {'; '.join(sizes)}"
    for repeats in plan.repeats:
        yield f"note: {repeats.sentence()}"
    warning = warning_line(audit_duplicates(parts, molecules.identities, molecules.rows_B), molecules.place_of)
    if warning:
        yield warning
    if tasks.balanced:
        yield from _label_counts(molecules, parts)


def _label_counts(molecules: LabelledMolecules, parts: Sequence[Split]) -> list[str]:
    """Labels of each target per part: a part without any can't judge it."""
    known_BC = ~np.isnan(molecules.targets_BC)
    owners = [group_at(molecules.groups, column) for column in range(len(molecules.names))]
    lines = []
    for column, (name, owner) in enumerate(zip(molecules.names, owners, strict=True)):
        if owner is not None and column > owner.first:
            continue  # classes of one target, all known or none
        sizes = [" / ".join(str(int(known_BC[rows, column].sum())) for rows in part.parts().values()) for part in parts]
        lines.append(f"labels of {owner.name if owner else name}: {'; '.join(sizes)}")
    return lines
