"""What a Python caller passed, a table or a list, → a file that every verb can read."""

from __future__ import annotations

import csv
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dnd.common.errors import InputError
from dnd.tables.from_python import as_molecules

SMILES = "smiles"


def is_path(value: Any) -> bool:
    """Whether `value` names a file: a path object, or a text that is the name of an existing one."""
    if isinstance(value, os.PathLike):
        return True
    try:
        return isinstance(value, str) and Path(value).exists()
    except (OSError, ValueError):  # a long SMILES is too long for a name
        return False


@contextmanager
def as_file(value: Any, smiles_column: str | None = None) -> Iterator[tuple[Path, str | None]]:
    """A file with what a caller passed, and its column of SMILES; a temporary one where no path was passed.

    Its name depends on nothing, so that a run that is resumed knows its input again by its content.

    Args:
        value: a path, a DataFrame, a mapping of columns, or molecules as `as_molecules` takes them.
        smiles_column: column of SMILES. When None, whoever reads a file finds it there, and None is handed on; of a
            table it is `smiles`, or the only one of that name in any case.

    Raises:
        InputError: the table has no such column, or columns of different lengths.
        TypeError: it is nothing of these.
    """
    if is_path(value) or (isinstance(value, str) and Path(value).suffix):
        yield Path(value), smiles_column
        return
    if isinstance(value, Mapping) or (hasattr(value, "columns") and hasattr(value, "__getitem__")):
        names = list(value) if isinstance(value, Mapping) else list(value.columns)
        column, table = _column_of(names, smiles_column), {str(name): list(value[name]) for name in names}
    else:
        column, table = smiles_column or SMILES, {}
    lengths = {name: len(cells) for name, cells in table.items()}
    if len(set(lengths.values())) > 1:
        raise InputError("the columns of the table differ in length", found=lengths)
    table[column] = list(as_molecules(table.get(column, value)).texts)
    with tempfile.TemporaryDirectory(prefix="dnd-") as temporary:
        path = Path(temporary) / "molecules.csv"
        with open(path, "w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(table)
            writer.writerows([_cell(cell) for cell in row] for row in zip(*table.values(), strict=True))
        yield path, column


@contextmanager
def as_files(values: Any, smiles_column: str | None = None) -> Iterator[tuple[list[Path], str | None]]:
    """`as_file` of one input or, where all of a list are paths, of each."""
    if isinstance(values, Sequence) and not isinstance(values, str) and values and all(map(is_path, values)):
        yield [Path(value) for value in values], smiles_column
        return
    with as_file(values, smiles_column) as (path, column):
        yield [path], column


def _column_of(names: Sequence[Any], wanted: str | None) -> str:
    found = [name for name in names if str(name) == (wanted or SMILES)]
    found = found or [name for name in names if wanted is None and str(name).casefold() == SMILES]
    if len(found) != 1:
        raise InputError(
            f"the table has no column {wanted or SMILES!r}",
            found=", ".join(map(str, names[:12])) or "no column",
            next_step="Name the column of SMILES with smiles_column=",
        )
    return str(found[0])


def _cell(value: Any) -> Any:
    is_nan = isinstance(value, float) and math.isnan(value)
    return "" if value is None or is_nan or type(value).__name__ in ("NAType", "NaTType") else value
