"""Labelled tables of several files as one: every molecule once, each file's targets missing where it has no label.

A molecule is known by its identity, a canonical SMILES. Since it is one row, no split can put it into the training
part for the targets of one file and into the test part for those of another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from dnd.chemistry.identity import molecule_identity
from dnd.common.errors import InputError, note_rows
from dnd.common.log import LOGGER, MANY, PROGRESS
from dnd.finetuning.labelled_data import (
    FEWEST_MOLECULES,
    Dealing,
    LabelledFile,
    LabelledMolecules,
    LabelledRows,
    Labels,
    UnreadMolecules,
    among,
    changed_by_standardizing,
    drawn_line,
    label_values,
    learned_rows,
    read_labels,
    require_enough,
)
from dnd.finetuning.prepared_labels import intervals_words, is_interval, weightiest
from dnd.finetuning.tasks import TaskChoice, Tasks, choose_tasks
from dnd.predictor.targets import TaskKind
from dnd.store.featurize import Featurized, as_store, featurize_smiles
from dnd.store.schema import HydrogenSetting, Reject


def labelled_file(word: str, smiles_column: str | None) -> LabelledFile:
    """`FILE:COLUMN[,COLUMN]` as a labelled table; the first colon in front of which there is an existing file counts.

    Raises:
        InputError: there is no such file, or no column.
    """
    cuts = [place for place, letter in enumerate(word) if letter == ":"]
    cut = next((place for place in cuts if Path(word[:place]).is_file() and word[place + 1 :].strip()), None)
    if cut is None:
        raise InputError("no further table", found=word, expected="FILE:COLUMN[,COLUMN] with a file that exists")
    return LabelledFile(word[:cut], (word[cut + 1 :],), smiles_column)


def read_several(
    files: Sequence[LabelledFile],
    hydrogens: HydrogenSetting,
    *,
    choices: Sequence[TaskChoice],
    dealing: Dealing | None = None,
    extra_column: str | None = None,
    standardize: bool = False,
    jobs: int = 0,
    most: int | None = None,
) -> tuple[LabelledMolecules, Tasks]:
    """Read, check and featurise several tables, and lay them side by side.

    Where a file has a molecule twice, the mean of its values is the label; classes that contradict each other are left
    out. A line says how many of them there were.

    Args:
        files: at least two; the order of their targets is that of the model.
        hydrogens: as the student sees molecules.
        choices: kinds of the targets, see `choose_tasks`.
        dealing: the split; see `read_labelled`.
        extra_column: column with the parts of a given split; every file must have it.
        standardize: see `featurize_smiles`.
        jobs: worker processes; 0 = one per processor.
        most: rows with a label of each file, see `read_labelled`.

    Raises:
        InputError: see `read_labelled`; two targets would have the same name; or a molecule is in one part of the
            given split in one file and in another part in another.
    """
    labels = _file_names(files)
    is_test = dealing.is_test if dealing else lambda word: False
    tables = _read_tables(files, labels, extra_column, most, is_test)
    names = _target_names(files, tables)
    rows = _rows(tables)
    if len(rows) >= MANY:
        LOGGER.log(PROGRESS, f"parsing {len(rows)} molecules of {len(files)} files")
    molecules = featurize_smiles([row.text for row in rows], hydrogens, standardize=standardize, jobs=jobs)
    of_molecule = _rows_of_molecules(molecules)
    rejects = _rejects(tables, rows, molecules, labels)
    note_rows(reject.reason for reject in rejects)
    require_enough(len(of_molecule), rejects, FEWEST_MOLECULES)
    owners = [[rows[place] for place in places] for places in of_molecule]
    extra = _cells_of_molecules(dealing, rows, of_molecule, labels)
    smiles = [molecules[places[0]].smiles for places in of_molecule]
    parts = tuple(dealing.deal(_unread([each[0].text for each in owners], smiles, extra))) if dealing else ()
    learned_B = learned_rows(parts, len(smiles))
    known_B = np.zeros(len(rows), bool)
    for molecule in np.flatnonzero(learned_B):
        known_B[of_molecule[molecule]] = True
    stacked = _stack(tables, known_B)
    tasks = choose_tasks(stacked.values_BC[known_B], names, choices, words=stacked.classes, several_files=True)
    smiles = [molecules[places[0]].smiles for places in of_molecule]
    targets_BC, sides_BC = _merged(stacked, of_molecule, smiles, tasks.kinds)
    kept = np.flatnonzero(~np.isnan(targets_BC).all(axis=1) | ~learned_B)
    own = [[rows[place] for place in of_molecule[molecule]] for molecule in kept]
    LOGGER.info(
        f"{sum(len({row.file for row in each}) > 1 for each in own)} of {len(own)} molecules are in more than one file"
    )
    first = [molecules[of_molecule[molecule][0]] for molecule in kept]
    found = LabelledMolecules(
        store=as_store(first, hydrogens),
        rows_B=np.arange(len(own)),
        texts=[each[0].text for each in own],
        smiles=[molecule.smiles for molecule in first],
        targets_BC=targets_BC[kept],
        names=tuple(names),
        extra=[extra[molecule] for molecule in kept],
        num_rows=sum(table.num_rows for table in tables),
        rejects=rejects,
        files=tuple(labels),
        origins=_origins(own, len(files)),
        classes=stacked.classes,
        not_drawn=sum(table.not_drawn for table in tables),
        parts=tuple(among(part, kept) for part in parts),
        places=tuple(range(2, len(own) + 2)),  # of `molecules.csv`, which has a header
        sides_BC=None if sides_BC is None else sides_BC[kept],
        units=stacked.units,
        notes=stacked.notes,
        standardized=changed_by_standardizing(molecules) if standardize else None,
        smiles_column=tables[0].smiles_column,
    )
    return found, tasks


def _cells_of_molecules(
    dealing: Dealing | None, rows: Sequence[_Row], of_molecule: Sequence[Sequence[int]], labels: Sequence[str]
) -> list[str]:
    """The cell of the split's column that each molecule has; empty where no split is dealt."""
    if dealing is None:
        return [""] * len(of_molecule)
    places = [f"{row.place} of {labels[row.file]}" for row in rows]
    return dealing.cells([row.extra for row in rows], of_molecule, places, [row.text for row in rows])


