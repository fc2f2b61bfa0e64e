"""Any file of molecules as one stream of rows, whatever its format: the front door of finetuning and prediction."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from dnd.common.errors import InputError
from dnd.tables.readers import Row, TableReader, read_table
from dnd.tables.sdf import field_name, is_counts_line, is_sdf, read_sdf
from dnd.tables.streams import LIMIT_LINE, STANDARD_INPUT, Replayed, byte_lines, is_pipe, open_bytes

LIMIT_SDF_COLUMNS = 10_000
_LINES_TO_TELL = 4  # the counts line of an SDF


@contextmanager
def open_molecules(
    path: Path | str, smiles_column: str = "smiles", *, or_smiles: bool = False
) -> Iterator[TableReader]:
    """Rows of a CSV, TSV, SMI, Parquet or SDF file, `.gz` or not; `-` is CSV, SMI or SDF on standard input.

    The file is closed at the end of the block, read to its end or not. The columns of an SDF are `smiles` (canonical,
    of the structure), `title` and its data fields.

    Args:
        path: the file.
        smiles_column: column of SMILES.
        or_smiles: whether a text that names no file may be a SMILES, a table of one row then.

    Raises:
        InputError: see `read_table` and `read_sdf`; with `or_smiles`, there is no such file and the text is no SMILES.
    """
    if or_smiles and isinstance(path, str) and path != STANDARD_INPUT and not _exists(path):
        yield _one_molecule(path, smiles_column)
        return
    opened = _read_once if str(path) == STANDARD_INPUT or (is_pipe(path) and is_sdf(path)) else _file
    with opened(path, smiles_column) as table:
        rows = iter(table)
        try:
            yield table
        finally:
            if isinstance(rows, Generator):
                rows.close()
            table.close()


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # a long SMILES is too long for a name
        return False


def _one_molecule(text: str, smiles_column: str) -> TableReader:
    """A SMILES as a table of one row.

    Raises:
        InputError: it is none.
    """
    from dnd.chemistry.parse import parse_smiles  # RDKit is not needed to read a table

    outcome = parse_smiles(text)
    if not outcome.ok:
        raise InputError(
            f"there is no file {text!r}, and it is not a SMILES either",
            found=outcome.reason,
            expected="a file of molecules, a SMILES, or - for standard input",
        )
    row = Row(0, text.strip(), {smiles_column: text.strip()}, None)
    return TableReader([smiles_column], smiles_column, iter([row]))


@contextmanager
def _file(path: Path | str, smiles_column: str) -> Iterator[TableReader]:
    if is_sdf(path):
        yield _sdf_table(path, open_bytes(path), open_bytes(path))
    else:
        yield read_table(path, smiles_column=smiles_column)


@contextmanager
def _read_once(path: Path | str, smiles_column: str) -> Iterator[TableReader]:
    """A table as a stream; an SDF by way of a temporary file, since its columns are known only at its end."""
    stream = open_bytes(path)
    head = [stream.readline(LIMIT_LINE) for _ in range(_LINES_TO_TELL)]
    whole = cast(BinaryIO, Replayed.buffered(b"".join(head), stream))
    if not any(map(is_counts_line, head)):
        yield read_table(path, smiles_column=smiles_column, stream=whole)
        return
    with tempfile.NamedTemporaryFile() as spooled:
        shutil.copyfileobj(whole, spooled)
        spooled.flush()
        yield _sdf_table(path, open_bytes(spooled.name), open_bytes(spooled.name))


def _sdf_table(path: Path | str, first: BinaryIO, second: BinaryIO) -> TableReader:
    names = _column_names(_field_names(path, first))
    return TableReader(["smiles", "title", *names.values()], "smiles", _sdf_rows(path, second, names), second)


def _sdf_rows(path: Path | str, stream: BinaryIO, names: dict[str, str]) -> Iterator[Row]:
    empty = dict.fromkeys(names.values(), "")
    for record in read_sdf(path, stream):
        molecule = record.outcome
        smiles = molecule.smiles if molecule.ok else ""
        cells = {names[name]: value for name, value in record.properties.items() if name in names}
        problem = None if molecule.ok else molecule.reason
        yield Row(record.number, smiles, {"smiles": smiles, "title": record.title, **empty, **cells}, problem)


def _field_names(path: Path | str, stream: BinaryIO) -> list[str]:
    """Data fields of all records, in the order they first occur; a pass of its own, so that the header is complete."""
    found: dict[str, None] = {}
    for line in byte_lines(stream, path):
        name = field_name(line.decode("utf-8", errors="replace")) if line.startswith(b">") else None
        if name is not None and len(found) < LIMIT_SDF_COLUMNS:
            found.setdefault(name)
    return list(found)


def _column_names(fields: list[str]) -> dict[str, str]:
    """Data field → column; one that is called `smiles` or `title` itself gets `.1`, as repeated CSV headers do."""
    return {name: f"{name}.1" if name in ("smiles", "title") else name for name in fields}
