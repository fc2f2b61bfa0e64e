"""Molecules as a caller of Python has them: one text, a file, a table, a Series, an array, a list, RDKit's molecules.

Everything that takes molecules from Python takes them through here, so that all of it accepts the same. One text is one
molecule: a text is a sequence of letters too, and taken as one it would be a molecule per letter. Neither pandas nor
polars is imported; their tables are known by what they can do.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnd.common.errors import InputError
from dnd.tables.molecules import open_molecules

ACCEPTED = (
    "one SMILES; the path of a CSV, TSV, SMI, SDF or Parquet file; a table with a column of SMILES; a list, an array "
    "or a Series of SMILES or of RDKit molecules; or one RDKit molecule"
)
_SUFFIXES = (".csv", ".tsv", ".txt", ".smi", ".smiles", ".sdf", ".sd", ".mol", ".parquet")
_SMILES = "smiles"
_NO_TEXT = "not a SMILES but "


class NoMolecules(InputError, TypeError):
    """What was given is nothing that holds molecules."""


@dataclass(frozen=True)
class GivenMolecules:
    """Molecules in the order in which they were given.

    Attributes:
        texts: SMILES as written; empty where there is none, such as for a missing value.
        problems: why a row has no SMILES, where that can be said; else empty.
        index: index of the table or Series that they come from; None if it has none.
    """

    texts: list[str]
    problems: list[str]
    index: Any = None

    def reasons(self, errors: Sequence[str]) -> list[str]:
        """`errors` of the texts, but what was wrong with a row before it was a text comes first."""
        return [problem or error for problem, error in zip(self.problems, errors, strict=True)]


def as_molecules(given: object, smiles_column: str | None = None, *, remembered: str | None = None) -> GivenMolecules:
    """The molecules of whatever a caller has.

    Args:
        given: see `ACCEPTED`; a missing value or an object of another kind within a list is a row without a molecule,
            but a list of such objects alone, such as numbers, is refused.
        smiles_column: SMILES column of a file or a table; None = found by name or content in a file; in a table
            `smiles`, the only column, or the only one whose name has `smiles` in it.
        remembered: a column of a file that is taken where none is asked for and the file has it.

    Raises:
        NoMolecules: a `TypeError` that says what is accepted.
        InputError: a file can't be read, or it is not clear which column has the SMILES.
    """
    if isinstance(given, GivenMolecules):
        return given
    if isinstance(given, os.PathLike) or (isinstance(given, str) and _is_path(given)):
        return _of_file(str(given), smiles_column, remembered)
    if isinstance(given, str) or _is_mol(given):
        return _of_values([given])
    if isinstance(given, bytes | bytearray | Mapping | Set) or given is None:
        raise _refused(given)
    if hasattr(given, "column_names") and hasattr(given, "column"):  # Arrow
        name = _column(list(given.column_names), smiles_column)
        return _of_values(given.column(name).to_pylist())
    if hasattr(given, "columns") and hasattr(given, "__getitem__"):
        names = list(given.columns)
        column = given[names[_column_place([str(name) for name in names], smiles_column)]]
        return as_molecules(column)
    if isinstance(given, list | tuple):
        return _of_values(given)
    for method in ("tolist", "to_list", "to_pylist"):  # arrays and Series of any kind
        if hasattr(given, method):
            values = getattr(given, method)()
            if not isinstance(values, list):
                break
            index = getattr(given, "index", None)
            return _of_values(values, None if callable(index) else index)
    raise _refused(given)


def _of_values(values: Sequence[object], index: Any = None) -> GivenMolecules:
    texts, problems = [], []
    for value in values:
        text, problem = _text(value)
        texts.append(text)
        problems.append(problem)
    if values and all(problem.startswith(_NO_TEXT) for problem in problems):
        raise _refused(values[0], f"{len(values)} values of type ")  # the wrong column, more likely than bad rows
    return GivenMolecules(texts, problems, index)


def _text(value: object) -> tuple[str, str]:
    """The SMILES of one value, and why there is none."""
    if isinstance(value, str):
        return str(value), ""
    if _is_missing(value):
        return "", ""
    if _is_mol(value):
        from rdkit import Chem

        try:
            return str(Chem.MolToSmiles(value)), ""
        except (RuntimeError, ValueError) as error:
            return "", f"RDKit writes no SMILES of this molecule: {error}"
    if isinstance(value, list | tuple):
        if len(value) == 1:  # a row of an array with one column
            return _text(value[0])
        raise NoMolecules(
            f"a row holds {len(value)} values", expected="one SMILES per row", next_step="Select the column with SMILES"
        )
    return "", f"{_NO_TEXT}{type(value).__name__}"


def _is_missing(value: object) -> bool:
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def _is_mol(value: object) -> bool:
    return type(value).__module__.startswith("rdkit.") and hasattr(value, "GetNumAtoms")


def _is_path(text: str) -> bool:
    """Whether a text is a file's name: no SMILES ends so, and a file without such an end has to come as a `Path`."""
    return Path(text.removesuffix(".gz")).suffix.lower() in _SUFFIXES


def _of_file(path: str, smiles_column: str | None, remembered: str | None) -> GivenMolecules:
    texts, problems = [], []
    with open_molecules(path, smiles_column, remembered=remembered) as table:
        for row in table:
            # A row that can't be trusted is no molecule: its SMILES may be a shifted cell.
            texts.append(row.smiles if row.problem is None else "")
            problems.append(row.problem or "")
    return GivenMolecules(texts, problems)


def _column(names: list[str], wanted: str | None) -> str:
    return names[_column_place(names, wanted)]


def _column_place(names: list[str], wanted: str | None) -> int:
    if wanted is not None:
        found = [place for place, name in enumerate(names) if name == wanted]
    else:
        exact = [place for place, name in enumerate(names) if name == _SMILES]
        alike = [place for place, name in enumerate(names) if _SMILES in name.casefold()]
        found = exact or alike or ([0] if len(names) == 1 else [])
    if len(found) != 1:
        raise InputError(
            "it is not clear which column has the SMILES" if wanted is None else f"no single column {wanted!r}",
            found=", ".join(names[:10]),
            expected="one called smiles",
            next_step="Give the column alone, such as table['structure']",
        )
    return found[0]


def _refused(given: object, of: str = "") -> NoMolecules:
    return NoMolecules("no molecules are given", found=f"{of}{type(given).__name__}", expected=ACCEPTED)
