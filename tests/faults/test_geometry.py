"""A graph and its coordinates are of one molecule, or there is a reason: planes, bonds, hydrogens, configuration."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from dnd.chemistry.geometry import handedness, impossible_bonds, stereo_problem
from dnd.common.errors import InputError
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.settings import PrepareConfig

SETTINGS = ["heavy_both", "teacher_all_student_heavy", "all_both"]
HEADER = "{title}\n  Own     01012512003D\n\n{atoms:3d}{bonds:3d}  0  0  0  0  0  0  0  0999 V2000\n"


def molblock(atoms: str, bonds: str, title: str = "x") -> str:
    """A mol block of atoms `C 0 0 0; ...` and bonds `1 2 1; ...`, tagged 3D."""
    rows, pairs = [one.split() for one in atoms.split(";")], [list(map(int, one.split())) for one in bonds.split(";")]
    text = HEADER.format(title=title, atoms=len(rows), bonds=len(pairs))
    text += "".join(
        f"{float(x):10.4f}{float(y):10.4f}{float(z):10.4f} {e:3s} 0" + "  0" * 11 + "\n" for e, x, y, z in rows
    )
    return text + "".join("".join(f"{one:3d}" for one in pair) + "  0\n" for pair in pairs) + "M  END\n$$$$\n"


def outcome(path: Path, hydrogens: str = "heavy_both") -> tuple[list[str], list[str]]:
    """SMILES of the store that `prepare` makes of a file, and the reasons of what it rejects."""
    good = molblock("C 0 0 0; O 1.42 0 0.1", "1 2 1") if path.suffix == ".sdf" and hydrogens == "heavy_both" else ""
    path.write_text(path.read_text() + good)
    folder = path.parent / f"store-{hydrogens}"
    try:
        prepare([path], folder, PrepareConfig(hydrogens=hydrogens, conformers="file"))  # type: ignore[arg-type]
    except InputError:  # no valid molecule, which leaves the list of rejects
        return [], reasons(folder)
    found = Store.open(folder).smiles()
    return [text for text in found if not (good and text == "CO")], reasons(folder)


def reasons(folder: Path) -> list[str]:
    with open(folder / "rejects.csv", newline="") as stream:
        return [row["reason"] for row in csv.DictReader(stream)]


NEOPENTANE = "C 0 0 0; C 1.5 0 0; C -1.5 0 0; C 0 1.5 0; C 0 -1.5 0"


@pytest.mark.parametrize("turn", [0.0, 0.5])
def test_a_flat_drawing_is_no_conformer_whatever_its_tag_and_plane(tmp_path: Path, turn: float):
    rows = [one.split() for one in NEOPENTANE.split(";")]
    turned = "; ".join(f"{e} {x} {float(y) * np.cos(turn)} {float(y) * np.sin(turn) + turn}" for e, x, y, _ in rows)
    benzene = "; ".join(f"C {1.39 * np.cos(a)} {1.39 * np.sin(a)} 0" for a in np.arange(6) * np.pi / 3)
    path = tmp_path / "a.sdf"
    ring = "1 2 4; 2 3 4; 3 4 4; 4 5 4; 5 6 4; 6 1 4"
    path.write_text(molblock(turned, "1 2 1; 1 3 1; 1 4 1; 1 5 1") + molblock(benzene, ring))
    found, why = outcome(path)
    assert found == ["c1ccccc1"]
    assert why == ["all atoms lie in a plane, but atom 1 has four bonds: this is a 2D drawing"]


def test_bonds_are_judged_by_their_elements(tmp_path: Path):
    path = tmp_path / "a.sdf"
    bent = "C 1.2474 -0.1864 0.21; C -0.0688 0.5724 0.227; C -1.1955 -0.2455 -0.3813"
    path.write_text(
        molblock("I 0 0 0; I 0 0 2.666", "1 2 1")
        + molblock(bent, "1 2 1; 2 3 1; 1 3 1")
        + molblock(bent, "1 2 1; 2 3 1")
    )
    found, why = outcome(path)
    assert found == ["II", "CCC"]
    assert why == ["bonded atoms 2 and 0 are 2.51 angstrom apart"]


@pytest.mark.parametrize(
    ("pair", "length", "is_bond"),
    [((1, 1), 0.74, True), ((7, 7), 1.10, True), ((53, 53), 2.67, True), ((6, 6), 2.51, False), ((6, 6), 0.85, False),
     ((7, 7), 1.78, True), ((26, 6), 2.05, True), ((1, 6), 1.6, False), ((55, 53), 3.3, True), ((0, 6), 1.5, True)],
)  # fmt: skip
def test_lengths(pair: tuple[int, int], length: float, is_bond: bool):
    assert bool(impossible_bonds(np.array([length]), np.array([pair]))[0]) is not is_bond


@pytest.mark.parametrize("hydrogens", SETTINGS)
@pytest.mark.parametrize("smiles", ["CC(=O)[O-]", "C[CH+]C", "[CH3]", "C[CH]C"])
def test_a_lost_charge_or_radical_is_no_hydrogen(tmp_path: Path, smiles: str, hydrogens: str):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=7)
    block = Chem.MolToMolBlock(mol)
    kept = [line for line in block.splitlines() if not line.startswith(("M  CHG", "M  RAD"))]
    bare = "\n".join(line[:36] + "  0" * ((len(line) - 36) // 3) if len(line) == 69 else line for line in kept)
    path = tmp_path / "a.sdf"
    path.write_text(bare + "\n$$$$\n")
    found, (why,) = outcome(path, hydrogens)
    assert found == []
    hidden = sum(atom.GetAtomicNum() == 1 for atom in mol.GetAtoms())
    assert why == f"{hidden} of {hidden + 1} hydrogens have coordinates: a charge, a radical or a hydrogen may be lost"


def xyz(smiles: str, comment: str, count: int | None = None) -> str:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=7)
    atoms = zip(mol.GetAtoms(), mol.GetConformer().GetPositions(), strict=True)
    lines = [f"{atom.GetSymbol()} {x:.5f} {y:.5f} {z:.5f}" for atom, (x, y, z) in atoms]
    return "\n".join([str(len(lines) if count is None else count), comment, *lines]) + "\n"


def test_a_frame_with_too_small_a_number(tmp_path: Path):
    path = tmp_path / "a.xyz"
    path.write_text(xyz("CO", "one", 4) + xyz("CO", "two") + "\n\n" + xyz("CCO", "three", 8) + xyz("CN", "four"))
    found, why = outcome(path)
    assert found == ["CO", "CN"]
    assert why == [f"number of atoms is {count}, but more lines of atoms follow" for count in (4, 8)]


@pytest.mark.parametrize(
    ("of", "told", "reason"),
    [
        ("C[C@H](N)O", "C[C@H](N)O", ""),
        ("C[C@H](N)O", "CC(N)O", ""),
        ("C[C@H](N)O", "C[C@@H](N)O", "tetrahedral configuration"),
        ("CC[S@](C)=O", "CC[S@@](C)=O", "tetrahedral configuration"),
        ("C/C=C/C", "C/C=C/C", ""),
        ("C/C=C/C", r"C/C=C\C", "at double bond"),
        (r"C/C=N\O", "C/C=N/O", "at double bond"),
        ("C[C@H](O)[C@H](O)[C@@H](C)O", "C[C@H](O)[C@H](O)[C@@H](C)O", ""),
        ("OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O", "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O", ""),
        ("OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O", "OC[C@H]1O[C@H](O)[C@H](O)[C@@H](O)[C@@H]1O", "tetrahedral"),
    ],
)
@pytest.mark.parametrize("pcqm", [False, True])
def test_configurations_agree(tmp_path: Path, of: str, told: str, reason: str, pcqm: bool):
    if pcqm:
        path = tmp_path / "pcqm4m-v2-train.sdf"
        mol = Chem.AddHs(Chem.MolFromSmiles(of))
        rdDistGeom.EmbedMolecule(mol, randomSeed=7)
        heavy = Chem.RemoveHs(mol)
        order = np.random.default_rng(3).permutation(heavy.GetNumAtoms()).tolist()
        path.write_text(Chem.MolToMolBlock(Chem.RenumberAtoms(heavy, order)) + "$$$$\n")
        (tmp_path / "data.csv").write_text(f"idx,smiles\n0,{told}\n")
        folder = tmp_path / "store"
        try:
            prepare([path], folder, PrepareConfig(conformers="file"))
            found = (Store.open(folder).smiles(), reasons(folder))
        except InputError:
            found = ([], reasons(folder))
    else:
        path = tmp_path / "a.xyz"
        path.write_text(xyz(of, f"smiles={told}"))
        found = outcome(path)
    if not reason:
        assert found == ([Chem.CanonSmiles(told)], [])
    else:
        assert found[0] == []
        assert reason in found[1][0]


def test_a_charge_beside_a_smiles_of_another(tmp_path: Path):
    path = tmp_path / "a.xyz"
    path.write_text(xyz("CC(=O)[O-]", "charge=-1 smiles=CC(=O)[O-]") + xyz("CO", "charge=1 smiles=CO"))
    found, why = outcome(path)
    assert found == ["CC(=O)[O-]"]
    assert why == ["charge 1 of the coordinates, 0 of the SMILES"]


def arrays(path: Path, smiles: list[str], mirrored: bool) -> Path:
    """An .npz of embedded conformers, or of their mirror images with the atoms in the same order."""
    mols = [Chem.AddHs(Chem.MolFromSmiles(text)) for text in smiles]
    for mol in mols:
        if rdDistGeom.EmbedMolecule(mol, randomSeed=7) < 0:  # a cage: it has no other way to be
            rdDistGeom.EmbedMolecule(mol, randomSeed=7, enforceChirality=False)
    positions = np.concatenate([mol.GetConformer().GetPositions() for mol in mols]) * [-1 if mirrored else 1, 1, 1]
    numbers = np.concatenate([[atom.GetAtomicNum() for atom in mol.GetAtoms()] for mol in mols])
    sizes = [mol.GetNumAtoms() for mol in mols]
    np.savez(path, Z=numbers.astype(np.uint8), R=positions.astype(np.float32), n_atoms=sizes, smiles=np.array(smiles))
    return path


OWN_MIRROR_IMAGES = ["OC[C@H]1C[C@@H](CO)C1", "C1OC[C@H]2C[C@@H]1C2", "C#C[C@]12C[C@](C#N)(C1)C2", "C/C=C/C"]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("hydrogens", SETTINGS)
def test_a_molecule_that_is_its_own_mirror_image_fits_either_way(tmp_path: Path, hydrogens: str, mirrored: bool):
    path = arrays(tmp_path / "a.npz", [*OWN_MIRROR_IMAGES, "C[C@H](N)O"], mirrored)
    folder = tmp_path / "store"
    prepare([path], folder, PrepareConfig(hydrogens=hydrogens))  # type: ignore[arg-type]
    store = Store.open(folder)
    assert store.smiles() == list(map(Chem.CanonSmiles, [*OWN_MIRROR_IMAGES, *([] if mirrored else ["C[C@H](N)O"])]))
    assert ["tetrahedral configuration" in why for why in reasons(folder)] == [True] * mirrored
    for row, text in enumerate(store.smiles()):  # what the graph says of each atom, its own coordinates say too
        conformers = store.read(np.array([row])).conformers
        assert conformers is not None
        assert stereo_problem(Chem.MolFromSmiles(text), conformers.positions_A3.numpy()) is None


def test_handedness_of_a_centre():
    mol = Chem.MolFromSmiles("[C@](F)(Cl)(Br)I")  # F in front: Cl, Br, I anticlockwise
    turns = 2 * np.pi * np.arange(3) / 3
    around = np.stack([np.cos(turns), np.sin(turns), np.full(3, -1 / np.sqrt(8))], axis=1) * np.sqrt(8) / 3
    regular = np.concatenate([[[0, 0, 0], [0, 0, 1]], around])
    assert handedness(mol.GetAtomWithIdx(0), regular) == pytest.approx(1)
    assert handedness(mol.GetAtomWithIdx(0), regular * [1, -1, 1]) == pytest.approx(-1)
    assert stereo_problem(mol, regular) is None
    assert "at atom 0" in str(stereo_problem(mol, regular * [1, -1, 1]))
    one_sided = regular.copy()
    one_sided[2:, 2] = 0.3  # the centre of a strained cage, outside of its neighbours
    assert handedness(mol.GetAtomWithIdx(0), one_sided) == 0
    flat = regular * [1, 1, 0]
    assert stereo_problem(mol, flat * [1, -1, 1]) is None


# EquiReact, record 12,100: a bridgehead whose hydrogen says on which side of its three other neighbours it is.
BICYCLOBUTANE = "C[C@H]1[C@H]2C[C@@]21N=O"
BICYCLOBUTANE_A3 = [
    [-1.618, -1.423, -0.644], [-0.659, -0.347, -1.075], [-0.378, 0.794, -0.173], [0.969, 1.211, -0.645],
    [0.696, -0.238, -0.426], [1.149, -1.076, 0.606], [2.184, -0.733, 1.121], [-2.643, -1.135, -0.884],
    [-1.548, -1.609, 0.428], [-1.402, -2.359, -1.16], [-0.655, -0.132, -2.143], [-0.813, 0.975, 0.798],
    [1.616, 1.686, 0.083], [1.087, 1.56, -1.668],
]  # fmt: skip
# QM9, record 35,700: the four neighbours of both bridgeheads lie on one side. It is its own mirror image, to 0.0001 Å.
PROPELLANE = "C1O[C@@]23C[C@@]2(O1)[C@H]1C[C@H]13"
PROPELLANE_A3 = [
    [2.142, -2.12, -1.349], [0.748, -2.022, -1.641], [0.404, -0.684, -1.442], [0.696, 0.299, -2.55],
    [1.709, 0.093, -1.45], [2.719, -0.85, -1.653], [1.409, 0.627, -0.024], [0.091, 1.343, 0.04],
    [0.091, -0.157, -0.016], [2.591, -2.881, -1.993], [2.298, -2.371, -0.288], [0.973, -0.175, -3.485],
    [0.145, 1.225, -2.663], [2.177, 0.739, 0.73], [-0.142, 1.744, 1.022], [-0.28, 1.958, -0.773],
    [-0.368, -0.774, 0.746],
]  # fmt: skip


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("text", "positions_A3", "of_its_mirror_image"),
    [(BICYCLOBUTANE, BICYCLOBUTANE_A3, False), (PROPELLANE, PROPELLANE_A3, True)],
)
def test_a_bridgehead_outside_of_its_neighbours_contradicts_nothing(
    tmp_path: Path, text: str, positions_A3: list[list[float]], of_its_mirror_image: bool, mirrored: bool
):
    numbers = [atom.GetAtomicNum() for atom in Chem.AddHs(Chem.MolFromSmiles(text)).GetAtoms()]
    placed = np.array(positions_A3, np.float32) * np.array([-1 if mirrored else 1, 1, 1], np.float32)
    path = tmp_path / "a.npz"
    np.savez(path, Z=np.uint8(numbers), R=placed, n_atoms=[len(numbers)], smiles=np.array([text]))
    found, why = outcome_of_arrays(path)
    if mirrored and not of_its_mirror_image:
        assert "tetrahedral configuration" in why[0]
    else:
        assert (found, why) == ([Chem.CanonSmiles(text)], [])


def outcome_of_arrays(path: Path) -> tuple[list[str], list[str]]:
    folder = path.parent / "store"
    try:
        prepare([path], folder, PrepareConfig(hydrogens="heavy_both", conformers="file"))
    except InputError:  # no valid molecule
        return [], reasons(folder)
    return Store.open(folder).smiles(), reasons(folder)
