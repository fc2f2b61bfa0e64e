"""Everything that is wrong with a labelled table is one line, said before training starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from dnd.common.errors import ConfigError, InputError
from finetuning_toys import molecules, quietly, write_csv, write_regression

SMILES = molecules()
NUMBERS = list(range(len(SMILES)))


def refused(tmp_path: Path, columns: dict[str, list[object]], targets: list[str], *overrides: str) -> str:
    data = write_csv(tmp_path / "bad.csv", columns)
    with pytest.raises(InputError) as error:
        quietly(data, tmp_path / "model", targets, *overrides)
    assert not (tmp_path / "model").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_column_lists_the_columns_there_are(tmp_path: Path):
    line = refused(tmp_path, {"smiles": SMILES, "logS": NUMBERS}, ["logs"])
    assert "no column 'logs'" in line
    assert "columns smiles, logS" in line


def test_a_target_column_twice_in_the_header(tmp_path: Path):
    data = tmp_path / "d.csv"
    data.write_text("smiles,y,y\n" + "".join(f"{text},1,2\n" for text in SMILES))
    with pytest.raises(InputError, match="more than one column named 'y'"):
        quietly(data, tmp_path / "model", ["y"])


def test_label_that_is_no_number_names_row_and_value(tmp_path: Path):
    line = refused(tmp_path, {"smiles": SMILES, "y": [*NUMBERS[:-1], ">100"]}, ["y"])
    assert f"'>100' (row {len(SMILES) + 1})" in line  # the header is row 1
    assert "--censored keep, drop or limit" in line


def test_all_labels_missing(tmp_path: Path):
    assert "all labels of y are missing" in refused(tmp_path, {"smiles": SMILES, "y": [""] * len(SMILES)}, ["y"])


def test_one_target_without_labels(tmp_path: Path):
    columns = {"smiles": SMILES, "y": NUMBERS, "z": [""] * len(SMILES)}
    assert "target z has no label" in refused(tmp_path, columns, ["y", "z"])


def test_no_valid_molecule_gives_the_first_reason(tmp_path: Path):
    assert "row 2: unclosed ring" in refused(tmp_path, {"smiles": ["C1CC", "c1"], "y": [1, 2]}, ["y"])


def test_too_few_molecules(tmp_path: Path):
    assert "too few molecules" in refused(tmp_path, {"smiles": SMILES[:3], "y": NUMBERS[:3]}, ["y"])


def test_one_class_only(tmp_path: Path):
    assert "one class only" in refused(tmp_path, {"smiles": SMILES, "y": [1] * len(SMILES)}, ["y"])


def test_constant_target(tmp_path: Path):
    assert "target y is constant" in refused(tmp_path, {"smiles": SMILES, "y": [2.5] * len(SMILES)}, ["y"])


def test_scaffold_split_of_molecules_without_rings(tmp_path: Path):
    smiles = ["C" * length for length in range(1, 31)]
    line = refused(tmp_path, {"smiles": smiles, "y": list(range(30))}, ["y"], "split=scaffold")
    assert "leaves a part empty" in line
    assert "--split random" in line


def test_empty_file(tmp_path: Path):
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="is empty"):
        quietly(tmp_path / "empty.csv", tmp_path / "model", ["y"])


@pytest.mark.parametrize(
    ("override", "message"),
    [("split=scafold", "unknown split"), ("units=a,b", "units and target"), ("layer_decay=0", "layer_decay")],
)
def test_settings_that_cannot_work(tmp_path: Path, override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        quietly(write_regression(tmp_path), tmp_path / "model", ["size"], override)


def test_a_student_without_virtual_node(tmp_path: Path):
    overrides = ("pooling=virtual_node", "student.virtual_node=false")
    with pytest.raises(ConfigError, match="no virtual node"):
        quietly(write_regression(tmp_path), tmp_path / "model", ["size"], *overrides)
    assert not (tmp_path / "model").exists()


def test_an_encoder_that_is_none(tmp_path: Path):
    data = write_regression(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        quietly(data, tmp_path / "model", ["size"], encoder=tmp_path / "nowhere")
