"""Splits by name, means over folds with intervals, and molecules in two parts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dnd.chemistry.splits import Split
from dnd.common.errors import ConfigError, InputError
from dnd.finetuning.data_checks import audit_duplicates, warning_line
from dnd.finetuning.finetune import finetune
from dnd.finetuning.splits import DEVELOPMENT_PARTS, half_width, over_folds, partitions, split_column
from finetuning_toys import molecules, quietly, tiny_config, write_csv
from support.said import said


def fold(test: float, train: int = 80) -> dict[str, dict[str, object]]:
    part = {"rmse": test, "targets": {"y": {"rmse": test}}}
    return {
        "train": {"molecules": train, **part},
        "valid": {"molecules": 10, **part},
        "test": {"molecules": 20, **part},
    }


def test_the_interval_is_that_of_nadeau_and_bengio():
    values = [1.0, 1.2, 0.9, 1.1]
    expected = stats.t.ppf(0.975, 3) * math.sqrt((1 / 4 + 20 / 80) * np.var(values, ddof=1))
    assert half_width(values, 0.25) == pytest.approx(expected)
    assert half_width([1.0], 0.25) is None
    test = over_folds([fold(value) for value in values], ["rmse"])["test"]
    assert test["rmse"] == pytest.approx(1.05)
    assert test["rmse_half_width"] == pytest.approx(expected)
    assert test["molecules"] == 80
    of_blend = over_folds([fold(value) for value in values], ["rmse"], DEVELOPMENT_PARTS)["test"]
    assert of_blend["rmse_half_width"] == pytest.approx(half_width(values, 20 / 90))


@pytest.mark.parametrize(("split", "count"), [("kfold", 4), ("kfold:3", 3), ("kfold:3x2", 6), ("random", 1)])
def test_the_number_of_partitions(split: str, count: int):
    assert len(partitions(split, molecules(), folds=4)) == count


def test_names_of_splits():
    assert split_column("time:when") == "when"
    assert split_column("kfold:5x3") is None
    for name, message in (("scafold", "Did you mean scaffold"), ("kfold:2x3", "3 folds"), ("time:", "unknown split")):
        with pytest.raises(ConfigError, match=message):
            partitions(name, molecules())


def test_a_column_of_few_values_leaves_a_part_empty():
    with pytest.raises(InputError, match="column:NAME"):
        partitions("time:year", molecules(), column_values=["1"] * 30 + ["2"] * 24)
    with pytest.raises(InputError, match="train 54, valid 0, test 0"):
        partitions("time:year", molecules(), column_values=["2024"] * 54)


def test_molecules_outside_all_parts_are_said():
    lines: list[str] = []
    values = ["train"] * 20 + ["valid"] * 10 + ["test"] * 10 + [""] * 14
    with said(lines):
        partitions("column:part", molecules(), column_values=values)
    assert lines == ["note: 14 rows with a molecule are in no part of the split and not used"]


def test_duplicates_are_counted_and_named():
    smiles = ["CCO", "CCN", "CCO", "CCC", "CCN", "CCO"]
    split = Split(np.array([0, 1]), np.array([4]), np.array([2, 3, 5]))
    audit = audit_duplicates([split], smiles, np.array([0, 10, 20, 30, 40, 50]))
    assert (audit["duplicates_across_parts"], audit["duplicates_in_training_and_test"]) == (2, 1)
    assert audit["duplicates"][0] == {"smiles": "CCO", "rows": {"train": [0], "test": [20, 50]}}
    assert "CCO (train row 0; test row 20, 50)" in warning_line(audit)
    apart = Split(np.array([0, 2, 5]), np.array([1, 4]), np.array([3]))
    assert warning_line(audit_duplicates([apart], smiles, np.arange(6))) is None


def test_a_finetuning_by_index_files_warns_of_another_spelling(tmp_path: Path):
    smiles = [*molecules()[:20], "OCc1ccccc1", "c1ccccc1CO"]
    data = write_csv(tmp_path / "d.csv", {"smiles": smiles, "y": list(range(len(smiles)))})
    for name, rows in (("train", [*range(16), 20]), ("valid", [16, 17]), ("test", [18, 19, 21])):
        write_csv(tmp_path / f"{name}.csv", {"row": rows})
    files = ",".join(str(tmp_path / f"{name}.csv") for name in ("train", "valid", "test"))
    lines: list[str] = []
    config = tiny_config(f"split=index:{files}", "loop.epochs=1")
    with said(lines):
        metrics = finetune(data, tmp_path / "model", ["y"], config, encoder="random").metrics
    assert metrics["parts"]["test"]["molecules"] == 3
    assert metrics["duplicates_in_training_and_test"] >= 1
    assert any(line.startswith("warning: ") and "row 23" in line for line in lines)


def test_repeated_folds_have_baselines_in_each_and_an_interval(tmp_path: Path):
    smiles = molecules()
    data = write_csv(tmp_path / "d.csv", {"smiles": smiles, "y": [len(text) for text in smiles]})
    metrics = quietly(data, tmp_path / "m", ["y"], "split=kfold:3x2", "loop.epochs=1", "baselines=true").metrics
    assert len(metrics["folds"]) == len(metrics["members"]) == 6
    assert all(len(baseline["folds"]) == 6 for baseline in metrics["baselines"].values())
    assert metrics["parts"]["test"]["rmse_half_width"] > 0
    card = (tmp_path / "m" / "card.md").read_text()
    assert " ± " in card
    assert "test molecules in 6 folds; " in card


def test_a_split_column_without_validation_rows_gets_a_tenth_of_the_training_molecules() -> None:
    smiles = ["C" * (1 + row // 2) for row in range(60)]  # every molecule twice
    words = ["train"] * 40 + ["test"] * 20
    lines: list[str] = []
    with said(lines):
        (found,) = partitions("column:part", smiles, identities=smiles, column_values=words)
    assert found.test.tolist() == list(range(40, 60))
    assert sorted([*found.train.tolist(), *found.valid.tolist()]) == list(range(40))
    assert len(found.valid) == 4
    assert not {smiles[row] for row in found.valid} & {smiles[row] for row in found.train}
    assert lines == ["note: the split column names no validation row, so 4 training rows are drawn for it"]
