from pathlib import Path

import numpy as np
import pytest
from molecule_store import store_of

from dnd.common.errors import InputError
from dnd.reproduction.benchmarks import load_benchmark
from dnd.reproduction.data_statistics import (
    draw_overlap,
    draw_statistics,
    overlap_with_store,
    statistics_of_smiles,
    statistics_of_store,
)

# Molecules, mean atoms, mean bonds, elements: Table 4 of the paper.
TABLE_4 = {
    "esol": (1128, 13.3, 13.7, 9),
    "lipo": (4200, 27.0, 29.5, 12),
    "freesolv": (642, 8.7, 8.4, 9),
    "bace": (1513, 34.1, 36.9, 8),
    "bbbp": (2039, 24.1, 26.0, 13),
    "clintox": (1477, 26.2, 27.9, 28),
    "sider": (1427, 33.6, 35.4, 40),
    "hiv": (41127, 25.5, 27.5, 55),
    "tox21": (7831, 18.6, 19.3, 51),
    "toxcast": (8576, 18.8, 19.3, 53),
}
LONG = ("hiv", "tox21", "toxcast", "lipo")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in TABLE_4]
)
def test_statistics_of_the_ogb_sets_equal_table_4(name: str) -> None:
    statistics = statistics_of_smiles(load_benchmark(name).smiles)
    molecules, atoms, bonds, elements = TABLE_4[name]
    assert statistics.unreadable == 0
    assert len(statistics.atoms_B) == molecules
    assert round(statistics.atoms_B.mean(), 1) == atoms
    assert round(statistics.bonds_B.mean(), 1) == bonds
    assert len(statistics.elements) == elements


def test_a_store_and_its_smiles_have_the_same_statistics(tmp_path: Path) -> None:
    smiles = ["CCO", "c1ccccc1Cl", "CC(=O)[O-].[Na+]"]
    from_store, from_text = statistics_of_store(store_of(smiles)), statistics_of_smiles([*smiles, "C1CC"])
    assert (from_store.atoms_B == from_text.atoms_B).all()
    assert (from_store.bonds_B == from_text.bonds_B).all()
    assert from_store.elements == from_text.elements == {6, 8, 11, 17}
    assert from_text.unreadable == 1
    finding = draw_statistics({"store": from_store, "text": from_text})
    paths = finding.write(tmp_path)
    assert {path.suffix for path in paths} == {".png", ".svg", ".csv", ".txt"}
    assert (tmp_path / "statistics.csv").read_text().splitlines()[1].startswith("store,3,")
    with pytest.raises(InputError, match="no valid molecule"):
        statistics_of_smiles(["C1CC"])


def test_overlap_by_elements_formula_and_molecule() -> None:
    store = store_of(["CCO", "C[C@H](F)Cl", "c1ccccc1"])
    overlap = overlap_with_store(["OCC", "COC", "C[C@@H](F)Cl", "CBr", "C1CC"], store)
    assert overlap.molecules == 4
    assert overlap.elements == pytest.approx(4 / 5)  # C, O, F, Cl of C, O, F, Cl, Br
    assert overlap.composition == pytest.approx(3 / 4)  # COC has ethanol's formula
    assert overlap.exact == pytest.approx(1 / 4)
    assert overlap.constitution == pytest.approx(2 / 4)  # the other enantiomer
    assert overlap.known_rows == (0, 2)
    finding = draw_overlap({"test": overlap}, "a store")
    assert "50.0 % of 4 molecules" in finding.sentence
    assert finding.rows[0][1] == 4


def test_overlap_with_nothing_in_common() -> None:
    overlap = overlap_with_store(["[Xe]"], store_of(["CCO"]))
    assert (overlap.elements, overlap.composition, overlap.constitution) == (0.0, 0.0, 0.0)
    assert np.isfinite(overlap.exact)
