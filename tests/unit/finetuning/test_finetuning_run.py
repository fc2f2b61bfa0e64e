"""The whole stage on a toy table: what it learns, what it leaves, and that it resumes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.common.files import read_json, verify_folder
from dnd.common.model_folder import read_tensors
from dnd.finetuning.finetune import finetune
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import build_student, save_encoder
from finetuning_toys import heavy_atoms, molecules, quietly, tiny_config, write_classes, write_csv, write_regression
from support.said import said


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_it_learns_and_leaves_a_sealed_model(tmp_path: Path):
    out = tmp_path / "model"
    summary = quietly(write_regression(tmp_path), out, ["size"], "loop.epochs=40", "units=Da", "baselines=true")
    manifest = verify_folder(out, kind="predictor", format_version=1)
    expected = {"config.json", "model.safetensors", "card.md", "metrics.json", "splits.json", "test_predictions.csv"}
    assert expected | {"rejects.csv"} <= set(manifest["files"])
    assert (out / "metrics.jsonl").is_file()
    assert not (out / "checkpoints").exists()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(summary.metrics))
    assert set(metrics["baselines"]) == {"mean", "random_forest_counts", "random_forest_descriptors"}
    assert metrics["parts"]["test"]["rmse"] < 0.5 * metrics["baselines"]["mean"]["parts"]["test"]["rmse"]
    assert metrics["parts"]["test"]["rmse"] > 10  # raw units: a standard deviation is over 1000
    assert json.loads((out / "config.json").read_text())["targets"][0]["unit"] == "Da"
    (member,) = metrics["members"]
    assert set(member["last_epoch"]) >= {"valid_rmse", "test_rmse"}
    assert member["best_epoch"]["valid_rmse"] <= member["last_epoch"]["valid_rmse"]
    assert metrics["parts"]["valid"]["rmse"] == pytest.approx(member["best_epoch"]["valid_rmse"], rel=1e-5)


def test_splits_and_test_predictions_use_row_numbers_of_the_input(tmp_path: Path):
    smiles = ["no molecule", *molecules()]
    data = write_csv(tmp_path / "d.csv", {"smiles": smiles, "y": [0.5, *range(len(smiles) - 1)]})
    quietly(data, tmp_path / "model", ["y"])
    splits = json.loads((tmp_path / "model" / "splits.json").read_text())
    assert sorted(splits["train"] + splits["valid"] + splits["test"]) == list(range(1, len(smiles)))
    rows = read_rows(tmp_path / "model" / "test_predictions.csv")
    assert [int(row["row"]) for row in rows] == splits["test"]
    assert all(float(row["y"]) == int(row["row"]) - 1 and row["smiles"] == smiles[int(row["row"])] for row in rows)
    (reject,) = read_rows(tmp_path / "model" / "rejects.csv")
    assert (reject["row"], reject["smiles"]) == ("0", "no molecule")
    assert reject["reason"]


def test_classes_with_missing_labels(tmp_path: Path):
    metrics = quietly(
        write_classes(tmp_path), tmp_path / "model", ["ring,hetero"], "loop.epochs=30", "loop.batch_size=16"
    ).metrics
    assert metrics["task"] == "classification"
    # The weights are those of the best validation epoch, which five validation molecules reach early.
    assert metrics["parts"]["train"]["targets"]["ring"]["rocauc"] > 0.8
    rows = read_rows(tmp_path / "model" / "test_predictions.csv")
    assert all(0 < float(row["ring_pred"]) < 1 for row in rows)
    assert {row["hetero"] for row in rows} & {""}


def test_folds_and_seeds_are_members_of_one_predictor(tmp_path: Path):
    out = tmp_path / "model"
    metrics = quietly(write_regression(tmp_path), out, ["size"], "split=kfold", "folds=3", "ensemble=2").metrics
    assert len(metrics["members"]) == 6
    assert len(metrics["folds"]) == 3
    assert metrics["parts"]["test"]["molecules"] == len(molecules())
    assert [int(row["row"]) for row in read_rows(out / "test_predictions.csv")] == list(range(len(molecules())))
    assert len(list(out.glob("model*.safetensors"))) == 6
    splits = json.loads((out / "splits.json").read_text())
    assert sorted(row for fold in splits["folds"] for row in fold["test"]) == list(range(len(molecules())))


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path: Path):
    data = write_regression(tmp_path)
    quietly(data, tmp_path / "whole", ["size"])
    stopped = quietly(data, tmp_path / "parts", ["size"], "loop.stop_after_s=1e-9")
    assert not stopped.finished
    with pytest.raises(InputError, match="--resume"):
        quietly(data, tmp_path / "parts", ["size"])
    assert quietly(data, tmp_path / "parts", ["size"], resume=True).finished
    whole, parts = (read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    again = quietly(data, tmp_path / "parts", ["size"], resume=True)
    assert again.metrics == json.loads((tmp_path / "parts" / "metrics.json").read_text())


@pytest.mark.parametrize("blend", [(), ("blend.classical=ridge", "blend.folds=2")])
def test_a_run_is_not_resumed_with_other_parts_of_a_column(tmp_path: Path, blend: tuple[str, ...]):
    smiles = molecules()
    parts: list[object] = [("train", "train", "valid", "test")[row % 4] for row in range(len(smiles))]
    columns: dict[str, list[object]] = {"smiles": list(smiles), "size": list(map(heavy_atoms, smiles)), "part": parts}
    words = ("split=column:part", "loop.stop_after_s=1e-9", *blend)
    data = write_csv(tmp_path / "toy.csv", columns)
    assert not quietly(data, tmp_path / "model", ["size"], *words).finished
    write_csv(data, {**columns, "part": parts[::-1]})  # what was learned so far is of molecules that are tested now
    with pytest.raises(InputError, match="a run with other settings: found data_digest"):
        quietly(data, tmp_path / "model", ["size"], *words, resume=True)


def test_a_finished_model_is_not_overwritten(tmp_path: Path):
    data = write_regression(tmp_path)
    quietly(data, tmp_path / "model", ["size"])
    with pytest.raises(InputError, match="contains a finished model"):
        quietly(data, tmp_path / "model", ["size"])


def test_a_damaged_model_is_not_taken_for_a_finished_one(tmp_path: Path):
    data = write_regression(tmp_path)
    quietly(data, tmp_path / "model", ["size"])
    with open(tmp_path / "model" / "model.safetensors", "r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"!")
    with pytest.raises(CorruptFileError, match=r"model\.safetensors"):
        quietly(data, tmp_path / "model", ["size"], resume=True)


def test_resume_under_other_settings_is_refused(tmp_path: Path):
    data = write_regression(tmp_path)
    quietly(data, tmp_path / "model", ["size"])
    with pytest.raises(InputError, match=r"epochs 3 → 4"):
        quietly(data, tmp_path / "model", ["size"], "loop.epochs=4", resume=True)


def test_starts_from_the_encoder_and_refuses_other_hydrogens(tmp_path: Path):
    student = build_student(StudentConfig("gine", 16, 2))
    save_encoder(tmp_path / "encoder", student, {"hydrogens": "all_both", "level": "node"}, "card")
    data = write_regression(tmp_path)
    out = tmp_path / "model"
    quietly(data, out, ["size"], "loop.learning_rate=0", "loop.min_learning_rate=0", encoder=tmp_path / "encoder")
    tuned, given = read_tensors(out / "model.safetensors"), student.state_dict()
    names = [name for name, _ in student.named_parameters()]
    assert all(torch.equal(tuned[f"student.{name}"], given[name]) for name in names)
    assert json.loads((out / "config.json").read_text())["hydrogens"] == "all_both"
    with pytest.raises(ConfigError, match="other hydrogens"):
        quietly(data, tmp_path / "b", ["size"], "hydrogens=heavy_both", encoder=tmp_path / "encoder")


def test_random_students_are_a_function_of_the_seed(tmp_path: Path):
    data = write_regression(tmp_path)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(name))
        quietly(data, tmp_path / name, ["size"], f"loop.seed={seed}", "loop.epochs=1")
    a, b, c = (read_tensors(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_raw_targets_are_not_scaled(tmp_path: Path):
    quietly(write_regression(tmp_path), tmp_path / "model", ["size"], "targets=raw", "loop.epochs=1")
    (member,) = json.loads((tmp_path / "model" / "metrics.json").read_text())["members"]
    assert member["scale"] == [{"mean": 0.0, "std": 1.0}]


def test_column_split(tmp_path: Path):
    smiles = molecules()
    part = ["test" if row < 6 else "valid" if row < 12 else "train" for row in range(len(smiles))]
    data = write_csv(tmp_path / "d.csv", {"smiles": smiles, "y": list(range(len(smiles))), "part": part})
    quietly(data, tmp_path / "model", ["y"], "split=column:part")
    assert json.loads((tmp_path / "model" / "splits.json").read_text())["test"] == list(range(6))


def test_the_scale_comes_from_the_training_part(tmp_path: Path):
    data = write_regression(tmp_path)
    summary = quietly(data, tmp_path / "model", ["size"])
    labels = np.array([float(row["size"]) for row in read_rows(data)])
    train = json.loads((tmp_path / "model" / "splits.json").read_text())["train"]
    (scale,) = summary.metrics["members"][0]["scale"]
    assert scale["mean"] == pytest.approx(labels[train].mean())
    assert scale["std"] == pytest.approx(labels[train].std())


def test_progress_is_said_line_by_line(tmp_path: Path):
    lines: list[str] = []
    data = write_regression(tmp_path)
    config = tiny_config("loop.epochs=1")
    with said(lines):
        finetune(data, tmp_path / "model", ["size"], config, encoder="random")
    assert any(line.startswith("task: regression") for line in lines)
    assert any("RandInit" in line for line in lines)


def test_a_unit_that_is_found_is_no_setting_of_the_run(tmp_path: Path):
    """A stopped run is resumed under the settings the user gave, whatever a later version finds in a column's name."""
    smiles = molecules()
    data = write_csv(tmp_path / "d.csv", {"smiles": smiles, "Ki (nM)": [heavy_atoms(text) for text in smiles]})
    quietly(data, tmp_path / "m", ["Ki (nM)"], "loop.epochs=1")
    saved = read_json(tmp_path / "m" / "config.json")
    assert saved["targets"][0]["unit"] == "nM"
    assert not saved["training"]["settings"]["units"]
