"""The twenty-one further sets: their sizes, their splits, and what is said of a file that is not as it should be."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from dnd.chemistry.splits import scaffolds_of
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.reproduction.further_sets import BIOGEN, FURTHER_SETS, MOLECULEACE, load_further


def test_the_official_split_and_the_cliffs_of_moleculeace() -> None:
    data = load_further("CHEMBL4203_Ki")
    assert len(data.smiles) == len(data.target_B) == 731
    assert {part: len(rows) for part, rows in data.parts.items()} == {"train": 582, "valid": 0, "test": 149}
    assert data.cliff_B[data.parts["test"]].sum() == 13
    assert data.target_B[0] == pytest.approx(-np.log10(94.8e-9), abs=1e-6)  # pKi of 94.8 nM


def test_an_endpoint_of_biogen_has_its_labelled_molecules_split_by_scaffold() -> None:
    data = load_further("biogen-rppb")
    rows = np.sort(np.concatenate(list(data.parts.values())))
    assert np.array_equal(rows, np.arange(len(data.smiles)))
    assert len(data.smiles) == 168
    assert len(data.parts["train"]) == 134
    assert np.isfinite(data.target_B).all()


def test_names_and_damage_are_told(tmp_path: Path) -> None:
    assert (len(MOLECULEACE), len(BIOGEN), len(FURTHER_SETS)) == (15, 6, 21)
    with pytest.raises(ConfigError, match="CHEMBL4203_Ki"):
        load_further("CHEMBL4203-Ki")
    folder = tmp_path / "moleculeace"
    folder.mkdir()
    with gzip.open(folder / "CHEMBL4203_Ki.csv.gz", "wt") as stream:
        stream.write("smiles,y\nCCO,1\n")
    with pytest.raises(CorruptFileError, match=r"no column y \[pEC50/pKi\]"):
        load_further("CHEMBL4203_Ki", tmp_path)


def test_no_scaffold_of_biogen_is_in_two_parts() -> None:
    data = load_further("biogen-rppb")
    parts = [set(scaffolds_of([data.smiles[row] for row in rows])) for rows in data.parts.values()]
    assert all(len(own) > 1 for own in parts)
    assert not (parts[0] & parts[1])
    assert not (parts[0] & parts[2])
    assert not (parts[1] & parts[2])
