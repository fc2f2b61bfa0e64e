"""Tables of molecules as a stream of rows: CSV, TSV, SMI and Parquet, every column as text; and which one holds SMILES.

Over 500 lines, since the formats share the rules of columns, cells and limits, and every reader finds its column.
"""

from __future__ import annotations

import collections
import csv
import io
import itertools
import re
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
from dnd.tables.streams import (
    LIMIT_LINE,
    PARQUET,
    SAVE_AS_CSV,
    SAVE_AS_SDF,
    STANDARD_INPUT,
    empty_input,
    is_pipe,
    is_structure,
    is_workbook,
    open_bytes,
    peeked,
    read_errors,
    text_lines,
)

# Rows of CSV and TSV text, one bad row at a time: neither an open quote nor a trailing comma reaches another row.


DELIMITERS = (",", "\t", ";", "|")
MAX_LINES_PER_ROW = 5_000
"""A quoted cell may hold line breaks, as a mol block does; a quote that is still open after so many is a mistake."""
_SURELY_A_CELL = 64
"""A row may have so many lines without suspicion. If it has more, a line that looks like a row shows an open quote."""

csv.field_size_limit(LIMIT_LINE)  # the csv module's own limit of 131,072 characters is for the whole process


def split_header(line: str, delimiter: str) -> list[str]:
    """Cells of a header line, blanks around them removed."""
    # Line by line: a quote that holds a line break together for one delimiter may be no quote for another.
    return [cell.strip() for cell in next(csv.reader(io.StringIO(line, newline=""), delimiter=delimiter), [])]


@dataclass(frozen=True)
class RowCells:
    """One row of a file.

    Attributes:
        place: row number as in a spreadsheet: the header is row 1, blank lines count.
        texts: the cells.
        problem: what is wrong with its quotes, if anything.
    """

    place: int
    texts: list[str]
    problem: str | None = None


def is_blank(line: str) -> bool:
    """Whether a line is not a row. One of tabs or commas alone is a row of empty cells."""
    return not line.strip(" \r\n")


def read_rows(lines: Iterator[str], delimiter: str, width: int, first_place: int = 2) -> Iterator[RowCells]:
    """Cells of each row; blank lines are left out.

    A quote that is never closed only spoils its own row: the lines after it are read as rows again.

    Args:
        lines: lines after the header, with their ends.
        delimiter: one character.
        width: number of cells in the header; a cell over several lines that gives another number is taken for an open
            quote.
        first_place: line number of the first line.
    """
    waiting: deque[str] = deque()
    for place in itertools.count(first_place):
        line = waiting.popleft() if waiting else next(lines, None)
        if line is None:
            return
        if is_blank(line):
            continue
        if '"' not in line:
            yield RowCells(place, next(csv.reader([line], delimiter=delimiter)))
            continue
        yield RowCells(place, *_read_quoted(line, lines, waiting, delimiter, width))


def _read_quoted(
    line: str, lines: Iterator[str], waiting: deque[str], delimiter: str, width: int
) -> tuple[list[str], str | None]:
    taken, is_whole = _whole_row(line, _upcoming(waiting, lines), delimiter, width)
    if is_whole:
        cells = next(csv.reader(taken, delimiter=delimiter))
        if len(taken) == 1 or len(cells) == width:
            return cells, None
    waiting.extendleft(reversed(taken[1:]))
    return next(csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_NONE)), "a quote is opened and never closed"


def _upcoming(waiting: deque[str], lines: Iterator[str]) -> Iterator[str]:
    while True:
        following = waiting.popleft() if waiting else next(lines, None)
        if following is None:
            return
        yield following


def _whole_row(first: str, following: Iterator[str], delimiter: str, width: int) -> tuple[list[str], bool]:
    """The lines of a row whose quoted cells hold line breaks, and whether its last quote is closed."""
    taken: list[str] = []

    def asked_for() -> Iterator[str]:
        """The lines of the row, up to the one that shows a quote to be open by mistake."""
        size = 0
        for line in itertools.chain([first], following):
            taken.append(line)
            size += len(line)
            yield line
            if len(taken) < _SURELY_A_CELL:
                continue
            new = taken[1:] if len(taken) == _SURELY_A_CELL else [line]
            if (
                len(taken) == MAX_LINES_PER_ROW
                or size > LIMIT_LINE
                or any(_is_row(one, delimiter, width) for one in new)
            ):
                return

    try:
        next(csv.reader(asked_for(), delimiter=delimiter, strict=True))
    except csv.Error as error:
        # A quote within a cell of one line is text. Over several lines two rows would become one.
        return taken, len(taken) == 1 and "unexpected end of data" not in str(error)
    return taken, True


