"""Rows of a Parquet file as text cells, one batch in memory at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

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
        file = pq.ParquetFile(source, page_checksum_verification=True)
        names = list(file.schema_arrow.names)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return names, _rows(file, stream, path)


def _rows(file: Any, stream: BinaryIO, path: str | Path) -> Iterator[list[str]]:
    with stream:
        try:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                columns = [
                    ["" if value is None else str(value) for value in column.to_pylist()] for column in batch.columns
                ]
                yield from (list(cells) for cells in zip(*columns, strict=True))
        except _DAMAGE as error:
            raise _damaged(path, error) from error


def _damaged(path: str | Path, error: Exception) -> CorruptFileError:
    return CorruptFileError(f"{path} is not a readable Parquet file", found=str(error).splitlines()[0])
