"""Tables of molecules as a stream of rows: CSV, TSV, SMI and Parquet, every column kept as text."""

from __future__ import annotations

import collections
import csv
import io
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnd.common.config import nearest
from dnd.common.errors import CorruptFileError, InputError
from dnd.tables.streams import LIMIT_LINE, STANDARD_INPUT, empty_input, open_bytes, read_errors, text_lines

# Rows of CSV and TSV text, one bad row at a time: neither an open quote nor a trailing comma reaches another row.


DELIMITERS = (",", "\t", ";", "|")
MAX_LINES_PER_ROW = 64
"""A quoted cell may hold line breaks; a quote that is still open after so many lines is a mistake."""

csv.field_size_limit(LIMIT_LINE)  # the csv module's own limit of 131,072 characters is for the whole process


def split_header(line: str, delimiter: str) -> list[str]:
    """Cells of a header line, blanks around them removed."""
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def read_rows(lines: Iterator[str], delimiter: str, width: int) -> Iterator[tuple[list[str], str | None]]:
    """Cells of each row and what is wrong with its quotes, if anything; blank lines are left out.

    A quote that is never closed costs the row it's in and no other: the lines after it are read as rows again.

    Args:
        lines: lines after the header, with their ends.
        delimiter: one character.
        width: cells of the header; cells over several lines that don't add up to it are taken for an open quote.
    """
    waiting: deque[str] = deque()
    while True:
        line = waiting.popleft() if waiting else next(lines, None)
        if line is None:
            return
        if not line.strip():
            continue
        if '"' not in line:
            yield next(csv.reader([line], delimiter=delimiter)), None
            continue
        yield _read_quoted(line, lines, waiting, delimiter, width)


def _read_quoted(
    line: str, lines: Iterator[str], waiting: deque[str], delimiter: str, width: int
) -> tuple[list[str], str | None]:
    taken = [line]
    while (open_quote := _quote_is_open(taken, delimiter)) and len(taken) < MAX_LINES_PER_ROW:
        following = waiting.popleft() if waiting else next(lines, None)
        if following is None:
            break
        taken.append(following)
    if not open_quote:
        cells = next(csv.reader(taken, delimiter=delimiter))
        if len(taken) == 1 or len(cells) == width:
            return cells, None
    waiting.extendleft(reversed(taken[1:]))
    return next(csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_NONE)), "a quote is opened and never closed"


def _quote_is_open(taken: list[str], delimiter: str) -> bool:
    try:
        list(csv.reader(taken, delimiter=delimiter, strict=True))
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False


# Rows of a Parquet file as text cells, one batch in memory at a time.


LIMIT_UNPACKED = 4 * 2**30
"""Largest Parquet file that comes gzipped or from standard input; such a file has to be held in memory."""

_BATCH_ROWS = 4096
# Beside Arrow's own errors: bytes that are no text, and dates beyond Python's, show only when they become Python's.
_DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError)


def open_parquet(stream: BinaryIO, path: str | Path) -> tuple[list[str], Iterator[list[str]]]:
    """Column names and rows of a Parquet file; page checksums are verified, missing values are empty cells.

    Raises:
        CorruptFileError: not a Parquet file, or damaged, or in a damaged gzip; the second also while iterating.
    """
    source: BinaryIO = stream
    if not stream.seekable() or not isinstance(getattr(stream, "raw", None), io.FileIO):
        with read_errors(path):
            source = io.BytesIO(stream.read(LIMIT_UNPACKED + 1))
        if source.getbuffer().nbytes > LIMIT_UNPACKED:
            raise InputError(f"{path} is too large to unpack", next_step="Unpack it and give the plain .parquet file")
    try:
        described = pq.ParquetFile(source, page_checksum_verification=True)
        names = list(described.schema_arrow.names)
        leaves = [described.schema.column(number) for number in range(len(described.schema))]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.path in names]
        # A text that a column repeats stays one text in memory: 900 bytes could become gigabytes.
        file = pq.ParquetFile(source, page_checksum_verification=True, read_dictionary=texts)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return names, _rows(file, stream, path)


def _rows(file: Any, stream: BinaryIO, path: str | Path) -> Iterator[list[str]]:
    with stream:
        try:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                columns = [_cells(column) for column in batch.columns]
                yield from (list(cells) for cells in zip(*columns, strict=True))
        except _DAMAGE as error:
            raise _damaged(path, error) from error