def _unread(texts: Sequence[str], smiles: Sequence[str], extra: Sequence[str]) -> UnreadMolecules:
    """The molecules of all files, numbered as in `molecules.csv`."""
    count = len(smiles)
    return UnreadMolecules(texts, smiles, extra, np.arange(count), range(2, count + 2), count)


@dataclass(frozen=True)
class _Row:
    """A labelled row of one of the files."""

    file: int
    number: int
    place: int
    text: str
    extra: str


def _read_tables(
    files: Sequence[LabelledFile],
    labels: Sequence[str],
    extra_column: str | None,
    most: int | None,
    is_test: Callable[[str], bool],
) -> list[LabelledRows]:
    """The labelled rows of each file; a line names a file from which rows were drawn."""
    tables = [read_labels(file, extra_column, most, is_test) for file in files]
    for table, label in zip(tables, labels, strict=True):
        if table.not_drawn:
            LOGGER.info(drawn_line(len(table.numbers), table.not_drawn, label))
    return tables


def _rows(tables: Sequence[LabelledRows]) -> list[_Row]:
    """The labelled rows of all files, one after the other."""
    return [
        _Row(file, number, place, text, extra)
        for file, table in enumerate(tables)
        for number, place, text, extra in zip(table.numbers, table.places, table.texts, table.extra, strict=True)
    ]


def _rows_of_molecules(molecules: Sequence[Featurized]) -> list[list[int]]:
    """The places of each molecule among the rows, in the order of its first; rows without a molecule are nowhere."""
    groups: dict[str, list[int]] = {}
    for place, molecule in enumerate(molecules):
        if molecule.graph is not None:
            groups.setdefault(molecule_identity(molecule.smiles), []).append(place)
    return list(groups.values())


