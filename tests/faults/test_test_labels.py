"""No test label changes a model: all of them are replaced, and every weight and every array stays what it was.

A model that knew its test labels would be judged by what it was told. What could look at them is whatever is decided
from labels: how a column is read, the task, the classes, the transform, the scale, the epoch, weights and calibration.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dnd.common.files import read_json
from dnd.finetuning.finetune import finetune
from finetuning_toys import heavy_atoms, molecules, quietly, tiny_config, write_csv
from support.said import said

SMILES = molecules()
PARTS = ["test" if row % 5 == 0 else "valid" if row % 5 == 1 else "train" for row in range(len(SMILES))]
GENERATOR = np.random.default_rng(5)
NOISE = GENERATOR.normal(size=len(SMILES))
RECIPES = {
    "small": ("loop.epochs=2",),
    "best": ("blend.classical=ridge,forest_counts", "blend.folds=2", "blend.trees=10", "ensemble=2", "loop.epochs=1"),
    "fast": ("blend.classical=ridge,gaussian_process", "blend.students=false", "blend.folds=2", "blend.trees=10"),
}
KINDS = {
    "skewed": [str(math.exp(heavy_atoms(text) / 2 + 2 * noise)) for text, noise in zip(SMILES, NOISE, strict=True)],
    "plain": [str(heavy_atoms(text) - 3 + noise) for text, noise in zip(SMILES, NOISE, strict=True)],
    "binary": [str(int("c1" in text)) for text in SMILES],
    "classes": ["aromatic" if "c1" in text else "small" if text.endswith("C1CC1") else "other" for text in SMILES],
    "numbered": [str(len(text) % 3) for text in SMILES],
}
JUDGED = {"measured", "before", "judged_on", "set_coverage", "set_single", "coverage", "size"}
REPLACED = {
    "random": lambda row: f"{GENERATOR.normal() * 100:.3f}",
    "missing": lambda row: "",
    "negative": lambda row: f"{-1 - row}",
    "words": lambda row: f"word {row}",
}


def fitted(folder: Path, labels: list[str], *words: str) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """All arrays of a model, and what it says of its targets, members and calibration."""
    folder.mkdir(parents=True)
    data = write_csv(folder / "d.csv", {"smiles": SMILES, "y": labels, "part": PARTS})
    quietly(data, folder / "m", ["y"], "split=column:part", *words)
    arrays = {
        f"{path.name} {name}": values
        for path in sorted((folder / "m").glob("*.safetensors"))
        for name, values in load_file(path).items()
    }
    config = read_json(folder / "m" / "config.json")
    calibration = read_json(folder / "m" / "calibration.json")["calibration"]
    said = {name: config.get(name) for name in ("task", "targets", "members", "blend")}
    # What a calibration was measured to reach is a judgement of it on the test part, not a part of the model.
    for one in [*calibration["targets"], *calibration.get("temperatures", []), *calibration.get("sets", [])]:
        for name in JUDGED & one.keys():
            del one[name]
    return arrays, {**said, "calibration": calibration}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", KINDS)
def test_all_test_labels_are_replaced_and_the_model_stays(tmp_path: Path, kind: str, recipe: str):
    words = [*RECIPES[recipe], "transform=auto", *(["task=multiclass"] if kind == "numbered" else [])]
    expected, said = fitted(tmp_path / "before", KINDS[kind], *words)
    if kind == "skewed":
        assert said["targets"][0]["transform"]["name"] == "log"  # else nothing was tried here
    for name, replaced in REPLACED.items():
        labels = [replaced(row) if part == "test" else KINDS[kind][row] for row, part in enumerate(PARTS)]
        arrays, now = fitted(tmp_path / name, labels, *words)
        assert json.dumps(now) == json.dumps(said), name
        assert arrays.keys() == expected.keys(), name
        for array, values in expected.items():
            assert arrays[array].tobytes() == values.tobytes(), (name, array)


def test_a_test_part_without_labels_is_predicted_and_the_model_says_that_it_is_not_judged(tmp_path: Path):
    labels = ["" if part == "test" else label for label, part in zip(KINDS["plain"], PARTS, strict=True)]
    data = write_csv(tmp_path / "d.csv", {"smiles": SMILES, "y": labels, "part": PARTS})
    metrics = quietly(data, tmp_path / "m", ["y"], "split=column:part", "loop.epochs=1", "baselines=true").metrics
    (verdict,) = metrics["verdicts"]
    assert verdict["sentence"] == "y: the test part can't judge the model: no usable label."
    assert metrics["parts"]["test"]["molecules"] == PARTS.count("test")
    with open(tmp_path / "m" / "test_predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == PARTS.count("test")
    assert all(row["y"] == "" and math.isfinite(float(row["y_pred"])) for row in rows)


def test_a_class_of_the_test_part_alone_is_named_and_counts_as_missing(tmp_path: Path):
    labels = list(KINDS["classes"])
    labels[0] = "liquid"
    data = write_csv(tmp_path / "d.csv", {"smiles": SMILES, "y": labels, "part": PARTS})
    lines: list[str] = []
    config = tiny_config("split=column:part", "loop.epochs=1")
    with said(lines):
        metrics = finetune(data, tmp_path / "m", ["y"], config, encoder="random").metrics
    assert metrics["targets"][0]["classes"] == ["aromatic", "other", "small"]
    assert any("row 2 'liquid'" in line and "as missing" in line for line in lines)
