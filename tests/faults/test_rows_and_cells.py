"""Rows are numbered as a spreadsheet does it, cells come back as they were, the SMILES column is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dnd.common.errors import ConfigError, InputError
from dnd.finetuning.finetune import finetune
from dnd.finetuning.splits import partitions
from dnd.prediction.files import embed_file, predict_file
from dnd.predictor.predictor import Predictor
from dnd.report.explain import explain_file
from dnd.store.prepare import prepare
from dnd.store.settings import PrepareConfig
from dnd.tables.molecules import open_molecules
from dnd.tables.readers import look_like_smiles, read_table
from finetuning_toys import heavy_atoms, molecules, quietly, tiny_config
from support.said import said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained from a table with semicolons, decimal commas and SMILES in a column `Ligand`."""
    folder = tmp_path_factory.mktemp("cells")
    rows = [f"LAB-{n};{text};{heavy_atoms(text)},5" for n, text in enumerate(molecules())]
    (folder / "lab.csv").write_text("\ufeffID;Ligand;Größe\n" + "\n".join(rows) + "\n", encoding="utf-8")
    lines: list[str] = []
    with said(lines):
        finetune(folder / "lab.csv", folder / "model", ["Größe"], tiny_config(), encoder="random")
    assert "note: column Größe is read with decimal commas" in lines
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Predictor:
    return Predictor.load(folder / "model")


def test_cells_delimiter_and_decimal_mark_come_back(model: Predictor, tmp_path: Path):
    text = "id;smiles;change;note\n1;CCO;-0,02;-5%\n2;CCN;+/- 3;-log\n3;CCC;1,2e-3;=1+1\n"
    (tmp_path / "in.csv").write_text(text)
    predict_file(model, tmp_path / "in.csv", str(tmp_path / "out.csv"))
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0].startswith("id;smiles;change;note;Größe_pred;")
    assert lines[1].startswith("1;CCO;-0,02;-5%;")
    assert lines[2].startswith("2;CCN;+/- 3;-log;")
    assert lines[3].startswith("3;CCC;1,2e-3;'=1+1;")  # what a spreadsheet would run, and nothing else
    value = lines[1].split(";")[4]
    assert float(value.replace(",", ".")) == pytest.approx(float(model.predict(["CCO"])["Größe_pred"][0]), rel=1e-6)
    assert "." not in value


@pytest.mark.parametrize(
    ("name", "out", "delimiter"),
    [("a.csv", "o.csv", ";"), ("a.csv", "o.tsv", "\t"), ("b.csv", "o.csv", ","), ("c.tsv", "o.csv", ","),
     ("c.tsv", "o.tsv", "\t"), ("d.csv", "o.csv", "|"), ("e.csv", "o.csv", "\t")],
)  # fmt: skip
def test_the_delimiter_is_that_of_the_input_unless_the_name_says_another(
    model: Predictor, tmp_path: Path, name: str, out: str, delimiter: str
):
    of_input = {"a": ";", "b": ",", "c": "\t", "d": "|", "e": "\t"}[name[0]]
    (tmp_path / name).write_text(f"id{of_input}smiles\n1{of_input}CCO\n")
    predict_file(model, tmp_path / name, str(tmp_path / out))
    assert (tmp_path / out).read_text().startswith(f"id{delimiter}smiles{delimiter}")


def test_an_option_that_does_nothing_for_a_format_is_refused(model: Predictor, tmp_path: Path):
    (tmp_path / "in.csv").write_text("smiles\nCCO\n")
    for name, write in (("o.parquet", predict_file), ("o.parquet", embed_file), ("o.npy", embed_file)):
        with pytest.raises(ConfigError, match="--raw is for CSV and TSV"):
            write(model, tmp_path / "in.csv", str(tmp_path / name), raw=True)
    with pytest.raises(ConfigError, match="--smiles-column"):
        explain_file(model, "CCO", tmp_path, smiles_column="x")


# The column of SMILES.


