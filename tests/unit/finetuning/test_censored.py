"""Limits for classical members: the expected value beyond them, chosen by their likelihood out of fold."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from dnd.finetuning.objective import expected_beyond, log_likelihood
from dnd.predictor.predictor import Predictor
from finetuning_toys import heavy_atoms, molecules, quietly, write_csv

FAST = ("blend.students=false", "blend.classical=ridge", "blend.folds=3", "split=column:part", "labels.censored=keep")


def test_the_expected_value_is_that_of_a_normal_distribution_that_is_cut_off() -> None:
    drawn = np.random.default_rng(0).normal(2.0, 1.5, 400_000)
    above, below = drawn[drawn > 3.0].mean(), drawn[drawn < 3.0].mean()
    limits_B, sides_B, means_B = np.array([3.0, 3.0]), np.array([1, -1]), np.array([2.0, 2.0])
    found_B = expected_beyond(limits_B, sides_B, means_B, 1.5)
    assert found_B == pytest.approx([above, below], abs=0.01)
    far_B = expected_beyond(np.array([100.0, -50.0]), np.array([1, 1]), np.array([0.0, 0.0]), 1.0)
    assert far_B[0] == pytest.approx(100.01, abs=0.01)  # just beyond, and finite
    assert far_B[1] == pytest.approx(0.0, abs=1e-9)  # a limit that says nothing


def test_a_limit_counts_as_the_chance_of_a_truth_beyond_it() -> None:
    found = log_likelihood(np.array([1.0, 0.0, 0.0]), np.array([0, 1, -1]), np.array([0.0, 0.0, 1.0]), 1.0)
    expected = -0.5 * np.log(2 * np.pi) - 0.5 + np.log(0.5) + np.log(0.158655)
    assert found == pytest.approx(expected, rel=1e-5)


def table(path: Path) -> tuple[Path, dict[str, float]]:
    """54 molecules whose label is their number of heavy atoms; the larger ones are limits in the training part."""
    smiles = molecules()
    size = {text: float(heavy_atoms(text)) for text in smiles}
    parts = ["test" if place % 4 == 0 else "valid" if place % 9 == 1 else "train" for place in range(len(smiles))]
    cells = [
        ">8" if size[text] > 8 and part != "test" else f"{size[text]:g}"
        for text, part in zip(smiles, parts, strict=True)
    ]
    return write_csv(path / "limits.csv", {"smiles": smiles, "y": cells, "part": parts}), size


def test_classical_members_predict_beyond_a_limit(tmp_path: Path) -> None:
    data, size = table(tmp_path)
    said = dict.fromkeys(("keep", "limit"), 0.0)
    for fate in said:
        quietly(data, tmp_path / fate, ["y"], *FAST, f"labels.censored={fate}")
        with open(tmp_path / fate / "test_predictions.csv", newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if size[row["smiles"]] > 8]
        said[fate] = float(np.mean([float(row["y_pred"]) - size[row["smiles"]] for row in rows]))
    assert len(rows) >= 2
    assert abs(said["keep"]) < abs(said["limit"]), "a limit taken for a value pulls predictions to it"
    assert said["limit"] < 0
    predictor = Predictor.load(tmp_path / "keep", device="cpu")
    assert np.isfinite(predictor.predict(["CCCCCCCCCCCC"])["y_pred"]).all()