def _is_row(line: str, delimiter: str, width: int) -> bool:
    """Whether a line has as many cells as a row, quotes aside."""
    return line.count(delimiter) + 1 == width


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
            raise InputError(
                f"{path} is too large to be unpacked or read from a pipe", next_step="Give it as a plain .parquet file"
            )
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
                columns = [_texts(column) for column in batch.columns]
                yield from (list(cells) for cells in zip(*columns, strict=True))
        except _DAMAGE as error:
            raise _damaged(path, error) from error


def _texts(column: Any) -> list[str]:
    """The cells of a column; rows that share a value of a dictionary share its text."""
    if not pa.types.is_dictionary(column.type):
        return _cells(column)
    places = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    used, own = np.unique(places, return_inverse=True)
    texts = [""] * (used < 0).sum() + _cells(column.dictionary.take(pa.array(used[used >= 0])))
    return [texts[place] for place in own]


def _cells(values: Any) -> list[str]:
    """Values as text: null and not-a-number are empty cells, 32-bit numbers have their own digits, bytes are UTF-8."""
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):  # text that its writer did not mark
        return ["" if value is None else value.decode("utf-8", "dnd_latin_1") for value in values.to_pylist()]
    short = pa.types.is_float32(values.type) or pa.types.is_float16(values.type)
    return [
        "" if value is None or value != value else f"{np.float32(value)!s}" if short else str(value)
        for value in values.to_pylist()
    ]


def _damaged(path: str | Path, error: Exception) -> CorruptFileError:
    return CorruptFileError(f"{path} is not a readable Parquet file", found=str(error).splitlines()[0])


# Tables of molecules as a stream of rows: CSV, TSV, SMI and Parquet, every column kept as text.
#
# What a table means is settled here, before anything is parsed: encoding, separator, header, ragged rows. A row that
# can't be trusted stays a row, with a problem; columns never shift. The contract: `tables.molecules`.


TableKind = Literal["csv", "smi", "parquet"]

_KIND_OF_SUFFIX: dict[str, TableKind] = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".txt": "csv", ".smi": "smi", ".smiles": "smi", ".ism": "smi",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_SMI_HEADER = {"smiles", "smi", "canonical_smiles", "isosmiles"}
_TABS = (".tsv", ".tab")
_BY_PIPE = "Send it to standard input and name it -, as in `cat FILE | dnd predict -`"
SMI_COLUMNS = ("smiles", "name")
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
        values: every cell by column name, as text; empty if it is missing.
        problem: why the row can't be trusted, such as too many cells; None for a good row.
        place: row number as in a spreadsheet, for messages: the header is row 1.
    """

    number: int
    smiles: str
    values: dict[str, str]
    problem: str | None = None
    place: int = 0


@dataclass(frozen=True)
class TextStyle:
    """How a table of text is written.

    Attributes:
        delimiter: delimiter of the cells; None if the format has none of its own (SMI, SDF, Parquet).
    """

    delimiter: str | None = None


class TableReader:
    """Rows of one table, read once, in order, in constant memory.

    The file closes after the last row; in a `with` statement also when the rows aren't read to their end.

    Attributes:
        columns: names of the columns, in order, each once; see `unique_names`.
        smiles_column: the column that holds the SMILES.
        repeated: names that occur more than once in the header, so that they are ambiguous.
        style: how the table is written.
    """

    def __init__(
        self,
        columns: list[str],
        smiles_column: str,
        rows: Iterator[Row],
        stream: BinaryIO | None = None,
        *,
        repeated: frozenset[str] = frozenset(),
        style: TextStyle | None = None,
    ) -> None:
        self.columns, self.smiles_column, self._rows, self._stream = columns, smiles_column, rows, stream
        self.repeated, self.style = repeated, style or TextStyle()

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


@dataclass(frozen=True)
class KeptTable:
    """All rows of a table that was read, so that who needs them next need not read and parse the file again.

    Attributes:
        columns: as in `TableReader`, as are the others.
        smiles_column: where the SMILES are.
        rows: in order.
        repeated: ambiguous names.
        style: how the table is written.
    """

    columns: list[str]
    smiles_column: str
    rows: list[Row]
    repeated: frozenset[str]
    style: TextStyle

    def opened(self) -> TableReader:
        """The rows from the first on."""
        return TableReader(self.columns, self.smiles_column, iter(self.rows), repeated=self.repeated, style=self.style)


def kind_of(path: str | Path) -> TableKind | None:
    """Kind of a table by the end of its name, ignoring `.gz`; None when the name doesn't tell."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return _KIND_OF_SUFFIX.get(suffixes[-1]) if suffixes else None


