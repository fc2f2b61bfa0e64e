"""The best K rows of a screen: exact, from its shards, with K rows and one shard in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnd.prediction.screen_shards import ROW
from dnd.prediction.writers import Column, open_writer

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
    columns: dict[str, Column] = {name: _cells(table[name]) for name in table.column_names}
    with open_writer(str(path)) as writer:
        writer.write({**columns, ROW: [str(number) for number in table[ROW].to_pylist()]})


def _cells(column: Any) -> Column:
    if pa.types.is_string(column.type):
        return [str(text) for text in column.to_pylist()]
    numbers: np.ndarray = column.to_numpy()
    return numbers
