"""What `predict` says of itself, from a finetuned folder; folders of earlier versions predict as before."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

import dnd
from dnd.common.errors import CorruptFileError
from dnd.common.files import read_json, write_json, write_manifest
from dnd.prediction.evaluate import evaluate_file
from finetuning_toys import molecules, quietly, write_csv, write_regression

TRUST = ("calibration.json", "domain.json", "domain.safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trust")
    quietly(write_regression(folder), folder / "model", ["size"], "ensemble=2", "fractions=0.5,0.25,0.25")
    return folder / "model"


def copied(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder / "copy", ignore=shutil.ignore_patterns(*TRUST))
    write_manifest(folder / "copy", kind="predictor", format_version=1)
    return folder / "copy"


def test_columns_and_what_they_say(model: Path):
    table = dnd.load(model, device="cpu").predict([*molecules(), "C[Se]C", "x"])
    columns = [f"size_{end}" for end in ("pred", "std", "low", "high")]
    assert list(table) == ["smiles", *columns, "in_domain", "domain_reason", "error"]
    width = read_json(model / "calibration.json")["calibration"]["targets"][0]["half_width"]
    assert np.allclose(np.subtract(table["size_high"], table["size_pred"])[:-1], width)
    assert np.isnan(table["size_low"][-1])
    assert (np.asarray(table["size_std"][:-1]) > 0).all()
    assert table["in_domain"][-2:] == ["no", ""]
    assert "Se" in table["domain_reason"][-2]
    assert table["in_domain"].count("yes") > len(molecules()) // 2


def test_the_spread_is_that_of_the_members(model: Path, tmp_path: Path):
    members = []
    for number in range(2):
        copy = copied(model, tmp_path / str(number))
        config = read_json(copy / "config.json")
        config["members"] = [{**config["members"][number], "weight": 1.0}]
        write_json(copy / "config.json", config)
        (copy / "limits.safetensors").unlink()  # of both members' representations together
        write_manifest(copy, kind="predictor", format_version=1)
        members.append(dnd.load(copy, device="cpu").predict(molecules())["size_pred"])
    found = dnd.load(model, device="cpu").predict(molecules())["size_std"]
    assert np.allclose(found, np.std(members, axis=0, ddof=1), rtol=1e-3, atol=1e-3)


def test_the_coverage_that_was_printed_is_that_of_the_test_part(model: Path):
    with open(model / "test_predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = dnd.load(model, device="cpu").predict([row["smiles"] for row in rows])
    labels = np.array([float(row["size"]) for row in rows])
    inside = (table["size_low"] <= labels) & (labels <= table["size_high"])
    target = read_json(model / "calibration.json")["calibration"]["targets"][0]
    assert target["measured"] == pytest.approx(inside.mean())
    assert target["judged_on"] == len(rows)


def test_a_folder_of_an_earlier_version_predicts_as_before(model: Path, tmp_path: Path):
    old = dnd.load(copied(model, tmp_path), device="cpu").predict(molecules())
    assert list(old) == ["smiles", "size_pred", "size_std", "error"]
    new = dnd.load(model, device="cpu").predict(molecules())
    assert np.allclose(old["size_pred"], new["size_pred"], rtol=1e-6)


@pytest.mark.parametrize("name", TRUST)
def test_damage_is_noticed(model: Path, tmp_path: Path, name: str):
    copy = shutil.copytree(model, tmp_path / "copy")
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(bytes(data))
    with pytest.raises(CorruptFileError):
        dnd.load(copy)


def test_probabilities_are_calibrated_everywhere_alike(tmp_path: Path):
    smiles = molecules()
    labels = [int("c1" in text) for text in smiles]
    data = write_csv(tmp_path / "classes.csv", {"smiles": smiles, "ring": labels})
    quietly(data, tmp_path / "model", ["ring"], "fractions=0.3,0.5,0.2")
    target = read_json(tmp_path / "model" / "calibration.json")["calibration"]["targets"][0]
    assert target["slope"] is not None
    with open(tmp_path / "model" / "test_predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    model = dnd.load(tmp_path / "model", device="cpu")
    texts = [row["smiles"] for row in rows]
    found = model.predict(texts)["ring_pred"]
    assert np.allclose(found, [float(row["ring_pred"]) for row in rows], rtol=1e-4)
    assert np.allclose(found, model.predict_values(texts)[0][:, 0], rtol=1e-6)
    assert evaluate_file(model, data)["rocauc"] is not None
