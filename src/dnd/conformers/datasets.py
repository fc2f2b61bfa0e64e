"""Every input that `dnd prepare` reads, as one stream of records; what a file is, is told by its name and content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dnd.chemistry.readers import Row, kind_of
from dnd.chemistry.sdf_blocks import is_sdf
from dnd.common.errors import InputError
from dnd.conformers.arrays import open_arrays
from dnd.conformers.records import Record, RecordSource, open_table, read_targets
from dnd.conformers.structure_files import is_pcqm4mv2, open_pcqm4mv2, open_sdf
from dnd.conformers.xyz import is_archive, open_xyz


def open_sources(
    inputs: Sequence[str | Path], *, smiles_column: str = "smiles", target_columns: Sequence[str] = ()
) -> list[RecordSource]:
    """Open inputs in the order given.

    A table named `data.csv` or `data.csv.gz` beside PCQM4Mv2's SDF among the inputs belongs to that SDF.

    Args:
        inputs: .npz of conformers; .xyz, a folder or a tar archive of them; .sdf; tables (CSV, TSV, SMI, Parquet).
        smiles_column: column of SMILES in tables.
        target_columns: columns, data fields or labels to keep as targets.

    Raises:
        InputError: no such file, an unknown kind, an empty file, or a column there is not.
    """
    paths = [Path(name) for name in inputs]
    for path in paths:
        if not path.exists() and str(path) != "-":
            raise InputError(f"there is no file {path}", next_step="Check the name")
    table = None
    if any(map(is_pcqm4mv2, paths)):
        table = next((path for path in paths if path.name in ("data.csv", "data.csv.gz")), None)
    sources = []
    for path in paths:
        if is_pcqm4mv2(path):
            sources.append(open_pcqm4mv2(path, table, target_columns, smiles_column))
        elif path != table:
            sources.append(_open(path, smiles_column, target_columns))
    return sources


def _open(path: Path, smiles_column: str, target_columns: Sequence[str]) -> RecordSource:
    name = path.name.lower()
    if name.endswith(".npz"):
        return open_arrays(path, target_columns)
    if is_sdf(path):
        return open_sdf(path, target_columns)
    if name.endswith((".xyz", ".xyz.gz")) or path.is_dir() or is_archive(path):
        return open_xyz(path, target_columns)
    if kind_of(path) is None and str(path) != "-":
        known = "npz, sdf, xyz, csv, tsv, smi, parquet, tar"
        raise InputError(f"{path} is of an unknown kind", found=path.suffix or "no suffix", expected=f"one of {known}")
    reader = open_table(path, smiles_column, target_columns)
    return RecordSource(path.name, _table_records(path.name, iter(reader), tuple(target_columns)), False)


def _table_records(name: str, rows: Iterator[Row], wanted: tuple[str, ...]) -> Iterator[Record]:
    for row in rows:
        targets, problem = read_targets(row.values, wanted)
        yield Record(row.number, name, "smiles", (row.smiles,), targets=targets, problem=row.problem or problem)
