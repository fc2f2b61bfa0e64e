"""Coordinates land on the right atoms, from every layout, whatever the order they came in."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor

from dnd.conformers.atom_matching import Misfit, Placed, place
from dnd.conformers.formats import open_arrays, open_sources
from dnd.conformers.records import Record
from dnd.graphs.features import featurize

DATA = Path(__file__).parents[2] / "data" / "qm9_300.npz"


@pytest.fixture(scope="module")
def qm9() -> list[Record]:
    return list(open_arrays(DATA).records)


def as_mol(record: Record) -> Chem.Mol:
    """The record as an RDKit molecule with hydrogens and its conformer."""
    mol = Chem.AddHs(Chem.MolFromSmiles(record.smiles[0]))
    assert record.positions_A3 is not None
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(record.positions_A3.astype(np.float64))
    mol.AddConformer(conformer)
    return mol


def shuffled(mol: Chem.Mol, seed: int) -> Chem.Mol:
    return Chem.RenumberAtoms(mol, np.random.default_rng(seed).permutation(mol.GetNumAtoms()).tolist())


def bond_lengths(placed: Placed) -> np.ndarray:
    """Sorted lengths of the heavy bonds by bond order and elements: a wrong map can't have the same."""
    assert placed.positions_A3 is not None
    graph = featurize(placed.molecule.mol)
    begin, end = graph.bonds_U2.T
    lengths = np.linalg.norm(placed.positions_A3[begin] - placed.positions_A3[end], axis=1)
    kinds = np.sort(graph.node_features_NF[graph.bonds_U2, 0], axis=1) @ [1000, 10] + graph.bond_features_UF[:, 0]
    return np.array(sorted(zip(kinds.tolist(), lengths.round(3).tolist(), strict=True)))


def test_given_coordinates_follow_their_atoms_into_canonical_order(qm9: list[Record]) -> None:
    for record in qm9[:100]:
        placed = place(record)
        assert isinstance(placed, Placed)
        mol = as_mol(record)
        assert placed.positions_A3 is not None
        assert record.positions_A3 is not None
        with_hydrogens = featurize(placed.molecule.mol, explicit_hydrogens=True)
        assert np.array_equal(placed.atomic_numbers_A - 1, with_hydrogens.node_features_NF[:, 0])
        begin, end = with_hydrogens.bonds_U2.T
        lengths = np.linalg.norm(placed.positions_A3[begin] - placed.positions_A3[end], axis=1)
        assert lengths.min() > 0.9
        assert lengths.max() < 1.8
        assert sorted(map(tuple, placed.positions_A3.tolist())) == sorted(map(tuple, record.positions_A3.tolist()))
        assert Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(mol))) == Chem.CanonSmiles(placed.molecule.smiles)


def test_coordinates_in_any_order_find_their_atoms(qm9: list[Record]) -> None:
    for seed, record in enumerate(qm9[:60]):
        expected = place(record)
        mol = shuffled(as_mol(record), seed)
        loose = Record(
            record.row,
            record.source,
            "coordinates",
            smiles=record.smiles,
            atomic_numbers_A=np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
            positions_A3=mol.GetConformer().GetPositions().astype(np.float32),
        )
        found = place(loose)
        assert isinstance(expected, Placed)
        assert isinstance(found, Placed)
        assert found.molecule.smiles == expected.molecule.smiles
        assert np.array_equal(bond_lengths(found)[:, 0], bond_lengths(expected)[:, 0])
        assert bond_lengths(found)[:, 1].min() > 1.0
        assert bond_lengths(found)[:, 1].max() < 1.8


def test_bonds_are_determined_where_there_is_no_smiles(qm9: list[Record]) -> None:
    solved = 0
    for record in qm9[:40]:
        loose = Record(
            0, "x", "coordinates", atomic_numbers_A=record.atomic_numbers_A, positions_A3=record.positions_A3
        )
        found, expected = place(loose), place(record)
        assert isinstance(expected, Placed)
        solved += isinstance(found, Placed) and found.molecule.smiles == expected.molecule.smiles
    assert solved >= 35


@pytest.mark.parametrize(
    ("number", "charge", "smiles"),
    [(17, -1, "[Cl-]"), (11, 1, "[Na+]"), (26, 2, "[Fe+2]"), (1, 1, "[H+]"), (8, 0, "[O]"), (2, 0, "[He]")],
)
def test_a_single_atom_has_its_charge_and_no_hydrogens(number: int, charge: int, smiles: str) -> None:
    record = Record(
        0, "ion.xyz", "coordinates", atomic_numbers_A=np.array([number]),
        positions_A3=np.zeros((1, 3), np.float32), charge=charge,
    )  # fmt: skip
    placed = place(record)
    assert isinstance(placed, Placed)
    assert placed.molecule.smiles == smiles
    assert placed.atomic_numbers_A.tolist() == [number]


