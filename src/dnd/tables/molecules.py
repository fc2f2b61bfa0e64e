"""Any file of molecules as one stream of rows, whatever its format: the front door of finetuning and prediction.

What holds for tables everywhere:

**The reader** (`molecules.open_molecules`; `readers.read_table` beneath it). A table has columns with unique names. A
name that the header repeats, or leaves empty, becomes a new one that no column of the header has (`y.2`, `column_3`);
asking for a repeated name is refused, since it would be a guess. Cells are text, unchanged. A row of empty cells is a
row; only a line without any sign but blanks is none. What a file is packed in and how it is encoded is settled by its
bytes, for every format: gzip, UTF-8 with or without a byte order mark, UTF-16, line ends of CR, LF or both; Parquet
and workbooks are known by their first bytes, whatever the name says and also on standard input. A row that can't be
trusted stays a row, with a problem.

**Numbers of rows.** `Row.number` counts data rows from 0 and is what files hold (`splits.json`, `rejects.csv`), as
pandas and OGB count. `Row.place` is what messages say: the row as a spreadsheet shows it, so the header is row 1 and
the first molecule row 2. Where there is no header (SMI, SDF), the first one is 1.

**The SMILES column** (`smiles_column.py`) is the one that is asked for. Where none is, it's found by its name, or by
what its cells look like; where two would do, the choice is the user's.

**Labels** (`labels.py`). One function reads a column of labels for every verb. A column holds numbers or words, never
both. Numbers may have a decimal comma, thousands separators or a percent sign, all cells of a column alike; `>10` and
`<0.1` are censored, and `--censored` says how to treat them; words for "no value" are missing, and counted.
In a column of words only an empty cell is missing; words that differ in letter case or blanks alone are one class. All
bad cells are in one message. Python's estimators and commands write and read the same columns.

**The writer** (`writers.py`) gives back the user's cells as they were, with the delimiter and the decimal mark of the
input. The spreadsheet guard acts where a CSV is written and nowhere else, on text that a spreadsheet would run:
`=1+1`, but not `-0,02`. `csv_rows` undoes it exactly where we read a table of our own, so names and cells inside are
never guarded.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from dnd.common.errors import ConfigError, InputError
from dnd.tables.readers import Row, TableReader, read_table, unique_names
from dnd.tables.smiles_column import require_columns
from dnd.tables.streams import (
    LIMIT_LINE,
    STANDARD_INPUT,
    Replayed,
    byte_lines,
    is_counts_line,
    is_pipe,
    is_sdf,
    open_bytes,
    wide_encoding,
)

LIMIT_SDF_COLUMNS = 10_000
SDF_COLUMNS = ("smiles", "title")
_LINES_TO_TELL = 4  # the counts line of an SDF


@contextmanager
def open_molecules(
    path: Path | str, smiles_column: str | None = None, *, remembered: str | None = None, or_smiles: bool = False
) -> Iterator[TableReader]:
    """Rows of a CSV, TSV, SMI, Parquet or SDF file, `.gz` or not; `-` is any of them on standard input.

    The file is closed at the end of the block, even if it was not read to its end. The columns of an SDF are `smiles`
    (canonical, of the structure), `title` and its data fields.

    Args:
        path: the file.
        smiles_column: SMILES column; None = find it.
        remembered: default column, used if the table has it.
        or_smiles: whether a text that is not the name of a file may be a SMILES, read as a table of one row.

    Raises:
        InputError: see `read_table` and `read_sdf`; a column is asked for in an SDF, whose structures are its own; with
            `or_smiles`, there is no such file and the text is not a SMILES.
        ConfigError: a column is asked for in a single SMILES.
    """
    if or_smiles and isinstance(path, str) and path != STANDARD_INPUT and not _exists(path):
        yield _one_molecule(path, smiles_column)
        return
    opened = _read_once if str(path) == STANDARD_INPUT or (is_pipe(path) and is_sdf(path)) else _file
    with opened(path, smiles_column, remembered) as table:
        rows = iter(table)
        try:
            yield table
        finally:
            if isinstance(rows, Generator):
                rows.close()
            table.close()


def require_labelled_columns(path: Path | str, wanted: Sequence[str], smiles_column: str | None = None) -> None:
    """Refuse columns of labels that a file does not have, by its first lines alone.

    Raises:
        InputError: see `labelled_columns` and `open_molecules`.
    """
    with open_molecules(path, smiles_column) as table:
        labelled_columns(path, table, wanted)


def labelled_columns(
    path: Path | str, table: TableReader, wanted: Sequence[str], further: Sequence[str] = ()
) -> list[str]:
    """The columns of labels that were asked for, by the names that the table has.

    Args:
        path: of the table.
        table: opened.
        wanted: names; one that names no column may be several with commas between.
        further: names of columns that must be there too, such as that of a split.

    Raises:
        InputError: no column is named, there is none of a name, or two, or it is the column of SMILES.
    """
    if not wanted:
        raise InputError("no target column is named", next_step="Add --target-columns NAME")
    names = resolve_columns(table.columns, wanted)
    require_columns(path, table.columns, [*names, *further], what="column")
    for name in [*names, *further]:
        if name in table.repeated:  # so that no wrong column is used silently
            raise InputError(f"{path} has two columns named {name!r}", next_step="Rename one of them")
    if table.smiles_column in names:
        raise InputError(
            f"{table.smiles_column!r} is the column of SMILES, not of labels",
            next_step="Name the column of SMILES with --smiles-column, or another target",
        )
    return names


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


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # a long SMILES is too long for a name
        return False


def _one_molecule(text: str, smiles_column: str | None) -> TableReader:
    """A SMILES as a table of one row.

    Raises:
        InputError: it is none.
        ConfigError: a column is asked for.
    """
    from dnd.chemistry.parse import parse_smiles

    outcome = parse_smiles(text)
    if not outcome.ok:
        raise InputError(
            f"there is no file {text[:60]!r}, and it is not a SMILES either",
            found=outcome.reason,
            expected="a file of molecules, a SMILES, or - for standard input",
        )
    if smiles_column is not None:
        raise ConfigError("a single SMILES has no columns", next_step="Leave --smiles-column out")
    column = SDF_COLUMNS[0]
    return TableReader([column], column, iter([Row(0, text.strip(), {column: text.strip()}, place=1)]))


def refuse_column_of_sdf(path: Path | str, smiles_column: str | None) -> None:
    """Raise an error for a SMILES column of an SDF, which would not be read.

    Raises:
        InputError: one is asked for that isn't `smiles`, the name of the structures among the columns.
    """
    if smiles_column not in (None, SDF_COLUMNS[0]):
        raise InputError(
            f"{path} is an SDF, whose molecules are the structures in its records",
            found=f"--smiles-column {smiles_column}",
            next_step="Leave it out, or write that data field to a CSV file",
        )


@contextmanager
def _file(path: Path | str, smiles_column: str | None, remembered: str | None) -> Iterator[TableReader]:
    if is_sdf(path):
        refuse_column_of_sdf(path, smiles_column)
        yield _sdf_table(path, open_bytes(path), open_bytes(path))
    else:
        yield read_table(path, smiles_column=smiles_column, remembered=remembered)


@contextmanager
def _read_once(path: Path | str, smiles_column: str | None, remembered: str | None) -> Iterator[TableReader]:
    """A table as a stream; an SDF by way of a temporary file, since its columns are known only at its end."""
    head, whole = standard_input_head(path)
    if not any(map(is_counts_line, head)):
        yield read_table(path, smiles_column=smiles_column, remembered=remembered, stream=whole)
        return
    refuse_column_of_sdf("standard input", smiles_column)
    with tempfile.NamedTemporaryFile() as spooled:
        shutil.copyfileobj(whole, spooled)
        spooled.flush()
        yield _sdf_table(path, open_bytes(spooled.name), open_bytes(spooled.name))


def standard_input_head(path: Path | str) -> tuple[list[bytes], BinaryIO]:
    """The first lines of standard input as text in UTF-8, and the whole of it, not yet read."""
    stream = open_bytes(path)
    raw = [stream.readline(LIMIT_LINE) for _ in range(_LINES_TO_TELL)]
    start = b"".join(raw)
    head = raw
    wide = wide_encoding(start)
    if wide is not None:
        head = [line.encode() for line in start.decode(wide, errors="ignore").splitlines()]
    elif b"\r" in start[:-1]:
        head = start.splitlines()[:_LINES_TO_TELL]
    return head, cast(BinaryIO, Replayed.buffered(start, stream))


def _sdf_table(path: Path | str, first: BinaryIO, second: BinaryIO) -> TableReader:
    fields = field_names(path, first)
    columns = unique_names([*SDF_COLUMNS, *fields])
    names = dict(zip(fields, columns[len(SDF_COLUMNS) :], strict=True))
    return TableReader(columns, SDF_COLUMNS[0], _sdf_rows(path, second, names), second)


def _sdf_rows(path: Path | str, stream: BinaryIO, names: dict[str, str]) -> Iterator[Row]:
    from dnd.tables.sdf import read_sdf  # RDKit is not needed to read a table

    empty = dict.fromkeys(names.values(), "")
    for record in read_sdf(path, stream):
        molecule = record.outcome
        smiles = molecule.smiles if molecule.ok else ""
        cells = {names[name]: value for name, value in record.properties.items() if name in names}
        problem = None if molecule.ok else molecule.reason
        values = {"smiles": smiles, "title": record.title, **empty, **cells}
        yield Row(record.number, smiles, values, problem, record.number + 1)


def field_names(path: Path | str, stream: BinaryIO) -> list[str]:
    """Data fields of all records, in the order they first occur; a pass of its own, so that the header is complete."""
    from dnd.tables.sdf import field_name

    found: dict[str, None] = {}
    for line in byte_lines(stream, path):
        name = field_name(line.decode("utf-8", errors="dnd_latin_1")) if line.startswith(b">") else None
        if name is not None and len(found) < LIMIT_SDF_COLUMNS:
            found.setdefault(name)
    return list(found)
