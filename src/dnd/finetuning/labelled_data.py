"""A labelled table to molecules with targets; everything that can be wrong with it is said before training starts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from dnd.common.errors import InputError
from dnd.conformers.records import require_columns
from dnd.predictor.metrics import ClassGroup
from dnd.store.featurize import as_store, featurize_smiles
from dnd.store.reader import Store
from dnd.store.schema import HydrogenSetting
from dnd.tables.labels import DrawnRows, LabelRules, read_column
from dnd.tables.molecules import open_molecules
from dnd.tables.readers import Row, TableReader
from dnd.tables.writers import csv_text

FEWEST_MOLECULES = 10


@dataclass(frozen=True)
class Reject:
    """A row that is left out.

    Attributes:
        row: number in the input, from 0.
        smiles: as written.
        stage: `read`, `labels`, or where parsing failed.
        reason: why.
        file: the input, where there are several.
        place: the row as messages say it; see `tables`.
    """

    row: int
    smiles: str
    stage: str
    reason: str
    file: str = ""
    place: int = 0


@dataclass(frozen=True)
class LabelledMolecules:
    """The usable rows of a labelled table, or the molecules of several tables, each once.

    Attributes:
        store: graphs in memory, one per usable row.
        rows_N: row numbers of the input, from 0, ascending; of `molecules.csv` where there are several inputs.
        texts: SMILES as written.
        smiles: canonical SMILES.
        targets_NC: labels in raw units; NaN = missing, at least one known per row.
        names: of the targets.
        extra: values of the further column that was asked for, such as that of a split.
        num_rows: rows of the input, usable or not.
        rejects: the others.
        files: names of the inputs.
        origins: where there are several inputs, for each molecule its row numbers in each of them.
        classes: for each target its labels, where they are words; `targets_NC` has their places then.
        groups: columns that are the classes of one target; see `classes.py`.
        not_drawn: rows that are too many, see `read_labelled`.
        places: row of each as messages say it.
        sides_NC: 1 or -1 where a label is a limit and the truth is above or below it; None = all labels are exact.
        class_names: for each target of two classes with names of their own these, class 0 first; empty = 0 and 1.
        units: of the user's targets, where the cells say them.
        notes: what was understood of the labels, a line each.
        smiles_column: of the first input.
    """

    store: Store
    rows_N: np.ndarray
    texts: list[str]
    smiles: list[str]
    targets_NC: Float[np.ndarray, "molecules targets"]
    names: tuple[str, ...]
    extra: list[str]
    num_rows: int
    rejects: list[Reject]
    files: tuple[str, ...]
    origins: tuple[tuple[tuple[int, ...], ...], ...] = ()
    classes: tuple[tuple[str, ...], ...] = ()
    groups: tuple[ClassGroup, ...] = ()
    not_drawn: int = 0
    places: tuple[int, ...] = ()
    sides_NC: Int[np.ndarray, "molecules targets"] | None = None
    class_names: tuple[tuple[str, ...], ...] = ()
    units: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    smiles_column: str = "smiles"

    @property
    def exact_NC(self) -> Float[np.ndarray, "molecules targets"]:
        """The labels that say what the truth is; a limit can teach, but not judge."""
        return self.targets_NC if self.sides_NC is None else np.where(self.sides_NC == 0, self.targets_NC, np.nan)

    def place_of(self, row: int) -> int:
        """How messages call a row of the input."""
        if not self.places:
            return row
        return self.places[int(np.searchsorted(self.rows_N, row))]

    def digest(self) -> str:
        """SHA-256 of molecules and labels, by which a resumed run knows its data."""
        digest = hashlib.sha256("\n".join(self.smiles).encode())
        digest.update(np.ascontiguousarray(self.rows_N).tobytes() + np.ascontiguousarray(self.targets_NC).tobytes())
        if self.sides_NC is not None:
            digest.update(np.ascontiguousarray(self.sides_NC).tobytes())
        return digest.hexdigest()

    def rejects_csv(self) -> str:
        """`rejects.csv`: row, smiles, stage, reason, and the file where there are several."""
        header = [entry.name for entry in fields(Reject)][: 5 if self.origins else 4]
        return csv_text(header, [[getattr(reject, name) for name in header] for reject in self.rejects])

    def origins_csv(self) -> str:
        """`molecules.csv`: row, canonical SMILES, and the row numbers of each file."""
        rows = [
            [row, smiles, *(" ".join(map(str, numbers)) for numbers in of_file)]
            for row, (smiles, of_file) in enumerate(zip(self.smiles, self.origins, strict=True))
        ]
        return csv_text(("row", "smiles", *self.files), rows)


def read_labelled(
    path: Path | str,
    target_columns: Sequence[str],
    hydrogens: HydrogenSetting,
    *,
    smiles_column: str | None = None,
    extra_column: str | None = None,
    rules: LabelRules | None = None,
    remembered: str | None = None,
    jobs: int = 0,
    fewest: int = FEWEST_MOLECULES,
    most: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> LabelledMolecules:
    """Read, check and featurise a labelled table of any format that `dnd` reads.

    Args:
        path: the file.
        target_columns: columns with labels.
        hydrogens: as the student sees molecules.
        smiles_column: where the SMILES are; None = find the column.
        extra_column: a further column to keep, such as that of a split.
        rules: what the user says of the labels.
        remembered: see `open_molecules`.
        jobs: worker processes for many molecules; 0 = one per processor.
        fewest: molecules that must be left.
        most: rows with a label that are read; of more, so many are drawn at random. None = all.
        say: receives a line before the long part.

    Raises:
        InputError: a column is missing, a label is no number, there is no label, or too few molecules are left.
    """
    file = LabelledFile(path, tuple(target_columns), smiles_column, rules or LabelRules(), remembered)
    labelled = read_labels(file, extra_column, most)
    if labelled.not_drawn:
        say(drawn_line(len(labelled.numbers), labelled.not_drawn))
    say(f"parsing {len(labelled.numbers)} molecules")
    molecules = featurize_smiles(labelled.texts, hydrogens, jobs=jobs)
    kept = [place for place, molecule in enumerate(molecules) if molecule.graph is not None]
    bad = [
        Reject(
            labelled.numbers[place],
            labelled.texts[place],
            molecule.stage,
            molecule.reason,
            place=labelled.places[place],
        )
        for place, molecule in enumerate(molecules)
        if molecule.graph is None
    ]
    require_enough(len(kept), bad, fewest)
    return LabelledMolecules(
        store=as_store([molecules[place] for place in kept], hydrogens),
        rows_N=np.array([labelled.numbers[place] for place in kept], dtype=np.int64),
        texts=[labelled.texts[place] for place in kept],
        smiles=[molecules[place].smiles for place in kept],
        targets_NC=np.array([labelled.labels[place] for place in kept], dtype=np.float64),
        names=tuple(labelled.names),
        extra=[labelled.extra[place] for place in kept],
        num_rows=labelled.num_rows,
        rejects=sorted([*labelled.rejects, *bad], key=lambda reject: reject.row),
        files=(Path(path).name,),
        classes=tuple(labelled.classes),
        not_drawn=labelled.not_drawn,
        places=tuple(labelled.places[place] for place in kept),
        sides_NC=sides_array([labelled.sides[place] for place in kept]),
        units=tuple(labelled.units),
        notes=tuple(labelled.notes),
        smiles_column=labelled.smiles_column,
    )


def sides_array(sides: Sequence[Sequence[int]]) -> Int[np.ndarray, "molecules targets"] | None:
    """Sides of the labels, see `LabelledMolecules`; None where no label is a limit."""
    sides_NC = np.array(sides, dtype=np.int8)
    return sides_NC if sides_NC.any() else None


@dataclass(frozen=True)
class LabelledFile:
    """A labelled table.

    Attributes:
        path: CSV, TSV, SMI, SDF or Parquet.
        target_columns: columns with labels; an empty cell is a missing label.
        smiles_column: where the SMILES are; None = find the column.
        rules: what the user says of the labels.
        remembered: see `open_molecules`.
    """

    path: Path | str
    target_columns: tuple[str, ...]
    smiles_column: str | None = None
    rules: LabelRules = field(default_factory=LabelRules)
    remembered: str | None = None


@dataclass
class LabelledRows:
    """Rows with a label, before their molecules are parsed.

    Attributes:
        names: of the target columns.
        numbers: row numbers, from 0.
        texts: SMILES as written.
        labels: values of the targets, NaN = missing.
        extra: values of the further column.
        rejects: rows without a label, or that can't be read.
        num_rows: all rows.
        classes: for each target its labels, where they are words.
        not_drawn: rows with a label that are too many.
        places: rows as messages say them.
        sides: of the labels, see `LabelledMolecules`.
        units: of the targets, where the cells say them.
        notes: what was understood of the labels, a line each.
        smiles_column: where the SMILES were.
    """

    names: list[str]
    numbers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    labels: list[list[float]] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    num_rows: int = 0
    classes: list[tuple[str, ...]] = field(default_factory=list)
    not_drawn: int = 0
    places: list[int] = field(default_factory=list)
    sides: list[list[int]] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    smiles_column: str = "smiles"


def read_labels(file: LabelledFile, extra_column: str | None, most: int | None = None) -> LabelledRows:
    """The rows of a file that have a label; with more than `most` of them, so many drawn at random.

    Raises:
        InputError: a column is missing, a label is no number, or there is no label at all.
    """
    if not file.target_columns:
        raise InputError("no target column is named", next_step="Add --target-columns NAME")
    with open_molecules(file.path, file.smiles_column, remembered=file.remembered) as source:
        names = resolve_columns(source.columns, file.target_columns)
        wanted = [*names, *([extra_column] if extra_column else [])]
        require_columns(file.path, source.columns, wanted, what="column")
        refuse_repeated(file.path, source, wanted)
        if source.smiles_column in names:
            raise InputError(
                f"{source.smiles_column!r} is the column of SMILES, not of labels",
                next_step="Name the column of SMILES with --smiles-column, or another target",
            )
        found = _rows_of(source, names, extra_column, most, file.rules)
    if not found.numbers:
        rows = f"{found.num_rows} rows"
        raise InputError(_nothing_left(found.rejects, names), found=rows, next_step="Check --target-columns")
    return found


def drawn_line(kept: int, left_out: int, where: str = "the table") -> str:
    """What is said of rows that are too many."""
    return f"plan: {kept} of {kept + left_out} rows with a label of {where} drawn at random (blend.most_rows={kept})"


def require_enough(kept: int, rejects: Sequence[Reject], fewest: int) -> None:
    """Refuse a table in which no molecule, or too few, can be read."""
    if not kept:
        found = f"row {rejects[0].place}: {rejects[0].reason}"
        raise InputError("there is no valid molecule", found=found, next_step="Check --smiles-column")
    if kept < fewest:
        raise InputError("there are too few molecules with labels", found=kept, expected=f"at least {fewest}")


def _rows_of(
    source: TableReader, names: list[str], extra_column: str | None, most: int | None, rules: LabelRules
) -> LabelledRows:
    found = LabelledRows(names, smiles_column=source.smiles_column)
    drawn: DrawnRows[tuple[Row, str, list[str]]] = DrawnRows(most)
    for row in source:
        found.num_rows += 1
        own = [row.values[name] for name in names]
        extra = row.values[extra_column].strip() if extra_column else ""
        if row.problem is not None:
            found.rejects.append(Reject(row.number, row.smiles, "read", row.problem, place=row.place))
        elif not any(map(str.strip, own)):
            found.rejects.append(_without_label(row))
        else:  # other columns of a row aren't kept
            drawn.add((Row(row.number, row.smiles, {}, place=row.place), extra, own))
    found.not_drawn = drawn.left_out
    _parse(found, drawn.rows(), rules, comma_file=source.style.delimiter == ";")
    return found


def _without_label(row: Row) -> Reject:
    return Reject(row.number, row.smiles, "labels", "no label", place=row.place)


def _parse(
    found: LabelledRows, rows: Sequence[tuple[Row, str, list[str]]], rules: LabelRules, *, comma_file: bool
) -> None:
    """Read the cells of the rows, column by column, and keep the rows that have a label."""
    places = [row.place for row, _, _ in rows]
    cells = list(zip(*(own for _, _, own in rows), strict=True)) if rows else [()] * len(found.names)
    columns = [
        read_column(own, places=places, column=name, rules=rules, comma_file=comma_file)
        for name, own in zip(found.names, cells, strict=True)
    ]
    found.classes, found.units = [column.words for column in columns], [column.unit for column in columns]
    found.notes = [note for column in columns for note in column.notes]
    for index, (row, extra, _) in enumerate(rows):
        labels = [column.values[index] for column in columns]
        if all(map(math.isnan, labels)):
            found.rejects.append(_without_label(row))
            continue
        found.numbers.append(row.number)
        found.places.append(row.place)
        found.texts.append(row.smiles)
        found.extra.append(extra)
        found.labels.append(labels)
        found.sides.append([column.sides[index] for column in columns])


def resolve_columns(columns: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Column names as given; a word that names no column is split at its commas where all its pieces do.

    Raises:
        InputError: a column is named twice, or a word is the name of a column and a list of others as well.
    """
    found: list[str] = []
    for word in wanted:
        pieces = [piece.strip() for piece in word.split(",")]
        is_list = len(pieces) > 1 and all(piece in columns for piece in pieces)
        if is_list and word in columns:
            raise InputError(f"{word!r} is the name of a column and a list of others", next_step="Rename that column")
        found += pieces if is_list else [word]
    repeated = [name for name in found if found.count(name) > 1]
    if repeated:
        raise InputError(f"target column {repeated[0]!r} is named twice")
    return found


def refuse_repeated(path: Path | str, source: TableReader, wanted: Sequence[str]) -> None:
    """Refuse a column whose name the header repeats, so that no wrong column is used silently.

    Raises:
        InputError: there are two of that name.
    """
    for name in wanted:
        if name in source.repeated:
            raise InputError(f"{path} has two columns named {name!r}", next_step="Rename one of them")


def _nothing_left(rejects: Sequence[Reject], target_columns: Sequence[str]) -> str:
    if all(reject.stage == "labels" for reject in rejects):
        return f"all labels of {', '.join(target_columns)} are missing"
    first = next(reject for reject in rejects if reject.stage != "labels")
    return f"no row can be used; row {first.place}: {first.reason}"
