"""SDF files as records: any SDF, QM9's `gdb9.sdf` with its table, PCQM4Mv2's training SDF with its table.

`pcqm4m-v2-train.sdf` has heavy atoms only, in an order that is not the SMILES' one; record i belongs to row i of
`data.csv.gz`, whose SMILES are what OGB's graphs are made of. So the graph comes from the table and the coordinates
from the SDF, and row i stays row i.
"""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from dnd.chemistry.readers import Row, read_table
from dnd.chemistry.sdf_blocks import SdfBlock, read_sdf_blocks
from dnd.common.errors import CorruptFileError, InputError
from dnd.conformers.records import Record, RecordSource, method_of, open_table, read_targets, require_columns
from dnd.conformers.xyz import is_archive

_PCQM_TABLES = ("data.csv.gz", "data.csv", "raw/data.csv.gz", "pcqm4m-v2/raw/data.csv.gz")


def open_sdf(path: Path, target_columns: Sequence[str] = ()) -> RecordSource:
    """Open an SDF; targets are its data fields, or the columns of `NAME.csv` beside it (as `gdb9.sdf.csv`).

    Raises:
        InputError: no record, or a target there is not.
    """
    wanted = tuple(target_columns)
    blocks, first = _peeked(path, read_sdf_blocks(path))
    table = path.with_name(path.name + ".csv")
    if wanted and not any(name in first.properties for name in wanted) and table.is_file():
        rows = _plain_rows(table, wanted)
        records = (_sdf_record(path.name, block, wanted, next(rows, {})) for block in blocks)
        return RecordSource(path.name, records, True)
    require_columns(path.name, list(first.properties), wanted)
    records = (_sdf_record(path.name, block, wanted, block.properties) for block in blocks)
    return RecordSource(path.name, records, True)


def is_pcqm4mv2(path: Path) -> bool:
    """Whether this is PCQM4Mv2's training SDF, packed or not, by its name."""
    return path.name.lower().startswith("pcqm4m-v2-train.sdf")


def open_pcqm4mv2(
    path: Path, table: Path | None = None, target_columns: Sequence[str] = (), smiles_column: str = "smiles"
) -> RecordSource:
    """Open `pcqm4m-v2-train.sdf` or its .tar.gz together with `data.csv(.gz)`.

    Args:
        path: the SDF.
        table: the CSV; looked for beside the SDF when None.
        target_columns: columns of the CSV.
        smiles_column: the CSV's column of SMILES.

    Raises:
        InputError: no CSV, no record, more records than rows, or a column there is not.
    """
    table = table or next((path.parent / name for name in _PCQM_TABLES if (path.parent / name).is_file()), None)
    if table is None:
        raise InputError(
            f"{path} needs its table of SMILES", expected="data.csv.gz beside it or among the inputs",
            next_step="Its records have no SMILES of their own",
        )  # fmt: skip
    blocks, _ = _peeked(path, _archive_blocks(path) if is_archive(path) else read_sdf_blocks(path))
    reader = open_table(table, smiles_column, target_columns)
    records = _joined(path, table, blocks, iter(reader), tuple(target_columns))
    return RecordSource(path.name, records, True)


def _peeked(path: Path, blocks: Iterator[SdfBlock]) -> tuple[Iterator[SdfBlock], SdfBlock]:
    first = next(blocks, None)
    if first is None:
        raise InputError(f"{path} holds no record", next_step="Check how it was made or copied")
    return itertools.chain([first], blocks), first


def _sdf_record(name: str, block: SdfBlock, wanted: tuple[str, ...], values: dict[str, str]) -> Record:
    targets, problem = read_targets(values, wanted)
    return Record(
        row=block.number,
        source=name,
        layout="molblock",
        molblock=block.molblock,
        method=method_of(name),
        targets=targets,
        problem=block.problem or problem,
    )


def _joined(
    path: Path, table: Path, blocks: Iterator[SdfBlock], rows: Iterator[Row], wanted: tuple[str, ...]
) -> Iterator[Record]:
    for block in blocks:
        row = next(rows, None)
        if row is None:
            raise InputError(f"{path} has more records than {table} has rows", found=f"record {block.number}")
        targets, problem = read_targets(row.values, wanted)
        yield Record(
            row=block.number,
            source=path.name,
            layout="molblock_for_smiles",
            smiles=(row.smiles,),
            molblock=block.molblock,
            method=method_of(path.name),
            targets=targets,
            problem=block.problem or row.problem or problem,
        )


def _plain_rows(table: Path, wanted: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Rows of a table that need not have SMILES: its first column stands in for them."""
    with open(table, encoding="utf-8") as stream:
        columns = stream.readline().strip().split(",")
    require_columns(table.name, columns, wanted)
    return (row.values for row in read_table(table, smiles_column=columns[0]))


def _archive_blocks(path: Path) -> Iterator[SdfBlock]:
    try:
        with tarfile.open(path, mode="r|*") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() and member.name.endswith(".sdf") else None
                if stream is not None:
                    yield from read_sdf_blocks(path, stream)
                    return
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorruptFileError(f"{path} is a damaged archive", found=str(error)) from error
