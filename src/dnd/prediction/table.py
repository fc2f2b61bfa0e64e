"""A table of predictions without pandas: named columns of equal length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas
    import pyarrow

Column = np.ndarray | list[str]


class PredictionTable(Mapping[str, Column]):
    """Columns by name, in order; as many rows as molecules were asked for.

    Args:
        columns: arrays of numbers or lists of text, all of one length.

    Example:
        >>> table = PredictionTable({"smiles": ["CCO"], "logS_pred": np.array([0.1]), "error": [""]})
        >>> table["logS_pred"]
        array([0.1])
    """

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = dict(columns)

    def __getitem__(self, name: str) -> Column:
        """The column `name`."""
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        """Names of the columns."""
        return iter(self._columns)

    def __len__(self) -> int:
        """Number of columns; see `num_rows`."""
        return len(self._columns)

    @property
    def num_rows(self) -> int:
        """Number of molecules."""
        return len(next(iter(self._columns.values())))

    def to_arrow(self) -> pyarrow.Table:
        """The same as a pyarrow Table; NaN becomes null."""
        import pyarrow

        arrays: dict[str, Any] = {
            name: pyarrow.array(values, from_pandas=True) if isinstance(values, np.ndarray) else pyarrow.array(values)
            for name, values in self._columns.items()
        }
        return pyarrow.table(arrays)

    def to_pandas(self) -> pandas.DataFrame:
        """The same as a pandas DataFrame; pandas is imported here only."""
        import pandas

        return pandas.DataFrame(self._columns)

    def __repr__(self) -> str:
        """Names and size."""
        return f"PredictionTable({self.num_rows} rows: {', '.join(self._columns)})"
