"""Two routes to one table, and two names of one column, have one answer."""

from __future__ import annotations

import csv
import gzip
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

from dnd.common.errors import InputError
from dnd.conformers.formats import open_sdf
from dnd.finetuning.check_data import check_data
from dnd.finetuning.splits import index_split, ordered_split
from dnd.prediction.evaluate import evaluate_file
from dnd.prediction.files import predict_file
from dnd.predictor.predictor import Predictor
from dnd.tables.labels import LabelRules, read_column
from dnd.tables.molecules import as_molecules, open_molecules
from finetuning_toys import heavy_atoms, molecules, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("fifth"))


def test_utf_32_with_the_longer_byte_first_needs_no_mark(tmp_path: Path) -> None:
    """It was read as Latin-1 with zeros: no row had a molecule, exit code 0."""
    (tmp_path / "in.csv").write_bytes("smiles,y\nCCO,1\n".encode("utf-32-be"))
    with open_molecules(tmp_path / "in.csv") as table:
        assert [row.smiles for row in table] == ["CCO"]


@pytest.mark.parametrize(("out", "mark"), [("out.tsv", ","), ("out.csv", ".")])
def test_tsv_keeps_its_decimal_commas(tmp_path: Path, model: Path, out: str, mark: str) -> None:
    """Predictions had points beside the user's commas, though not where the same table had another ending."""
    (tmp_path / "in.tsv").write_text("smiles\tz\nCCO\t1,5\nCCN\t2,25\n")
    predict_file(Predictor.load(model, device="cpu"), tmp_path / "in.tsv", str(tmp_path / out))
    with (tmp_path / out).open(newline="") as stream:
        row = next(csv.DictReader(stream, delimiter="\t" if out.endswith("tsv") else ","))
    assert row["z"] == "1,5"
    value = next(value for name, value in row.items() if name.endswith("_pred"))
    assert mark in value


def test_labels_beside_a_packed_sdf_have_the_same_name(tmp_path: Path) -> None:
    mol = Chem.MolFromSmiles("CCO")
    mol.SetProp("_Name", "t")
    block = Chem.MolToMolBlock(mol) + "$$$$\n"
    (tmp_path / "a.sdf.gz").write_bytes(gzip.compress(block.encode()))
    (tmp_path / "a.sdf.csv").write_text("id,y\nt,1.5\n")
    assert [record.targets for record in open_sdf(tmp_path / "a.sdf.gz", ["y"]).records] == [(1.5,)]
    shutil.copy(tmp_path / "a.sdf.csv", tmp_path / "a.sdf.gz.csv")
    with pytest.raises(InputError, match="two tables may hold the labels"):
        open_sdf(tmp_path / "a.sdf.gz", ["y"])


# Columns.


def test_columns_of_pandas_may_be_numbers() -> None:
    """`smiles_column=0` was refused with `found 0, 1`."""
    frame = pd.DataFrame([["x", "CCO"], ["y", "CCN"]])
    assert as_molecules(frame, 1).texts == ["CCO", "CCN"]  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [["CCO"], np.array(["CCO"]), pd.Series(["CCO"]), "CCO", Chem.MolFromSmiles("CCO")])
def test_a_column_of_what_has_none_is_refused(given: object) -> None:
    with pytest.raises(InputError, match="no column 'x'"):
        as_molecules(given, "x")
    assert as_molecules(pd.Series(["CCO"], name="x"), "x").texts == ["CCO"]


def test_columns_with_commas_between_are_counted_before_they_are_judged(tmp_path: Path, model: Path) -> None:
    """`--target-columns z,y` of a model of one target judged `z` and said nothing of `y`."""
    (tmp_path / "in.csv").write_text("smiles,y,z\nCCO,1,5\nCCN,2,6\n")
    predictor = Predictor.load(model, device="cpu")
    with pytest.raises(InputError, match="differ in number"):
        evaluate_file(predictor, tmp_path / "in.csv", target_columns=["z,y"])
    assert evaluate_file(predictor, tmp_path / "in.csv", target_columns=["z"])["molecules"] == 2


@pytest.mark.parametrize("name", ["error", "in_domain", "row"])
def test_check_names_no_target_that_finetune_refuses(tmp_path: Path, name: str) -> None:
    rows = [f"{text},{heavy_atoms(text)}" for text in molecules()]
    (tmp_path / "in.csv").write_text(f"smiles,{name}\n" + "\n".join(rows) + "\n")
    facts = check_data(tmp_path / "in.csv", target_columns=[name])
    assert "would both have a column" in facts.targets[0].problem


def test_check_refuses_targets_whose_outputs_are_the_same(tmp_path: Path) -> None:
    rows = [f"{text},{heavy_atoms(text)},{heavy_atoms(text) ** 2}" for text in molecules()]
    (tmp_path / "in.csv").write_text("smiles,y,y_pred\n" + "\n".join(rows) + "\n")
    facts = check_data(tmp_path / "in.csv", target_columns=["y", "y_pred"])
    assert "would both have a column 'y_pred'" in facts.split_problem


def test_check_names_no_column_that_is_there_twice(tmp_path: Path) -> None:
    """Its next line was refused by `finetune`."""
    rows = [f"{text},{heavy_atoms(text)},{heavy_atoms(text) ** 2}" for text in molecules()]
    (tmp_path / "in.csv").write_text("smiles,y,y\n" + "\n".join(rows) + "\n")
    facts = check_data(tmp_path / "in.csv")
    assert facts.chosen == ("y.2",)
    assert "several columns" in facts.others["y"]


def test_a_number_of_another_kind_is_no_header(tmp_path: Path) -> None:
    """`5e1` in the first line has a letter, and its row was left out."""
    for name, text in (("a", "0\n1\n"), ("b", "2\n"), ("c", "3e0\n4\n")):
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="found '3e0'"):
        index_split([tmp_path / name for name in "abc"], np.arange(9))


def test_whole_numbers_are_whole_with_a_point_too() -> None:
    """Two classes became one, as `9007199254740993` alone did once."""
    cells = ["9007199254740993.0", "9007199254740992.0", "1.0"]
    with pytest.raises(InputError, match="beyond 2\\^53"):
        read_column(cells, places=[2, 3, 4], column="y", rules=LabelRules())
    floats = ["1.2345678901234567e20", "9007199254740992.0", "0.5"]  # as programs write floats
    assert read_column(floats, places=[2, 3, 4], column="y", rules=LabelRules()).values[0] == 1.2345678901234567e20


def test_a_column_of_one_time_has_no_order() -> None:
    """The rows were dealt in the order of the file, as if it were time."""
    split, _ = ordered_split(["2020-01-01"] * 60)
    assert [len(part) for part in split.parts().values()] == [60, 0, 0]
