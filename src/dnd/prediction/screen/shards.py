"""Sealed Parquet shards of a screen, the journal from which a killed run resumes, and the best K rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnd.common.errors import CorruptFileError, note_rows
from dnd.common.files import replacing, sha256_file, storage_errors
from dnd.common.sealed_records import read_record, write_record
from dnd.predictor.predictor import Column
from dnd.tables.writers import Cells, open_writer

# Sealed Parquet shards of a screen, and the journal from which a killed run goes on.


ROW, ERROR = "row", "error"
_JOURNAL = ".progress"


@dataclass(frozen=True)
class ShardEntry:
    """A sealed shard.

    Attributes:
        rows: rows in it.
        errors: those without a prediction.
        sha256: of the file.
    """

    rows: int
    errors: int
    sha256: str


class ScreenJournal:
    """Shards of a screen in order; the entry of each is written after it.

    Attributes:
        entries: the sealed shards from number 0 on, as far as they are intact.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.entries: list[ShardEntry] = []
        while (entry := self._read(len(self.entries))) is not None:
            self.entries.append(entry)
        self.rows = sum(entry.rows for entry in self.entries)
        self.errors = sum(entry.errors for entry in self.entries)

    def seal(self, chunks: Sequence[Mapping[str, Column]]) -> None:
        """Write the next shard, a row group, and its entry."""
        number, path = len(self.entries), self.shard(len(self.entries))
        table = pa.concat_tables([_table(chunk) for chunk in chunks])
        numbers = pa.array(np.arange(self.rows, self.rows + table.num_rows, dtype=np.int64))
        table = table.add_column(0, ROW, numbers)
        with replacing(path) as temporary:
            pq.write_table(table, temporary, row_group_size=table.num_rows, write_page_checksum=True)
        reasons = table[ERROR].to_pylist()
        note_rows(reasons)
        errors = table.num_rows - reasons.count("")
        entry = ShardEntry(table.num_rows, errors, sha256_file(path))
        write_record(self._path(number), asdict(entry))
        self.entries.append(entry)
        self.rows, self.errors = self.rows + entry.rows, self.errors + entry.errors

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

    def _read(self, number: int) -> ShardEntry | None:
        path, shard = self._path(number), self.shard(number)
        if not path.is_file() or not shard.is_file():
            return None
        try:
            entry = ShardEntry(**read_record(path))
        except (CorruptFileError, TypeError):
            return None
        return entry if sha256_file(shard) == entry.sha256 else None


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
