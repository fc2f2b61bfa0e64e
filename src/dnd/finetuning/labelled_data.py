"""Read a labelled table into molecules with targets; every error in it is raised before training starts.

Over 500 lines, since a row goes from text to label in one pass whose steps share what was left out and why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from dnd.chemistry.identity import identities_of
from dnd.chemistry.splits import Split
from dnd.common.errors import InputError, note_rows
from dnd.common.log import LOGGER, MANY, PROGRESS
from dnd.predictor.metrics import significant
from dnd.predictor.targets import ClassGroup, Weights
from dnd.store.featurize import Featurized, as_store, featurize_smiles
from dnd.store.reader import Store
from dnd.store.schema import HydrogenSetting, Reject
from dnd.tables.labels import (
    DrawnRows,
    LabelRules,
    UnitColumns,
    class_key,
    holds_numbers,
    is_missing,
    missing_words_in,
    read_column,
    unused_words_note,
)
from dnd.tables.molecules import labelled_columns, open_molecules
from dnd.tables.readers import KeptTable, TableReader, id_column_of
from dnd.tables.writers import csv_text

FEWEST_MOLECULES = 10


@dataclass(frozen=True)
class LabelledMolecules:
    """The usable rows of a labelled table, or the molecules of several tables, each once.

    Attributes:
        store: graphs in memory, one per usable row.
        rows_B: row numbers of the input, from 0, ascending; of `molecules.csv` where there are several inputs.
        texts: SMILES as written.
        smiles: canonical SMILES.
        targets_BC: labels in raw units; NaN = missing, at least one known per row.
        names: names of the targets.
        extra: values of the further column that was asked for, such as the column of a split.
        num_rows: rows of the input, usable or not.
        rejects: rows that are not usable, with reasons.
        files: names of the inputs.
        origins: where there are several inputs, for each molecule its row numbers in each of them.
        classes: names of the classes of each target whose labels are words; `targets_BC` then holds their positions.
        groups: columns that are the classes of one target; see `dnd.predictor.targets`.
        not_drawn: rows left out by subsampling, see `read_labelled`.
        parts: partitions, if they were asked for; the labels of the training and validation molecules then decided how
            labels are read.
        ids: the user's own names of the molecules; empty where the table has none.
        places: number of the row of each molecule, as messages count.
        sides_BC: 1 or -1 where a label is a limit and the truth is above or below it; None = all labels are exact.
        class_names: names of both classes of each target of two named classes, class 0 first; empty = 0 and 1.
        units: units of the user's targets, if the cells name them.
        notes: how the labels were read and which were left out, a line each.
        smiles_column: SMILES column of the first input.
        standardized: molecules that standardization changed; None = it was not asked for.
        merged: rows that are in no part, because their labels became part of another row of their molecule.
        weight_B: how much the labels of each molecule count in fits, blend weights and metrics, see `weighted`; None =
            all alike.
    """

    store: Store
    rows_B: np.ndarray
    texts: list[str]
    smiles: list[str]
    targets_BC: Float[np.ndarray, "molecules targets"]
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
    ids: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    sides_BC: Int[np.ndarray, "molecules targets"] | None = None
    class_names: tuple[tuple[str, ...], ...] = ()
    units: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    smiles_column: str = "smiles"
    standardized: int | None = None
    merged: int = 0
    weight_B: Weights = None

    @cached_property
    def identities(self) -> list[str]:
        """What rows of one molecule share, see `molecule_identity`."""
        return identities_of(self.smiles)

    @property
    def learned_B(self) -> Bool[np.ndarray, "molecules"]:
        """Which molecules are in the training or validation part of a partition; all where there is no partition.

        Only their labels decide anything: task, classes, transforms, scales.
        """
        return learned_rows(self.parts, len(self.smiles))

    @property
    def learned_BC(self) -> Float[np.ndarray, "molecules targets"]:
        """`targets_BC` without the labels that decide nothing, those of molecules that are only in test parts."""
        return np.where(self.learned_B[:, None], self.targets_BC, np.nan)

    @property
    def exact_BC(self) -> Float[np.ndarray, "molecules targets"]:
        """The labels that say what the truth is; a limit can teach, but not judge."""
        return self.targets_BC if self.sides_BC is None else np.where(self.sides_BC == 0, self.targets_BC, np.nan)

    def weights_of(self, rows: Int[np.ndarray, "rows"]) -> Weights:
        """Of some molecules."""
        return None if self.weight_B is None else self.weight_B[rows]

    def place_of(self, row: int) -> int:
        """How messages call a row of the input."""
        if not self.places:
            return row
        return self.places[int(np.searchsorted(self.rows_B, row))]

    def row_offsets(self) -> list[list[int]]:
        """From which row of the input on messages call rows by how many more, as pairs; empty = as they are."""
        found: list[list[int]] = []
        for row, place in zip(map(int, self.rows_B), self.places, strict=False):
            if place - row != (found[-1][1] if found else 0):
                found.append([row, place - row])
        return found

    def digest(self) -> str:
        """SHA-256 of molecules, labels and parts, by which a resumed run knows its data.

        The parts may stand in a column or in files of their own, which can change between two runs as labels can.
        """
        digest = hashlib.sha256("\n".join(self.smiles).encode())
        digest.update(np.ascontiguousarray(self.rows_B).tobytes() + np.ascontiguousarray(self.targets_BC).tobytes())
        if self.sides_BC is not None:
            digest.update(np.ascontiguousarray(self.sides_BC).tobytes())
        if self.weight_B is not None:
            digest.update(np.ascontiguousarray(self.weight_B).tobytes())
        for part in self.parts:
            for name, rows in part.parts().items():
                digest.update(name.encode() + np.ascontiguousarray(rows, np.int64).tobytes())
        return digest.hexdigest()

    def rejects_csv(self) -> str:
        """`rejects.csv`: row, smiles, stage, reason, and the file where there are several."""
        columns = {"row": "row", "smiles": "smiles", "stage": "stage", "reason": "reason"}
        columns |= {"file": "source"} if self.origins else {}
        return csv_text(tuple(columns), [[getattr(one, name) for name in columns.values()] for one in self.rejects])

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
    standardize: bool = False,
    jobs: int = 0,
    fewest: int = FEWEST_MOLECULES,
    most: int | None = None,
    dealing: Dealing | None = None,
    table: KeptTable | None = None,
    of_model: Sequence[tuple[str, ...]] = (),
) -> LabelledMolecules:
    """Read, check and featurise a labelled table of any format that `dnd` reads.

    With a `dealing`, the molecules are assigned to parts before their labels are read, and the labels of the training
    and validation molecules alone decide how labels are read: a test label of another kind counts as missing, and
    `notes` has a line about it.

    Args:
        path: the file.
        target_columns: columns with labels.
        hydrogens: as the student sees molecules.
        smiles_column: SMILES column; None = find it.
        extra_column: a further column to keep, such as that of a split.
        rules: the user's options for labels.
        remembered: see `open_molecules`.
        standardize: see `featurize_smiles`.
        jobs: worker processes for many molecules; 0 = one per processor.
        fewest: smallest number of usable molecules.
        most: largest number of labelled rows; larger tables are subsampled at random. None = all.
        dealing: the split; none = every label is read as those of a training part are.
        table: the rows of the file, if they were read already.
        of_model: for each target of the model that the labels judge what `read_column` wants to know of it; empty =
            there is no model yet.

    Raises:
        InputError: a column is missing, a label is not a number, there is no label, or too few molecules are left.
    """
    is_test = dealing.is_test if dealing else _never
    file = LabelledFile(path, tuple(target_columns), smiles_column, rules or LabelRules(), remembered, table)
    labelled = read_labels(file, extra_column, most, is_test)
    if labelled.not_drawn:
        LOGGER.info(drawn_line(len(labelled.numbers), labelled.not_drawn))
    if len(labelled.numbers) >= MANY:
        LOGGER.log(PROGRESS, f"parsing {len(labelled.numbers)} molecules")
    molecules = featurize_smiles(labelled.texts, hydrogens, standardize=standardize, jobs=jobs)
    kept = [place for place, molecule in enumerate(molecules) if molecule.graph is not None]
    bad = _without_molecule(labelled, molecules)
    note_rows(reject.reason for reject in bad)
    if 0 < len(kept) < fewest:  # faults in the labels of a small table are reported first
        label_values(labelled.only(kept), np.ones(len(kept), bool), of_model)
    require_enough(len(kept), bad, fewest)
    labelled, molecules = labelled.only(kept), [molecules[place] for place in kept]
    parts = tuple(dealing.deal(labelled.unread([molecule.smiles for molecule in molecules]))) if dealing else ()
    learned_B = learned_rows(parts, len(kept))
    labels = label_values(labelled, learned_B, of_model)
    # Of the rows that are learned those that hold no label after all, such as a class that means "not tested".
    known_B = ~np.isnan(labels.values_BC).all(axis=1) | ~learned_B
    known, lost = np.flatnonzero(known_B), np.flatnonzero(~known_B)
    bad += [_without_label(labelled.numbers[row], labelled.texts[row], labelled.places[row]) for row in lost]
    require_enough(len(known), bad, fewest)
    return _joined(
        labelled.only(known.tolist()),
        labels.only(known),
        as_store([molecules[row] for row in known], hydrogens),
        smiles=[molecules[row].smiles for row in known],
        rejects=sorted([*labelled.rejects, *bad], key=lambda reject: reject.row),
        file=Path(path).name,
        parts=tuple(among(part, known) for part in parts),
        standardized=changed_by_standardizing([molecules[row] for row in known]) if standardize else None,
    )


def weighted(molecules: LabelledMolecules, weights: Float[np.ndarray, "rows"]) -> LabelledMolecules:
    """The molecules with weights, in units of their median: so the typical row counts as one row, in any unit.

    Weights that are all alike say nothing, and the molecules come back as they were. What weighs is the fit of every
    member, the choice of epoch and blend, the scaling of probabilities, and the metrics. The power of a Yeo-Johnson
    map, intervals and sets, the baselines and the comparison with them see no weights.

    Args:
        molecules: of one table.
        weights: positive and finite, one per row of the table.

    Raises:
        ValueError: they are something else.
    """
    if weights.shape != (molecules.num_rows,) or not np.isfinite(weights).all() or (weights <= 0).any():
        raise ValueError(f"weights must be {molecules.num_rows} finite numbers above 0, one per row")
    own_B = weights[molecules.rows_B]
    if np.allclose(own_B, own_B[0], atol=0.0):
        return molecules
    weight_B = own_B / np.median(own_B)
    line = (
        f"weights of the rows: {significant(weight_B.min())} to {significant(weight_B.max())}, in units of the median"
    )
    return replace(molecules, weight_B=weight_B, notes=(*molecules.notes, line))


def _without_molecule(labelled: LabelledRows, molecules: Sequence[Featurized]) -> list[Reject]:
    """The rows whose text is not a molecule, each with its reason."""
    rows = zip(labelled.numbers, labelled.texts, labelled.places, molecules, strict=True)
    return [
        Reject(number, "", text, molecule.stage, molecule.reason, place)
        for number, text, place, molecule in rows
        if molecule.graph is None
    ]


def _joined(
    labelled: LabelledRows,
    labels: Labels,
    store: Store,
    *,
    smiles: list[str],
    rejects: list[Reject],
    file: str,
    parts: tuple[Split, ...],
    standardized: int | None,
) -> LabelledMolecules:
    """Rows of one file, their labels and their graphs in one object."""
    return LabelledMolecules(
        store=store,
        rows_B=np.array(labelled.numbers, dtype=np.int64),
        texts=labelled.texts,
        smiles=smiles,
        targets_BC=labels.values_BC,
        names=tuple(labelled.names),
        extra=labelled.extra,
        num_rows=labelled.num_rows,
        rejects=rejects,
        files=(file,),
        classes=labels.classes,
        not_drawn=labelled.not_drawn,
        parts=parts,
        ids=tuple(labelled.ids),
        places=tuple(labelled.places),
        sides_BC=labels.sides_BC,
        units=labels.units,
        notes=labels.notes,
        standardized=standardized,
        smiles_column=labelled.smiles_column,
    )


def standardized_line(molecules: LabelledMolecules) -> str:
    """The line about standardization."""
    return f"standardized: {molecules.standardized} rows changed to their largest organic part, neutral"


def changed_by_standardizing(molecules: Sequence[Featurized]) -> int:
    """How many molecules standardization made another one of."""
    return sum(bool(molecule.given) for molecule in molecules)


@dataclass(frozen=True)
class UnreadMolecules:
    """Molecules whose labels are not yet read.

    Attributes:
        texts: SMILES as written.
        smiles: canonical SMILES.
        extra: cells of the split's column.
        rows_B: row numbers, from 0.
        places: rows as messages say them.
        num_rows: rows of the input, usable or not.
    """

    texts: Sequence[str]
    smiles: Sequence[str]
    extra: Sequence[str]
    rows_B: Int[np.ndarray, "molecules"]
    places: Sequence[int]
    num_rows: int


@dataclass(frozen=True)
class Dealing:
    """A split that is dealt while a table is read.

    Attributes:
        deal: molecules → partitions.
        is_test: whether a cell of the split's column says test; such a row is kept and predicted without a label too.
        cells: see `splits.cells_of_molecules`, of the split.
    """

    deal: Callable[[UnreadMolecules], Sequence[Split]]
    is_test: Callable[[str], bool]
    cells: Callable[[Sequence[str], Sequence[Sequence[int]], Sequence[str], Sequence[str]], list[str]]


def _never(word: str) -> bool:
    return False


def learned_rows(parts: Sequence[Split], count: int) -> Bool[np.ndarray, "molecules"]:
    """Which of `count` molecules are in the training or validation part of a partition; all where there is none."""
    found = np.full(count, not parts)
    for part in parts:
        found[part.train] = found[part.valid] = True
    return found


def among(part: Split, kept: Int[np.ndarray, "kept"]) -> Split:
    """A partition of all molecules as one of those that are kept."""
    return Split(*(np.flatnonzero(np.isin(kept, rows)) for rows in part.parts().values()))


@dataclass(frozen=True)
class LabelledFile:
    """A labelled table.

    Attributes:
        path: CSV, TSV, SMI, SDF or Parquet.
        target_columns: columns with labels; an empty cell is a missing label.
        smiles_column: SMILES column; None = find it.
        rules: the user's options for labels.
        remembered: see `open_molecules`.
        kept: its rows, if they were read already.
    """

    path: Path | str
    target_columns: tuple[str, ...]
    smiles_column: str | None = None
    rules: LabelRules = field(default_factory=LabelRules)
    remembered: str | None = None
    kept: KeptTable | None = None

    def opened(self) -> AbstractContextManager[TableReader]:
        """The table, from its first row on."""
        if self.kept is not None:
            return self.kept.opened()
        return open_molecules(self.path, self.smiles_column, remembered=self.remembered)


@dataclass(frozen=True, slots=True)
class _LabelledRow:
    """A row without its other columns; `name` is the user's of the molecule."""

    number: int
    place: int
    text: str
    extra: str
    cells: list[str]
    name: str


