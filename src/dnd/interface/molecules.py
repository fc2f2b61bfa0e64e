"""What Python callers pass as molecules or as a labelled table → texts in order, or a file that every verb can read.

One text is one molecule, or the path of an existing table; nothing is ever taken apart letter by letter.
"""

from __future__ import annotations

import csv
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnd.common.errors import InputError

ACCEPTED = (
    "a SMILES, a path of a table, a list, an array or a Series of SMILES, RDKit molecules, or a DataFrame with a "
    "column of SMILES"
)


@dataclass(frozen=True)
class Molecules:
    """Molecules as they were passed.

    Attributes:
        texts: one SMILES per row; empty where there is none.
        index: labels of the rows, of a Series or a DataFrame; None = counted from 0.
        problems: reasons why rows of a file can't be used; empty = none has any.
    """

    texts: list[str]
    index: Any = None
    problems: list[str] = field(default_factory=list)


def molecules_of(value: Any, smiles_column: str = "smiles") -> Molecules:
    """Read what a caller passed.

    Args:
        value: a SMILES, a path, a sequence, a Series, a table; see `ACCEPTED`.
        smiles_column: column of SMILES of a table; case does not matter where no column has exactly this name.

    Raises:
        TypeError: it is something else.
        InputError: a file can't be read, or a table has no such column.
    """
    if is_path(value):
        return _of_file(Path(value), smiles_column)
    if isinstance(value, str) or _is_mol(value):
        return Molecules([_text(value)])
    if is_table(value):
        column = value[smiles_column_of(value, smiles_column)]
        return Molecules([_text(cell) for cell in column], getattr(value, "index", None))
    shape = getattr(value, "shape", None)
    if isinstance(value, bytes | Mapping) or not hasattr(value, "__iter__") or (shape is not None and len(shape) != 1):
        raise TypeError(f"these are no molecules: found {_described(value)}, expected {ACCEPTED}")
    index = getattr(value, "index", None)  # a list has a method of this name
    return Molecules([_text(cell) for cell in value], None if callable(index) else index)


def is_path(value: Any) -> bool:
    """Whether `value` names a file: a path object, or a text that is the name of an existing file."""
    if isinstance(value, os.PathLike):
        return True
    try:
        return isinstance(value, str) and Path(value).is_file()
    except (OSError, ValueError):  # a long SMILES is too long for a name
        return False


def is_table(value: Any) -> bool:
    """Whether `value` has columns by name: a DataFrame, or a mapping of columns."""
    return isinstance(value, Mapping) or (hasattr(value, "columns") and hasattr(value, "__getitem__"))


def smiles_column_of(table: Any, wanted: str) -> str:
    """The column of SMILES of a table.

    Raises:
        InputError: there is none of the name.
    """
    names = _columns(table)
    alike = [name for name in names if str(name).lower() == wanted.lower()]
    if wanted in names:
        return wanted
    if len(alike) == 1:
        return str(alike[0])
    raise InputError(
        f"the table has no column {wanted!r}",
        found=", ".join(map(str, names[:12])) or "no column",
        next_step="Name the column of SMILES with smiles_column=",
    )


@contextmanager
def as_file(value: Any, smiles_column: str = "smiles") -> Iterator[tuple[Path, str]]:
    """A file with what a caller passed, and its column of SMILES; a temporary one where no path was passed.

    Its name depends on nothing, so that a run that is resumed knows its input again by its content.
    """
    if is_path(value):
        yield Path(value), smiles_column
        return
    if is_table(value):
        column = smiles_column_of(value, smiles_column)
        table = {str(name): list(value[name]) for name in _columns(value)}
    else:
        column, table = smiles_column, {smiles_column: list(molecules_of(value, smiles_column).texts)}
    if len({len(cells) for cells in table.values()}) != 1:
        lengths = {name: len(cells) for name, cells in table.items()}
        raise InputError("the columns of the table differ in length", found=lengths)
    table[column] = [_text(cell) for cell in table[column]]
    with tempfile.TemporaryDirectory(prefix="dnd-") as temporary:
        path = Path(temporary) / "molecules.csv"
        with open(path, "w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(table)
            writer.writerows([_cell(cell) for cell in row] for row in zip(*table.values(), strict=True))
        yield path, column


@contextmanager
def as_files(values: Any, smiles_column: str = "smiles") -> Iterator[tuple[list[Path], str]]:
    """`as_file` of one input or, where all of a list are paths, of each."""
    if isinstance(values, Sequence) and not isinstance(values, str) and values and all(map(is_path, values)):
        yield [Path(value) for value in values], smiles_column
        return
    with as_file(values, smiles_column) as (path, column):
        yield [path], column


def _of_file(path: Path, smiles_column: str) -> Molecules:
    from dnd.tables.molecules import open_molecules

    with open_molecules(path, smiles_column) as table:
        rows = [(row.smiles, row.problem or "") for row in table]
    # A row that can't be trusted is not predicted: its SMILES may be a shifted cell.
    texts, problems = ["" if problem else text for text, problem in rows], [problem for _, problem in rows]
    return Molecules(texts, problems=problems)


def _columns(table: Any) -> list[Any]:
    return list(table) if isinstance(table, Mapping) else list(table.columns)


def _is_mol(value: Any) -> bool:
    return hasattr(value, "GetNumAtoms") and hasattr(value, "GetBonds")


def _text(value: Any) -> str:
    """A SMILES; what is neither text nor molecule (None, NaN of a data frame) becomes an empty one."""
    if _is_mol(value):
        from rdkit import Chem

        return str(Chem.MolToSmiles(value))
    return value if isinstance(value, str) else ""


def _cell(value: Any) -> Any:
    missing = value is None or (isinstance(value, float) and math.isnan(value)) or str(value) in ("<NA>", "NaT")
    return "" if missing else value


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")
