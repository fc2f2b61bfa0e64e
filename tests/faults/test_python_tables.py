"""Tables of Python callers: whatever the type of a column, the labels are those that the same table in a file has."""

from __future__ import annotations

import datetime
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import dnd
from dnd.common.errors import InputError, named_as
from dnd.finetuning.labelled_data import read_labelled
from dnd.interface import stages
from dnd.interface.model import as_file, as_files
from dnd.prediction.estimator_base import target_names
from dnd.tables.molecules import resolve_columns
from dnd.tables.readers import read_table
from finetuning_toys import molecules

SMILES = molecules()[:12]
NUMBERS = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] * 2


def labels_of(table: Any, name: str = "y") -> tuple[list[float], list[str]]:
    """The labels that `dnd.finetune` learns from a table, and the words of its classes."""
    with as_file(table, None, [name]) as (path, column):
        found = read_labelled(path, [name], "heavy_both", smiles_column=column, jobs=1)
    return found.targets_BC[:, 0].tolist(), list(found.classes[0])


def frame(values: Any, name: Any = "y") -> pd.DataFrame:
    return pd.DataFrame({"smiles": SMILES, name: values})


@pytest.mark.parametrize(
    "values",
    [
        pd.array([1, 2, 3, 4, 5, 6] * 2, dtype="Int64"),
        pd.array(NUMBERS, dtype="double[pyarrow]"),
        pd.array([f"{value}".replace(".", ",") for value in NUMBERS], dtype="string[pyarrow]"),
        pd.Categorical(NUMBERS),
        pd.arrays.SparseArray(NUMBERS),
        pd.array([Decimal(value) for value in NUMBERS], dtype=pd.ArrowDtype(pa.decimal128(5, 2))),
        [Fraction(int(value) * 2, 2) for value in NUMBERS],
        [np.float32(value) for value in NUMBERS],
        [np.array([value]) for value in NUMBERS],
        [f"{value}".encode() for value in NUMBERS],
        [pa.scalar(value) for value in NUMBERS],
    ],
    ids=[
        *("Int64", "double", "string", "categories", "sparse", "decimal"),
        *("fractions", "numpy", "arrays", "bytes", "arrow"),
    ],
)  # fmt: skip
def test_numbers_are_numbers_in_every_type_of_column(values: Any) -> None:
    assert labels_of(frame(values)) == (NUMBERS, [])


@pytest.mark.parametrize("none", [None, pd.NA, np.nan, pd.NaT, Decimal("NaN")])
def test_what_is_missing_is_missing_in_every_type_of_column(none: Any) -> None:
    assert labels_of(frame(pd.Series([none, *NUMBERS[1:]], dtype=object))) == (NUMBERS[1:], [])
    assert labels_of({"smiles": SMILES, "y": np.ma.array(np.array(NUMBERS), mask=np.arange(12) == 0)}) == (
        NUMBERS[1:],
        [],
    )
    words = pd.array([none, *["lo", "hi"] * 5, "lo"], dtype=object)
    assert labels_of(frame(pd.Series(words)))[1] == ["hi", "lo"]


def test_a_table_of_arrow_is_a_table_for_every_verb() -> None:
    """`dnd.predict` took one, and `dnd.finetune` refused it with all that it holds."""
    table = pa.table({"smiles": SMILES, "y": pa.array([None, *NUMBERS[1:]])})
    assert labels_of(table) == (NUMBERS[1:], [])
    assert labels_of(table.set_column(1, "y", pa.array(["a", "b"] * 6).dictionary_encode())) == (
        [0.0, 1.0] * 6,
        ["a", "b"],
    )
    with (
        pytest.raises(InputError, match="more than one column named 'y'"),
        as_file(table.append_column("y", table["y"])),
    ):
        pass


def test_a_column_of_smiles_is_found_by_one_rule() -> None:
    table = pd.DataFrame({"canonical_smiles": SMILES, "y": NUMBERS})
    assert labels_of(table) == (NUMBERS, [])
    with pytest.raises(InputError, match="not clear which column"):
        labels_of(pd.DataFrame({"smiles_a": SMILES, "smiles_b": SMILES, "y": NUMBERS}))
    with pytest.raises(InputError, match="no single column 'z'"), as_file(table, "z"):
        pass


@pytest.mark.parametrize("names", [["smiles", "y", "y"], ["smiles", "5", 5]])
def test_two_columns_of_one_name_are_refused_and_none_is_taken(names: list[Any]) -> None:
    """A mapping by name kept the second one; of two columns y the names were taken for cells."""
    table = pd.DataFrame([[text, 1.0, 2.0] for text in SMILES], columns=names)
    with pytest.raises(InputError, match=f"more than one column named '{names[1]}'"):
        labels_of(table, str(names[1]))