@dataclass
class LabelledRows:
    """Rows with a label, before their molecules are parsed.

    Attributes:
        names: names of the target columns.
        numbers: row numbers, from 0.
        texts: SMILES as written.
        cells: cells of the targets, as written.
        extra: values of the further column.
        ids: values of the column that names the molecules; empty where there is none.
        rejects: rows without a label, or that can't be read.
        num_rows: all rows.
        not_drawn: rows with a label that are too many.
        places: rows as messages say them.
        rules: the user's options for labels.
        comma_file: see `settle_notation`.
        smiles_column: where the SMILES were.
        unused_words: words that mean a missing label by `rules`, and that no cell is.
        unit_notes: lines about columns that give several units.
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
    places: list[int] = field(default_factory=list)
    rules: LabelRules = field(default_factory=LabelRules)
    comma_file: bool = False
    smiles_column: str = "smiles"
    unused_words: frozenset[str] = frozenset()
    unit_notes: tuple[str, ...] = ()

    def add(self, row: _LabelledRow, *, has_id: bool) -> None:
        """Append a row."""
        self.numbers.append(row.number)
        self.places.append(row.place)
        self.texts.append(row.text)
        self.extra.append(row.extra)
        self.cells.append(row.cells)
        self.ids += [row.name] if has_id else []

    def unread(self, smiles: Sequence[str]) -> UnreadMolecules:
        """What a split may know of the rows: all but the labels."""
        numbers_B = np.array(self.numbers, dtype=np.int64)
        return UnreadMolecules(self.texts, smiles, self.extra, numbers_B, self.places, self.num_rows)

    def only(self, places: Sequence[int]) -> LabelledRows:
        """Some of the rows."""
        return replace(
            self,
            numbers=[self.numbers[place] for place in places],
            texts=[self.texts[place] for place in places],
            cells=[self.cells[place] for place in places],
            extra=[self.extra[place] for place in places],
            ids=[self.ids[place] for place in places] if self.ids else [],
            places=[self.places[place] for place in places],
        )


@dataclass(frozen=True)
class Labels:
    """Label cells as numbers.

    Attributes:
        values_BC: NaN = missing; where the labels are words, their places in `classes`.
        sides_BC: see `LabelledMolecules`.
        classes: names of the classes of each target whose labels are words.
        units: units of the targets, if the cells name them.
        notes: how the cells were read, and which were left out.
    """

    values_BC: Float[np.ndarray, "rows targets"]
    sides_BC: Int[np.ndarray, "rows targets"] | None
    classes: tuple[tuple[str, ...], ...]
    units: tuple[str, ...]
    notes: tuple[str, ...]

    def only(self, rows: Int[np.ndarray, "kept"]) -> Labels:
        """Some of the rows."""
        sides_BC = None if self.sides_BC is None else self.sides_BC[rows]
        return replace(self, values_BC=self.values_BC[rows], sides_BC=sides_BC)


def label_values(
    rows: LabelledRows, learned_B: Bool[np.ndarray, "rows"], of_model: Sequence[tuple[str, ...]] = ()
) -> Labels:
    """Read the label cells of `rows`, all as those of the rows that are learned want it; see `read_column`.

    Args:
        rows: at least one.
        learned_B: the rows that decide how a column is read.
        of_model: see `read_labelled`; of another number of targets it says nothing.

    Raises:
        InputError: see `read_column`; there is no label at all.
    """
    known = of_model if len(of_model) == len(rows.names) else [None] * len(rows.names)
    columns = [
        read_column(
            [own[column] for own in rows.cells],
            places=rows.places,
            column=name,
            rules=rows.rules,
            comma_file=rows.comma_file,
            learned=learned_B.tolist(),
            of_model=known[column],
        )
        for column, name in enumerate(rows.names)
    ]
    sides_BC = np.array([column.sides for column in columns], dtype=np.int8).T
    values_BC = np.array([column.values for column in columns], dtype=np.float64).T
    if np.isnan(values_BC).all():
        raise _no_label(rows.names, rows.num_rows)
    return Labels(
        values_BC,
        sides_BC if sides_BC.any() else None,
        tuple(column.words for column in columns),
        tuple(column.unit for column in columns),
        (
            *(note for column in columns for note in column.notes),
            *unused_words_note(rows.unused_words, rows.names),
            *rows.unit_notes,
        ),
    )


def read_labels(
    file: LabelledFile,
    extra_column: str | None,
    most: int | None = None,
    is_test: Callable[[str], bool] = _never,
) -> LabelledRows:
    """The rows of a file that have a label or are named for the test part, at most `most`, sampled at random.

    Raises:
        InputError: a column is missing, or there is no label at all.
    """
    with file.opened() as source:
        names = labelled_columns(file.path, source, file.target_columns, (extra_column,) if extra_column else ())
        found = _rows_of(source, names, extra_column, most, is_test, file.rules)
    if not found.numbers:
        unread = next((reject for reject in found.rejects if reject.stage != "labels"), None)
        if unread is None:
            raise _no_label(names, found.num_rows)
        reason = f"no row can be used; row {unread.place}: {unread.reason}"
        raise InputError(
            reason, found=f"{found.num_rows} rows", next_step="Correct the rows, or check --target-columns"
        )
    return found


def drawn_line(kept: int, left_out: int, where: str = "the table") -> str:
    """The line about subsampled rows."""
    return f"plan: {kept} of {kept + left_out} rows with a label of {where} drawn at random (blend.most_rows={kept})"


def require_enough(kept: int, rejects: Sequence[Reject], fewest: int) -> None:
    """Refuse a table in which no molecule, or too few, can be read."""
    if not kept:
        first = next((reject for reject in rejects if reject.stage != "labels"), rejects[0])
        found = f"row {first.place}: {first.reason}"
        raise InputError("there is no valid molecule", found=found, next_step="Check --smiles-column")
    if kept < fewest:
        raise InputError("there are too few molecules with labels", found=kept, expected=f"at least {fewest}")


def _rows_of(
    source: TableReader,
    names: list[str],
    extra_column: str | None,
    most: int | None,
    is_test: Callable[[str], bool],
    rules: LabelRules,
) -> LabelledRows:
    found = LabelledRows(
        names, rules=rules, comma_file=source.style.delimiter == ";", smiles_column=source.smiles_column
    )
    id_column = id_column_of([name for name in source.columns if name not in (*names, source.smiles_column)])
    drawn: DrawnRows[_LabelledRow] = DrawnRows(most)
    unused = set(rules.missing)
    units = UnitColumns(name for name in source.columns if name not in (*names, source.smiles_column, id_column))
    for row in source:
        found.num_rows += 1
        own = [row.values[name] for name in names]
        unused -= missing_words_in(own, unused) if unused else set()
        extra = row.values[extra_column].strip() if extra_column else ""
        if row.problem is not None:
            found.rejects.append(Reject(row.number, "", row.smiles, "read", row.problem, row.place))
        elif not any(map(str.strip, own)) and not is_test(extra):
            found.rejects.append(_without_label(row.number, row.smiles, row.place))
        else:  # other columns of a row aren't kept
            units.add(row.values)
            name = row.values[id_column] if id_column else ""
            drawn.add(_LabelledRow(row.number, row.place, row.smiles, extra, own, name))
    found.not_drawn, found.unused_words, found.unit_notes = drawn.left_out, frozenset(unused), units.notes()
    rows = drawn.rows()
    # Whether `none` is a class is not known yet; in a column with a number it isn't. Test rows have no say in it.
    numeric = [holds_numbers(row.cells[place] for row in rows if not is_test(row.extra)) for place in range(len(names))]
    asked = set(map(class_key, rules.missing))
    for one in rows:
        each = zip(one.cells, numeric, strict=True)
        missing = all(not cell.strip() or (is_number and _is_no_label(cell, asked)) for cell, is_number in each)
        if missing and not is_test(one.extra):
            found.rejects.append(_without_label(one.number, one.text, one.place))
        else:
            found.add(one, has_id=id_column is not None)
    return found


def _is_no_label(cell: str, asked: set[str]) -> bool:
    return is_missing(cell) or class_key(cell) in asked


def _without_label(number: int, text: str, place: int) -> Reject:
    return Reject(number, "", text, "labels", "no label", place)


def _no_label(target_columns: Sequence[str], num_rows: int) -> InputError:
    return InputError(
        f"all labels of {', '.join(target_columns)} are missing",
        found=f"{num_rows} rows",
        next_step="Check --target-columns",
    )
