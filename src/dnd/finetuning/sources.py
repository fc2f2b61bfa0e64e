"""Any input of molecules as one stream of rows, whatever its format."""

from __future__ import annotations

from pathlib import Path

from dnd.chemistry.readers import TableReader, read_table


def open_molecules(path: Path | str, smiles_column: str = "smiles") -> TableReader:
    """Rows of a CSV, TSV, SMI, Parquet or SDF file, `.gz` or not; `-` is standard input.

    Raises:
        InputError: see `read_table`.
    """
    return read_table(path, smiles_column=smiles_column)
