"""A finetuned model on labelled molecules it may not have seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dnd.common.config import from_dict
from dnd.common.errors import InputError
from dnd.finetuning.labelled_data import LabelledMolecules, read_labelled, standardized_line
from dnd.finetuning.prepared_labels import is_later_class, labels_of_model, repeats_of_model
from dnd.finetuning.tasks import without_logarithm
from dnd.predictor.metrics import RAW, judge_targets, significant, with_prediction
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import ClassGroup, Target, groups_of, task_name
from dnd.tables.labels import LOG_UNITS, LabelRules, plain_unit
from dnd.tables.molecules import open_molecules
from dnd.tables.readers import listed_columns
from dnd.tables.streams import is_pipe

_REASONS_PRINTED = 5
_NAMES_SHOWN = 5


def evaluate_file(
    predictor: Predictor,
    source: Path | str,
    *,
    smiles_column: str | None = None,
    target_columns: Sequence[str] = (),
    rules: LabelRules | None = None,
) -> dict[str, Any]:
    """Metrics of `predictor` on a labelled file.

    Args:
        predictor: the model.
        source: CSV, TSV, SMI, SDF or Parquet with labels.
        smiles_column: SMILES column; None = that of the training data, else found by name or content.
        target_columns: columns with the labels: names of some of the model's targets, or others for all of them, in
            their order. When empty, the columns with the names of the targets. Targets that are not judged are listed
            in `absent_targets`.
        rules: the user's options for labels; None = those of the training.

    Returns:
        Each metric as the mean over the targets of its kind, each target's own under `targets`, and counts. Molecules
        that the model learned from are counted in `known_molecules`, and where there are any, `unknown` has the same
        metrics of the others only, since those of known molecules show how well it remembers. An older model, which has
        no list of its molecules, has None there. `rejects` has the reasons why rows were left out.

    Raises:
        InputError: a column is missing, a label is not a number (or not a class of the model), or no row is left.
    """
    groups = groups_of(predictor.targets)
    every = [target for column, target in enumerate(predictor.targets) if not is_later_class(groups, column)]
    molecules, judged = _read(predictor, source, smiles_column, target_columns, rules, every)
    names = {_name(every[place]) for place in judged}
    places = [column for column, target in enumerate(predictor.targets) if _name(target) in names]
    targets = [predictor.targets[column] for column in places]
    labels_BC = _labels_of(molecules, targets)
    values_BC, refused = predictor.predict_store(molecules.store)
    judged_BC = with_prediction(labels_BC, values_BC[:, places])
    refused = {**_too_large(targets, labels_BC, judged_BC), **refused}
    notes = _lost_labels(targets, labels_BC, judged_BC, refused)
    notes += without_logarithm(
        [target.name for target in targets], [target.transform.name for target in targets], judged_BC
    )
    notes += _other_units(molecules, [every[place] for place in judged], _training_settings(predictor))
    repeats = repeats_of_model(molecules, targets, judged_BC)
    knows = predictor.knows(molecules.identities)
    if knows is not None:  # of the molecules that are counted
        knows = [own and row not in refused for row, own in enumerate(knows)]
    scores = _scores_of(knows, targets, judged_BC, values_BC[:, places])
    absent = [_name(target) for place, target in enumerate(every) if place not in judged]
    return {
        "task": task_name([target.kind for target in targets]),
        **_counts(molecules, refused, [*notes, *(one.sentence() for one in repeats)]),
        "absent_targets": absent,
        **scores,
    }


def _read(
    predictor: Predictor,
    source: Path | str,
    smiles_column: str | None,
    target_columns: Sequence[str],
    rules: LabelRules | None,
    every: Sequence[Target],
) -> tuple[LabelledMolecules, list[int]]:
    """The labels, a column for each target that is judged, and the places of these targets among `every` one.

    Raises:
        InputError: see `evaluate_file`.
    """
    if target_columns:
        judged, wanted = _asked_for(every, target_columns)
    else:
        judged = _in_file(every, predictor, source, smiles_column)
        wanted = [_name(every[place]) for place in judged]
    groups = groups_of(predictor.targets)
    molecules = read_labelled(
        source,
        wanted,
        predictor.parts.hydrogens,
        smiles_column=smiles_column,
        rules=label_rules_of(predictor) if rules is None else rules,
        remembered=predictor.smiles_column,
        standardize=predictor.parts.standardize,
        jobs=predictor.jobs,
        fewest=1,
        of_model=[_classes_of(every[place], groups) for place in judged],
    )
    columns = list(molecules.names)  # as `a,b` may be one column or two
    if len(columns) != len(judged):
        expected = f"names of targets, or a column for each of {listed_columns([_name(target) for target in every])}"
        raise InputError("label columns and targets differ in number", found=listed_columns(columns), expected=expected)
    _require_in_place(columns, [every[place] for place in judged], every)
    return molecules, judged


def _labels_of(molecules: LabelledMolecules, targets: Sequence[Target]) -> np.ndarray:
    """Exact labels `[molecules targets]` of the model's targets; one that is not a class of it is refused."""
    labels_BC = labels_of_model(replace(molecules, targets_BC=molecules.exact_BC), targets, groups_of(targets))
    classes_BC = labels_BC[:, [target.kind == "classification" for target in targets]]
    wrong = classes_BC[~np.isnan(classes_BC) & ~np.isin(classes_BC, (0.0, 1.0))]
    if len(wrong):
        raise InputError("a label is not a class", found=f"{wrong[0]:g}", expected="0 or 1")
    return labels_BC


