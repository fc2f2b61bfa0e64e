"""Tables out, chunk by chunk in constant memory, with the spreadsheet guard: CSV, TSV, Parquet, NumPy."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from dnd.common.config import nearest
from dnd.common.errors import InputError
from dnd.common.files import MANIFEST, read_json, replacing
from dnd.common.log import data_stream

# CSV cells that a spreadsheet must not take for a formula.


_GUARD = "'"
_ALWAYS = ("=", "@", "\t", "\r")
_SIGNED = ("+", "-")
# A number in any notation, perhaps with a unit: -0,02, -5%, -1.234,5e-3, -3 mg/mL. The unit has no digit, since a
# letter with a digit is a cell.
_LONGEST_PLAIN = 64
_NUMBER = re.compile(r"[+-]\s?[.,]?\d[\d.,'\u00a0\u202f]*(?:[eE][+-]?\d+)?(?:\s?[%°µμ]|\s?[^\W\d_]|\s?/(?=[^\W\d_]))*")
_NUMBERS = re.compile(r"[+-]\d+(?:\.\d+)?(?:\|[+-]?\d+(?:\.\d+)?)+")  # a set of classes, -1|1
_WORDS = re.compile(r"[+-]\s?[^\W\d]{2,}(?: [^\W\d]+)*")  # -log, +ve: no cell, no call, nothing to run
# What may follow the sign of a formula; `+/- 3` is not a formula.
_OPERAND = re.compile(r"[+-][+\-\s]*[\w.,($#\"'\[{\\]")


def guarded(text: str) -> str:
    """`text`, with `'` in front where a spreadsheet would run it; -0,02, -5 %, `+/- 3` and -log stay as they are."""
    return _GUARD + text if _is_run(text) else text


def _is_run(text: str) -> bool:
    if text.startswith(_ALWAYS):
        return True
    if not text.startswith(_SIGNED) or len(text) == 1:
        return False
    is_plain = len(text) <= _LONGEST_PLAIN and any(kind.fullmatch(text) for kind in (_NUMBER, _NUMBERS, _WORDS))
    return not is_plain and _OPERAND.match(text) is not None


def _escaped(text: str) -> str:
    """`guarded`, and one more `'` where there is one already, so that `_unescaped` is its exact inverse."""
    return _GUARD + text if _is_run(text.lstrip(_GUARD)) else text


def _unescaped(text: str) -> str:
    return text[1:] if text.startswith(_GUARD) and _is_run(text.lstrip(_GUARD)) else text


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV table with guarded cells; None becomes an empty cell. `csv_rows` reads it back."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([_escaped(name) for name in header])
    for row in rows:
        writer.writerow(
            ["" if value is None else _escaped(value) if isinstance(value, str) else value for value in row]
        )
    return stream.getvalue()


def csv_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV table that `csv_text` made, by column, with every name and cell as it was before."""
    with open(path, encoding="utf-8", newline="") as stream:
        return rows_of_csv(stream)


def rows_of_csv(lines: Iterable[str]) -> list[dict[str, str]]:
    """`csv_rows` of the lines of such a table, ends of lines included."""
    rows = csv.reader(lines)
    header = [_unescaped(name) for name in next(rows, [])]
    return [dict(zip(header, map(_unescaped, row), strict=False)) for row in rows]


# Tables out, chunk by chunk in constant memory: CSV, TSV, Parquet, NumPy; a file appears when it is complete.


Cells = Sequence[str] | np.ndarray
STANDARD_OUTPUT = "-"
TABLE_FORMATS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
ARRAY_FORMAT = ".npy"
_DIGITS = 8  # significant, about those of single precision


class Writer(Protocol):
    """Receives chunks of equal columns; an array column may have a second axis, which becomes numbered columns."""

    def write(self, columns: Mapping[str, Cells]) -> None:
        """Append rows."""
        ...


def output_format(path: str, known: Sequence[str] = TABLE_FORMATS) -> str:
    """The ending of `path` that names its format; `-` is CSV on standard output.

    Raises:
        InputError: none of the known endings; said before any work.
    """
    if path == STANDARD_OUTPUT:
        return ".csv"
    name = Path(path).name.lower()
    found = [ending for ending in known if name.endswith(ending)]
    if not found:
        ending = "".join(Path(name).suffixes[-2:]) or name
        raise InputError(f"can't write {path}: unknown ending {ending!r}", next_step=nearest(ending, known))
    return max(found, key=len)


def require_other_file(source: Path | str, out: str) -> None:
    """Refuse to write over the input, by whatever path, or over a file of a finished folder.

    Raises:
        InputError: both are one file, or the folder would be damaged.
    """
    folder = Path(out).parent
    if out != STANDARD_OUTPUT and Path(out).exists() and (folder / MANIFEST).is_file():
        sealed = read_json(folder / MANIFEST).get("files")
        if Path(out).name == MANIFEST or (isinstance(sealed, dict) and Path(out).name in sealed):
            raise InputError(
                f"the output {out} is a file of a finished folder", next_step="Choose another name with --out"
            )
    same = str(source) != STANDARD_OUTPUT and out != STANDARD_OUTPUT and Path(source).exists() and Path(out).exists()
    if same and os.path.samefile(source, out):
        raise InputError(f"the output {out} is the input", next_step="Choose another name with --out")


@dataclass(frozen=True)
class CsvStyle:
    """How CSV is written, so that it looks like the input.

    Attributes:
        delimiter: between cells.
        decimal: mark of our own numbers.
    """

    delimiter: str = ","
    decimal: Literal[".", ","] = "."


