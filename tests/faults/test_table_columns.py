"""Columns of a table: unique names that no column has, and one set of names in every table, report and prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnd.common.errors import InputError
from dnd.report.model_report import write_model_report
from dnd.store.prepare import prepare
from dnd.store.settings import PrepareConfig
from dnd.tables.molecules import open_molecules, resolve_columns
from dnd.tables.readers import read_table, unique_names
from dnd.tables.writers import csv_rows, csv_text, guarded
from finetuning_toys import heavy_atoms, molecules, quietly, write_csv

NAMES = ["-logS", "=x", "+", "@y", "µ", 'q"q', "a\nb", "n" * 500, "y", "y,z"]
SDF = """a
  Own     01012512003D

  1  0  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
M  END
>  <title>
field

>  <title.2>
other

$$$$
"""


@given(st.lists(st.sampled_from(["", "y", "y.2", "y.3", "y.1", "column_1", "column_2"]), max_size=12))
def test_every_name_is_there_once_and_a_made_one_is_no_column_of_the_header(header: list[str]):
    names = unique_names(header)
    assert len(set(names)) == len(names) == len(header)
    for given_name, name in zip(header, names, strict=True):
        assert name == given_name or name not in header


def test_a_repeated_name_never_hides_a_column(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text("smiles,y,y.2,y\nCCO,0,1.5,1000\n")
    with open_molecules(path) as table:
        (row,) = table
        assert row.values == {"smiles": "CCO", "y": "0", "y.2": "1.5", "y.3": "1000"}
        assert table.repeated == {"y"}


def test_data_fields_of_an_sdf_are_columns_beside_its_own(tmp_path: Path):
    (tmp_path / "t.sdf").write_text(SDF)
    with open_molecules(tmp_path / "t.sdf") as table:
        (row,) = table
    assert row.values == {"smiles": "C", "title": "a", "title.3": "field", "title.2": "other"}


def test_a_request_that_is_ambiguous_is_refused_in_every_verb(tmp_path: Path):
    smiles = molecules()
    path = tmp_path / "t.csv"
    path.write_text("smiles,y,y.1,y\n" + "".join(f"{text},0,{place},1\n" for place, text in enumerate(smiles)))
    with pytest.raises(InputError, match="more than one column named 'y'"):
        quietly(path, tmp_path / "model", ["y"])
    with pytest.raises(InputError, match="more than one column named 'y'"):
        prepare([path], tmp_path / "store", PrepareConfig(target_columns=("y",)))
    with pytest.raises(InputError, match="a list of others"):
        resolve_columns(["smiles", "a", "b", "a,b"], ["a,b"])
    assert resolve_columns(["smiles", "a", "b"], ["a,b"]) == ["a", "b"]


def test_a_column_named_like_a_made_one_is_no_repeated_one(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text("smiles,y,y.1\nCCO,1,2\n")
    assert read_table(path).repeated == frozenset()


@pytest.mark.parametrize("names", [("y", "y_pred"), ("smiles_pred", "row"), ("y", "y_low")])
def test_targets_whose_outputs_would_collide_are_refused_before_training(tmp_path: Path, names: tuple[str, str]):
    values = list(range(len(molecules())))
    data = write_csv(tmp_path / "t.csv", {"smiles": molecules(), names[0]: values, names[1]: values[::-1]})
    with pytest.raises(InputError, match="would both have a column"):
        quietly(data, tmp_path / "model", list(names))
    assert not (tmp_path / "model").exists()


def test_any_name_gives_the_same_tables_and_report(tmp_path: Path):
    smiles = molecules()
    sizes = {name: [heavy_atoms(text) + place for text in smiles] for place, name in enumerate(NAMES)}
    data = write_csv(tmp_path / "t.csv", {"smiles": smiles, **sizes})
    quietly(data, tmp_path / "model", NAMES, "loop.epochs=1")
    rows = csv_rows(tmp_path / "model" / "test_predictions.csv")
    assert list(rows[0]) == ["row", "smiles", *(name + end for name in NAMES for end in ("", "_pred"))]
    for row in rows:
        assert [float(row[name]) for name in NAMES] == [heavy_atoms(row["smiles"]) + n for n in range(len(NAMES))]
    assert "test" in write_model_report(tmp_path / "model").read_text()


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=20)


@given(st.lists(st.one_of(TEXT, st.sampled_from(["=x", "'=x", "''-A1", "-5", "+x", "@"])), min_size=2, max_size=2))
def test_a_table_of_ours_is_read_back_exactly_and_runs_nothing(cells: list[str]):
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".csv", encoding="utf-8", newline="") as file:
        file.write(csv_text(["a", f"b{cells[0]}"], [cells]))
        file.flush()
        assert csv_rows(Path(file.name)) == [{"a": cells[0], f"b{cells[0]}": cells[1]}]


@pytest.mark.parametrize(
    "text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\tx", "-2+3", "-cmd|' /C calc'!A0", "-LOG10", "-1*A1"]
)
def test_what_a_spreadsheet_would_run_is_guarded(text: str):
    assert guarded(text) == f"'{text}"


@pytest.mark.parametrize(
    "text", ["-0,02", "-5%", "+/- 3", "-log", "1,2e-3", "-1.234,5", "-3 mg/mL", "-1|1", "+ve", "-"]
)
def test_what_is_no_formula_stays_as_it_is(text: str):
    assert guarded(text) == text
