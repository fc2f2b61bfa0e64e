"""Any file of molecules as one stream of rows and their outcomes: the front door for `prepare` and `predict`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.parse import parse_smiles
from dnd.chemistry.readers import TableKind, read_table
from dnd.chemistry.sdf import SdfRecord, read_sdf

_SDF_SUFFIXES = {".sdf", ".sd", ".mol", ".mdl"}


@dataclass(frozen=True)
class InputMolecule:
    """One row of an input.

    Attributes:
        number: row of the table or record of the SDF, from 0.
        outcome: the molecule, or why there is none.
        values: every cell by column name; for an SDF its data fields.
        record: the SDF record with its coordinates; None for tables.
    """

    number: int
    outcome: Molecule | InvalidMolecule
    values: dict[str, str]
    record: SdfRecord | None = None


def is_sdf(path: str | Path) -> bool:
    """Whether the name of a file says that it's an SDF or mol file, gzipped or not."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes if suffix.lower() != ".gz"]
    return bool(suffixes) and suffixes[-1] in _SDF_SUFFIXES


def read_molecules(
    path: str | Path, *, smiles_column: str = "smiles", kind: TableKind | None = None
) -> Iterator[InputMolecule]:
    """Read and parse every row of a file, in order, in constant memory.

    Args:
        path: SDF, CSV, TSV, SMI or Parquet by the end of its name, gzipped or not; `-` is a table on standard input.
        smiles_column: column of SMILES in a table.
        kind: kind of the table where the name doesn't say.

    Raises:
        InputError: see `read_table` and `read_sdf`; at the first step of the iteration.
    """
    if is_sdf(path):
        for record in read_sdf(path):
            yield InputMolecule(record.number, record.outcome, record.properties, record)
        return
    for row in read_table(path, smiles_column=smiles_column, kind=kind):
        outcome = InvalidMolecule(row.problem, "reader", row.smiles) if row.problem else parse_smiles(row.smiles)
        yield InputMolecule(row.number, outcome, row.values)
