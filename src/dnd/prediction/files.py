"""Files of molecules in, files of results out: every row and every input column kept, a chunk in memory at a time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from dnd.common.errors import ConfigError, InputError, note_rows
from dnd.predictor.predictor import ERROR
from dnd.tables.molecules import open_molecules
from dnd.tables.readers import Row, TableReader, is_tsv
from dnd.tables.writers import (
    ARRAY_FORMAT,
    TABLE_FORMATS,
    Cells,
    CsvStyle,
    open_writer,
    output_format,
    require_other_file,
)

# Files of molecules in, files of results out: every row and every input column kept, a chunk in memory at a time.


CHUNK_ROWS = 4096
CHUNK_CELLS, CHUNK_CHARACTERS = 2**19, 2**25  # a chunk ends early at so much, so that wide rows take no more memory
EMBEDDING = "embedding"
_NUMBERED = re.compile(rf"{EMBEDDING}_\d+", re.ASCII)


class MoleculeEmbedder(Protocol):
    """Whatever turns molecules into vectors: an `Embedder` or a `Predictor`."""

    def embed_with_errors(self, molecules: object) -> tuple[Float[np.ndarray, "molecules dim"], list[str]]:
        """One vector per molecule, NaN where there is none, and the reasons; see `as_molecules`."""
        ...


@runtime_checkable
class ChunkEmbedder(Protocol):
    """Whatever turns chunks of molecules into vectors, several at a time: a `ClusterEmbedder`."""

    def embed_chunks(
        self, chunks: Iterator[list[str]]
    ) -> Iterator[tuple[Float[np.ndarray, "molecules dim"], list[str]]]:
        """What `MoleculeEmbedder.embed_with_errors` gives for each chunk, in order."""
        ...


class MoleculePredictor(Protocol):
    """Whatever predicts molecules: a `Predictor`, or one whose answers are kept besides."""

    @property
    def columns(self) -> list[str]:
        """Names of the output columns."""
        ...

    @property
    def smiles_column(self) -> str | None:
        """The column of SMILES that it was trained from, where that is known."""
        ...

    @property
    def digits(self) -> Mapping[str, int]:
        """Significant digits of some columns in CSV; see `Predictor.digits`."""
        ...

    def describe(self, smiles: Sequence[str]) -> tuple[Mapping[str, Cells], list[str]]:
        """The output columns, and the reasons where there is no molecule; see `Predictor.describe`."""
        ...


@dataclass(frozen=True)
class FileSummary:
    """Result of predicting or embedding a file.

    Attributes:
        rows: rows written; as many as were read.
        errors: rows without a result.
        first_error: the first of them with its reason; empty when there is none.
    """

    rows: int
    errors: int
    first_error: str

    def line(self) -> str:
        """The same in words."""
        said = "1 row" if self.rows == 1 else f"{self.rows} rows"
        if not self.errors:
            return said
        return f"{said}, {self.errors} without a result (see the column {ERROR}); first: {self.first_error}"


def predict_file(
    predictor: MoleculePredictor, source: Path | str, out: str, *, smiles_column: str | None = None, raw: bool = False
) -> FileSummary:
    """Write the input's rows and columns with those of `Predictor.predict` behind them.

    Args:
        predictor: the model.
        source: CSV, TSV, SMI, SDF or Parquet, `.gz` or not, `-` for standard input, or a single SMILES.
        out: `.csv`, `.tsv` (also `.gz`), `.parquet`, or `-` for CSV on standard output.
        smiles_column: SMILES column; None = that of the training data, else found by name or content.
        raw: leave cells alone that a spreadsheet would run as a formula.

    Raises:
        InputError: the input can't be read, has no SMILES column, or has a column of the name of a new one.
        ConfigError: `raw` for Parquet.
    """
    _check_output(out, TABLE_FORMATS, raw)
    require_other_file(source, out)
    with open_molecules(source, smiles_column, remembered=predictor.smiles_column, or_smiles=True) as table:
        _require_new_names(table, [*predictor.columns, ERROR])
        return _stream(table, source, out, partial(map, predictor.describe), raw, predictor.digits)


def embed_file(
    embedder: MoleculeEmbedder | ChunkEmbedder,
    source: Path | str,
    out: str,
    *,
    smiles_column: str | None = None,
    raw: bool = False,
) -> FileSummary:
    """Write one vector per input row.

    Args:
        embedder: the encoder, here or on the machines of a cluster.
        source: see `predict_file`.
        out: `.csv` or `.tsv` with columns `embedding_0` …; `.parquet` with one list column `embedding`; `.npy` with the
            vectors alone, NaN rows for bad molecules; `-`.
        smiles_column: where the SMILES are; None = found by name or content.
        raw: see `predict_file`.
    """
    _check_output(out, (*TABLE_FORMATS, ARRAY_FORMAT), raw)
    require_other_file(source, out)

    def compute(chunks: Iterator[list[str]]) -> Iterator[tuple[dict[str, np.ndarray], list[str]]]:
        each = (
            embedder.embed_chunks if isinstance(embedder, ChunkEmbedder) else partial(map, embedder.embed_with_errors)
        )
        for values_BD, errors in each(chunks):
            yield {EMBEDDING: values_BD}, errors

    with open_molecules(source, smiles_column, or_smiles=True) as table:
        _require_new_names(table, _names_of_vectors(table, output_format(out, (*TABLE_FORMATS, ARRAY_FORMAT))))
        return _stream(table, source, out, compute, raw)


def _names_of_vectors(table: TableReader, ending: str) -> list[str]:
    """The columns of an output with vectors that the input must not have; an array has vectors alone."""
    if ending == ARRAY_FORMAT:
        return []
    numbered = [name for name in table.columns if _NUMBERED.fullmatch(name)]
    return [*([EMBEDDING] if ending == ".parquet" else numbered), ERROR]


def _check_output(out: str, known: Sequence[str], raw: bool) -> None:
    """Refuse an output that can't be written, or an option that does nothing for it, before any work."""
    if raw and output_format(out, known) in (".parquet", ARRAY_FORMAT):
        raise ConfigError(f"--raw is for CSV and TSV; cells of {out} are never escaped", next_step="Leave it out")
    output_format(out, known)