def _origins(own: Sequence[Sequence[_Row]], num_files: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """For each molecule and each file the numbers of its rows there."""
    return tuple(
        tuple(tuple(row.number for row in each if row.file == file) for file in range(num_files)) for each in own
    )


def _rejects(
    tables: Sequence[LabelledRows], rows: Sequence[_Row], molecules: Sequence[Featurized], labels: Sequence[str]
) -> list[Reject]:
    """What is left out of each file, in its order."""
    found: list[list[Reject]] = [list(table.rejects) for table in tables]
    for row, molecule in zip(rows, molecules, strict=True):
        if molecule.graph is None:
            reject = Reject(row.number, "", row.text, molecule.stage, molecule.reason, row.place)
            found[row.file].append(reject)
    return [
        replace(reject, source=label)
        for label, own in zip(labels, found, strict=True)
        for reject in sorted(own, key=lambda reject: reject.row)
    ]


def _file_names(files: Sequence[LabelledFile]) -> list[str]:
    """File names, or the paths as given where two files have one name."""
    names = [Path(file.path).name for file in files]
    paths = [str(file.path) for file in files]
    if len(set(paths)) < len(paths):
        raise InputError("a file is given twice", found=", ".join(paths), next_step="Name all its columns at once")
    return names if len(set(names)) == len(names) else paths


def _target_names(files: Sequence[LabelledFile], tables: Sequence[LabelledRows]) -> list[str]:
    """Column names; one that several files have gets the stem of its file in front, as in `esol.y`."""
    every = [name for table in tables for name in table.names]
    found = [
        name if every.count(name) == 1 else f"{Path(file.path).name.split('.')[0]}.{name}"
        for file, table in zip(files, tables, strict=True)
        for name in table.names
    ]
    repeated = [name for name in found if found.count(name) > 1]
    if repeated:
        raise InputError(f"two targets would be called {repeated[0]}", next_step="Rename a column or a file")
    return found


def _stack(tables: Sequence[LabelledRows], learned_B: Bool[np.ndarray, "rows"]) -> Labels:
    """Labels of all rows, a block per file: rows under rows and columns beside columns, NaN outside the blocks."""
    rows, columns = sum(len(table.numbers) for table in tables), sum(len(table.names) for table in tables)
    stacked_BC, row, column = np.full((rows, columns), np.nan), 0, 0
    sides_BC = np.zeros((rows, columns), np.int8)
    each: list[Labels] = []
    for table in tables:
        end = row + len(table.numbers)
        labels = label_values(table, learned_B[row:end])
        block = slice(row, end), slice(column, column + len(table.names))
        stacked_BC[block] = labels.values_BC
        sides_BC[block] = 0 if labels.sides_BC is None else labels.sides_BC
        each.append(labels)
        row, column = end, column + len(table.names)
    return Labels(
        stacked_BC,
        sides_BC if sides_BC.any() else None,
        tuple(words for labels in each for words in labels.classes),
        tuple(unit for labels in each for unit in labels.units),
        tuple(note for labels in each for note in labels.notes),
    )


def _merged(
    stacked: Labels,
    groups: Sequence[list[int]],
    smiles: Sequence[str],
    kinds: Sequence[TaskKind],
) -> tuple[Float[np.ndarray, "molecules targets"], Int[np.ndarray, "molecules targets"] | None]:
    """One row per group: the mean of its known values, and no label where classes contradict each other.

    Exact values take precedence over limits, of which the strictest counts; limits on both sides leave no label.
    """
    firsts = [places[0] for places in groups]
    sides_BC = np.zeros_like(stacked.values_BC, np.int8) if stacked.sides_BC is None else stacked.sides_BC
    merged_BC, merged_sides_BC = stacked.values_BC[firsts].copy(), sides_BC[firsts].copy()
    averaged = intervals = 0
    contradicting = list[str]()
    for row, places in enumerate(groups):
        for column, kind in enumerate(kinds) if len(places) > 1 else ():
            own = stacked.values_BC[places, column], sides_BC[places, column]
            intervals += is_interval(*own)
            values, side = weightiest(*own)
            merged_sides_BC[row, column] = side
            differ = len(values) > 1 and np.ptp(values) > 0
            drop = not len(values) or (differ and kind != "regression")
            merged_BC[row, column] = np.nan if drop else values.mean()
            averaged += bool(differ and not drop)
            contradicting += [smiles[row]] * bool(differ and drop)
    if averaged or contradicting or intervals:
        left_out = f"{len(contradicting)} classes left out"
        left_out += f" that contradict each other, the first of {contradicting[0][:60]}" if contradicting else ""
        left_out += intervals_words(intervals)
        LOGGER.info(f"note: molecules twice in one file: {averaged} values averaged, {left_out}")
    return merged_BC, None if stacked.sides_BC is None else merged_sides_BC
