"""A column that is the answer is named; one that is not, is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dnd.finetuning.data_checks import leak_warnings
from dnd.finetuning.labelled_data import LabelledFile
from finetuning_toys import heavy_atoms, molecules, write_csv


def table(folder: Path) -> LabelledFile:
    smiles = molecules()
    size = [heavy_atoms(text) for text in smiles]
    columns = {
        "smiles": smiles,
        "size": size,
        "log": [float(np.log(value)) for value in size],
        "minus": [f"{-value}" if value % 5 else "" for value in size],
        "noise": list(np.random.default_rng(0).normal(size=len(size))),
        "name": [f"m{row}" for row in range(len(size))],
        "part": size,
        "same": [1] * len(size),
    }
    return LabelledFile(write_csv(folder / "leak.csv", columns), ("size",))


def test_columns_that_order_molecules_as_the_target_does_are_named(tmp_path: Path):
    found = leak_warnings(table(tmp_path), ["size"], ["part"])
    assert [line.split()[2] for line in found] == ["log", "minus"]
    assert all("rank correlation" in line and "size" in line for line in found)
    assert "-1.000" in found[1]


def test_a_target_that_is_no_column_and_standard_input_say_nothing(tmp_path: Path):
    assert leak_warnings(table(tmp_path), ["elsewhere"]) == []
    assert leak_warnings(LabelledFile("-", ("size",)), ["size"]) == []
