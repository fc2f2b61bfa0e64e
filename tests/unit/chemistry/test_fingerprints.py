"""Fingerprints: right counts for simple molecules, sizes, no dependence on atom order, bounds on what is searched."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from rdkit import Chem

from dnd.chemistry.fingerprints import FINGERPRINTS, fingerprint
from dnd.chemistry.parse import TooDenseError
from dnd.common.errors import InputError
from dnd.predictor.classical.features import count_fingerprints, descriptors_2d

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
IMATINIB = "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1"


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_size_type_and_invariance_to_atom_order(name):
    mol = Chem.MolFromSmiles(IMATINIB)
    order = np.random.default_rng(0).permutation(mol.GetNumAtoms()).tolist()
    values = fingerprint(name, mol)
    assert values.shape == (FINGERPRINTS[name].size,)
    assert values.dtype == np.float32
    assert values.any()
    assert np.allclose(values, fingerprint(name, Chem.RenumberAtoms(mol, order)), atol=1e-6)
    assert not np.array_equal(values, fingerprint(name, Chem.MolFromSmiles(ASPIRIN)))


@pytest.mark.parametrize("name", [name for name in FINGERPRINTS if name != "erg"])
def test_counts_are_whole_and_not_negative(name):
    values = fingerprint(name, Chem.MolFromSmiles(IMATINIB))
    assert np.array_equal(values, values.round())
    assert values.min() >= 0


def test_atom_pairs_count_every_pair_once():
    hexane = fingerprint("atom_pairs", Chem.MolFromSmiles("CCCCCC"))
    assert hexane.sum() == 6 * 5 / 2
    assert sorted(hexane[hexane > 0]) == [1, 1, 2, 2, 2, 2, 2, 3]


def test_torsions_count_paths_of_four_atoms():
    assert fingerprint("torsions", Chem.MolFromSmiles("CCC")).sum() == 0
    assert fingerprint("torsions", Chem.MolFromSmiles("CCCC")).sum() == 1
    benzene = fingerprint("torsions", Chem.MolFromSmiles("c1ccccc1"))
    assert benzene.max() == benzene.sum() == 6


def test_morgan_counts_environments_and_equals_the_classical_features():
    mols = [Chem.MolFromSmiles(text) for text in (ASPIRIN, IMATINIB)]
    assert fingerprint("morgan_1024", Chem.MolFromSmiles("CCCCCC")).max() >= 4  # four equal CH2 at radius 0
    assert np.array_equal([fingerprint("morgan_2048", mol) for mol in mols], count_fingerprints(mols))


def test_erg_counts_pairs_of_features_fuzzily():
    assert not fingerprint("erg", Chem.MolFromSmiles("CCCC")).any()  # no feature
    values = fingerprint("erg", Chem.MolFromSmiles("OCCCCCN"))
    # Oxygen is a donor and an acceptor, nitrogen a donor: each pair of kinds has its distance, and a share beside it.
    (peak,) = np.flatnonzero(values == values.max())
    assert values[peak - 1] == values[peak + 1] == pytest.approx(0.3 * values[peak])
    assert np.allclose(np.unique(values), [0.0, 0.3, 0.6, 1.0, 2.0])


@pytest.mark.parametrize("name", FINGERPRINTS)
@pytest.mark.parametrize("smiles", ["CCCCC1(CC)C(=O)NC(=O)NC1=O", "CCNc1nc(Cl)nc(N(CC)CC)n1", IMATINIB])
def test_what_was_computed_before_changes_nothing(name, smiles):
    # RDKit keeps matrices in a molecule, and its ErG read one beyond its end: barbiturates differed from run to run.
    mol = Chem.MolFromSmiles(smiles)
    Chem.GetDistanceMatrix(mol)
    Chem.GetAdjacencyMatrix(mol)
    descriptors_2d([mol])
    for other in FINGERPRINTS:
        fingerprint(other, mol)
    assert np.array_equal(fingerprint(name, mol), fingerprint(name, Chem.MolFromSmiles(smiles)))


def all_bound(atoms: int) -> Chem.Mol:
    mol = Chem.RWMol()
    for _ in range(atoms):
        mol.AddAtom(Chem.Atom(0))
    for one, other in itertools.combinations(range(atoms), 2):
        mol.AddBond(one, other, Chem.BondType.SINGLE)
    Chem.SanitizeMol(mol)
    return mol.GetMol()


@pytest.mark.parametrize("name", ["avalon", "torsions", "erg"])
def test_dense_graphs_are_refused_by_what_searches_them(name):
    with pytest.raises(TooDenseError, match="14 atoms"):
        fingerprint(name, all_bound(14))


def test_avalon_refuses_what_its_tables_cannot_hold():
    with pytest.raises(TooDenseError, match="22 neighbours"):
        fingerprint("avalon", Chem.MolFromSmiles("[U]" + "(C)" * 22))


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_cages_and_long_chains_pass(name):
    fullerene = (
        "c12c3c4c5c1c6c7c8c2c9c1c3c2c3c4c4c%10c5c5c6c6c7c7c%11c8c9c8c9c1c2c1c2c3c4c3c4c%10c5c5c6c6c7c7c%11c8c8c9c1"
        "c1c2c3c2c4c5c6c3c7c8c1c23"
    )
    cucurbituril = (
        "C1N2C3C4N(C2=O)CN5C6C7N(C5=O)CN8C9C2N(C8=O)CN5C8C%10N(C5=O)CN5C%11C%12N(C5=O)CN5C%13C(N1C5=O)N1CN3C(=O)N4CN6"
        "C(=O)N7CN9C(=O)N2CN8C(=O)N%10CN%11C(=O)N%12CN%13C1=O"
    )
    for text in (fullerene, cucurbituril, "C" * 300, "C12C3C4C5C1[Fe]23456789C%10C6C7C8C9%10"):
        assert np.isfinite(fingerprint(name, Chem.MolFromSmiles(text))).all()


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="morgan_1024"):
        fingerprint("ecfp", Chem.MolFromSmiles("C"))
