"""Same molecule, same answer; every row has one; a damaged folder is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dnd.common.errors import CorruptFileError, InputError
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import build_student, save_encoder
from dnd.prediction.embedder import Embedder, load_embedder
from dnd.predictor.predictor import Predictor
from finetuning_toys import molecules, other_spelling, quietly, tiny_model, write_classes, write_regression

ODD = ["CCO", "nonsense", "", "C" * 90, "[Na+].[Cl-]", "C", "O=C1CC[C@H](N)C1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("predictor"))


@pytest.fixture(scope="module", params=["gine", "tokengt", "pna"])
def predictor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp(request.param)
    data = write_regression(folder)
    quietly(data, folder / "model", ["size"], f"student.name={request.param}", "loop.epochs=2")
    return Predictor.load(folder / "model", device="cpu")


def test_rows_and_order_are_kept_and_bad_ones_have_a_reason(predictor: Predictor):
    table = predictor.predict(ODD)
    assert list(table) == ["smiles", "size_pred", "in_domain", "domain_reason", "error"]
    assert table.num_rows == len(ODD)
    assert table["smiles"] == ODD
    assert [bool(reason) for reason in table["error"]] == [False, True, True, False, False, False, False]
    assert [bool(answer) for answer in table["in_domain"]] == [not reason for reason in table["error"]]
    assert np.isnan(table["size_pred"]).tolist() == [bool(reason) for reason in table["error"]]


def test_every_spelling_has_the_same_prediction(predictor: Predictor):
    smiles = [*molecules()[:12], "O=C1CC[C@H](N)C1", "F/C=C/Cl"]
    expected = predictor.predict(smiles)["size_pred"]
    for seed in range(4):
        found = predictor.predict([other_spelling(text, seed) for text in smiles])["size_pred"]
        assert np.allclose(found, expected, rtol=1e-5)


def test_predictions_do_not_depend_on_the_batch(predictor: Predictor):
    smiles = [*molecules(), "C" * 90]
    together = predictor.predict(smiles)["size_pred"]
    alone = np.array([predictor.predict([text])["size_pred"][0] for text in smiles])
    assert np.allclose(together, alone, rtol=1e-5)


def test_predictions_equal_those_of_the_training(model: Path):
    import csv

    with open(model / "test_predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = Predictor.load(model, device="cpu").predict([row["smiles"] for row in rows])["size_pred"]
    assert np.allclose(found, [float(row["size_pred"]) for row in rows], rtol=1e-5)


def test_no_molecule_at_all(model: Path):
    predictor = Predictor.load(model, device="cpu")
    assert predictor.predict([]).num_rows == 0
    assert np.isnan(predictor.predict(["x", None])["size_pred"]).all()  # type: ignore[list-item]


def test_members_are_averaged(tmp_path: Path):
    data = write_regression(tmp_path)
    for name, overrides in (("1", ["loop.seed=1"]), ("2", ["loop.seed=2"]), ("both", ["ensemble=2"])):
        quietly(data, tmp_path / name, ["size"], *overrides)
    one, two, both = (Predictor.load(tmp_path / name).predict(molecules())["size_pred"] for name in ("1", "2", "both"))
    assert np.allclose(both, (one + two) / 2, rtol=1e-5)


def test_classes_are_probabilities(tmp_path: Path):
    quietly(write_classes(tmp_path), tmp_path / "model", ["ring", "hetero"])
    table = Predictor.load(tmp_path / "model").predict(molecules())
    assert list(table) == ["smiles", "ring_pred", "hetero_pred", "in_domain", "domain_reason", "error"]
    assert ((table["ring_pred"] > 0) & (table["ring_pred"] < 1)).all()


def test_tables_convert(model: Path):
    table = Predictor.load(model).predict(ODD)
    assert table.to_arrow()["size_pred"].null_count == 2
    assert table.to_pandas()["size_pred"].isna().sum() == 2


def test_embeddings(model: Path):
    vectors = Predictor.load(model).embed(ODD)
    assert vectors.shape == (len(ODD), 16)
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True, True, False, False, False, False]


def test_encoder_and_model_both_embed(model: Path, tmp_path: Path):
    student = build_student(StudentConfig("gine", 16, 2)).eval()
    save_encoder(tmp_path / "encoder", student, {"hydrogens": "heavy_both"}, "card")
    assert isinstance(load_embedder(tmp_path / "encoder"), Embedder)
    assert isinstance(load_embedder(model), Predictor)
    mean, node = (
        load_embedder(tmp_path / "encoder", pooling=name).embed_with_errors(ODD)[0] for name in ("mean", "virtual_node")
    )
    assert mean.shape == node.shape == (len(ODD), 16)
    assert not np.allclose(mean[0], node[0])
    with pytest.raises(InputError, match="its own pooling"):
        load_embedder(model, pooling="mean")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_flipped_byte_is_noticed(model: Path, tmp_path: Path, name: str):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(bytes(data))
    with pytest.raises(CorruptFileError, match="altered"):
        Predictor.load(copy)


def test_other_features_are_refused(model: Path, tmp_path: Path):
    import shutil

    from dnd.common.files import write_manifest

    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "feature_version": 0}))
    write_manifest(copy, kind="predictor", format_version=1)
    with pytest.raises(CorruptFileError, match="other molecular features"):
        Predictor.load(copy)