@pytest.mark.parametrize(("stated", "fits"), [(None, True), (1, True), (0, False), (-1, False)])
def test_a_charge_that_the_file_states_is_that_of_the_smiles(stated: int | None, fits: bool) -> None:
    positions = [[0, 0, 0], [0.96, 0, 0.2], [-0.24, 0.93, 0.2], [-0.6, -0.7, 0.2]]
    record = Record(
        0, "ion.xyz", "coordinates", smiles=("[OH3+]",), atomic_numbers_A=np.array([8, 1, 1, 1]),
        positions_A3=np.array(positions, np.float32), charge=stated,
    )  # fmt: skip
    placed = place(record)
    assert isinstance(placed, Placed) == fits
    assert fits or placed == Misfit("match", f"charge {stated} of the coordinates, 1 of the SMILES", "[OH3+]")


def test_foreign_coordinates_are_a_misfit(qm9: list[Record]) -> None:
    record = qm9[0]
    other = Record(0, "x", "coordinates", ("CCO",), "", record.atomic_numbers_A, record.positions_A3)
    assert place(other) == Misfit("match", "the SMILES' bonds are not among the coordinates' close atoms", "CCO")
    wrong = Record(0, "x", "smiles_with_hydrogens", ("CCO",), "", record.atomic_numbers_A, record.positions_A3)
    assert "elements differ" in getattr(place(wrong), "reason", "")
    assert record.positions_A3 is not None
    broken = Record(0, "x", "coordinates", ("CCO",), "", record.atomic_numbers_A, record.positions_A3 * np.nan)
    assert "not a finite number" in getattr(place(broken), "reason", "")


def write_pcqm(folder: Path, qm9: list[Record], packed: bool) -> Path:
    """Heavy atoms in another order than the SMILES', as PCQM4Mv2's SDF has them; row 3 belongs to another molecule."""
    blocks = []
    for seed, record in enumerate(qm9[:30]):
        mol = shuffled(Chem.RemoveHs(as_mol(qm9[40] if seed == 3 else record)), seed)
        blocks.append(Chem.MolToMolBlock(mol) + "\n$$$$\n")
    sdf = folder / "pcqm4m-v2-train.sdf"
    sdf.write_text("".join(blocks))
    lines = [f"{record.row},{record.smiles[0]},{record.row / 10}" for record in qm9[:50]]
    with gzip.open(folder / "data.csv.gz", "wt") as stream:
        stream.write("idx,smiles,homolumogap\n" + "\n".join(lines) + "\n")
    if packed:
        with tarfile.open(folder / "pcqm4m-v2-train.sdf.tar.gz", "w:gz") as archive:
            archive.add(sdf, "pcqm4m-v2-train.sdf")
        sdf.unlink()
        return folder / "pcqm4m-v2-train.sdf.tar.gz"
    return sdf


@pytest.mark.parametrize("packed", [False, True])
def test_pcqm4mv2_takes_the_graph_of_the_table_and_keeps_rows(tmp_path: Path, qm9: list[Record], packed: bool) -> None:
    path = write_pcqm(tmp_path, qm9, packed)
    records = list(open_sources([path], target_columns=["homolumogap"])[0].records)
    assert [record.row for record in records] == list(range(30))
    for record in records:
        assert record.targets == (record.row / 10,)
        found, expected = place(record), place(qm9[record.row])
        assert isinstance(expected, Placed)
        if record.row == 3:
            assert isinstance(found, Misfit)
            assert found.stage == "match"
            continue
        assert isinstance(found, Placed)
        assert found.molecule.smiles == expected.molecule.smiles
        assert len(found.atomic_numbers_A) == found.molecule.mol.GetNumAtoms()
        assert np.allclose(bond_lengths(found), bond_lengths(expected), atol=2e-3)


def test_sdf_with_a_drawing_has_no_conformer(tmp_path: Path) -> None:
    mol = Chem.MolFromSmiles("CCO")
    path = tmp_path / "drawn.sdf"
    rdDepictor.Compute2DCoords(mol)
    path.write_text(Chem.MolToMolBlock(mol) + "$$$$\n")
    placed = place(next(open_sources([path])[0].records))
    assert isinstance(placed, Placed)
    assert placed.positions_A3 is None


def test_sdf_fields_and_the_table_beside_are_targets(tmp_path: Path, qm9: list[Record]) -> None:
    path = tmp_path / "gdb9.sdf"
    fields = "> <gap>\n0.5\n\n"
    path.write_text("".join(Chem.MolToMolBlock(as_mol(record)) + fields + "$$$$\n" for record in qm9[:3]))
    assert [record.targets for record in open_sources([path], target_columns=["gap"])[0].records] == [(0.5,)] * 3
    (tmp_path / "gdb9.sdf.csv").write_text("mol_id,mu\ngdb_1,1\ngdb_2,\ngdb_3,3\n")
    targets = [record.targets[0] for record in open_sources([path], target_columns=["mu"])[0].records]
    assert np.array_equal(targets, [1, np.nan, 3], equal_nan=True)
    placed = place(next(open_sources([path])[0].records))
    expected = place(qm9[0])
    assert isinstance(placed, Placed)
    assert isinstance(expected, Placed)
    assert placed.molecule.smiles == expected.molecule.smiles
    assert np.allclose(placed.positions_A3, expected.positions_A3, atol=1e-3)