def _other_units(molecules: LabelledMolecules, targets: Sequence[Target], training: Mapping[str, Any]) -> list[str]:
    """A line per target whose labels are in another unit than the target, as far as cells and names of columns say it.

    Args:
        molecules: the labels, a column per target.
        targets: targets of values and others.
        training: settings of the training, which say whether the units are the user's.
    """
    lines = []
    for column, unit, target in zip(molecules.names, molecules.units, targets, strict=True):
        named = column.strip() != target.name.strip() and unit and target.unit
        if target.kind != "regression" or _comparable(unit) == _comparable(target.unit):
            continue
        if named:
            lines.append(f"column {column} is in {unit} and target {target.name} in {target.unit}")
        elif target.unit == "%" and not training.get("units"):
            lines.append(f"target {target.name} was learned in percent, and column {column} has no percent sign")
    return [f"{line}: the labels are judged as they are" for line in lines]


def _comparable(unit: str) -> str:
    """A unit as it is compared: all logarithms are alike, as the name of a column does not say of what."""
    plain = plain_unit(unit)
    return LOG_UNITS if plain.lower().startswith("log") else plain


def _too_large(targets: Sequence[Target], labels_BC: np.ndarray, judged_BC: np.ndarray) -> dict[int, str]:
    """The rows whose labels all lack a prediction, by row with the reason, if nothing else is the reason."""
    lost_BC = ~np.isnan(labels_BC) & np.isnan(judged_BC)
    rows = np.flatnonzero(lost_BC.any(axis=1) & np.isnan(judged_BC).all(axis=1))
    return {int(row): f"{_names(targets, lost_BC[row])}: predicted for smaller molecules only" for row in rows}


def _lost_labels(
    targets: Sequence[Target], labels_BC: np.ndarray, judged_BC: np.ndarray, refused: Mapping[int, str]
) -> list[str]:
    """How many labels of each target lack a prediction in rows that have another."""
    lost_BC = ~np.isnan(labels_BC) & np.isnan(judged_BC)
    lost_BC[list(refused)] = False
    counts = {_name(target): int(count) for target, count in zip(targets, lost_BC.sum(axis=0), strict=True) if count}
    return [
        f"{count} labels of {name} left out: predicted for smaller molecules only" for name, count in counts.items()
    ]


def _names(targets: Sequence[Target], chosen: np.ndarray) -> str:
    return ", ".join(dict.fromkeys(_name(target) for target, own in zip(targets, chosen, strict=True) if own))


def _counts(molecules: LabelledMolecules, refused: Mapping[int, str], notes: Sequence[str]) -> dict[str, Any]:
    """How many rows there are, how many were left out and why, and what was understood of the others."""
    reasons = {reject.place: reject.reason for reject in molecules.rejects}
    reasons |= {molecules.place_of(int(molecules.rows_B[row])): reason for row, reason in refused.items()}
    return {
        "rows": molecules.num_rows,
        "molecules": len(molecules.rows_B) - len(refused),
        "rejected": len(reasons),
        "rejects": [f"row {row}: {reasons[row]}" for row in sorted(reasons)],
        "notes": [
            *molecules.notes,
            *([] if molecules.standardized is None else [standardized_line(molecules)]),
            *notes,
        ],
    }


def _scores_of(
    knows: Sequence[bool] | None, targets: Sequence[Target], labels_BC: np.ndarray, values_BC: np.ndarray
) -> dict[str, Any]:
    """Metrics of all molecules and, where the model learned from some of them, of the others alone."""
    new = np.flatnonzero(~np.array(knows)) if knows is not None else np.arange(len(labels_BC))
    return {
        "known_molecules": None if knows is None else sum(knows),
        **judge_targets(targets, labels_BC, values_BC),
        **({"unknown": judge_targets(targets, labels_BC[new], values_BC[new])} if knows and any(knows) else {}),
    }


def _classes_of(target: Target, groups: Sequence[ClassGroup]) -> tuple[str, ...]:
    """The classes of a target, by which its labels are read; none of a value."""
    if target.group:
        return next(group.classes for group in groups if group.name == target.group)
    return target.classes or (("0", "1") if target.kind == "classification" else ())


def _name(target: Target) -> str:
    """As the user knows it: the column of the training data."""
    return target.group or target.name


