"""Sealed Parquet shards of a screen, the journal from which a killed run resumes, and the best K rows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnd.common.errors import note_rows
from dnd.common.files import replacing, sha256_file
from dnd.common.runs import PROGRESS, Journal, SealedFile
from dnd.predictor.predictor import Column
from dnd.tables.writers import Cells, open_writer

# Sealed Parquet shards of a screen, and the journal from which a killed run continues.
#
# A shard is a fixed number of chunks, so that its bytes do not depend on when a run was stopped. A blend predicts 250
# to 300 rows a second on a core, so it seals one after about a minute. What a slower model has done of the next shard
# is kept beside the journal once a minute, as pieces, so that a stop costs a minute and not a shard.


ROW, ERROR = "row", "error"
CHUNKS_PER_SHARD = 16
CHUNKS_UNTIL_020 = 32
"""Chunks in a shard of a run whose record does not say."""
KEEP_EVERY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class ShardEntry(SealedFile):
    """A sealed shard, or a piece of one.

    Attributes:
        rows: rows in it.
        errors: those without a prediction.
        chunks: number of chunks in it.
    """

    rows: int
    errors: int
    chunks: int = CHUNKS_UNTIL_020


class ScreenJournal(Journal[ShardEntry]):
    """The journal of a screen's shards, beside one of the pieces of the next shard.

    Args:
        folder: of the shards.
        chunks_per_shard: chunks after which a shard is sealed.

    Attributes:
        rows: rows that are kept, in shards and pieces.
        errors: those without a prediction, in shards.
    """

    def __init__(self, folder: Path, chunks_per_shard: int = CHUNKS_PER_SHARD) -> None:
        super().__init__(folder, ShardEntry, file="part-{:05d}.parquet")
        self._chunks_per_shard = chunks_per_shard
        self._pieces = self._pieces_of_the_next()
        self._tables: list[Any] = [  # the next shard as far as it is done: a table for each piece, then for each chunk
            pq.read_table(self._pieces.file(number), page_checksum_verification=True)
            for number in range(len(self._pieces.entries))
        ]
        self._kept = time.monotonic()
        self.rows = sum(entry.rows for entry in [*self.entries, *self._pieces.entries])
        self.errors = sum(entry.errors for entry in self.entries)

    def _pieces_of_the_next(self) -> Journal[ShardEntry]:
        name = f"{PROGRESS}/{len(self.entries):05d}-{{:03d}}"
        return Journal(self.folder, ShardEntry, file=name + ".parquet", entry=name + ".json")

    def add(self, columns: Mapping[str, Column]) -> None:
        """Take the next chunk; seal the shard that it completes, or keep what waits where a minute has passed."""
        self._tables.append(_table(columns))
        self.rows += self._tables[-1].num_rows
        if self._chunks == self._chunks_per_shard:
            self.finish()
        elif time.monotonic() - self._kept >= KEEP_EVERY_S:
            self.keep()

    def keep(self) -> None:
        """Write the chunks that wait for the rest of their shard as a piece of it."""
        chunks, pieces = self._waiting, len(self._pieces.entries)
        if not chunks:
            return
        table = pa.concat_tables(self._tables[pieces:])
        entry = _write(table, self._pieces.next_file, chunks)
        self._tables = [*self._tables[:pieces], table]
        self._pieces.append(entry)
        self._kept = time.monotonic()

    def finish(self) -> None:
        """Write what waits as the next shard, a row group, and its entry."""
        if not self._tables:
            return
        table = pa.concat_tables(self._tables).combine_chunks()
        first = sum(entry.rows for entry in self.entries)
        numbers = pa.array(np.arange(first, first + table.num_rows, dtype=np.int64))
        entry = _write(table.add_column(0, ROW, numbers), self.next_file, self._chunks)
        note_rows(table[ERROR].to_pylist())
        self.append(entry)
        self.errors += entry.errors
        self._tables, self._pieces, self._kept = [], self._pieces_of_the_next(), time.monotonic()
        self._pieces.entries.clear()  # an earlier run's, of which `rows` does not know

    @property
    def _waiting(self) -> int:
        """Chunks that are in no piece."""
        return len(self._tables) - len(self._pieces.entries)

    @property
    def _chunks(self) -> int:
        """Chunks of the next shard so far."""
        return sum(entry.chunks for entry in self._pieces.entries) + self._waiting

    def shards(self) -> list[Path]:
        """The sealed shards in order."""
        return [self.file(number) for number in range(len(self.entries))]


def _write(table: Any, path: Path, chunks: int) -> ShardEntry:
    """Write a table of so many chunks as a row group, and count it."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, row_group_size=table.num_rows, write_page_checksum=True)
    errors = table.num_rows - table[ERROR].to_pylist().count("")
    return ShardEntry(rows=table.num_rows, errors=errors, sha256=sha256_file(path), chunks=chunks)


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


def write_top(path: Path, table: Any, digits: Mapping[str, int]) -> None:
    """Write `best_rows` as CSV, with row numbers in full.

    Args:
        path: the file.
        table: the rows.
        digits: of columns of values, see `digits_of`; with too few of them the best rows would look alike.
    """
    columns: dict[str, Cells] = {name: _cells(table[name]) for name in table.column_names}
    with open_writer(str(path), digits=digits) as writer:
        writer.write({**columns, ROW: [str(number) for number in table[ROW].to_pylist()]})


def _cells(column: Any) -> Cells:
    if pa.types.is_string(column.type):
        return [str(text) for text in column.to_pylist()]
    numbers: np.ndarray = column.to_numpy()
    return numbers
