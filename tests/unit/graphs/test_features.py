"""Features equal OGB's on molecules of its ten sets, on the molecule as spelled and on the canonical one."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem

from dnd.chemistry.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES, NEUTRAL_CHARGE_INDEX
from dnd.chemistry.parse import parse_smiles
from dnd.graphs.features import featurize
from ogb_reference import SETS, assert_same, sample, smiles2graph, smiles_of


def check_laws(smiles: str) -> bool:
    """Both laws for one SMILES; whether its valences had to be relaxed (OGB's own code can't read those)."""
    outcome = parse_smiles(smiles)
    assert outcome.ok, smiles
    if outcome.relaxed:
        assert outcome.mol.GetNumAtoms() == featurize(outcome.mol).num_atoms
        return True
    assert_same(featurize(outcome.mol), smiles2graph()(outcome.smiles))
    assert_same(featurize(Chem.MolFromSmiles(smiles)), smiles2graph()(smiles))
    return False


def test_sample_of_the_ten_sets_equals_ogb() -> None:
    for smiles in sample(600):
        check_laws(smiles)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SETS)
def test_every_molecule_of_the_ten_sets_equals_ogb(name: str) -> None:
    relaxed = sum(check_laws(smiles) for smiles in smiles_of(name))
    assert relaxed == {"hiv": 7, "tox21": 8}.get(name, 0)


def test_sizes_are_ogbs() -> None:
    smiles2graph()
    from ogb.utils.features import get_atom_feature_dims, get_bond_feature_dims

    assert list(ATOM_FEATURE_SIZES) == get_atom_feature_dims()
    assert list(BOND_FEATURE_SIZES) == get_bond_feature_dims()


def test_columns_of_a_known_molecule() -> None:
    graph = featurize(Chem.MolFromSmiles("Cl[C@H](/C=C/C)Br"))
    assert graph.node_features_NF[1].tolist() == [5, 2, 4, NEUTRAL_CHARGE_INDEX, 1, 0, 2, 0, 0]
    assert graph.bond_features_UF[2].tolist() == [1, 2, 0]
    assert graph.bonds_U2.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [1, 5]]
    assert graph.node_features_NF.dtype == graph.bonds_U2.dtype == graph.bond_features_UF.dtype == np.int64


@pytest.mark.parametrize(
    ("smiles", "atom", "column", "index"),
    [
        ("*C", 0, 0, 118),
        ("[Og]", 0, 0, 117),
        ("[H+]", 0, 0, 0),
        ("[Fe+20]", 0, 3, 11),
        ("[C-4]", 0, 3, 1),
        ("F[Pt@SP1](Cl)(Br)I", 1, 1, 4),
        ("[H+]", 0, 6, 5),
    ],
)
def test_values_beyond_the_lists_take_the_last_index(smiles: str, atom: int, column: int, index: int) -> None:
    assert featurize(Chem.MolFromSmiles(smiles)).node_features_NF[atom, column] == index


def test_bond_stereo_unknown_to_ogb_is_none() -> None:
    mol = Chem.MolFromSmiles("Cc1cccc(O)c1-c1c(C)cccc1N")
    mol = Chem.RWMol(mol)
    bond = next(bond for bond in mol.GetBonds() if not bond.IsInRing() and bond.GetBeginAtom().IsInRing()
                and bond.GetEndAtom().IsInRing())  # fmt: skip
    bond.SetStereoAtoms(
        next(a.GetIdx() for a in bond.GetBeginAtom().GetNeighbors() if a.GetIdx() != bond.GetEndAtomIdx()),
        next(a.GetIdx() for a in bond.GetEndAtom().GetNeighbors() if a.GetIdx() != bond.GetBeginAtomIdx()),
    )
    bond.SetStereo(Chem.BondStereo.STEREOATROPCW)
    assert featurize(mol).bond_features_UF[bond.GetIdx(), 1] == 0


def test_uncommon_bonds_take_the_last_index() -> None:
    assert featurize(Chem.MolFromSmiles("[NH3]->[Fe]")).bond_features_UF.tolist() == [[4, 0, 0]]
    assert featurize(Chem.MolFromSmiles("C$C")).bond_features_UF.tolist() == [[4, 0, 0]]


def test_one_atom_has_empty_bond_arrays() -> None:
    graph = featurize(Chem.MolFromSmiles("[Na+]"))
    assert graph.node_features_NF.shape == (1, 9)
    assert graph.bonds_U2.shape == (0, 2)
    assert graph.bond_features_UF.shape == (0, 3)


def test_explicit_hydrogens_follow_the_atoms_grouped_by_their_neighbour() -> None:
    graph = featurize(Chem.MolFromSmiles("OCC"), explicit_hydrogens=True)
    assert (graph.node_features_NF[:, 0] + 1).tolist() == [8, 6, 6] + [1] * 6
    assert graph.bonds_U2[2:, 0].tolist() == [0, 1, 1, 2, 2, 2]
    assert graph.bonds_U2[2:, 1].tolist() == [3, 4, 5, 6, 7, 8]
