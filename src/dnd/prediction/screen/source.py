"""Inputs of a screen: checked before any work, then one stream of rows in chunks that depend on the inputs alone."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnd.common.errors import ConfigError, InputError
from dnd.common.files import sha256_file
from dnd.common.runs import require_file
from dnd.tables.molecules import field_names, refuse_column_of_sdf
from dnd.tables.readers import id_columns_of, kind_of, read_table
from dnd.tables.sdf import read_sdf_blocks
from dnd.tables.streams import STANDARD_INPUT, byte_lines, is_sdf, open_bytes

CHUNK_CHARACTERS = 2**22
"""A chunk ends early at this much text, so that rows of megabytes take no more memory than rows of bytes."""

_SDF_END = b"$$$$"
_TITLE = "title"


@dataclass(frozen=True)
class Candidate:
    """One row to be screened.

    Attributes:
        text: a SMILES, or a mol block.
        is_block: which of the two.
        problem: why the row can't be trusted; None for a good one.
        names: the user's own names of the molecule: cells of the columns that name molecules, by column.
    """

    text: str
    is_block: bool = False
    problem: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)


def check_inputs(inputs: Sequence[str | Path], smiles_column: str | None, remembered: str | None = None) -> list[str]:
    """Open every input once, so that the last one is not found unreadable after hours.

    Returns:
        The columns that name molecules, of all inputs, in order; see `id_columns_of`. Those of an SDF are the title and
        its data fields.

    Raises:
        ConfigError: no input, or standard input, which can't be read again on a resume.
        InputError, CorruptFileError: see `read_table`; an SDF without a record; a SMILES column though all inputs are
            SDF.
    """
    if not inputs:
        raise ConfigError("no input to screen", expected="at least one file")
    if all(map(is_sdf, inputs)):
        refuse_column_of_sdf(inputs[0], smiles_column)
    found: dict[str, None] = {}
    for path in inputs:
        if str(path) == STANDARD_INPUT:
            raise ConfigError(
                "standard input can't be screened", expected="a file, which --resume can read again",
                next_step="Save it to a file, or use `dnd predict -`",
            )  # fmt: skip
        require_file(Path(path))
        if is_sdf(path):
            with open_bytes(path) as stream:
                if next(read_sdf_blocks(path, stream), None) is None:
                    raise InputError(f"{path} contains no record", next_step="Check how it was made or copied")
            with open_bytes(path) as stream:
                columns = [_TITLE, *field_names(path, stream)]
        else:
            with read_table(path, smiles_column=smiles_column, remembered=remembered) as table:
                columns = [name for name in table.columns if name != table.smiles_column]
        found.update(dict.fromkeys(id_columns_of(columns)))
    return list(found)


def describe_input(path: Path) -> dict[str, Any]:
    """Name, size and SHA-256 of an input, by which a resumed run knows it."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def estimate_rows(inputs: Sequence[str | Path]) -> int:
    """About how many rows there are: lines of tables, records of SDF and Parquet; for the time left only."""
    return sum(_estimate(Path(path)) for path in inputs)


def _estimate(path: Path) -> int:
    if kind_of(path) == "parquet":
        import pyarrow.parquet

        with open_bytes(path) as stream:
            return int(pyarrow.parquet.read_metadata(stream).num_rows)
    records, header = is_sdf(path), int(kind_of(path) == "csv")
    with open_bytes(path) as stream:
        lines = sum(1 for line in byte_lines(stream, path) if not records or line.startswith(_SDF_END))
    return max(0, lines - header)


def read_candidates(
    inputs: Sequence[str | Path],
    smiles_column: str | None,
    remembered: str | None = None,
    names: Sequence[str] = (),
) -> Generator[Candidate, None, None]:
    """Every row of every input with its cells of the columns `names`, in order, one in memory at a time."""
    for path in inputs:
        if is_sdf(path):
            with open_bytes(path) as stream:
                for block in read_sdf_blocks(path, stream):
                    cells = {**block.properties, _TITLE: block.title}
                    yield Candidate(block.molblock, True, block.problem, _of(cells, names))
        else:
            with read_table(path, smiles_column=smiles_column, remembered=remembered) as table:
                others = [name for name in names if name != table.smiles_column]
                for row in table:
                    yield Candidate(row.smiles, False, row.problem, _of(row.values, others))


def _of(cells: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: cells[name] for name in names if cells.get(name)}


def in_chunks(candidates: Iterator[Candidate], rows: int) -> Iterator[list[Candidate]]:
    """Lists of `rows` candidates, fewer at the end and where their texts are long."""
    chunk: list[Candidate] = []
    characters = 0
    for candidate in candidates:
        chunk.append(candidate)
        characters += len(candidate.text) + sum(map(len, candidate.names.values()))
        if len(chunk) == rows or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