@contextlib.contextmanager
def open_writer(
    path: str, *, raw: bool = False, style: CsvStyle | None = None, digits: Mapping[str, int] = MappingProxyType({})
) -> Iterator[Writer]:
    """A writer for `path` by its ending; the file appears when the last chunk is in it, and not at all on an error.

    Args:
        path: `.csv`, `.tsv` (also `.gz`), `.parquet`, `.npy`, or `-` for CSV on standard output.
        raw: leave cells alone that a spreadsheet would run as a formula.
        style: delimiter and decimal mark of CSV; TSV has its own delimiter.
        digits: significant digits of columns of CSV that need other ones than 8.
    """
    ending, style = output_format(path, (*TABLE_FORMATS, ARRAY_FORMAT)), style or CsvStyle()
    if path == STANDARD_OUTPUT:
        stream = data_stream(sys.stdout)
        yield TextWriter(stream, style, raw, digits)
        stream.flush()
        return
    with replacing(Path(path)) as temporary:
        if ending == ".parquet":
            with contextlib.closing(ParquetTable(temporary)) as parquet:
                yield parquet
        elif ending == ARRAY_FORMAT:
            with contextlib.closing(ArrayFile(temporary)) as array:
                yield array
        else:
            with _text_stream(temporary, packed=ending.endswith(".gz")) as stream:
                is_tsv = ending.startswith(".tsv")
                yield TextWriter(stream, replace(style, delimiter="\t") if is_tsv else style, raw, digits)


class TextWriter:
    """CSV or TSV; missing values are empty cells, numbers have 8 significant digits or those of their column."""

    def __init__(self, stream: TextIO, style: CsvStyle, raw: bool, digits: Mapping[str, int]) -> None:
        self._csv = csv.writer(stream, delimiter=style.delimiter, lineterminator="\n")
        self._decimal = "." if style.delimiter == "," else style.decimal  # a comma between cells is none within them
        self._raw, self._digits, self._has_header = raw, digits, False

    def write(self, columns: Mapping[str, Cells]) -> None:
        """Append rows, the header before the first."""
        flat = _flat(columns)
        if not self._has_header:
            self._csv.writerow(self._texts(list(flat)))
            self._has_header = True
        cells = [
            _numbers(values, self._decimal, self._digits.get(name, _DIGITS))
            if isinstance(values, np.ndarray)
            else self._texts(values)
            for name, values in flat.items()
        ]
        self._csv.writerows(zip(*cells, strict=True))

    def _texts(self, values: Sequence[str]) -> Sequence[str]:
        return values if self._raw else [guarded(value) for value in values]


def text_table(columns: Mapping[str, Cells], digits: Mapping[str, int] = MappingProxyType({})) -> str:
    """A table as `open_writer` writes it into a `.csv`, with the same guard and the same digits."""
    stream = io.StringIO(newline="")
    TextWriter(stream, CsvStyle(), raw=False, digits=digits).write(columns)
    return stream.getvalue()


class ParquetTable:
    """Parquet, a row group per chunk; missing values are null."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def write(self, columns: Mapping[str, Cells]) -> None:
        """Append rows; an array with two axes becomes one list column."""
        arrays = {name: _arrow(values) for name, values in columns.items()}
        table = pa.table(arrays)
        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        """Write the footer."""
        if self._writer is not None:
            self._writer.close()


class ArrayFile:
    """One `.npy` array of the columns that are arrays, NaN rows where there is no molecule.

    The header holds the number of rows, which is known at the end only, so rows are spooled beside the file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._spool_path = path, path.with_name(f"{path.name}.rows")
        self._spool = open(self._spool_path, "w+b")  # noqa: SIM115  # closed in close()
        self._rows, self._width = 0, 0

    def write(self, columns: Mapping[str, Cells]) -> None:
        """Append the rows of the array columns."""
        arrays = [values for values in columns.values() if isinstance(values, np.ndarray)]
        block = np.concatenate([values.reshape(len(values), -1) for values in arrays], axis=1).astype("<f4")
        self._rows, self._width = self._rows + len(block), block.shape[1]
        self._spool.write(block.tobytes())

    def close(self) -> None:
        """Write the header, then the spooled rows."""
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._rows, self._width)}
        try:
            with open(self._path, "wb") as stream:
                np.lib.format.write_array_header_1_0(stream, header)
                self._spool.seek(0)
                shutil.copyfileobj(self._spool, stream, 2**20)
        finally:
            self._spool.close()
            self._spool_path.unlink(missing_ok=True)


@contextlib.contextmanager
def _text_stream(path: Path, *, packed: bool) -> Iterator[TextIO]:
    with contextlib.ExitStack() as stack:
        stream: Any = stack.enter_context(open(path, "wb"))
        if packed:  # no name and no time inside, so that equal tables are equal files
            stream = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0))
        yield stack.enter_context(io.TextIOWrapper(stream, encoding="utf-8", newline=""))


def _flat(columns: Mapping[str, Cells]) -> dict[str, Cells]:
    """Arrays with two axes as numbered columns."""
    flat: dict[str, Cells] = {}
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat.update({f"{name}_{number}": values[:, number] for number in range(values.shape[1])})
        else:
            flat[name] = values
    return flat


def _numbers(values: np.ndarray, decimal: str, digits: int) -> list[str]:
    texts = ["" if value != value else f"{value:.{digits}g}" for value in values.tolist()]
    return texts if decimal == "." else [text.replace(".", decimal) for text in texts]


def _arrow(values: Cells) -> Any:
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    if isinstance(values, np.ndarray):
        return pa.array(values, from_pandas=True)
    return pa.array(values, pa.string())
