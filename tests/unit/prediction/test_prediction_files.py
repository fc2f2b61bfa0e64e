"""Files in, files out: formats, kept rows and columns, guarded cells, nothing half-written."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from dnd.chemistry.identity import identities_of
from dnd.chemistry.parse import parse_smiles
from dnd.common.errors import InputError
from dnd.prediction import files
from dnd.prediction.evaluate import _lost_labels, _too_large, evaluate_file, metric_lines
from dnd.prediction.files import embed_file, predict_file
from dnd.predictor.metrics import with_prediction
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import Target
from finetuning_toys import molecules, other_spelling, quietly, tiny_model, write_csv, write_regression

SMILES = [*molecules()[:7], "no molecule", ""]
NOTES = ["=1+1", "@x", "+a", "-3.5", "plain", "a,b", 'q"q', "", "-x"]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(tiny_model(tmp_path_factory.mktemp("files")), device="cpu")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "in.csv", {"id": list(range(9)), "smiles": SMILES, "note": NOTES})


def read(path: Path) -> list[dict[str, str]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if ".tsv" in path.name else ","))


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.csv.gz", "out.tsv.gz"])
def test_text_tables(predictor: Predictor, table: Path, tmp_path: Path, name: str):
    summary = predict_file(predictor, table, str(tmp_path / name), raw=True)
    rows = read(tmp_path / name)
    assert (summary.rows, summary.errors) == (9, 2)
    assert summary.first_error.startswith("row 9")  # the header is row 1
    assert list(rows[0]) == ["id", "smiles", "note", "size_pred", "in_domain", "domain_reason", "error"]
    assert [row["note"] for row in rows] == NOTES
    assert [row["smiles"] for row in rows] == SMILES
    expected = predictor.predict(SMILES)["size_pred"]
    assert np.allclose([float(row["size_pred"] or "nan") for row in rows], expected, rtol=1e-6, equal_nan=True)
    assert [bool(row["error"]) for row in rows] == [False] * 7 + [True] * 2


def test_formulas_are_guarded_unless_raw(predictor: Predictor, table: Path, tmp_path: Path):
    predict_file(predictor, table, str(tmp_path / "out.csv"))
    notes = [row["note"] for row in read(tmp_path / "out.csv")]
    assert notes == ["'=1+1", "'@x", "'+a", "-3.5", "plain", "a,b", 'q"q', "", "'-x"]


def test_parquet_in_and_out(predictor: Predictor, tmp_path: Path):
    pq.write_table(pa.table({"smiles": SMILES, "n": list(range(9))}), tmp_path / "in.parquet")
    predict_file(predictor, tmp_path / "in.parquet", str(tmp_path / "out.parquet"))
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == ["smiles", "n", "size_pred", "in_domain", "domain_reason", "error"]
    assert found["size_pred"].null_count == 2


def test_smi_and_sdf(predictor: Predictor, tmp_path: Path):
    expected = predictor.predict(SMILES[:7])["size_pred"]
    (tmp_path / "in.smi").write_text("".join(f"{text} name{n}\n" for n, text in enumerate(SMILES[:7])))
    predict_file(predictor, tmp_path / "in.smi", str(tmp_path / "smi.csv"))
    with Chem.SDWriter(str(tmp_path / "in.sdf")) as writer:
        for number, text in enumerate(SMILES[:7]):
            mol = Chem.MolFromSmiles(text)
            mol.SetProp("_Name", f"name{number}")
            mol.SetProp("late" if number > 3 else "early", str(number))
            writer.write(mol)
    with open(tmp_path / "in.sdf", "a") as stream:
        stream.write("torn\n\n\nno counts line\n$$$$\n")
    (tmp_path / "in.sdf.gz").write_bytes(gzip.compress((tmp_path / "in.sdf").read_bytes()))
    predict_file(predictor, tmp_path / "in.sdf", str(tmp_path / "sdf.csv"))
    predict_file(predictor, tmp_path / "in.sdf.gz", str(tmp_path / "gz.csv"))
    smi, sdf = read(tmp_path / "smi.csv"), read(tmp_path / "sdf.csv")
    assert (tmp_path / "sdf.csv").read_bytes() == (tmp_path / "gz.csv").read_bytes()
    assert [row["name"] for row in smi] == [row["title"] for row in sdf[:7]]
    assert list(sdf[0]) == ["smiles", "title", "early", "late", "size_pred", "in_domain", "domain_reason", "error"]
    assert sdf[7]["error"]
    for rows in (smi, sdf[:7]):
        assert np.allclose([float(row["size_pred"]) for row in rows], expected, rtol=1e-5)


def test_standard_streams(predictor: Predictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"smiles\nCCO\nOCC\n"))))
    predict_file(predictor, "-", "-")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "smiles,size_pred,in_domain,domain_reason,error"
    assert len(lines) == 3


def test_chunks_change_nothing(predictor: Predictor, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    predict_file(predictor, table, str(tmp_path / "whole.csv"))
    monkeypatch.setattr(files, "CHUNK_ROWS", 2)
    predict_file(predictor, table, str(tmp_path / "chunks.csv"))
    whole, chunks = read(tmp_path / "whole.csv"), read(tmp_path / "chunks.csv")
    assert [row["error"] for row in whole] == [row["error"] for row in chunks]
    values = [[float(row["size_pred"] or "nan") for row in rows] for rows in (whole, chunks)]
    assert np.allclose(*values, rtol=1e-5, equal_nan=True)


def test_a_row_that_cannot_be_trusted_is_kept_and_not_predicted(predictor: Predictor, tmp_path: Path):
    (tmp_path / "in.csv").write_text("id,smiles\n1,CCO\n2,CCO,extra\n3,CCN\n")
    predict_file(predictor, tmp_path / "in.csv", str(tmp_path / "out.csv"))
    rows = read(tmp_path / "out.csv")
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert [bool(row["size_pred"]) for row in rows] == [True, False, True]
    assert "cells" in rows[1]["error"]


def test_refusals_come_before_work_and_leave_nothing(predictor: Predictor, table: Path, tmp_path: Path):
    with pytest.raises(InputError, match="unknown ending"):
        predict_file(predictor, table, str(tmp_path / "out.xlsx"))
    predict_file(predictor, table, str(tmp_path / "out.csv"))
    with pytest.raises(InputError, match="already has a column 'size_pred'"):
        predict_file(predictor, tmp_path / "out.csv", str(tmp_path / "again.csv"))
    assert not (tmp_path / "again.csv").exists()


def test_embeddings_in_every_format(predictor: Predictor, table: Path, tmp_path: Path):
    expected = predictor.embed(SMILES)
    for name in ("out.npy", "out.csv", "out.parquet"):
        assert embed_file(predictor, table, str(tmp_path / name)).errors == 2
    assert np.allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5, equal_nan=True)
    rows = read(tmp_path / "out.csv")
    assert float(rows[0]["embedding_15"]) == pytest.approx(float(expected[0, 15]), abs=1e-5)
    assert rows[7]["embedding_0"] == ""
    column = pq.read_table(tmp_path / "out.parquet")["embedding"].to_pylist()
    assert np.allclose(column[0], expected[0], atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv", "out.npy", "out.parquet"]


def test_evaluate(predictor: Predictor, tmp_path: Path):
    metrics = evaluate_file(predictor, write_regression(tmp_path))
    assert metrics["molecules"] == len(molecules())
    labels = np.array([1000.0 * Chem.MolFromSmiles(text).GetNumHeavyAtoms() for text in molecules()])
    error = predictor.predict(molecules())["size_pred"] - labels
    assert metrics["rmse"] == pytest.approx(float(np.sqrt((error**2).mean())), rel=1e-5)
    assert any("rmse" in line for line in metric_lines(metrics))
    assert metrics["known_molecules"] is not None
    with pytest.raises(InputError, match="no column 'size'"):
        evaluate_file(predictor, write_csv(tmp_path / "other.csv", {"smiles": ["C"], "y": [1]}))


def test_an_evaluation_counts_the_molecules_that_the_model_learned_from_and_judges_the_others_alone(
    predictor: Predictor, tmp_path: Path
):
    known = predictor.knows([parse_smiles(text).smiles for text in molecules()])
    learned = [text for text, own in zip(molecules(), known or [], strict=True) if own]
    assert 0.8 * len(molecules()) < len(learned) < len(molecules())  # training and validation part
    new = ["CCCCCCO", "CCCCCCN", "CCCCCCCl"]
    other = [other_spelling(text, 1) for text in learned[:20]]
    labels = [1000.0 * Chem.MolFromSmiles(text).GetNumHeavyAtoms() for text in (*other, *new)]
    metrics = evaluate_file(predictor, write_csv(tmp_path / "d.csv", {"smiles": [*other, *new], "size": labels}))
    assert metrics["known_molecules"] == 20
    alone = evaluate_file(predictor, write_csv(tmp_path / "new.csv", {"smiles": new, "size": labels[20:]}))
    assert alone["known_molecules"] == 0
    assert metrics["unknown"]["rmse"] == pytest.approx(alone["rmse"])
    assert metrics["rmse"] != pytest.approx(alone["rmse"])
    lines = metric_lines(metrics)
    assert lines[1].startswith("warning: the model learned from 20 of these 23 molecules")
    assert [line.split(":")[0] for line in lines[2:]] == ["all molecules, size", "new molecules, size"]
    assert not any("warning" in line for line in metric_lines(alone))


def test_python_takes_molecules_in_any_form(predictor: Predictor, tmp_path: Path):
    one = predictor.predict("CCO")
    assert (one.num_rows, one["smiles"]) == (1, ["CCO"])
    path = tmp_path / "in.csv"
    path.write_text("smiles,name\nCCO,ethanol\n,nothing\n")
    several = predictor.predict(path)
    assert several["size_pred"][0] == one["size_pred"][0]
    assert several["error"] == ["", "empty SMILES"]
    mixed = predictor.predict([Chem.MolFromSmiles("OCC"), float("nan"), 5])
    assert mixed["size_pred"][0] == one["size_pred"][0]
    assert mixed["error"] == ["", "empty SMILES", "not a SMILES but int"]
    assert mixed.to_arrow().num_rows == 3
    assert predictor.embed("CCO").shape == (1, predictor.embed(["CCO", "C"]).shape[1])
    with pytest.raises(TypeError, match="expected one SMILES; the path of"):
        predictor.predict(None)


def test_an_evaluation_leaves_out_labels_of_molecules_that_a_target_is_not_for(predictor: Predictor, tmp_path: Path):
    limited = copy.copy(predictor)
    limited.parts = replace(predictor.parts, config={**predictor.parts.config, "most_atoms": {"size": 9}})
    sizes = [Chem.MolFromSmiles(text).GetNumHeavyAtoms() for text in molecules()]
    large = [place for place, atoms in enumerate(sizes) if atoms > 9]
    assert large
    metrics = evaluate_file(limited, write_regression(tmp_path))
    small = [place for place, atoms in enumerate(sizes) if atoms <= 9]
    error = np.array([predictor.predict(molecules())["size_pred"][row] - 1000.0 * sizes[row] for row in small])
    assert metrics["rmse"] == pytest.approx(float(np.sqrt((error**2).mean())), rel=1e-5)
    assert (metrics["molecules"], metrics["rejected"]) == (len(small), len(large))
    assert metrics["rejects"][0] == f"row {large[0] + 2}: size: predicted for smaller molecules only"
    known = np.flatnonzero(predictor.knows(identities_of([parse_smiles(text).smiles for text in molecules()])))
    assert set(known) & set(large)
    assert metrics["known_molecules"] == len(set(known) & set(small))  # of those that are counted


def test_columns_with_the_names_of_targets_judge_these_targets_in_any_order(tmp_path: Path):
    """They were taken by their place, so that the labels of one target judged another without a word."""
    sizes = [float(Chem.MolFromSmiles(text).GetNumHeavyAtoms()) for text in molecules()]
    table = {"smiles": molecules(), "big": [1000 * size for size in sizes], "small": sizes, "other": sizes}
    data = write_csv(tmp_path / "t.csv", table)
    quietly(data, tmp_path / "m", ["big", "small"])
    model = Predictor.load(tmp_path / "m", device="cpu")
    metrics = evaluate_file(model, data)
    both = metrics["targets"]
    assert not any("mean of targets" in line for line in metric_lines(metrics))  # which would mix units
    for words in (["small", "big"], ["small,big"], ["big", "small"]):
        assert evaluate_file(model, data, target_columns=words)["targets"] == both
    one = evaluate_file(model, data, target_columns=["small"])
    assert (one["targets"], one["absent_targets"]) == ({"small": both["small"]}, ["big"])
    assert evaluate_file(model, data, target_columns=["big", "other"])["targets"] == both
    for words in (["small", "other"], ["small,other"]):
        with pytest.raises(InputError, match="column small has the name of a target and stands in the place of big"):
            evaluate_file(model, data, target_columns=words)


def test_labels_without_a_prediction_beside_others_are_counted_in_a_note():
    targets = [Target("size"), Target("logp")]
    labels = np.array([[1.0, 2.0], [3.0, np.nan], [4.0, 5.0]])
    judged = with_prediction(labels, np.array([[np.nan, 2.0], [np.nan, 1.0], [np.nan, np.nan]]))
    refused = _too_large(targets, labels, judged)
    assert refused == {
        1: "size: predicted for smaller molecules only",
        2: "size, logp: predicted for smaller molecules only",
    }
    assert _lost_labels(targets, labels, judged, refused) == [
        "1 labels of size left out: predicted for smaller molecules only"
    ]
