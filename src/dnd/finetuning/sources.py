"""Any input of molecules as one stream of rows, whatever its format."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from dnd.chemistry.readers import Row, TableReader, read_table
from dnd.chemistry.sdf import read_sdf
from dnd.chemistry.streams import byte_lines, open_bytes

SDF_ENDINGS = (".sdf", ".sd", ".mol", ".sdf.gz", ".sd.gz", ".mol.gz")
LIMIT_SDF_COLUMNS = 10_000
_DATA_HEADER = re.compile(rb"^>.*?<(.*)>")


@contextmanager
def open_molecules(path: Path | str, smiles_column: str = "smiles") -> Iterator[TableReader]:
    """Rows of a CSV, TSV, SMI, Parquet or SDF file, `.gz` or not; `-` is CSV or SMI on standard input.

    The file is closed at the end of the block, read to its end or not. The columns of an SDF are `smiles` (canonical,
    of the structure), `title` and its data fields.

    Raises:
        InputError: see `read_table` and `read_sdf`.
    """
    if str(path).lower().endswith(SDF_ENDINGS):
        names = _column_names(_field_names(path))
        table = TableReader(["smiles", "title", *names.values()], "smiles", _sdf_rows(path, names))
    else:
        table = read_table(path, smiles_column=smiles_column)
    rows = iter(table)
    try:
        yield table
    finally:
        if isinstance(rows, Generator):
            rows.close()


def _sdf_rows(path: Path | str, names: dict[str, str]) -> Iterator[Row]:
    empty = dict.fromkeys(names.values(), "")
    for record in read_sdf(path):
        molecule = record.outcome
        smiles = molecule.smiles if molecule.ok else ""
        cells = {names[name]: value for name, value in record.properties.items() if name in names}
        problem = None if molecule.ok else molecule.reason
        yield Row(record.number, smiles, {"smiles": smiles, "title": record.title, **empty, **cells}, problem)


def _field_names(path: Path | str) -> list[str]:
    """Data fields of all records, in the order they first occur; a pass of its own, so that the header is complete."""
    found: dict[str, None] = {}
    with open_bytes(path) as stream:
        for line in byte_lines(stream, path):
            header = _DATA_HEADER.match(line)
            if header is not None and len(found) < LIMIT_SDF_COLUMNS:
                found.setdefault(header.group(1).decode("utf-8", errors="replace"))
    return list(found)


def _column_names(fields: list[str]) -> dict[str, str]:
    """Data field → column; one that is called `smiles` or `title` itself gets `.1`, as repeated CSV headers do."""
    return {name: f"{name}.1" if name in ("smiles", "title") else name for name in fields}
