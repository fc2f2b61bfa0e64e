"""One GFN2-xTB calculation of a conformer: right values, sums, invariances, a reason for every failure."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

pytest.importorskip("tblite", reason="needs the extra `quantum`")

from dnd.conformers.quantum import (
    ACCURACY,
    ATOM_QUANTITIES,
    KCAL_PER_MOL,
    QUANTITIES,
    QuantumValues,
    isolated_atom_energy,
    quantum_values,
)


def conformer(smiles: str) -> tuple[Chem.Mol, np.ndarray]:
    """A molecule and its relaxed conformer, hydrogens included."""
    mol = Chem.MolFromSmiles(smiles)
    full = Chem.AddHs(mol)
    assert AllChem.EmbedMolecule(full, randomSeed=7) == 0
    AllChem.MMFFOptimizeMolecule(full, "MMFF94s", 2000)
    return mol, full.GetConformer().GetPositions()


def calculated(smiles: str, **changes: object) -> QuantumValues:
    found = quantum_values(*conformer(smiles), **changes)  # type: ignore[arg-type]
    assert isinstance(found, QuantumValues), found
    return found


# Measured free energies of hydration, kcal/mol, 1 mol/l in both phases: FreeSolv (Mobley, Guthrie, JCAMD 2014).
HYDRATION = {
    "C": 2.00, "CCCCCC": 2.48, "c1ccccc1": -0.90, "CC(C)=O": -3.80, "CN": -4.55, "c1ccncc1": -4.69, "CCO": -5.00,
    "Oc1ccccc1": -6.61, "CC(=O)O": -6.69, "CC(N)=O": -9.71,
}  # fmt: skip


def test_hydration_free_energies_follow_experiment() -> None:
    found = np.array([calculated(smiles).solvation_water for smiles in HYDRATION])
    measured = np.array(list(HYDRATION.values()))
    assert np.corrcoef(found, measured)[0, 1] > 0.9
    assert np.abs(found - measured).max() < 3.0
    by_name = dict(zip(HYDRATION, found, strict=True))
    assert by_name["CC(N)=O"] < by_name["CCO"] < by_name["CN"] < by_name["c1ccccc1"] < by_name["C"]


def test_values_are_those_recorded_of_tblite() -> None:
    """Water at a stated geometry; tblite 0.8.0 at accuracy 0.01."""
    water = np.array([[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
    found = quantum_values(Chem.MolFromSmiles("O"), water, explicit_hydrogens=True, accuracy=0.01)
    assert isinstance(found, QuantumValues)
    assert found.molecule() == pytest.approx(
        [-9.0722, -6.3440, -0.6783, -12.1769, 2.4528, 14.6297, 2.2711, 2.0833, -322.5299], abs=2e-3
    )
    assert found.charges_N == pytest.approx([-0.5635, 0.28175, 0.28175], abs=1e-4)
    assert found.bond_orders_U == pytest.approx([0.9202, 0.9202], abs=1e-3)
    loose = quantum_values(Chem.MolFromSmiles("O"), water, accuracy=ACCURACY)
    assert isinstance(loose, QuantumValues)
    assert loose.molecule() == pytest.approx(found.molecule(), abs=0.01)


def test_moments_and_bonds_are_of_the_size_that_the_textbook_has() -> None:
    carbon_dioxide = quantum_values(Chem.MolFromSmiles("O=C=O"), np.array([[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0.0]]))
    assert isinstance(carbon_dioxide, QuantumValues)
    assert carbon_dioxide.dipole == pytest.approx(0.0, abs=1e-3)
    assert carbon_dioxide.quadrupole == pytest.approx(4.3, abs=2.0)  # measured: -4.3 debye angstrom
    assert calculated("O").dipole == pytest.approx(1.85, abs=0.6)
    orders = [calculated(smiles).bond_orders_U[0] for smiles in ("CC", "c1ccccc1", "C=C", "C#C")]
    assert orders == pytest.approx([1.0, 1.44, 2.0, 3.0], abs=0.1)
    ethanol = calculated("CCO")
    assert ethanol.gap == pytest.approx(ethanol.lumo - ethanol.homo)


@pytest.mark.parametrize(
    ("smiles", "charge"), [("CCO", 0), ("C[NH3+]", 1), ("CC(=O)[O-]", -1), ("C[NH+](C)CC([O-])=O", 0)]
)
def test_charges_sum_to_the_total_charge_and_shares_to_the_energy(smiles: str, charge: int) -> None:
    mol, positions = conformer(smiles)
    heavy, every = (quantum_values(mol, positions, explicit_hydrogens=explicit) for explicit in (False, True))
    assert isinstance(heavy, QuantumValues)
    assert isinstance(every, QuantumValues)
    assert len(heavy.charges_N) == mol.GetNumAtoms()
    assert len(heavy.bond_orders_U) == mol.GetNumBonds()
    assert len(every.charges_N) == len(positions)
    assert len(every.bond_orders_U) == Chem.AddHs(mol).GetNumBonds()
    for found in (heavy, every):
        assert found.charges_N.sum() == pytest.approx(charge, abs=1e-6)
        assert found.energy_shares_N.sum() == pytest.approx(found.energy, abs=1e-6)
    hydrogens = Chem.AddHs(mol)
    own = [index.GetIdx() for index in hydrogens.GetAtomWithIdx(0).GetNeighbors() if index.GetAtomicNum() == 1]
    assert heavy.charges_N[0] == pytest.approx(every.charges_N[0] + every.charges_N[own].sum())


@pytest.mark.parametrize("smiles", ["CC(=O)Nc1ccc(O)cc1", "OC[C@H](N)C(F)Cl", "C[CH2]"])
def test_place_direction_and_atom_order_do_not_matter(smiles: str) -> None:
    mol, positions = conformer(smiles)
    reference = quantum_values(mol, positions)
    assert isinstance(reference, QuantumValues)
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn[:, 0] *= np.linalg.det(turn)
    order = rng.permutation(mol.GetNumAtoms()).tolist()
    full = Chem.AddHs(mol)
    hydrogens = [
        other.GetIdx()
        for index in order
        for other in full.GetAtomWithIdx(index).GetNeighbors()
        if other.GetIdx() >= mol.GetNumAtoms()
    ]
    shuffled = Chem.RenumberAtoms(mol, order)
    found = quantum_values(shuffled, positions[[*order, *hydrogens]] @ turn.T + 30.0)
    assert isinstance(found, QuantumValues)
    assert found.molecule() == pytest.approx(reference.molecule(), abs=1e-5)
    assert found.atoms() == pytest.approx(reference.atoms()[order], abs=1e-5)
    at = {frozenset((b.GetBeginAtomIdx(), b.GetEndAtomIdx())): b.GetIdx() for b in mol.GetBonds()}
    same = [at[frozenset((order[b.GetBeginAtomIdx()], order[b.GetEndAtomIdx()]))] for b in shuffled.GetBonds()]
    assert found.bond_orders_U == pytest.approx(reference.bond_orders_U[same], abs=1e-5)


def test_a_radical_has_its_unpaired_electron_and_bonds_like_the_others() -> None:
    angles = 2 * np.pi * np.arange(3) / 3
    positions = np.concatenate(
        [np.zeros((1, 3)), 1.08 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)]
    )
    methyl = quantum_values(Chem.MolFromSmiles("[CH3]"), positions, explicit_hydrogens=True)
    assert isinstance(methyl, QuantumValues)
    assert methyl.bond_orders_U == pytest.approx([0.995] * 3, abs=0.01)
    assert methyl.energy < -250  # bound
    assert methyl.gap > 5  # between the half-filled orbital and the first empty one
    assert isolated_atom_energy(1) * KCAL_PER_MOL == pytest.approx(-246.9, abs=0.1)


def test_every_failure_is_a_reason() -> None:
    mol, positions = conformer("CCO")
    assert quantum_values(mol, positions[:3]) == "the conformer has 3 of 9 atoms"
    assert "finite" in str(quantum_values(mol, positions * np.nan))
    assert "close" in str(quantum_values(mol, positions * 0.0))
    assert (
        quantum_values(Chem.MolFromSmiles("[U]"), np.zeros((1, 3))) == "GFN2-xTB has no parameters for atomic number 92"
    )
    assert quantum_values(Chem.MolFromSmiles("[H+]"), np.zeros((1, 3))) == "it has no valence electrons"
    unmarked = Chem.MolFromSmiles("[CH3]")
    unmarked.GetAtomWithIdx(0).SetNumRadicalElectrons(0)
    assert quantum_values(unmarked, conformer("[CH3]")[1]) == "7 valence electrons can't have 0 unpaired ones"
    assert (
        quantum_values(Chem.MolFromSmiles("*O"), np.zeros((3, 3))) == "GFN2-xTB has no parameters for atomic number 0"
    )
    assert "no parameters" in str(quantum_values(Chem.MolFromSmiles(""), np.zeros((0, 3))))


def test_values_stand_in_the_order_that_the_names_have() -> None:
    found = calculated("CO")
    assert dict(zip(QUANTITIES, found.molecule(), strict=True))["dipole"] == found.dipole
    assert list(ATOM_QUANTITIES) == ["charge", "energy_share"]
    assert np.array_equal(found.atoms()[:, 0], found.charges_N)