def is_tsv(path: str | Path) -> bool:
    """Whether a file is tab-separated by its name."""
    return bool(set(_TABS) & {suffix.lower() for suffix in Path(path).suffixes})


def read_table(
    path: str | Path,
    *,
    smiles_column: str | None = "smiles",
    remembered: str | None = None,
    kind: TableKind | None = None,
    stream: BinaryIO | None = None,
) -> TableReader:
    """Open a table of molecules.

    Args:
        path: CSV or TSV (also separated by `;` or `|`), SMI, Parquet; each may be gzipped. `-` is standard input.
            Parquet is known by its first bytes, whatever the name is.
        smiles_column: the column of SMILES; letter case matters only if it alone distinguishes two columns. SMI
            files have the columns `smiles` and `name`. None = find it, see `find_column`.
        remembered: default column, used if the table has it, such as that of a model.
        kind: kind of the file, if its name doesn't tell. Standard input is taken for CSV when its first line names
            a column of SMILES, else for SMI.
        stream: stream to read instead of opening `path`, which is then used in messages only.

    Returns:
        The reader; its rows are read as it's iterated.

    Raises:
        InputError: no such file, an empty file, a header without rows, no SMILES column or two of that name.
        CorruptFileError: damaged gzip or Parquet, here or while iterating.

    Example:
        >>> for row in read_table("esol.csv"):
        ...     print(row.number, row.smiles, row.values["measured log solubility in mols per litre"])
    """
    kind = kind or kind_of(path)
    if is_workbook(path):
        raise InputError(f"{path} is a workbook", expected="CSV, TSV, SMI, SDF or Parquet", next_step=SAVE_AS_CSV)
    if kind is None and str(path) != STANDARD_INPUT:
        if str(path) and Path(path).is_dir():
            raise InputError(f"{path} is a folder", expected="a file of molecules")
        if not str(path) or not Path(path).exists():
            raise InputError(f"there is no file {str(path)!r}", next_step="Check the name, and the folder you are in")
        raise InputError(
            f"{path} is a file of an unknown kind",
            expected="a name that ends in .csv, .tsv, .smi, .parquet, .sdf, with or without .gz",
            next_step=SAVE_AS_SDF if is_structure(path) else _BY_PIPE if is_pipe(path) else None,
        )
    stream = stream or open_bytes(path)
    wish = _Wish(path, smiles_column, remembered)
    try:
        if kind == "parquet" or peeked(stream, path, len(PARQUET)) == PARQUET:
            columns, cells = open_parquet(stream, path)
            numbered = (RowCells(place, row) for place, row in enumerate(cells, start=2))
            return _table(wish, columns, numbered, stream, TextStyle())
        return _open_text(stream, wish, kind)
    except BaseException:
        stream.close()
        raise