def _cells(column: Any) -> list[str]:
    """The cells of a column; rows that share a value share its text."""
    if not pa.types.is_dictionary(column.type):
        return ["" if value is None else str(value) for value in column.to_pylist()]
    places = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    used, own = np.unique(places, return_inverse=True)
    known = column.dictionary.take(pa.array(used[used >= 0])).to_pylist()
    texts = [""] * (used < 0).sum() + ["" if value is None else str(value) for value in known]
    return [texts[place] for place in own]


def _damaged(path: str | Path, error: Exception) -> CorruptFileError:
    return CorruptFileError(f"{path} is not a readable Parquet file", found=str(error).splitlines()[0])


# Tables of molecules as a stream of rows: CSV, TSV, SMI and Parquet, every column kept as text.
#
# What a table means is settled here, before anything is parsed: encoding, separator, header, ragged rows. A row that
# can't be trusted stays a row, with a problem; columns never shift.


TableKind = Literal["csv", "smi", "parquet"]

_KIND_OF_SUFFIX: dict[str, TableKind] = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".txt": "csv", ".smi": "smi", ".smiles": "smi", ".ism": "smi",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_SMI_HEADER = {"smiles", "smi", "canonical_smiles", "isosmiles"}
SMI_COLUMNS = ("smiles", "name")
MAX_NAMES_SHOWN = 30
LIMIT_COLUMNS = 20_000
"""Most columns of a table; each row is a cell for every one of them."""
LIMIT_CELL = 2**20
"""Longest cell in characters; of a longer one the first thousand are kept, and its row is refused."""
_KEPT = 1000


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        number: place among the data rows, from 0; blank lines don't count.
        smiles: text of the SMILES column.
        values: every cell by column name, as text; empty where there is none.
        problem: why the row can't be trusted, such as too many cells; None for a good row.
    """

    number: int
    smiles: str
    values: dict[str, str]
    problem: str | None = None


class TableReader:
    """Rows of one table, read once, in order, in constant memory.

    The file closes after the last row; in a `with` statement also when the rows aren't read to their end.

    Attributes:
        columns: names of the columns, in order. A repeated name gets `.1`, `.2`, an empty one is `column_<place>`.
        smiles_column: the column that holds the SMILES.
    """

    def __init__(
        self, columns: list[str], smiles_column: str, rows: Iterator[Row], stream: BinaryIO | None = None
    ) -> None:
        self.columns, self.smiles_column, self._rows, self._stream = columns, smiles_column, rows, stream

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()


def kind_of(path: str | Path) -> TableKind | None:
    """Kind of a table by the end of its name, `.gz` left aside; None when the name doesn't say."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return _KIND_OF_SUFFIX.get(suffixes[-1]) if suffixes else None


def read_table(
    path: str | Path, *, smiles_column: str = "smiles", kind: TableKind | None = None, stream: BinaryIO | None = None
) -> TableReader:
    """Open a table of molecules.

    Args:
        path: CSV or TSV (also separated by `;` or `|`), SMI, Parquet; each may be gzipped. `-` is standard input.
        smiles_column: the column of SMILES; letter case matters only where two columns differ in nothing else. SMI
            files have the columns `smiles` and `name`.
        kind: what the file is, where its name doesn't say. Standard input is taken for CSV when its first line holds
            `smiles_column`, else for SMI.
        stream: where to read instead of opening `path`, which then only serves messages.

    Returns:
        The reader; its rows are read as it's iterated.

    Raises:
        InputError: no such file, an empty file, a header and nothing else, no SMILES column or two of that name.
        CorruptFileError: damaged gzip or Parquet, here or while iterating.

    Example:
        >>> for row in read_table("esol.csv"):
        ...     print(row.number, row.smiles, row.values["measured log solubility in mols per litre"])
    """
    kind = kind or kind_of(path)
    if kind is None and str(path) != STANDARD_INPUT:
        raise InputError(
            f"{path} is of no known kind",
            expected="a name that ends in .csv, .tsv, .smi, .parquet, .sdf, with or without .gz",
        )
    stream = stream or open_bytes(path)
    try:
        return (
            _open_parquet(stream, path, smiles_column)
            if kind == "parquet"
            else _open_text(stream, path, smiles_column, kind)
        )
    except BaseException:
        stream.close()
        raise


def _open_parquet(stream: BinaryIO, path: str | Path, smiles_column: str) -> TableReader:
    columns, cells = open_parquet(stream, path)
    return _table(path, columns, ((row, None) for row in cells), smiles_column, stream)


def _open_text(stream: BinaryIO, path: str | Path, smiles_column: str, kind: TableKind | None) -> TableReader:
    lines = text_lines(stream, path)
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise empty_input(path)
    delimiter = _delimiter(first, path, smiles_column)
    header = split_header(first, delimiter)
    if kind == "smi" or (kind is None and smiles_column not in header):
        return _smi(first, lines, path, stream)
    return _table(path, header, read_rows(lines, delimiter, len(header)), smiles_column, stream)


