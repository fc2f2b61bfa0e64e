"""Rows of a Parquet file as text cells, one batch in memory at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnd.chemistry.streams import read_errors
from dnd.common.errors import CorruptFileError, InputError

LIMIT_UNPACKED = 4 * 2**30
"""Largest Parquet file that comes gzipped or from standard input; such a file has to be held in memory."""

_BATCH_ROWS = 4096
# Beside Arrow's own errors: bytes that are no text, and dates beyond Python's, show only when they become Python's.
_DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError)


def open_parquet(stream: BinaryIO, path: str | Path) -> tuple[list[str], Iterator[list[str]]]:
    """Column names and rows of a Parquet file; page checksums are verified, missing values are empty cells.

    Raises:
        CorruptFileError: not a Parquet file, or damaged, or in a damaged gzip; the second also while iterating.
    """
    source: BinaryIO = stream
    if not stream.seekable() or not isinstance(getattr(stream, "raw", None), io.FileIO):
        with read_errors(path):
            source = io.BytesIO(stream.read(LIMIT_UNPACKED + 1))
        if source.getbuffer().nbytes > LIMIT_UNPACKED:
            raise InputError(f"{path} is too large to unpack", next_step="Unpack it and give the plain .parquet file")
    try:
        described = pq.ParquetFile(source, page_checksum_verification=True)
        names = list(described.schema_arrow.names)
        leaves = [described.schema.column(number) for number in range(len(described.schema))]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.path in names]
        # A text that a column repeats stays one text in memory: 900 bytes could become gigabytes.
        file = pq.ParquetFile(source, page_checksum_verification=True, read_dictionary=texts)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return names, _rows(file, stream, path)


def _rows(file: Any, stream: BinaryIO, path: str | Path) -> Iterator[list[str]]:
    with stream:
        try:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                columns = [_cells(column) for column in batch.columns]
                yield from (list(cells) for cells in zip(*columns, strict=True))
        except _DAMAGE as error:
            raise _damaged(path, error) from error


def _cells(column: Any) -> list[str]:
    """The cells of a column; rows that share a value share its text."""
    if not pa.types.is_dictionary(column.type):
        return ["" if value is None else str(value) for value in column.to_pylist()]
    places = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    used, own = np.unique(places, return_inverse=True)
    known = column.dictionary.take(pa.array(used[used >= 0])).to_pylist()
    texts = [""] * (used < 0).sum() + ["" if value is None else str(value) for value in known]
    return [texts[place] for place in own]


def _damaged(path: str | Path, error: Exception) -> CorruptFileError:
    return CorruptFileError(f"{path} is not a readable Parquet file", found=str(error).splitlines()[0])
