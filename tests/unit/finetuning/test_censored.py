"""Limits for classical members: the expected value beyond them, chosen by their likelihood out of fold."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dnd.chemistry.splits import Split
from dnd.finetuning.labelled_data import LabelledFile, read_labelled
from dnd.finetuning.objective import expected_beyond, log_likelihood
from dnd.finetuning.prepared_labels import aggregated, weightiest
from dnd.finetuning.several_files import read_several
from dnd.predictor.predictor import Predictor
from dnd.tables.labels import LabelRules
from finetuning_toys import heavy_atoms, molecules, quietly, write_csv
from support.said import said

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


@pytest.mark.parametrize(
    ("cells", "label", "side"),
    [
        ([">10", ">12", "=11"], 11.0, 0),
        ([">10", ">12"], 12.0, 1),
        (["<3", "<2", "<5"], 2.0, -1),
        ([">10", "<2"], None, 0),
        ([">2", "<10", ""], None, 0),
    ],
)
def test_of_several_limits_of_a_molecule_the_strictest_counts_and_an_interval_is_no_label(
    cells: list[str], label: float | None, side: int
) -> None:
    values = np.array([float(cell[1:]) if cell else np.nan for cell in cells])
    sides = np.array([{">": 1, "<": -1}.get(cell[:1], 0) for cell in cells], np.int8)
    found, of = weightiest(values, sides)
    assert (found.tolist(), of) == ([] if label is None else [label], side)


def test_labels_with_limits_on_both_sides_are_left_out_and_counted_in_one_file_and_in_several(tmp_path: Path) -> None:
    smiles, size = molecules(), [heavy_atoms(text) for text in molecules()]
    cells: list[object] = [*size, ">10", "<2", ">40", ">50"]
    texts = [*smiles, "CCCCO", "OCCCC", "CCCCN", "NCCCC"]
    first = write_csv(tmp_path / "first.csv", {"smiles": texts, "y": cells})
    second = write_csv(tmp_path / "second.csv", {"smiles": smiles, "z": size})
    rules = LabelRules(censored="keep")
    molecules_of = read_labelled(first, ["y"], "heavy_both", rules=rules)
    whole = [Split(np.arange(len(molecules_of.smiles)), np.empty(0, np.int64), np.empty(0, np.int64))]
    one, line = aggregated(replace(molecules_of, parts=tuple(whole)), "mean", ["regression"])
    assert "1 labels left out that have limits on both sides and no value" in str(line)
    lines: list[str] = []
    files = [LabelledFile(first, ("y",), rules=rules), LabelledFile(second, ("z",))]
    with said(lines):
        several, _ = read_several(files, "heavy_both", choices=["auto"])
    assert any("1 labels left out that have limits on both sides and no value" in line for line in lines)
    for found in (one, several):
        assert found.sides_BC is not None
        assert not found.sides_BC[np.isnan(found.targets_BC)].any()  # else they are counted as limits
        rows = [row for row, text in enumerate(found.smiles) if text == "CCCCN"]
        assert (found.targets_BC[rows[0], 0], found.sides_BC[rows[0], 0]) == (50.0, 1)
        rows = [row for row, text in enumerate(found.smiles) if text == "CCCCO"]
        assert np.isnan(found.targets_BC[rows, 0]).all()