def _delimiter(header: str, path: str | Path, smiles_column: str) -> str:
    """The separator that shows the SMILES column, else the one of the file's name, else the most frequent."""
    usual = "\t" if {".tsv", ".tab"} & {suffix.lower() for suffix in Path(path).suffixes} else ","
    candidates = (usual, *(delimiter for delimiter in DELIMITERS if delimiter != usual))
    for delimiter in candidates:
        if smiles_column.lower() in [name.lower() for name in split_header(header, delimiter)]:
            return delimiter
    return max(candidates, key=header.count)


def _table(
    path: str | Path,
    header: list[str],
    cells: Iterator[tuple[list[str], str | None]],
    smiles_column: str,
    stream: BinaryIO,
) -> TableReader:
    if len(header) > LIMIT_COLUMNS:
        raise InputError(
            f"{path} has too many columns", found=f"{len(header):,}", expected=f"at most {LIMIT_COLUMNS:,}",
            next_step="Keep the columns that are needed",
        )  # fmt: skip
    found = _find_column(path, header, smiles_column)
    columns = _unique_names(header)
    place = header.index(found)
    first = next(cells, None)
    if first is None:
        raise _no_rows(path, columns)
    rows = (
        _row(number, row, problem, columns, place)
        for number, (row, problem) in enumerate(itertools.chain([first], cells))
    )
    return TableReader(columns, columns[place], rows, stream)


def _no_rows(path: str | Path, columns: list[str]) -> InputError:
    return InputError(
        f"{path} has a header and no rows",
        found=f"columns {listed_columns(columns)}",
        next_step="Check how it was made or copied",
    )


def listed_columns(names: Sequence[str]) -> str:
    """The first of the names, fit to be printed, and how many more there are."""
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return ", ".join(_printable(name) for name in names[:MAX_NAMES_SHOWN]) + more


def _row(number: int, cells: list[str], problem: str | None, columns: list[str], place: int) -> Row:
    if problem is None and len(cells) != len(columns):
        problem = f"row has {len(cells)} cells where the header has {len(columns)}"
    if max(map(len, cells), default=0) > LIMIT_CELL:
        problem = problem or f"a cell of {max(map(len, cells)):,} characters, at most {LIMIT_CELL:,} are read"
        cells = [cell if len(cell) <= LIMIT_CELL else cell[:_KEPT] for cell in cells]
    values = dict(itertools.zip_longest(columns, cells[: len(columns)], fillvalue=""))
    return Row(number, values[columns[place]], values, problem)


def _find_column(path: str | Path, header: list[str], wanted: str) -> str:
    exact = [name for name in header if name == wanted]
    alike = exact or [name for name in header if name.lower() == wanted.lower()]
    if len(alike) == 1:
        return alike[0]
    listed, shown = listed_columns(header), [_printable(name) for name in header[:MAX_NAMES_SHOWN]]
    if alike:
        raise InputError(
            f"{path} has {len(alike)} columns named {wanted!r}",
            found=f"columns {listed}",
            next_step="Rename all but one",
        )
    raise InputError(
        f"{path} has no column {wanted!r}", found=f"columns {listed}", expected="a first line that names it",
        next_step=f"Name the column of SMILES with --smiles-column. {nearest(wanted, shown)}",
    )  # fmt: skip


def _printable(name: str) -> str:
    """A name as it can stand in one line on a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in name[:60])


def _unique_names(header: list[str]) -> list[str]:
    seen: collections.Counter[str] = collections.Counter()
    names = []
    for place, cell in enumerate(header):
        name = cell or f"column_{place + 1}"
        names.append(f"{name}.{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names


def _smi(first: str, lines: Iterator[str], path: str | Path, stream: BinaryIO) -> TableReader:
    has_header = first.split()[0].lower() in _SMI_HEADER
    body = (line for line in (lines if has_header else itertools.chain([first], lines)) if line.strip())
    start = next(body, None)
    if start is None:
        raise _no_rows(path, [first.strip()])
    rows = (_smi_row(number, line) for number, line in enumerate(itertools.chain([start], body)))
    return TableReader(list(SMI_COLUMNS), SMI_COLUMNS[0], rows, stream)


def _smi_row(number: int, line: str) -> Row:
    smiles, _, name = line.strip().replace("\t", " ", 1).partition(" ")
    return Row(number, smiles, dict(zip(SMI_COLUMNS, (smiles, name.strip()), strict=True)))