@dataclass(frozen=True)
class _Wish:
    """Which column is wanted of which table; see `read_table`."""

    path: str | Path
    column: str | None
    remembered: str | None = None
    needs_smiles: bool = True

    def is_named(self, header: Sequence[str]) -> bool:
        """Whether a header has the column, by its name."""
        if self.column is not None:
            return same_name(self.column) in map(same_name, header)
        return self.remembered in header or bool(column_by_name(header))

    def place(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
        """Place of the column."""
        if not self.needs_smiles:
            return 0
        if self.column is not None:
            return chosen_column(self.path, header, self.column)
        if self.remembered is not None and list(header).count(self.remembered) == 1:
            return list(header).index(self.remembered)
        return find_column(self.path, header, rows)


def read_plain_table(path: str | Path) -> TableReader:
    """Open a CSV, TSV or Parquet table that need not have SMILES, such as labels beside a file of molecules.

    Raises:
        InputError, CorruptFileError: see `read_table`.
    """
    stream = open_bytes(path)
    wish = _Wish(path, None, needs_smiles=False)
    try:
        return _open_text(stream, wish, "csv")
    except BaseException:
        stream.close()
        raise


def _open_text(stream: BinaryIO, wish: _Wish, kind: TableKind | None) -> TableReader:
    lines = text_lines(stream, wish.path)
    skipped = 0
    first = next(lines, None)
    while first is not None and is_blank(first):
        first, skipped = next(lines, None), skipped + 1
    if first is None or (kind != "smi" and not first.strip()):
        raise empty_input(wish.path)
    declared = _declared_delimiter(first)
    if declared:
        first, skipped = next(lines, ""), skipped + 1
        if not first.strip():
            raise empty_input(wish.path)
    if kind != "smi":
        first, lines = _whole_header(first, lines, declared or _delimiter(first, wish))
    delimiter = declared or _delimiter(first, wish)
    header = split_header(first, delimiter)
    if kind == "smi" or (kind is None and not wish.is_named(header) and may_be_smiles(first.split()[0])):
        if wish.column is not None and wish.column.lower() != SMI_COLUMNS[0]:
            raise InputError(
                f"{wish.path} has no column {wish.column!r}",
                found="a list of SMILES and names (SMI)",
                next_step="Leave --smiles-column out",
            )  # fmt: skip
        return _smi(first, lines, wish.path, stream, skipped + 1)
    cells = read_rows(lines, delimiter, len(header), skipped + 2)
    return _table(wish, header, cells, stream, TextStyle(delimiter))


def _whole_header(first: str, lines: Iterator[str], delimiter: str) -> tuple[str, Iterator[str]]:
    """The header, whose names may hold line breaks in quotes, and the lines after it."""
    taken, is_whole = _whole_row(first, lines, delimiter, len(split_header(first, delimiter)))
    if is_whole:
        return "".join(taken), lines
    return first, itertools.chain(taken[1:], lines)  # never closed: the line stands for itself, as rows do


def _declared_delimiter(line: str) -> str:
    """The separator that a first line such as `sep=;` names to spreadsheets; empty for any other line."""
    name, _, delimiter = line.rstrip("\r\n").strip('"').partition("=")
    return delimiter if name.lower() == "sep" and delimiter in DELIMITERS else ""


def _delimiter(header: str, wish: _Wish) -> str:
    """The separator that shows the SMILES column, else the one of the file's name, else the most frequent."""
    usual = "\t" if is_tsv(wish.path) else ","
    candidates = (usual, *(delimiter for delimiter in DELIMITERS if delimiter != usual))
    for delimiter in candidates if wish.needs_smiles else ():
        if wish.is_named(split_header(header, delimiter)):
            return delimiter
    return max(candidates, key=header.count)


def _table(
    wish: _Wish, header: list[str], cells: Iterator[RowCells], stream: BinaryIO, style: TextStyle
) -> TableReader:
    if len(header) > LIMIT_COLUMNS:
        raise InputError(
            f"{wish.path} has too many columns", found=f"{len(header):,}", expected=f"at most {LIMIT_COLUMNS:,}",
            next_step="Keep the columns that are needed",
        )  # fmt: skip
    named = not wish.needs_smiles or wish.column is not None or wish.is_named(header)
    start = _first_rows(cells, 1 if named else ROWS_TO_LOOK_AT)
    place = wish.place(header, [row.texts for row in start])
    columns = unique_names(header)
    if not start:
        raise _no_rows(wish.path, columns)
    rows = (_row(number, row, columns, place) for number, row in enumerate(itertools.chain(start, cells)))
    repeated = frozenset(name for name, count in collections.Counter(header).items() if name and count > 1)
    return TableReader(columns, columns[place], rows, stream, repeated=repeated, style=style)


def _first_rows(cells: Iterator[RowCells], most: int) -> list[RowCells]:
    """The rows whose cells are examined; fewer than `most` if they are long, since all are held in memory."""
    rows, characters = list[RowCells](), 0
    while len(rows) < most and characters < LIMIT_LINE and (row := next(cells, None)) is not None:
        rows.append(row)
        characters += sum(map(len, row.texts))
    return rows


def _no_rows(path: str | Path, columns: list[str]) -> InputError:
    return InputError(
        f"{path} has a header and no rows",
        found=f"columns {listed_columns(columns)}",
        next_step="Check how it was made or copied",
    )


def _row(number: int, cells: RowCells, columns: list[str], place: int) -> Row:
    problem = cells.problem
    if problem is None and len(cells.texts) != len(columns):
        problem = f"row has {len(cells.texts)} cells where the header has {len(columns)}"
    texts, longest = cells.texts, max(map(len, cells.texts), default=0)
    if longest > LIMIT_CELL:
        problem = problem or f"a cell of {longest:,} characters, at most {LIMIT_CELL:,} are read"
        texts = [text if len(text) <= LIMIT_CELL else text[:_KEPT] for text in texts]
    values = dict(itertools.zip_longest(columns, texts[: len(columns)], fillvalue=""))
    return Row(number, values[columns[place]], values, problem, cells.place)


def unique_names(header: Sequence[str]) -> list[str]:
    """Names of columns, each once: a repeated one gets `.2`, `.3`, an empty one is `column_<place>`.

    A new name never equals a name in the header: of `y, y.2, y` the last becomes `y.3`.
    """
    given, found = set(header), set[str]()
    following: dict[str, int] = {}
    names: list[str] = []
    for place, cell in enumerate(header, start=1):
        name = cell
        while not name or name in found or (name != cell and name in given):
            number = following.get(cell, 2 if cell else place)
            following[cell] = number + 1
            name = f"{cell}.{number}" if cell else f"column_{number}"
        found.add(name)
        names.append(name)
    return names


def _smi(first: str, lines: Iterator[str], path: str | Path, stream: BinaryIO, place: int) -> TableReader:
    has_header = "".join(first.split()[:1]).lower() in _SMI_HEADER
    every = enumerate(lines if has_header else itertools.chain([first], lines), start=place + has_header)
    body = ((where, line) for where, line in every if not is_blank(line))
    start = next(body, None)
    if start is None:
        raise _no_rows(path, [first.strip()])
    rows = (_smi_row(number, where, line) for number, (where, line) in enumerate(itertools.chain([start], body)))
    return TableReader(list(SMI_COLUMNS), SMI_COLUMNS[0], rows, stream)


def _smi_row(number: int, place: int, line: str) -> Row:
    """SMILES, perhaps the extension of CXSMILES in bars, and a name; a line that begins with a tab has no SMILES."""
    text = line.rstrip().lstrip(" ")
    bar = text.find("|")
    end = text.find("|", bar + 1)
    before = text[: max(bar, 0)].split(maxsplit=1)
    if text.startswith("\t"):
        smiles, name = "", text
    elif len(before) == 1 and end > 0 and text[bar - 1] in " \t" and text[end + 1 : end + 2] in ("", " ", "\t"):
        smiles, name = f"{before[0]} {text[bar : end + 1]}", text[end + 1 :]
    else:
        smiles, _, name = text.replace("\t", " ", 1).partition(" ")
    return Row(number, smiles, dict(zip(SMI_COLUMNS, (smiles, name.strip()), strict=True)), None, place)


# Which column of a table holds the SMILES, by its name or by its cells, and which the names; without RDKit.

MAX_NAMES_SHOWN = 30
ROWS_TO_LOOK_AT = 100
"""Rows whose cells are looked at where no name says which column it is."""

# In this order: a table with `smiles` and `canonical_smiles` means the first. Compared without letter case and signs.
_NAMES = ("smiles", "canonicalsmiles", "isomericsmiles", "isosmiles", "smi", "structure", "molecule", "mol", "compound")
_SIGNS = re.compile(r"[\W_]+")
# Atoms, brackets, bonds, branches and ring digits; each repetition takes one token, so time is linear.
_TOKENS = re.compile(r"(?:Br|Cl|[BCNOPSFIbcnops*]|\[[^\[\]\s]{1,40}\]|[-=#$:/\\.()]|%\d\d|\d)+")
_LOOKS_LIKE_ONE = 0.9  # share of the cells that aren't empty
_PLAIN_ATOM = re.compile(r"[CNOScno]")
_IS_ID = re.compile(
    r"(?i)id|idnumber|name|title|compound|molecule|(zinc|catalog|vendor)[ _-]?id"
    r"|(compound|molecule|cmpd|mol|chembl|sample|batch)[ _-].{0,20}(id|name)"
)


def may_be_smiles(text: str) -> bool:
    """Whether a text is made of the tokens of SMILES; a name such as `CN` may be one too."""
    return len(text) <= 4096 and _TOKENS.fullmatch(text) is not None and _PLAIN_ATOM.search(text) is not None


def look_like_smiles(cells: Sequence[str]) -> bool:
    """Whether nearly all cells that aren't empty are made of the tokens of SMILES, and some have more than a symbol."""
    known = [cell.strip().partition(" ")[0] for cell in cells if cell.strip()]
    good = [cell for cell in known if may_be_smiles(cell)]
    return bool(good) and len(good) >= _LOOKS_LIKE_ONE * len(known) and any(len(cell) > 2 for cell in good)


def column_by_name(header: Sequence[str]) -> list[int]:
    """Places of the columns whose name says that they hold SMILES: the first kind of name that there is."""
    plain = [_SIGNS.sub("", name).lower() for name in header]
    for wanted in _NAMES[:5]:
        if wanted in plain:
            return [place for place, name in enumerate(plain) if name == wanted]
    # A separator in a name means that the header was not split where it should be.
    return [place for place, name in enumerate(plain) if "smiles" in name and not set(header[place]) & set(",;|\t")]


def find_column(path: object, header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Place of the SMILES column where none was asked for.

    Args:
        path: path of the table, for messages.
        header: names of the columns.
        rows: cells of the first rows.

    Raises:
        InputError: there is none, or there are several; the message lists them.
    """
    named = column_by_name(header)
    if len(named) == 1:
        return named[0]
    look = [place for place in range(len(header)) if look_like_smiles([row[place] for row in rows if place < len(row)])]
    within = [place for place in named if place in look] if named else look
    if not named and len(within) > 1:  # among columns that look alike, a name such as Structure decides
        plain = [_SIGNS.sub("", header[place]).lower() for place in within]
        told = [place for place, name in zip(within, plain, strict=True) if name in _NAMES[5:]]
        within = told or within
    listed = listed_columns(header)
    if len(within) == 1 and (named or not look_like_smiles([header[within[0]]])):
        return within[0]
    if len({header[place] for place in within or named}) < len(within or named):
        twice = next(header[place] for place in within or named if list(header).count(header[place]) > 1)
        raise InputError(
            f"{path} has several columns named {twice!r}", found=f"columns {listed}", next_step="Rename all but one"
        )
    if len(within) > 1 or named:
        found = " and ".join(repr(_printable(header[place])) for place in (within or named)[:4])
        raise InputError(
            f"several columns of {path} may hold the SMILES", found=found, next_step="Choose with --smiles-column NAME"
        )
    if look_like_smiles(list(header)) or any(look_like_smiles([name]) and len(name) > 2 for name in header):
        raise InputError(
            f"the first line of {path} is not a header", found=listed,
            expected="names of the columns, such as smiles,y",
            next_step="Add a header, or give a plain list of SMILES a name that ends in .smi",
        )  # fmt: skip
    raise InputError(
        f"{path} has no column 'smiles'", found=f"columns {listed}", expected="a column of SMILES by its name or cells",
        next_step="Name it with --smiles-column NAME",
    )  # fmt: skip


def same_name(name: str) -> str:
    """What two spellings of a column of SMILES share: letter case and blanks around it don't count."""
    return name.strip().lower()


def chosen_column(path: object, header: Sequence[str], wanted: str) -> int:
    """Place of the column that was asked for; letter case matters only where two differ in nothing else.

    Raises:
        InputError: there is none of that name, or there are several.
    """
    exact = [place for place, name in enumerate(header) if name == wanted]
    alike = exact or [place for place, name in enumerate(header) if same_name(name) == same_name(wanted)]
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


def id_column_of(others: Sequence[str]) -> str | None:
    """The column that names the molecules, by its own name: `id`, `Compound`, `title`, `molecule_chembl_id` …."""
    return next(iter(id_columns_of(others)), None)


def id_columns_of(others: Sequence[str]) -> list[str]:
    """All columns that name the molecules."""
    return [name for name in others if _IS_ID.fullmatch(name.strip())]


def listed_columns(names: Sequence[str]) -> str:
    """The first of the names, fit to be printed, and how many more there are."""
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return ", ".join(_printable(name) for name in names[:MAX_NAMES_SHOWN]) + more


def _printable(name: str) -> str:
    """A name in a form that fits into one line on a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in name[:60])


def require_columns(
    source: object, columns: Sequence[str], wanted: Sequence[str], *, what: str = "target column"
) -> None:
    """Refuse columns that the source does not have.

    Raises:
        InputError: the message lists the columns there are and the nearest name.
    """
    for name in wanted:
        if name not in columns:
            raise InputError(
                f"{source} has no {what} {name!r}",
                found=f"columns {listed_columns(columns)}" if columns else "no columns",
                next_step=nearest(name, columns[:1000]) if columns else "Leave out --target-columns",
            )