@pytest.mark.parametrize(
    "value",
    [
        pd.Timestamp("2024-01-31"), datetime.date(2024, 1, 31), pd.Timedelta("1D"), np.timedelta64(1, "D"),
        np.datetime64("2024-01-31"), pd.Period("2024-01"), pd.Interval(0, 1), 1 + 2j, [1.0], (1, 2), {"a": 1},
        np.array([1.0, 2.0]), object(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_label_that_is_neither_a_number_nor_a_word_is_refused(value: Any) -> None:
    """They were classes, one for each date."""
    for cells in ([value] * 12, [*NUMBERS[:11], value]):
        column = pd.Series(cells, dtype=object)
        with pytest.raises(InputError, match=r"neither a number nor a word: found .* in row"):
            labels_of(frame(column))
        assert len(labels_of(frame(NUMBERS).assign(other=column))[0]) == 12  # in a column that nobody learns


def test_blanks_around_a_name_do_not_matter_where_pandas_keeps_them() -> None:
    table = pd.DataFrame({" smiles": SMILES, "y ": NUMBERS})
    with as_file(table, " smiles", ["y "]) as (path, column):
        assert read_labelled(path, ["y "], "heavy_both", smiles_column=column, jobs=1).names == ("y",)
    assert resolve_columns(["y", " y"], [" y"]) == [" y"]
    with pytest.raises(InputError, match=r"the table has no column ' z '"), as_file(table, None, []) as (path, column):
        read_labelled(path, [" z "], "heavy_both", smiles_column=column, jobs=1)


def test_half_a_character_and_a_numbered_column_are_no_obstacle() -> None:
    with as_file({"smiles": ["CC"], "y": [1], "note": ["a\ud800"]}, None, ["y"]) as (path, _):
        assert "a?" in path.read_text(encoding="utf-8")
    assert stages._names(5) == ["5"]
    assert stages._names(("a", 5)) == ["a", "5"]


def test_a_list_with_the_name_of_a_file_is_one_of_files(tmp_path: Path) -> None:
    for names in ([str(tmp_path / "a.csv")], [tmp_path / "a.csv"], ["a.csv", "CCO"]):
        with as_files(names) as (paths, _):
            assert paths == [Path(name) for name in names]
    with as_files(["CCO", "CC"]) as (paths, _):
        assert paths[0].read_text().splitlines() == ["smiles", "CCO", "CC"]


def test_a_folder_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder: expected a file of molecules"):
        read_table(tmp_path)


def test_an_estimator_names_no_file_and_takes_blanks_around_a_name_for_none() -> None:
    with pytest.raises(InputError, match=r"^the table has no row$"), named_as({"/tmp/t.csv": "the table"}):
        raise InputError("/tmp/t.csv has no row")
    assert target_names(pd.DataFrame({"y ": NUMBERS}), 1) == ["y"]
    for wrong in (pd.DataFrame({"y": NUMBERS, "y ": NUMBERS}), pd.DataFrame({"smiles ": NUMBERS})):
        with pytest.raises(ValueError, match="expected different names"):
            target_names(wrong, wrong.shape[1])


def test_an_estimator_takes_no_dates_for_numbers() -> None:
    for values in (pd.date_range("2024-01-01", periods=12), np.arange(12).astype("m8[D]"), np.ones(12) * 1j):
        with pytest.raises(ValueError, match="y must be numbers, not"):
            dnd.DndRegressor(recipe="small", epochs=1).fit(SMILES, values)


def test_an_estimator_says_to_pass_the_column_of_smiles_alone() -> None:
    table = pd.DataFrame({"id": range(len(SMILES)), "Structure": SMILES})
    for estimator in (dnd.DndRegressor(), dnd.DndEmbedder()):
        with pytest.raises(InputError, match=r"Pass that column alone, such as X\['Structure'\]"):
            estimator.fit(table, NUMBERS)


def test_an_estimator_says_what_reads_limits() -> None:
    with pytest.raises(ValueError, match=r"y must be numbers.*'<5'.*are read by dnd.finetune"):
        dnd.DndRegressor().fit(SMILES, ["<5"] * len(SMILES))


@pytest.mark.parametrize("text", ["CC(=O)[O-].[Na+]", "CCN.Cl", "c1ccccc1.OS(=O)(=O)O"])
def test_a_salt_is_a_molecule_and_no_name_of_a_file(text: str) -> None:
    with as_file(text) as (path, column):
        assert path.read_text().splitlines() == ["smiles", text]
        assert column == "smiles"


@pytest.mark.parametrize(("text", "labels"), [("there-is-none.csv", []), ("none.smi.gz", []), ("none.cvs", ["y"])])
def test_a_name_of_a_file_that_is_not_there_stays_one(text: str, labels: list[str]) -> None:
    with as_file(text, None, labels) as (path, column):
        assert str(path) == text
        assert column is None


def test_a_wide_table_costs_time_by_its_columns_and_not_by_their_pairs() -> None:
    """20,000 columns of descriptors took 26 seconds before the first was read."""
    wide = {"smiles": SMILES, **{f"x{place}": NUMBERS for place in range(20_000)}}
    begin = time.process_time()
    with as_file(wide) as (path, _):
        assert path.is_file()
    assert resolve_columns(list(wide), list(wide)) == list(wide)
    assert time.process_time() - begin < 8
