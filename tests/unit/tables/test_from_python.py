"""Whatever a caller of Python has becomes one molecule per row: texts, files, tables, Series, arrays, molecules."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rdkit import Chem

from dnd.common.errors import InputError
from dnd.tables.molecules import as_molecules

ETHANOL = Chem.MolFromSmiles("CCO")


class Series:
    """What a Series of pandas or polars can do, as far as it matters."""

    def __init__(self, values: list[object], index: object = None) -> None:
        self.values = values
        if index is not None:
            self.index = index

    def tolist(self) -> list[object]:
        return self.values


class Frame:
    """A table that gives its columns by name."""

    def __init__(self, columns: dict[str, list[object]], index: object = None) -> None:
        self._columns, self.columns, self.index = columns, list(columns), index

    def __getitem__(self, name: str) -> Series:
        return Series(self._columns[name], self.index)


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("CCO", ["CCO"]),
        ("C/C=C/C", ["C/C=C/C"]),
        (ETHANOL, ["CCO"]),
        ([ETHANOL, "C", None], ["CCO", "C", ""]),
        (("C", float("nan"), np.float64("nan")), ["C", "", ""]),
        (np.array(["C", "CC"]), ["C", "CC"]),
        (np.array([["C"], ["CC"]], dtype=object), ["C", "CC"]),
        (np.str_("CCO"), ["CCO"]),
        (Series(["C", "CC"], index=[7, 9]), ["C", "CC"]),
        (Frame({"id": [1, 2], "smiles": ["C", "CC"]}), ["C", "CC"]),
        (Frame({"id": [1, 2], "Canonical_SMILES": ["C", "CC"]}), ["C", "CC"]),
        (Frame({"structure": ["C", "CC"]}), ["C", "CC"]),
        (pa.table({"y": [1, 2], "smiles": ["C", None]}), ["C", ""]),
        (pa.array(["C", None]), ["C", ""]),
        ([], []),
    ],
)
def test_one_molecule_per_row(given: object, texts: list[str]) -> None:
    assert as_molecules(given).texts == texts


def test_an_index_is_kept_and_a_list_has_none() -> None:
    assert as_molecules(Series(["C", "CC"], index=["a", "b"])).index == ["a", "b"]
    assert as_molecules(Frame({"smiles": ["C"]}, index=["z"])).index == ["z"]
    assert as_molecules(["C"]).index is None


def test_a_path_is_read_and_its_bad_rows_stay(tmp_path: Path) -> None:
    path = tmp_path / "molecules.csv"
    path.write_text("smiles,y\nCCO,1\n,2\nCC,3\n")
    for given in (path, str(path)):
        assert as_molecules(given).texts == ["CCO", "", "CC"]
    other = tmp_path / "other.csv"
    other.write_text("structure,y\nCCO,1\n")
    assert as_molecules(other, "structure").texts == ["CCO"]
    with pytest.raises(InputError, match=r"no such file|does not exist|No such"):
        as_molecules(str(tmp_path / "missing.csv"))
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04")
    for workbook in (tmp_path / "book.xlsx", str(tmp_path / "book.xlsx"), str(tmp_path / "old.XLS")):
        with pytest.raises(InputError, match=r"is a workbook.*'CSV UTF-8'"):
            as_molecules(workbook)


@pytest.mark.parametrize("given", [None, 5, b"CCO", {"smiles": ["C"]}, {"C"}, (text for text in "C"), object()])
def test_anything_else_is_a_type_error_that_says_what_is_accepted(given: object) -> None:
    with pytest.raises(TypeError, match=re.escape("expected one SMILES; the path of a CSV")):
        as_molecules(given)


def test_a_table_of_two_columns_of_smiles_is_asked_about() -> None:
    for columns in ({"a": ["C"], "b": ["C"]}, {"smiles_a": ["C"], "smiles_b": ["C"]}):
        with pytest.raises(InputError, match="not clear which column"):
            as_molecules(Frame(columns))
    assert as_molecules(Frame({"smiles_a": ["C"], "smiles_b": ["O"]}), "smiles_b").texts == ["O"]
    with pytest.raises(InputError, match="no single column"):
        as_molecules(Frame({"a": ["C"]}), "b")


def test_an_object_of_another_kind_is_a_row_with_a_reason() -> None:
    found = as_molecules(["C", 5, ETHANOL])
    assert found.texts == ["C", "", "CCO"]
    assert found.problems == ["", "not a SMILES but int", ""]
    assert found.reasons(["", "empty SMILES", ""]) == ["", "not a SMILES but int", ""]
    with pytest.raises(TypeError, match="one SMILES per row"):
        as_molecules([["C", "CC"]])
    for numbers, kind in (([1, 2], "int"), (np.array([0.5, 1.5, 2.5]), "float")):  # a column that was mistaken
        with pytest.raises(TypeError, match=f"found {len(numbers)} values of type {kind}, expected one SMILES; the"):
            as_molecules(numbers)
    assert as_molecules([None, float("nan")]).texts == ["", ""]


def test_no_library_of_tables_is_imported() -> None:
    code = (
        "import sys, json; from dnd.tables.molecules import as_molecules; as_molecules(['C']);"
        "print(json.dumps(sorted({'pandas', 'polars', 'torch'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
