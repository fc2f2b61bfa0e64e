"""Any file of molecules as one stream of rows, whatever its format: the front door of finetuning and prediction.

What holds for tables everywhere:

**The reader** (`molecules.open_molecules`; `readers.read_table` beneath it). A table has columns with unique names. A
name that the header repeats, or leaves empty, becomes a new one that no column of the header has (`y.2`, `column_3`);
asking for a repeated name is refused, since it would be a guess. Cells are text, unchanged. A row of empty cells is a
row; only a line of blanks is not. Its bytes settle how a file is packed and encoded, for every format: gzip, UTF-8 with
or without a byte order mark, UTF-16, line ends of CR, LF or both; Parquet and workbooks are known by their first bytes,
whatever the name says and also on standard input. A row that can't be trusted stays a row, with a problem.

**Numbers of rows.** `Row.number` counts data rows from 0 and is what files hold (`splits.json`, `rejects.csv`), as
pandas and OGB count. `Row.place` is what messages say: the row as a spreadsheet shows it, so the header is row 1 and
the first molecule row 2. Where there is no header (SMI, SDF), the first one is 1.

**The SMILES column** (`readers.find_column`) is the one that is asked for. If none is, it is found by its name or by
its cells; if two columns would do, the user has to choose.

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

import gzip
import hashlib
import math
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, cast

from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.tables.readers import Row, TableReader, read_table, require_columns, unique_names
from dnd.tables.streams import (
    LIMIT_LINE,
    STANDARD_INPUT,
    Replayed,
    byte_lines,
    is_counts_line,
    is_pipe,
    is_sdf,
    is_structure,
    is_workbook,
    open_bytes,
    wide_encoding,
)

# Lists of molecules that name none: a digest per line, by which a molecule can be recognised but not read.
#
# A file of its own, since it's neither a table of molecules nor one of labels.

_DIGITS = 16
_LINE = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")
_KEY_SUFFIXES = (".txt", ".txt.gz")


def key_digest(connectivity: str) -> str:
    """First 16 hex digits of the SHA-256 of a connectivity key (the first 14 characters of an InChIKey).

    Example:
        >>> key_digest("LFQSCWFLJHTTHZ")  # ethanol
        'd024cad94e64b2e2'
    """
    return hashlib.sha256(connectivity.encode()).hexdigest()[:_DIGITS]


def is_key_list(path: Path) -> bool:
    """Whether a file is such a list: a text file whose first line is a digest, where a table has its header."""
    if not path.name.lower().endswith(_KEY_SUFFIXES) or not path.is_file():
        return False
    try:
        return bool(_LINE.fullmatch(_unpacked_text(path).partition("\n")[0].strip()))
    except (OSError, EOFError, UnicodeDecodeError):
        return False


def read_key_list(path: Path) -> frozenset[str]:
    """The digests of a list.

    Raises:
        InputError: there is no such file.
        CorruptFileError: the file can't be read, or a line is not a digest.
    """
    try:
        lines = _unpacked_text(path).splitlines()
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path} can't be read", found=str(error), next_step="Copy it again") from error
    for number, line in enumerate(lines, start=1):
        if not _LINE.fullmatch(line):
            raise CorruptFileError(
                f"line {number} of {path} is not a digest of a molecule",
                found=line[:40],
                expected=f"{_DIGITS} hex digits: the SHA-256 of the first 14 characters of the InChIKey, cut",
            )
    return frozenset(lines)


def key_list_text(digests: Iterable[str]) -> str:
    """The text of a list, ascending, each digest once."""
    return "".join(f"{digest}\n" for digest in sorted(set(digests)))


def _unpacked_text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.name.lower().endswith(".gz") else data).decode("ascii")


# Molecules as a caller of Python has them: one text, a file, a table, a Series, an array, a list, RDKit's molecules.
#
# Everything that takes molecules from Python takes them through here, so that all of it accepts the same. One text is
# one molecule: a text is a sequence of letters too, and taken as one it would be a molecule per letter. Neither pandas
# nor polars is imported; their tables are known by what they can do.

ACCEPTED = (
    "one SMILES; the path of a CSV, TSV, SMI, SDF or Parquet file; a table with a column of SMILES; a list, an array "
    "or a Series of SMILES or of RDKit molecules; or one RDKit molecule"
)
_SUFFIXES = (".csv", ".tsv", ".txt", ".smi", ".smiles", ".sdf", ".sd", ".mol", ".parquet")
_SMILES = "smiles"
_NO_TEXT = "not a SMILES but "


class NoMolecules(InputError, TypeError):
    """What was given is nothing that holds molecules."""


@dataclass(frozen=True)
class GivenMolecules:
    """Molecules in the order in which they were given.

    Attributes:
        texts: SMILES as written; empty where there is none, such as for a missing value.
        problems: why a row has no SMILES, where that can be said; else empty.
        index: index of the table or Series that they come from; None if it has none.
    """

    texts: list[str]
    problems: list[str]
    index: Any = None

    def reasons(self, errors: Sequence[str]) -> list[str]:
        """`errors` of the texts, but what was wrong with a row before it was a text comes first."""
        return [problem or error for problem, error in zip(self.problems, errors, strict=True)]


def as_molecules(given: object, smiles_column: str | None = None, *, remembered: str | None = None) -> GivenMolecules:
    """The molecules of whatever a caller has.

    Args:
        given: see `ACCEPTED`; a missing value or an object of another kind within a list is a row without a molecule,
            but a list of such objects alone, such as numbers, is refused.
        smiles_column: SMILES column of a file or a table; None = found by name or content in a file; in a table
            `remembered`, `smiles`, the only column, or the only one whose name has `smiles` in it.
        remembered: a column, such as that of a model, which is taken where none is asked for and the input has it.

    Raises:
        NoMolecules: a `TypeError` that says what is accepted.
        InputError: a file can't be read, or it is not clear which column has the SMILES.
    """
    if isinstance(given, GivenMolecules):
        return given
    if isinstance(given, os.PathLike) or (isinstance(given, str) and is_file_name(given)):
        return _of_file(str(given), smiles_column, remembered)
    if isinstance(given, str) or _is_mol(given):
        _refuse_column(given, smiles_column)
        return _of_values([given])
    if isinstance(given, bytes | bytearray | Mapping | Set) or given is None:
        raise _refused(given)
    if hasattr(given, "column_names") and hasattr(given, "column"):  # Arrow
        name = smiles_name(list(given.column_names), smiles_column, remembered)
        return _of_values(given.column(name).to_pylist())
    if hasattr(given, "columns") and hasattr(given, "__getitem__"):
        names = list(given.columns)
        column = given[names[_column_place([str(name) for name in names], smiles_column, remembered)]]
        return as_molecules(column)
    _refuse_column(given, smiles_column)
    if isinstance(given, list | tuple):
        return _of_values(given)
    for method in ("tolist", "to_list", "to_pylist"):  # arrays and Series of any kind
        if hasattr(given, method):
            values = getattr(given, method)()
            if not isinstance(values, list):
                break
            index = getattr(given, "index", None)
            return _of_values(values, None if callable(index) else index)
    raise _refused(given)


def _refuse_column(given: object, smiles_column: str | None) -> None:
    """Refuse a name of a column for what has no columns; a Series may be called so."""
    if smiles_column is not None and getattr(given, "name", None) != smiles_column:
        raise InputError(
            f"there is no column {smiles_column!r}", found=f"{type(given).__name__}, which has no columns",
            expected="a table or the path of one", next_step="Leave out smiles_column=",
        )  # fmt: skip


def _of_values(values: Sequence[object], index: Any = None) -> GivenMolecules:
    texts, problems = [], []
    for value in values:
        text, problem = _text(value)
        texts.append(text)
        problems.append(problem)
    if values and all(problem.startswith(_NO_TEXT) for problem in problems):
        raise _refused(values[0], f"{len(values)} values of type ")  # the wrong column, more likely than bad rows
    return GivenMolecules(texts, problems, index)


def _text(value: object) -> tuple[str, str]:
    """The SMILES of one value, and why there is none."""
    if isinstance(value, str):
        return str(value), ""
    if is_no_value(value):
        return "", ""
    if _is_mol(value):
        from rdkit import Chem

        from dnd.chemistry.parse import drop_unknown_configurations, no_single_molecule

        known = Chem.Mol(cast(Chem.Mol, value))
        try:
            problem = no_single_molecule(known)
            if problem is not None:
                return "", problem
            drop_unknown_configurations(known)
            return str(Chem.MolToSmiles(known)), ""
        except (RuntimeError, ValueError) as error:
            return "", f"RDKit writes no SMILES of this molecule: {error}"
    if isinstance(value, list | tuple):
        if len(value) == 1:  # a row of an array with one column
            return _text(value[0])
        raise NoMolecules(
            f"a row holds {len(value)} values", expected="one SMILES per row", next_step="Select the column with SMILES"
        )
    return "", f"{_NO_TEXT}{type(value).__name__}"


def is_no_value(value: object) -> bool:
    """Whether a value of a table in memory is a missing one: None, NaN of any type, NA, NaT, a masked one."""
    is_nan = isinstance(value, float | Decimal) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType", "MaskedConstant")


def _is_mol(value: object) -> bool:
    return type(value).__module__.startswith("rdkit.") and hasattr(value, "GetNumAtoms")


def is_file_name(text: str) -> bool:
    """Whether a text is a file's name: no SMILES ends so, and a file without such an end has to come as a `Path`.

    A workbook or an XYZ file is no file that can be read here, but the reader's error says what to do with it.
    """
    known = Path(text.removesuffix(".gz")).suffix.lower() in _SUFFIXES
    return known or is_workbook(text) or is_structure(text)


def _of_file(path: str, smiles_column: str | None, remembered: str | None) -> GivenMolecules:
    texts, problems = [], []
    with open_molecules(path, smiles_column, remembered=remembered) as table:
        for row in table:
            # A row that can't be trusted is no molecule: its SMILES may be a shifted cell.
            texts.append(row.smiles if row.problem is None else "")
            problems.append(row.problem or "")
    return GivenMolecules(texts, problems)


def smiles_name(names: list[str], wanted: str | None, remembered: str | None = None) -> str:
    """The column of SMILES of a table in memory.

    Args:
        names: names of the columns.
        wanted: the column that is asked for, or None.
        remembered: the column that is taken where none is asked for and the table has it once; without it the column is
            `smiles`, the only one, or the only one whose name has `smiles` in it.

    Raises:
        InputError: there is none, or more than one.
    """
    return names[_column_place(names, wanted, remembered)]


def _column_place(names: list[str], wanted: str | None, remembered: str | None) -> int:
    if wanted is not None:
        found = [place for place, name in enumerate(names) if name == str(wanted)]  # pandas numbers columns
    elif remembered is not None and names.count(remembered) == 1:
        found = [names.index(remembered)]
    else:
        exact = [place for place, name in enumerate(names) if name == _SMILES]
        alike = [place for place, name in enumerate(names) if _SMILES in name.casefold()]
        found = exact or alike or ([0] if len(names) == 1 else [])
    if len(found) != 1:
        raise InputError(
            "it is not clear which column has the SMILES" if wanted is None else f"no single column {wanted!r}",
            found=", ".join(names[:10]),
            expected="one called smiles",
            next_step="Name the column of SMILES with smiles_column=",
        )
    return found[0]


def _refused(given: object, of: str = "") -> NoMolecules:
    return NoMolecules("no molecules are given", found=f"{of}{type(given).__name__}", expected=ACCEPTED)


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
        path: path of the table.
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
            raise InputError(f"{path} has more than one column named {name!r}", next_step="Rename all but one")
    if table.smiles_column in names:
        raise InputError(
            f"{table.smiles_column!r} is the column of SMILES, not of labels",
            next_step="Name the column of SMILES with --smiles-column, or another target",
        )
    return names


def resolve_columns(columns: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Column names of the table; a word that names no column is split at its commas where all its pieces do.

    Blanks around a name do not matter where no column has exactly that name: pandas keeps those of a CSV, the reader
    drops them.

    Raises:
        InputError: a column is named twice, or a word is the name of a column and a list of others as well.
    """
    found, known = list[str](), frozenset(columns)
    for word in wanted:
        pieces = [piece.strip() for piece in word.split(",")]
        is_list = len(pieces) > 1 and known.issuperset(pieces)
        if is_list and word in known:
            raise InputError(f"{word!r} is the name of a column and a list of others", next_step="Rename that column")
        same = [name for name in columns if name.strip() == word.strip()] if word not in known else []
        found += pieces if is_list else same if len(same) == 1 else [word]
    repeated = next((name for name, count in Counter(found).items() if count > 1), None)
    if repeated is not None:
        raise InputError(f"target column {repeated!r} is named twice")
    return found


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except PermissionError:  # there may be one, which opening it will say
        return True
    except (OSError, ValueError):  # a long SMILES is too long for a name
        return False


def _one_molecule(text: str, smiles_column: str | None) -> TableReader:
    """A SMILES as a table of one row.

    Raises:
        InputError: the text is not a SMILES.
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
