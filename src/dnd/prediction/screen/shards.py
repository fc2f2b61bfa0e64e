"""Sealed Parquet shards of a screen, the journal from which a killed run resumes, and the best K rows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnd.common.errors import CorruptFileError, note_rows
from dnd.common.files import replacing, sha256_file, storage_errors
from dnd.common.runs import read_record, write_record
from dnd.predictor.predictor import Column
from dnd.tables.writers import Cells, open_writer

# Sealed Parquet shards of a screen, and the journal from which a killed run continues.
#
# A shard is a fixed number of chunks, so that its bytes do not depend on when a run was stopped. What is done of the
# next shard is kept beside the journal once a minute, as pieces, so that a stop costs a minute and not a shard.


ROW, ERROR = "row", "error"
CHUNKS_PER_SHARD = 32
KEEP_EVERY_S = 60.0
_JOURNAL = ".progress"


@dataclass(frozen=True)
class ShardEntry:
    """A sealed shard, or a piece of one.

    Attributes:
        rows: rows in it.
        errors: those without a prediction.
        sha256: SHA-256 of the file.
        chunks: number of chunks in it; a full shard has `CHUNKS_PER_SHARD`.
    """

    rows: int
    errors: int
    sha256: str
    chunks: int = CHUNKS_PER_SHARD


class ScreenJournal:
    """Shards of a screen in order, and pieces of the next one; the entry of each is written after it.

    Attributes:
        entries: the sealed shards from number 0 on, as far as they are intact.
        rows: rows that are kept, in shards and pieces.
        errors: those without a prediction, in shards.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.entries: list[ShardEntry] = []
        while (entry := _read(self._path(number := len(self.entries)), self.shard(number))) is not None:
            self.entries.append(entry)
        self._pieces: list[ShardEntry] = []
        self._tables: list[Any] = []  # the next shard as far as it is done: a table for each piece, then for each chunk
        while (entry := _read(self._piece(".json"), self._piece(".parquet"))) is not None:
            self._tables.append(pq.read_table(self._piece(".parquet"), page_checksum_verification=True))
            self._pieces.append(entry)
        self._kept = time.monotonic()
        self.rows = sum(entry.rows for entry in [*self.entries, *self._pieces])
        self.errors = sum(entry.errors for entry in self.entries)

    def add(self, columns: Mapping[str, Column]) -> None:
        """Take the next chunk; seal the shard that it completes, or keep what waits where a minute has passed."""
        self._tables.append(_table(columns))
        self.rows += self._tables[-1].num_rows
        if sum(entry.chunks for entry in self._pieces) + self._waiting == CHUNKS_PER_SHARD:
            self.finish()
        elif time.monotonic() - self._kept >= KEEP_EVERY_S:
            self.keep()

    def keep(self) -> None:
        """Write the chunks that wait for the rest of their shard as a piece of it."""
        if not self._waiting:
            return
        table = pa.concat_tables(self._tables[len(self._pieces) :])
        chunks = self._waiting
        entry = replace(_write(table, self._piece(".parquet")), chunks=chunks)
        write_record(self._piece(".json"), asdict(entry))
        self._tables = [*self._tables[: len(self._pieces)], table]
        self._pieces.append(entry)
        self._kept = time.monotonic()

    def finish(self) -> None:
        """Write what waits as the next shard, a row group, and its entry."""
        if not self._tables:
            return
        number = len(self.entries)
        table = pa.concat_tables(self._tables).combine_chunks()
        first = sum(entry.rows for entry in self.entries)
        numbers = pa.array(np.arange(first, first + table.num_rows, dtype=np.int64))
        entry = _write(table.add_column(0, ROW, numbers), self.shard(number))
        note_rows(table[ERROR].to_pylist())
        write_record(self._path(number), asdict(entry))
        self.entries.append(entry)
        self.errors += entry.errors
        self._tables, self._pieces, self._kept = [], [], time.monotonic()

    @property
    def _waiting(self) -> int:
        """Chunks that are in no piece."""
        return len(self._tables) - len(self._pieces)

    def shard(self, number: int) -> Path:
        """Where shard `number` lies."""
        return self._folder / f"part-{number:05d}.parquet"

    def shards(self) -> list[Path]:
        """The sealed shards in order."""
        return [self.shard(number) for number in range(len(self.entries))]

    def remove(self) -> None:
        """Forget the entries, after the folder is sealed."""
        with storage_errors(self._folder):
            shutil.rmtree(self._folder / _JOURNAL, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._folder / _JOURNAL / f"{number:05d}.json"

    def _piece(self, ending: str) -> Path:
        """Where the next piece of the next shard lies, or its entry."""
        return self._folder / _JOURNAL / f"{len(self.entries):05d}-{len(self._pieces):03d}{ending}"


def _read(path: Path, data: Path) -> ShardEntry | None:
    """The entry of an intact shard or piece."""
    if not path.is_file() or not data.is_file():
        return None
    try:
        entry = ShardEntry(**read_record(path))
    except (CorruptFileError, TypeError):
        return None
    return entry if sha256_file(data) == entry.sha256 else None


def _write(table: Any, path: Path) -> ShardEntry:
    """Write a table as a row group, and count it."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, row_group_size=table.num_rows, write_page_checksum=True)
    errors = table.num_rows - table[ERROR].to_pylist().count("")
    return ShardEntry(table.num_rows, errors, sha256_file(path))


def _table(columns: Mapping[str, Column]) -> Any:
    """Missing numbers are null; a column has one type in every shard, whatever is in it."""
    arrays = {
        name: pa.array(values, from_pandas=True) if isinstance(values, np.ndarray) else pa.array(values, pa.string())
        for name, values in columns.items()
    }
    return pa.table(arrays)


# The best K rows of a screen: exact, from its shards, with K rows and one shard in memory.


TOP = "top.csv"


def best_rows(shards: Iterable[Path], column: str, count: int, *, ascending: bool = False) -> Any:
    """The `count` rows with the largest (or smallest) numbers in `column`, best first, as a table.

    Rows without a number are left out; of equal ones the row that came first is the better.
    """
    best: Any = None
    for path in shards:
        table = pq.read_table(path, page_checksum_verification=True)
        table = table.filter(table[column].is_valid())
        best = _best(table if best is None else pa.concat_tables([best, table]), column, count, ascending)
    return best


def _best(table: Any, column: str, count: int, ascending: bool) -> Any:
    values, rows = table[column].to_numpy(), table[ROW].to_numpy()
    order = np.lexsort((rows, values if ascending else -values))
    return table.take(pa.array(order[:count]))


def write_top(path: Path, table: Any) -> None:
    """Write `best_rows` as CSV, with row numbers in full."""
    columns: dict[str, Cells] = {name: _cells(table[name]) for name in table.column_names}
    with open_writer(str(path)) as writer:
        writer.write({**columns, ROW: [str(number) for number in table[ROW].to_pylist()]})


def _cells(column: Any) -> Cells:
    if pa.types.is_string(column.type):
        return [str(text) for text in column.to_pylist()]
    numbers: np.ndarray = column.to_numpy()
    return numbers
