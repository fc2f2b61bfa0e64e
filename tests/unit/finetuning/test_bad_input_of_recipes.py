"""What is wrong with a table is one clear line from `best`, from `fast` and from a student; a bad row stops nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import dnd
from dnd.chemistry.splits import Split
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import read_json
from dnd.finetuning.data_checks import check_learnable
from dnd.finetuning.finetune import finetune
from dnd.finetuning.several_files import labelled_file
from dnd.tables.labels import DrawnRows
from finetuning_toys import heavy_atoms, molecules, tiny_config, write_csv
from support.said import said

SMILES = molecules()
SIZES = [float(heavy_atoms(text)) for text in SMILES]
RING = "unclosed ring for input: 'C1CC'"
PARTS = ["train"] * 36 + ["valid"] * 9 + ["test"] * 9
FAST = ("blend.classical=ridge", "blend.students=false", "blend.folds=3")
BEST = ("blend.classical=ridge", "ensemble=1", "blend.folds=3", "loop.epochs=1")
EACH = pytest.mark.parametrize("recipe", [FAST, BEST, ("loop.epochs=1",)], ids=["fast", "best", "student"])


def run(folder: Path, columns: dict[str, list[object]], *overrides: str, **options: object) -> list[str]:
    lines: list[str] = []
    data, config = write_csv(folder / "data.csv", columns), tiny_config(*overrides)
    with said(lines):
        finetune(data, folder / "model", ["y"], config, encoder="random", **options)
    return lines


def refused(folder: Path, columns: dict[str, list[object]], *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        run(folder, columns, *overrides)
    assert not (folder / "model").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


@EACH
def test_one_bad_row_is_left_out_named_and_stops_nothing(tmp_path: Path, recipe: tuple[str, ...]):
    lines = run(tmp_path, {"smiles": [*SMILES, "C1CC", "CCO"], "y": [*SIZES, 3.0, ""]}, *recipe)
    assert "54 molecules of 56 rows; 2 left out" in lines
    with open(tmp_path / "model" / "rejects.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["row"], row["reason"]) for row in rows] == [("54", RING), ("55", "no label")]
    table = dnd.load(tmp_path / "model", device="cpu").predict(["CCO", "C1CC"])
    assert np.isfinite(table["y_pred"][0])
    assert (np.isnan(table["y_pred"][1]), table["error"][1]) == (True, RING)


@EACH
def test_what_no_recipe_can_learn_is_refused_before_any_work(tmp_path: Path, recipe: tuple[str, ...]):
    few = refused(tmp_path, {"smiles": SMILES[:3], "y": SIZES[:3]}, *recipe)
    assert few.startswith("there are too few molecules with labels: found 3, expected at least 10")
    constant = refused(tmp_path, {"smiles": SMILES, "y": [2.5] * 54}, *recipe)
    assert constant.startswith("target y is constant: found only 2.5")
    rounded = refused(tmp_path, {"smiles": SMILES, "y": [0.3, 0.1 + 0.2] * 27}, *recipe)
    assert rounded.startswith("target y is constant: found only 0.3")
    single = refused(tmp_path, {"smiles": SMILES, "y": [1] * 54}, *recipe)
    assert single.startswith("there is one class only: found target y has one class only (1)")
    huge = refused(
        tmp_path, {"smiles": SMILES, "y": [*SIZES[:-1], 1e300], "part": PARTS[::-1]}, "split=column:part", *recipe
    )
    assert huge.startswith(
        "column y: 1 cell is not a number that can be learned: found '1e+300' (row 55, beyond the range"
    )


@EACH
def test_a_column_that_is_the_answer_gives_a_warning(tmp_path: Path, recipe: tuple[str, ...]):
    lines = run(tmp_path, {"smiles": SMILES, "y": SIZES, "percent": [100 * size for size in SIZES]}, *recipe)
    (warning,) = (line for line in lines if line.startswith("warning: column percent"))
    assert "orders the molecules as target y does (rank correlation 1.000)" in warning
    assert "y may already be known" in warning


def test_a_training_part_with_one_class_is_refused_for_a_student_and_named_beside_others(tmp_path: Path):
    labels = [0] * 36 + [0, 1, 1] * 6
    line = refused(tmp_path, {"smiles": SMILES, "y": labels, "part": PARTS}, "split=column:part")
    assert line.startswith("the training part of the split has no two classes of any target: found only 0 for y")
    assert "Use another --split" in line
    lines = run(tmp_path, {"smiles": SMILES, "y": labels, "part": PARTS}, "split=column:part", *FAST)
    assert not any("can't be learned" in said for said in lines)  # it learns from the validation part too


def test_of_several_targets_only_the_one_that_cannot_be_learned_is_named():
    both = np.tile([0.0, 1.0], 20)
    single = np.where(np.arange(40) < 20, 0.0, both)
    none = np.where(np.arange(40) < 20, np.nan, both)
    part = Split(np.arange(20), np.arange(20, 30), np.arange(30, 40))
    labels = np.stack([both, single, none], axis=1)
    found = check_learnable(labels, ["a", "b", "c"], ["classification"] * 3, [part], with_valid=False)
    assert found == [
        "target b has one class only (0) in the training part of the split: it can't be learned",
        "target c has no label in the training part of the split: it can't be learned",
    ]
    assert check_learnable(labels, ["a", "b", "c"], ["classification"] * 3, [part], with_valid=True) == []


def test_of_too_many_rows_some_are_drawn_at_random_and_it_is_said(tmp_path: Path):
    smiles = [f"{'C' * length}{tail}" for length in range(1, 31) for tail in ("O", "N", "Cl", "F", "Br")]
    columns = {"smiles": [*smiles, "C1CC"], "y": [float(heavy_atoms(text)) for text in smiles] + [""]}
    lines = run(tmp_path, columns, "blend.most_rows=100", *FAST)
    assert "plan: 100 of 150 rows with a label of the table drawn at random (blend.most_rows=100)" in lines
    metrics, splits = (read_json(tmp_path / "model" / f"{name}.json") for name in ("metrics", "splits"))
    assert (metrics["counts"]["rows"], metrics["counts"]["molecules"], metrics["counts"]["not_drawn"]) == (151, 100, 50)
    used = sorted(splits["train"] + splits["valid"] + splits["test"])
    assert len(set(used)) == 100
    assert max(used) > 110  # not the first ones
    again = tmp_path / "again"
    again.mkdir()
    run(again, columns, "blend.most_rows=100", *FAST)
    assert read_json(again / "model" / "splits.json") == splits
    with pytest.raises(ConfigError, match=r"blend\.most_rows must be at least 100"):
        tiny_config("blend.most_rows=99")


def test_a_further_table_is_drawn_from_too(tmp_path: Path):
    smiles = [f"{'C' * length}{tail}" for length in range(1, 31) for tail in ("O", "N", "Cl", "F", "Br")]
    other = write_csv(tmp_path / "other.csv", {"smiles": smiles, "z": [heavy_atoms(text) % 7 for text in smiles]})
    also = [labelled_file(f"{other}:z", "smiles")]
    lines = run(tmp_path, {"smiles": SMILES, "y": SIZES}, "blend.most_rows=100", *FAST, also=also)
    assert [line for line in lines if line.startswith("plan: 100 of 150")] == [
        "plan: 100 of 150 rows with a label of other.csv drawn at random (blend.most_rows=100)"
    ]


def test_a_million_rows_take_the_memory_of_those_that_are_kept():
    drawn: DrawnRows[int] = DrawnRows(1000)
    for row in range(1_000_000):
        drawn.add(row)
    kept = drawn.rows()
    assert (len(kept), drawn.left_out) == (1000, 999_000)
    assert kept == sorted(kept)
    assert np.mean(kept) == pytest.approx(500_000, abs=4 * 1_000_000 / np.sqrt(12 * 1000))
    assert DrawnRows[int]().rows() == []
