"""A labelled table to molecules with targets; everything that can be wrong with it is said before training starts."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from dnd.chemistry.splits import Split
from dnd.common.errors import InputError
from dnd.common.row_errors import note_rows
from dnd.conformers.records import require_columns
from dnd.predictor.metrics import ClassGroup
from dnd.store.featurize import as_store, featurize_smiles
from dnd.store.reader import Store
from dnd.store.schema import HydrogenSetting
from dnd.tables.labels import DrawnRows, is_missing, parse_label, parse_labels
from dnd.tables.molecules import open_molecules
from dnd.tables.readers import TableReader
from dnd.tables.writers import csv_text

FEWEST_MOLECULES = 10
_LISTED = 3  # cells that a note shows
_FEW_CLASSES = 10
_IS_ID = re.compile(
    r"(?i)id|name|title|compound|molecule|(compound|molecule|cmpd|mol|chembl|sample|batch)[ _-].{0,20}(id|name)"
)


@dataclass(frozen=True)
class Reject:
    """A row that is left out.

    Attributes:
        row: number in the input, from 0.
        smiles: as written.
        stage: `read`, `labels`, or where parsing failed.
        reason: why.
        file: the input, where there are several.
    """

    row: int
    smiles: str
    stage: str
    reason: str
    file: str = ""


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
        parts: partitions, where they were asked for; the labels were read by those of the molecules that are learned.
        notes: what is to be said of labels that were left out.
        ids: the user's own names of the molecules; empty where the table has none.
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
    parts: tuple[Split, ...] = ()
    notes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()

    @property
    def learned_N(self) -> Bool[np.ndarray, "molecules"]:
        """Which molecules are in the training or validation part of a partition; all where there is no partition.

        Only their labels decide anything: task, classes, transforms, scales.
        """
        return learned_rows(self.parts, len(self.smiles))

    @property
    def learned_NC(self) -> Float[np.ndarray, "molecules targets"]:
        """`targets_NC` without the labels that decide nothing, those of molecules that are only in test parts."""
        return np.where(self.learned_N[:, None], self.targets_NC, np.nan)

    def digest(self) -> str:
        """SHA-256 of molecules and labels, by which a resumed run knows its data."""
        digest = hashlib.sha256("\n".join(self.smiles).encode())
        digest.update(np.ascontiguousarray(self.rows_N).tobytes() + np.ascontiguousarray(self.targets_NC).tobytes())
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
    smiles_column: str = "smiles",
    extra_column: str | None = None,
    jobs: int = 0,
    fewest: int = FEWEST_MOLECULES,
    most: int | None = None,
    dealing: Dealing | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> LabelledMolecules:
    """Read, check and featurise a labelled table of any format that `dnd` reads.

    With a `dealing`, the molecules are dealt into parts before their labels are read, and only the labels of training
    and validation molecules say how the others are read: a label of a test molecule that is none of their kind counts
    as missing, and `notes` has a line about it.

    Args:
        path: the file.
        target_columns: columns with labels.
        hydrogens: as the student sees molecules.
        smiles_column: where the SMILES are.
        extra_column: a further column to keep, such as that of a split.
        jobs: worker processes for many molecules; 0 = one per processor.
        fewest: molecules that must be left.
        most: rows with a label that are read; of more, so many are drawn at random. None = all.
        dealing: the split; none = every label is read as those of a training part are.
        say: receives a line before the long part.

    Raises:
        InputError: a column is missing, a label is no number, there is no label, or too few molecules are left.
    """
    is_test = dealing.is_test if dealing else _never
    labelled = read_labels(LabelledFile(path, tuple(target_columns), smiles_column), extra_column, most, is_test)
    if labelled.not_drawn:
        say(drawn_line(len(labelled.numbers), labelled.not_drawn))
    say(f"parsing {len(labelled.numbers)} molecules")
    molecules = featurize_smiles(labelled.texts, hydrogens, jobs=jobs)
    kept = [place for place, molecule in enumerate(molecules) if molecule.graph is not None]
    bad = [
        Reject(labelled.numbers[place], labelled.texts[place], molecule.stage, molecule.reason)
        for place, molecule in enumerate(molecules)
        if molecule.graph is None
    ]
    note_rows(reject.reason for reject in bad)
    require_enough(len(kept), bad, fewest)
    labelled = labelled.only(kept)
    smiles, rows_N = [molecules[place].smiles for place in kept], np.array(labelled.numbers, dtype=np.int64)
    parts = tuple(dealing.deal(labelled.texts, smiles, labelled.extra, rows_N)) if dealing else ()
    labels = label_values(labelled, learned_rows(parts, len(kept)))
    return LabelledMolecules(
        store=as_store([molecules[place] for place in kept], hydrogens),
        rows_N=rows_N,
        texts=labelled.texts,
        smiles=smiles,
        targets_NC=labels.values_NC,
        names=tuple(labelled.names),
        extra=labelled.extra,
        num_rows=labelled.num_rows,
        rejects=sorted([*labelled.rejects, *bad], key=lambda reject: reject.row),
        files=(Path(path).name,),
        classes=labels.classes,
        not_drawn=labelled.not_drawn,
        parts=parts,
        notes=labels.notes,
        ids=tuple(labelled.ids),
    )


@dataclass(frozen=True)
class Dealing:
    """A split that is dealt while a table is read.

    Attributes:
        deal: SMILES as written, canonical SMILES, cells of the split's column and row numbers → partitions.
        is_test: whether a cell of the split's column says test; such a row is kept and predicted without a label too.
    """

    deal: Callable[[Sequence[str], Sequence[str], Sequence[str], np.ndarray], Sequence[Split]]
    is_test: Callable[[str], bool]


def _never(word: str) -> bool:
    return False


def learned_rows(parts: Sequence[Split], count: int) -> Bool[np.ndarray, "molecules"]:
    """Which of `count` molecules are in the training or validation part of a partition; all where there is none."""
    found = np.full(count, not parts)
    for part in parts:
        found[part.train] = found[part.valid] = True
    return found


@dataclass(frozen=True)
class LabelledFile:
    """A labelled table.

    Attributes:
        path: CSV, TSV, SMI, SDF or Parquet.
        target_columns: columns with labels; an empty cell is a missing label.
        smiles_column: where the SMILES are.
    """

    path: Path | str
    target_columns: tuple[str, ...]
    smiles_column: str = "smiles"


@dataclass
class LabelledRows:
    """Rows with a label, before their molecules are parsed.

    Attributes:
        names: of the target columns.
        numbers: row numbers, from 0.
        texts: SMILES as written.
        cells: of the targets, as written.
        extra: values of the further column.
        ids: values of the column that names the molecules; empty where there is none.
        rejects: rows without a label, or that can't be read.
        num_rows: all rows.
        not_drawn: rows with a label that are too many.
    """

    names: list[str]
    numbers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    cells: list[list[str]] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    num_rows: int = 0
    not_drawn: int = 0

    def only(self, places: Sequence[int]) -> LabelledRows:
        """Some of the rows."""
        return replace(
            self,
            numbers=[self.numbers[place] for place in places],
            texts=[self.texts[place] for place in places],
            cells=[self.cells[place] for place in places],
            extra=[self.extra[place] for place in places],
            ids=[self.ids[place] for place in places] if self.ids else [],
        )


@dataclass(frozen=True)
class Labels:
    """Label cells as numbers.

    Attributes:
        values_NC: NaN = missing; where the labels are words, their places in `classes`.
        classes: for each target its labels, where they are words.
        notes: what is to be said of cells that were left out.
    """

    values_NC: Float[np.ndarray, "rows targets"]
    classes: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def label_values(rows: LabelledRows, learned_N: Bool[np.ndarray, "rows"]) -> Labels:
    """Read the label cells of `rows`, all as those of the rows that are learned want it.

    Args:
        rows: at least one.
        learned_N: the rows that decide whether a column has numbers or words, and which words.

    Raises:
        InputError: a label of such a row is no number, or one of too many words.
    """
    places, others = np.flatnonzero(learned_N), np.flatnonzero(~learned_N)
    values_NC, classes, notes = np.full((len(rows.numbers), len(rows.names)), np.nan), [], list[str]()
    for column, name in enumerate(rows.names):
        cells = [own[column] for own in rows.cells]
        numbers = [rows.numbers[place] for place in places]
        values, words = parse_labels([cells[place] for place in places], rows=numbers, column=name)
        _require_classes(words, numbers, name)
        values_NC[places, column] = values
        classes.append(words)
        known = {cells[place].strip(): value for place, value in zip(places, values, strict=True)}
        unread: list[str] = []
        for place in others:
            cell = cells[place].strip()
            value = known.get(cell, math.nan) if words else _number_or_nan(cell)
            values_NC[place, column] = value
            if math.isnan(value) and not is_missing(cell):
                unread.append(f"row {rows.numbers[place]} {cell[:40]!r}")
        if unread:
            kind = "a class of the training and validation parts" if words else "a number, as those"
            shown = ", ".join(unread[:_LISTED]) + (" …" if len(unread) > _LISTED else "")
            many = "label is" if len(unread) == 1 else "labels are"
            notes.append(f"target {name}: {len(unread)} test {many} not {kind}, and count as missing: {shown}")
    return Labels(values_NC, tuple(classes), tuple(notes))


def _require_classes(words: Sequence[str], numbers: Sequence[int], column: str) -> None:
    """Refuse words that name molecules rather than classes: more of them than half of the labels, and more than ten."""
    if len(words) > max(_FEW_CLASSES, len(numbers) // 2):
        raise InputError(
            f"row {numbers[0]}, column {column}: the label is not a number and names no class",
            found=f"{len(words)} different words in {len(numbers)} rows",
            expected="numbers, or classes that several molecules have",
            next_step="Check --target-columns",
        )


def _number_or_nan(cell: str) -> float:
    try:
        return parse_label(cell, row=0, column="")
    except InputError:
        return math.nan


def read_labels(
    file: LabelledFile,
    extra_column: str | None,
    most: int | None = None,
    is_test: Callable[[str], bool] = _never,
) -> LabelledRows:
    """The rows of a file that have a label or are named for the test part; of more than `most`, so many at random.

    Raises:
        InputError: a column is missing, or there is no label at all.
    """
    if not file.target_columns:
        raise InputError("no target column is named", next_step="Add --target-columns NAME")
    with open_molecules(file.path, file.smiles_column) as source:
        names = resolve_columns(source.columns, file.target_columns)
        wanted = [*names, *([extra_column] if extra_column else [])]
        require_columns(file.path, source.columns, wanted, what="column")
        _refuse_repeated(file.path, source.columns, wanted)
        found = _rows_of(source, names, extra_column, most, is_test)
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
        found = f"row {rejects[0].row}: {rejects[0].reason}"
        raise InputError("there is no valid molecule", found=found, next_step="Check --smiles-column")
    if kept < fewest:
        raise InputError("there are too few molecules with labels", found=kept, expected=f"at least {fewest}")


def _rows_of(
    source: TableReader, names: list[str], extra_column: str | None, most: int | None, is_test: Callable[[str], bool]
) -> LabelledRows:
    found = LabelledRows(names)
    id_column = _id_column([name for name in source.columns if name not in (*names, source.smiles_column)])
    drawn: DrawnRows[tuple[int, str, str, list[str], str]] = DrawnRows(most)
    for row in source:
        found.num_rows += 1
        if row.problem is not None:
            found.rejects.append(Reject(row.number, row.smiles, "read", row.problem))
            continue
        own = [row.values[name] for name in names]
        extra = row.values[extra_column].strip() if extra_column else ""
        if all(map(is_missing, own)) and not is_test(extra):
            found.rejects.append(Reject(row.number, row.smiles, "labels", "no label"))
            continue
        drawn.add((row.number, row.smiles, extra, own, row.values[id_column] if id_column else ""))
    for number, text, extra, own, name in drawn.rows():
        found.numbers.append(number)
        found.texts.append(text)
        found.extra.append(extra)
        found.cells.append(own)
        found.ids += [name] if id_column else []
    found.not_drawn = drawn.left_out
    return found


def _id_column(others: Sequence[str]) -> str | None:
    """The column that names the molecules, by its own name: `id`, `Compound`, `title`, `molecule_chembl_id` …."""
    return next((name for name in others if _IS_ID.fullmatch(name.strip())), None)


def resolve_columns(columns: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Column names as given; a word that names no column is split at its commas where all its pieces do."""
    found: list[str] = []
    for word in wanted:
        pieces = [piece.strip() for piece in word.split(",")]
        found += pieces if word not in columns and all(piece in columns for piece in pieces) else [word]
    repeated = [name for name in found if found.count(name) > 1]
    if repeated:
        raise InputError(f"target column {repeated[0]!r} is named twice")
    return found


def _refuse_repeated(path: Path | str, columns: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a column whose name the header repeats, so that no wrong column is used silently."""
    for name in wanted:
        if f"{name}.1" in columns:
            raise InputError(f"{path} has two columns named {name!r}", next_step="Rename one of them")


def _nothing_left(rejects: Sequence[Reject], target_columns: Sequence[str]) -> str:
    if all(reject.stage == "labels" for reject in rejects):
        return f"all labels of {', '.join(target_columns)} are missing"
    first = next(reject for reject in rejects if reject.stage != "labels")
    return f"no row can be used; row {first.row}: {first.reason}"
