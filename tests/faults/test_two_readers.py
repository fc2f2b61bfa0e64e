"""The quick way from a SMILES to a graph and the plain one agree: what one refuses, the other never reads."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from dnd.chemistry.notation import foreign_notation
from dnd.chemistry.parse import parse_smiles
from dnd.common.errors import InputError
from dnd.common.files import write_json
from dnd.common.runs import sealed_line
from dnd.conformers.formats import open_arrays, open_sdf
from dnd.finetuning.check_data import check_data
from dnd.graphs.fast.graphs import rewrite
from dnd.prediction.embedder import load_embedder
from dnd.prediction.evaluate import evaluate_file, metric_lines
from dnd.prediction.files import embed_file, predict_file
from dnd.prediction.screen.screen import ScreenConfig, screen
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import Target
from dnd.store.featurize import featurize_smiles
from dnd.tables.labels import LabelRules, class_key, read_column
from dnd.tables.readers import read_table
from dnd.tables.writers import require_other_file
from finetuning_toys import heavy_atoms, molecules, quietly

CORPUS = Path(__file__).parents[1] / "corpus" / "smiles.tsv"
GOLDEN = Path(__file__).parents[1] / "golden"
SELFIES = ["[C][C][O]", "[C][C]", "[C][Cl]", "[C][C][C][Branch1][C][F][O]"]


def corpus() -> list[str]:
    with CORPUS.open(encoding="utf-8", newline="") as stream:
        cells = [json.loads(row["text"]) for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)]
    return [cell for cell in cells if isinstance(cell, str)]


def test_the_quick_way_reads_nothing_that_the_plain_way_refuses():
    read = 0
    for text in [*corpus(), *SELFIES]:
        quick, plain = rewrite(text), parse_smiles(text)
        if quick is not None:
            assert plain.ok, text
            assert quick.smiles == plain.smiles, text
            read += 1
    assert read > 50


@pytest.mark.parametrize("text", SELFIES)
def test_selfies_are_named_in_small_and_in_large_tables(text: str):
    for count in (1, 40):
        outcomes = featurize_smiles([text] * count, "heavy_both")
        assert {outcome.graph is None and "SELFIES" in outcome.reason for outcome in outcomes} == {True}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CHEMBL545", "a number of a database"),
        ("CID 702", "a number of a database"),
        ("DB00898", "a number of a database"),
        ("C2H6O", "a formula"),
        ("NaHCO3", "a formula"),
        ("XYHZ2", None),
    ],
)
def test_a_text_is_named_for_what_it_is(text: str, name: str | None):
    assert foreign_notation(text) == name


# Two columns, two tables, two ways to write one thing.


def test_a_vector_has_no_name_that_the_table_has_already(tmp_path: Path) -> None:
    """Only `embedding_0` was looked for, so `embedding_1` came twice."""
    (tmp_path / "in.csv").write_text("smiles,embedding_1\nCCO,3\n")
    encoder = load_embedder(GOLDEN / "formats-1" / "encoder", device="cpu")
    with pytest.raises(InputError, match="already has a column 'embedding_1'"):
        embed_file(encoder, tmp_path / "in.csv", str(tmp_path / "out.csv"))


def test_an_array_of_vectors_has_no_names_that_a_table_could_have(tmp_path: Path) -> None:
    """The output of an earlier run was refused for its column `error`, which no `.npy` has."""
    (tmp_path / "in.csv").write_text("smiles,embedding,embedding_1,error\nCCO,1,2,\n")
    encoder = load_embedder(GOLDEN / "formats-1" / "encoder", device="cpu")
    assert embed_file(encoder, tmp_path / "in.csv", str(tmp_path / "out.npy")).rows == 1
    for name in ("out.csv", "out.parquet"):
        with pytest.raises(InputError, match="already has a column"):
            embed_file(encoder, tmp_path / "in.csv", str(tmp_path / name))


def test_an_accent_has_one_spelling() -> None:
    """A table of one program and one of another were two classes that look alike."""
    one, other = "caf\u00e9", "cafe\u0301"
    assert class_key(one) == class_key(other.upper())
    column = read_column([one, other, "x"], places=[2, 3, 4], column="y", rules=LabelRules())
    assert len(set(column.values[:2])) == 1


@pytest.mark.parametrize(
    ("mean", "std", "digits"),
    [(-2.7, 2.2, 8), (450.0, 30.0, 8), (1e8, 0.22, 14), (1e15, 22.0, 17), (0.0, 1e-45, 8), (5.0, 1.0, 8)],
)
def test_a_value_far_from_zero_keeps_the_digits_of_its_spread(mean: float, std: float, digits: int) -> None:
    assert Target("y", mean=mean, std=std).digits == digits


def test_labels_far_from_zero_are_predicted_to_more_than_the_mean(tmp_path: Path) -> None:
    """The file said 1e+08 of every molecule, with ends of intervals that were the same."""
    rows = [f"{text},{1e8 + heavy_atoms(text) / 10!r}" for text in molecules()]
    (tmp_path / "in.csv").write_text("smiles,y\n" + "\n".join(rows) + "\n")
    quietly(tmp_path / "in.csv", tmp_path / "model", ["y"])
    model = Predictor.load(tmp_path / "model", device="cpu")
    predict_file(model, tmp_path / "in.csv", str(tmp_path / "out.csv"))
    with open(tmp_path / "out.csv", newline="") as stream:
        told = [float(row["y_pred"]) for row in csv.DictReader(stream)]
    assert told == pytest.approx(model.predict(molecules())["y_pred"].tolist(), abs=1e-5)
    screen([tmp_path / "in.csv"], tmp_path / "model", tmp_path / "hits", ScreenConfig(jobs=1, top=5))
    with open(tmp_path / "hits" / "top.csv", newline="") as stream:
        assert [float(row["y_pred"]) for row in csv.DictReader(stream)] == sorted(told, reverse=True)[:5]
    assert len(set(told)) > 1


@pytest.mark.parametrize("size", [1e-300, 1e-310])
def test_labels_whose_squares_are_nothing_are_refused_in_one_line(tmp_path: Path, size: float) -> None:
    """It was an internal error."""
    rows = [f"{text},{heavy_atoms(text) * size!r}" for text in molecules()]
    (tmp_path / "in.csv").write_text("smiles,y\n" + "\n".join(rows) + "\n")
    assert check_data(tmp_path / "in.csv", target_columns=["y"]) is not None
    with pytest.raises(InputError, match="no usable spread"):
        quietly(tmp_path / "in.csv", tmp_path / "model", ["y"])


def test_contradicting_labels_are_counted_by_evaluate_too(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("smiles,active\nCCO,0\nOCC,1\nC(C)O,1\nCCN,0\n")
    rows = [f"{text},{heavy_atoms(text) % 2}" for text in molecules()]
    (tmp_path / "train.csv").write_text("smiles,active\n" + "\n".join(rows) + "\n")
    quietly(tmp_path / "train.csv", tmp_path / "model", ["active"])
    lines = metric_lines(evaluate_file(Predictor.load(tmp_path / "model", device="cpu"), tmp_path / "in.csv"))
    note = "note: active: 1 molecule was measured more than once (3 rows); 1 contradicts itself, such as CCO."
    assert note in lines


@pytest.mark.parametrize(
    ("content", "name"), [("<!DOCTYPE html><html>", "HTML"), ('{"smiles": "CCO"}\n', "JSON"), ("<?xml version", "XML")]
)
def test_what_is_no_table_is_named(tmp_path: Path, content: str, name: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(InputError, match=name):
        read_table(tmp_path / "x.csv")


def test_a_column_that_is_there_twice_is_not_offered_as_a_choice(tmp_path: Path) -> None:
    """`Choose with --smiles-column` was followed by a refusal."""
    (tmp_path / "x.csv").write_text("smiles,id,smiles\nCCO,1,CCN\n")
    with pytest.raises(InputError, match="Rename all but one"):
        read_table(tmp_path / "x.csv", smiles_column=None)


def records(*molecules: tuple[str, str]) -> str:
    """An SDF of titles and SMILES."""
    found = []
    for title, smiles in molecules:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMolecule(mol, randomSeed=1)
        mol.SetProp("_Name", title)
        found.append(f"{Chem.MolToMolBlock(mol)}$$$$\n")
    return "".join(found)


def labels_beside(folder: Path, sdf: str, table: str) -> list[object]:
    """The label of each record, or why it has none."""
    (folder / "x.sdf").write_text(sdf)
    (folder / "x.sdf.csv").write_text(table)
    return [record.problem or record.targets[0] for record in open_sdf(folder / "x.sdf", ["y"]).records]


def test_titles_and_ids_that_a_spreadsheet_wrote_otherwise_are_not_joined_by_row(tmp_path: Path) -> None:
    """`001` beside 1: the rows were taken in their order, each label for the other molecule."""
    sdf = records(("001", "CCO"), ("002", "CCN"))
    found = labels_beside(tmp_path, sdf, "id,y\n2,5\n1,6\n")
    assert all("in another row" in str(one) for one in found)
    assert labels_beside(tmp_path, sdf, "id,y\n1,5\n2,6\n") == [5.0, 6.0]
    assert labels_beside(tmp_path, sdf, "id,y\nA-7,5\nA-9,6\n") == [5.0, 6.0]  # ids of another kind say nothing


def test_two_columns_of_ids_that_disagree_are_refused(tmp_path: Path) -> None:
    sdf = records(("a", "CCO"), ("b", "CCN"))
    with pytest.raises(InputError, match="two columns"):
        labels_beside(tmp_path, sdf, "name,id,y\nb,a,1\na,b,2\n")
    assert labels_beside(tmp_path, sdf, "name,id,y\nb,b,1\na,a,2\n") == [2.0, 1.0]


def test_numbers_of_atoms_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    """Element 8.5 was oxygen."""
    water = {"R": np.zeros((3, 3), np.float32), "n_atoms": np.array([3]), "smiles": np.array(["O"])}
    np.savez(tmp_path / "x.npz", Z=np.array([8.5, 1, 1]), **water)
    with pytest.raises(InputError, match="not whole"):
        open_arrays(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["card.md", "manifest.json"])
def test_a_prediction_does_not_replace_a_file_of_a_model(tmp_path: Path, name: str) -> None:
    """The model was damaged by its own prediction."""
    folder = Path(shutil.copytree(GOLDEN / "formats-1" / "predictor", tmp_path / "model"))
    with pytest.raises(InputError, match="finished folder"):
        require_other_file("CCO", str(folder / name))
    require_other_file("CCO", str(folder / "predictions.csv"))


def test_a_name_that_is_no_utf_8_is_refused_where_a_run_would_write_it_down(tmp_path: Path) -> None:
    """It was an internal error of `finetune`; verbs that write no name down take such files."""
    with pytest.raises(InputError, match=r"found 't\\udcff.csv', expected names in UTF-8. Rename"):
        sealed_line({"data": os.fsdecode(b"t\xff.csv")})
    with pytest.raises(InputError, match=r"found 't\\udcff.csv'"):
        write_json(tmp_path / "x.json", {"data": os.fsdecode(b"t\xff.csv")})
    assert not list(tmp_path.iterdir())