def _stream(
    table: TableReader,
    source: Path | str,
    out: str,
    compute: Callable[[Iterator[list[str]]], Iterator[tuple[Mapping[str, Cells], list[str]]]],
    raw: bool,
    digits: Mapping[str, int] = MappingProxyType({}),
) -> FileSummary:
    rows = errors_so_far = 0
    first_error = ""
    chunks = _chunks(table)
    start = next(chunks, [])  # the notation of the input is seen from its first rows
    with open_writer(out, raw=raw, style=_style(table, start, source), digits=digits) as writer:
        sent, kept = itertools.tee(itertools.chain([start], chunks))  # what is between the two waits for its result
        # A row that can't be trusted is not predicted: its SMILES may be a shifted cell.
        texts = ([row.smiles if row.problem is None else "" for row in chunk] for chunk in sent)
        for (found, reasons), chunk in zip(compute(texts), kept, strict=False):
            reasons = [row.problem or reason for row, reason in zip(chunk, reasons, strict=True)]
            note_rows(reasons)
            bad = [place for place, reason in enumerate(reasons) if reason]
            if bad and not errors_so_far:
                first_error = f"row {chunk[bad[0]].place}: {reasons[bad[0]]}"
            columns: dict[str, Cells] = {name: [row.values[name] for row in chunk] for name in table.columns}
            writer.write({**columns, **found, ERROR: reasons})
            rows, errors_so_far = rows + len(chunk), errors_so_far + len(bad)
    return FileSummary(rows, errors_so_far, first_error)


def _style(table: TableReader, rows: Sequence[Row], source: Path | str) -> CsvStyle:
    """CSV as the input writes it: its delimiter, and its decimal mark where a comma can be one."""
    delimiter = table.style.delimiter or ","
    if delimiter == ",":
        return CsvStyle()
    from dnd.tables.labels import is_decimal_comma, is_decimal_point  # a comma between cells is none within them

    commas = points = 0
    for row in rows:
        commas += sum(map(is_decimal_comma, row.values.values()))
        points += sum(map(is_decimal_point, row.values.values()))
    if delimiter == "\t" and is_tsv(source):
        delimiter = ","  # the name of the output says what it is to be
    return CsvStyle(delimiter, "," if commas > points else ".")


def _chunks(table: TableReader) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    rows, characters = min(CHUNK_ROWS, max(1, CHUNK_CELLS // len(table.columns))), 0
    for row in table:
        chunk.append(row)
        characters += sum(map(len, row.values.values()))
        if len(chunk) == rows or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _require_new_names(table: TableReader, names: Sequence[str]) -> None:
    taken = [name for name in names if name in table.columns]
    if taken:
        raise InputError(
            f"the input already has a column {taken[0]!r}, which the output needs",
            next_step="Rename or remove it, if it is not the output of an earlier run",
        )