def label_rules_of(predictor: Predictor) -> LabelRules:
    """How labels were read in training."""
    return from_dict(LabelRules, _training_settings(predictor).get("labels", {}))


def _training_settings(predictor: Predictor) -> Mapping[str, Any]:
    found: Mapping[str, Any] = predictor.parts.config.get("training", {}).get("settings", {})
    return found


def _asked_for(targets: Sequence[Target], words: Sequence[str]) -> tuple[list[int], list[str]]:
    """Places of the targets that the user's columns are for, ascending, and these columns."""
    names, columns = [_name(target).strip() for target in targets], list[str]()
    for word in words:
        pieces = [piece.strip() for piece in word.split(",")]
        columns += pieces if word.strip() not in names and set(pieces) <= set(names) else [word]
    if not {column.strip() for column in columns} <= set(names):
        return list(range(len(targets))), columns
    ordered = sorted(columns, key=lambda column: names.index(column.strip()))
    return [names.index(column.strip()) for column in ordered], ordered


def _require_in_place(columns: Sequence[str], targets: Sequence[Target], every: Sequence[Target]) -> None:
    """Refuse a column with the name of one target in the place of another, whose labels it would judge."""
    names = {_name(target).strip() for target in every}
    for column, target in zip(columns, targets, strict=True):
        if column.strip() in names and column.strip() != _name(target).strip():
            raise InputError(
                f"column {column} has the name of a target and stands in the place of {_name(target)}",
                found=listed_columns(columns),
                expected=f"columns for {listed_columns([_name(one) for one in targets])}, in this order",
                next_step="Name the columns in that order, or only columns with the names of targets",
            )


def _in_file(
    targets: Sequence[Target], predictor: Predictor, source: Path | str, smiles_column: str | None
) -> list[int]:
    """Places of the targets for which the file has a column.

    A pipe can be read only once, so it is not looked at: all targets are taken to be there.

    Raises:
        InputError: the file has no column for any target.
    """
    if is_pipe(source):
        return list(range(len(targets)))
    with open_molecules(source, smiles_column, remembered=predictor.smiles_column) as table:
        known = [column.strip() for column in table.columns]
        found = [place for place, target in enumerate(targets) if _name(target).strip() in known]
    if not found:
        raise InputError(
            f"{source} has no column {' or '.join(repr(_name(target)) for target in targets[:_NAMES_SHOWN])}",
            found=f"columns {listed_columns(table.columns)}",
            next_step="Name the columns of the labels with --target-columns",
        )
    return found


def metric_lines(metrics: Mapping[str, Any]) -> list[str]:
    """The metrics as lines of text."""
    lines = [f"{metrics['molecules']} molecules of {metrics['rows']} rows, {metrics['rejected']} left out"]
    lines += metrics["rejects"][:_REASONS_PRINTED]
    if metrics["rejected"] > _REASONS_PRINTED:
        lines.append(f"… and {metrics['rejected'] - _REASONS_PRINTED} more; --json has all reasons")
    lines += [f"note: {note}" for note in metrics["notes"]]
    known, count = metrics["known_molecules"], metrics["molecules"]
    if known:
        lines.append(
            f"warning: the model learned from {known} of these {count} molecules, so their errors look smaller than "
            f"those of new ones will be; {count - known} are new to it"
        )
        lines += _scores(metrics, metrics["task"], "all molecules, ")
        lines += _scores(metrics["unknown"], metrics["task"], "new molecules, ") if known < count else []
    else:
        lines += _scores(metrics, metrics["task"], "")
        lines += ["which molecules the model learned from is not known"] if known is None else []
    if metrics["absent_targets"]:
        lines.append(f"not evaluated: {', '.join(metrics['absent_targets'])}")
    if metrics["skipped_targets"]:
        lines.append(f"{metrics['skipped_targets']} target(s) skipped: no labels, or one class only")
    return lines


def _scores(found: Mapping[str, Any], task: str, start: str) -> list[str]:
    """A line per target, and one for the mean where all are classes: a mean of values would mix their units."""
    targets = found["targets"]
    mean = {name: found[name] for name in next(iter(targets.values())) if not name.endswith(RAW)}
    has_mean = len(targets) > 1 and task not in ("mixed", "regression")
    rows = {"mean of targets": mean, **targets} if has_mean else targets
    return [f"{start}{label}: {_numbers(values)}" for label, values in rows.items()]


def _numbers(values: Mapping[str, float | None]) -> str:
    """Metrics on the learned scale first; behind `in its unit` those of a target with a transform."""
    raw = {name.removesuffix(RAW): value for name, value in values.items() if name.endswith(RAW)}
    own = "  ".join(f"{name} {significant(value)}" for name, value in values.items() if not name.endswith(RAW))
    others = "  ".join(f"{name} {significant(value)}" for name, value in raw.items())
    return f"{own}; in its unit {others}" if raw else own