def test_the_column_is_remembered_by_the_model(folder: Path, model: Predictor, tmp_path: Path):
    assert json.loads((folder / "model" / "config.json").read_text())["training"]["smiles_column"] == "Ligand"
    (tmp_path / "in.csv").write_text("smiles,Ligand\nCCO,CCN\n")
    predict_file(model, tmp_path / "in.csv", str(tmp_path / "out.parquet"))
    with open_molecules(tmp_path / "in.csv", remembered=model.smiles_column) as table:
        assert [row.smiles for row in table] == ["CCN"]
    with open_molecules(tmp_path / "in.csv", "smiles", remembered=model.smiles_column) as table:
        assert [row.smiles for row in table] == ["CCO"]


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("id,SMILES\nA1,CCO\n", "SMILES"),
        ("id,Canonical SMILES\nA1,CCO\n", "Canonical SMILES"),
        ("smiles,canonical_smiles\nCCO,OCC\n", "smiles"),
        ("id;Structure;name\nA1;CC(=O)Oc1ccccc1C(=O)O;aspirin\nA2;C;methane\n", "Structure"),
        ("id\tx\nA1\tc1ccccc1O\nA2\tCCO\n", "x"),
        ("Structure,other\nCCO,CCN\nCCC,CCCC\n", "Structure"),
    ],
)
def test_the_column_is_found(tmp_path: Path, text: str, column: str):
    (tmp_path / "t.csv").write_text(text)
    with open_molecules(tmp_path / "t.csv") as table:
        assert table.smiles_column == column


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\nCCO,CCN\nCCC,CCCC\n", "several columns.*'a' and 'b'.*--smiles-column"),
        ("id,name\n1,ethanol\n", "no column 'smiles': found columns id, name"),
        ("CCO,1.5\nCCN,2.5\n", "first line of .* is not a header"),
        ("ligand_smiles,product_smiles\nCCO,CCN\n", "several columns"),
    ],
)
def test_in_doubt_the_column_is_asked_for(tmp_path: Path, text: str, message: str):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message), open_molecules(tmp_path / "t.csv"):
        pass


def test_words_and_numbers_are_no_smiles():
    assert look_like_smiles(["CCO", "c1ccccc1", ""])
    for cells in (["1.5", "2"], ["A1", "B2"], ["yes", "no"], ["CN", "NO"], ["aspirin"], ["", ""]):
        assert not look_like_smiles(cells)


# Numbers of rows.


def test_places_are_those_of_a_spreadsheet(tmp_path: Path):
    (tmp_path / "t.csv").write_text('smiles,note\nC,a\n\nCC,"two\nlines"\nCCC,c\n')
    assert [(row.number, row.place) for row in read_table(tmp_path / "t.csv")] == [(0, 2), (1, 4), (2, 5)]
    (tmp_path / "t.smi").write_text("C a\n\nCC b\n")
    assert [row.place for row in read_table(tmp_path / "t.smi")] == [1, 3]


def test_messages_name_the_row_of_the_spreadsheet(model: Predictor, tmp_path: Path):
    (tmp_path / "in.csv").write_text("smiles\nCCO\nC1CC\n")
    summary = predict_file(model, tmp_path / "in.csv", str(tmp_path / "out.csv"))
    assert summary.first_error.startswith("row 3: unclosed ring")
    explained = explain_file(model, tmp_path / "in.csv", tmp_path / "drawn")
    assert explained.first_error.startswith("row 3: unclosed ring")
    rows = [f"{text},{n},train" for n, text in enumerate(molecules())]
    (tmp_path / "part.csv").write_text("smiles,y,part\n" + "\n".join([*rows[:5], rows[5] + "s", *rows[6:]]) + "\n")
    with pytest.raises(InputError, match="row 7 of the split column: found 'trains'"):
        quietly(tmp_path / "part.csv", tmp_path / "m", ["y"], "split=column:part")


def test_a_row_that_the_table_has_not_is_named(tmp_path: Path):
    for name, rows in (("train", range(1, 21)), ("valid", range(21, 26)), ("test", range(26, 31))):
        (tmp_path / name).write_text("".join(f"{row}\n" for row in rows))
    split = "index:" + ",".join(str(tmp_path / name) for name in ("train", "valid", "test"))
    with pytest.raises(InputError, match=r"row 30 of .*test is not in the table: found rows 0 to 29"):
        partitions(split, ["C"] * 30)
    assert len(partitions(split, ["C"] * 31)[0].test) == 5


@pytest.mark.parametrize(
    ("first", "is_header"), [("row", True), ("", True), ("20.0", False), ("20,21", False), ("-1", False)]
)
def test_only_words_are_the_header_of_a_list_of_rows(tmp_path: Path, first: str, is_header: bool):
    (tmp_path / "train").write_text("".join(f"{row}\n" for row in range(20)))
    (tmp_path / "valid").write_text(f"{first}\n21\n22\n")
    (tmp_path / "test").write_text("23\n24\n")
    split = "index:" + ",".join(str(tmp_path / name) for name in ("train", "valid", "test"))
    if is_header:
        assert partitions(split, ["C"] * 25)[0].valid.tolist() == [21, 22]
        return
    with pytest.raises(InputError, match=f"valid is not a list of row numbers: found '{first}'"):
        partitions(split, ["C"] * 25)


def test_the_reason_why_nothing_was_kept_is_shown_as_it_is(tmp_path: Path):
    (tmp_path / "a.xyz").write_text("-3\n\n")
    with pytest.raises(InputError, match="found 1 x read: number of atoms is '-3', expected 1 to 2048"):
        prepare([tmp_path / "a.xyz"], tmp_path / "store", PrepareConfig())


def test_a_text_that_is_neither_file_nor_smiles_says_why(model: Predictor, tmp_path: Path):
    with pytest.raises(InputError, match=r"no file 'C1CC\(', and it is not a SMILES either: found syntax error"):
        explain_file(model, "C1CC(", tmp_path)
