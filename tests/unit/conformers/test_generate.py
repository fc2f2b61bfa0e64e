"""Generated conformers: deterministic, relaxed, with a reason where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from dnd.chemistry.molecule import Molecule
from dnd.chemistry.parse import parse_smiles
from dnd.conformers.generate import LIMIT_HEAVY_ATOMS, Generated, generate_conformers
from dnd.graphs.features import featurize
from dnd.store.writer import geometry_problem


def molecule(smiles: str) -> Molecule:
    parsed = parse_smiles(smiles)
    assert isinstance(parsed, Molecule)
    return parsed


def test_spelling_and_repetition_do_not_matter_but_the_seed_does() -> None:
    one, same, other = (
        generate_conformers(molecule(smiles), 2, seed) for smiles, seed in [("OCC", 1), ("CCO", 1), ("CCO", 2)]
    )
    assert isinstance(one, Generated)
    assert isinstance(same, Generated)
    assert isinstance(other, Generated)
    assert one.positions_JA3.shape == (2, 9, 3)
    assert np.array_equal(one.positions_JA3, same.positions_JA3)
    assert not np.array_equal(one.positions_JA3, other.positions_JA3)


@pytest.mark.parametrize(
    ("smiles", "method"),
    [
        ("CC(=O)Oc1ccccc1C(=O)O", "etkdg+mmff94s"),
        ("C[Se]C", "etkdg+uff"),
        ("C", "etkdg+mmff94s"),
        ("[Na+].[Cl-]", "etkdg+mmff94s"),
    ],
)
def test_geometries_are_sound(smiles: str, method: str) -> None:
    generated = generate_conformers(molecule(smiles), 1, 0)
    assert isinstance(generated, Generated)
    assert generated.method == method
    graph = featurize(molecule(smiles).mol, explicit_hydrogens=True)
    numbers_A = graph.node_features_NF[:, 0] + 1
    assert geometry_problem(generated.positions_JA3[0], numbers_A, graph.bonds_U2) is None


def test_impossible_and_too_large_molecules_have_a_reason() -> None:
    two_alkynes_in_six = generate_conformers(molecule("C#1CC#CC1"), 1, 0)
    assert isinstance(two_alkynes_in_six, str)
    assert two_alkynes_in_six.startswith("embedding failed: ")
    assert "unknown" not in two_alkynes_in_six
    assert f"up to {LIMIT_HEAVY_ATOMS}" in str(generate_conformers(molecule("C" * 129), 1, 0))
