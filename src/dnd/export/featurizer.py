"""SMILES to predictions with NumPy, RDKit and onnxruntime alone: `dnd export` puts this file beside the model.

    from featurizer import Exported
    model = Exported(".")                                 # the folder with model.onnx and settings.json
    values, reasons = model.predict(["CCO", "no molecule"])

`values` has a row per SMILES and a column per target, in the target's unit or the probability of class 1; a SMILES that
can't be read has NaN and its reason. `features` alone needs no onnxruntime: its arrays feed model.onnx anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdmolops
from rdkit.Chem.MolStandardize import rdMolStandardize

# Values that each feature lists; one more index takes every other value. The features are those of the Open Graph
# Benchmark (Hu et al., NeurIPS 2020).
CHIRALITY = ("CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW", "CHI_OTHER")
HYBRIDIZATION = ("SP", "SP2", "SP3", "SP3D", "SP3D2")
BOND_TYPE = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
BOND_STEREO = ("STEREONONE", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS", "STEREOANY")
ATOMIC_NUMBERS, CHARGES, DEGREES, HYDROGENS, RADICALS = range(1, 119), range(-5, 6), range(11), range(9), range(5)

ATOM = re.compile(r"\[[^\[\]]*\]|Br|Cl|[BCNOPSFIbcnops*]")
SELFIES = re.compile(r"(?:\[(?:C|N|O|S|P|F|Cl|Br|I)\]){2,}")  # as SMILES atoms without hydrogens, so if with [C]
VALENCE_IS_STRICT = {1, 6, 7, 8, 9}  # other elements may have more bonds than RDKit knows
MOST_WALKS = 3_000_000  # of six bonds; C60 has 44,000
ROUNDS = 8  # of writing and reading until a canonical SMILES stays as it is
BATCH_TOKENS = 1000  # atoms and directed bonds that go through the network at once


class Exported:
    """A model that `dnd export` wrote.

    Args:
        folder: with `model.onnx` and `settings.json`.
    """

    def __init__(self, folder: Path | str = ".") -> None:
        import onnxruntime  # the one thing that features do not need

        self.settings = json.loads((Path(folder) / "settings.json").read_text(encoding="utf-8"))
        self.session = onnxruntime.InferenceSession(
            str(Path(folder) / "model.onnx"), providers=["CPUExecutionProvider"]
        )

    def predict(self, smiles: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Values `(len(smiles), C)` float64, NaN where there is no molecule, and the reason of each NaN row.

        A target with a largest number of heavy atoms is NaN for larger molecules.
        """
        molecules = [read_for(self.settings, text) for text in smiles]
        reasons = [found if isinstance(found, str) else "" for found in molecules]
        graphs = {row: graph(found, self.settings) for row, found in enumerate(molecules) if not isinstance(found, str)}
        values_BC = np.full((len(smiles), len(self.settings["targets"])), np.nan)
        for rows in batches({row: len(own["atoms"]) + len(own["bonds"]) for row, own in graphs.items()}):
            values_BC[rows] = self.session.run(["values"], pack([graphs[row] for row in rows]))[0]
        for row in graphs:
            if not np.isfinite(values_BC[row]).all():
                values_BC[row], reasons[row] = np.nan, "the model gives no finite number for this molecule"
        for column, target in enumerate(self.settings["targets"]):
            if "most_atoms" in target:
                large = [row for row, own in graphs.items() if len(own["atoms"]) > target["most_atoms"]]
                values_BC[large, column] = np.nan
        return values_BC, reasons


def features(smiles: Sequence[str], settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inputs of model.onnx for molecules that can all be read.

    Raises:
        ValueError: one can't be read.
    """
    molecules = [read_for(settings, text) for text in smiles]
    for text, found in zip(smiles, molecules, strict=True):
        if isinstance(found, str):
            raise ValueError(f"{text!r}: {found}")
    return pack([graph(found, settings) for found in molecules])


def batches(sizes: Mapping[int, int]) -> list[list[int]]:
    """Rows in groups of similar size, each group of about `BATCH_TOKENS`."""
    groups: list[list[int]] = []
    total = BATCH_TOKENS
    for row in sorted(sizes, key=lambda own: sizes[own]):
        if total + sizes[row] > BATCH_TOKENS:
            groups.append([])
            total = 0
        groups[-1].append(row)
        total += sizes[row]
    return groups


# Text to molecule: the same molecule has the same atom order whatever its spelling.


def read_for(settings: Mapping[str, Any], text: str) -> Any:
    """`read` with the limits and in the form that a model has."""
    return read(text, settings["limits"], standardize=settings.get("standardize", False))


def read(text: str, limits: Mapping[str, int], *, standardize: bool = False) -> Any:
    """The RDKit molecule in the atom order of its canonical SMILES, or in words why there is none."""
    text = text.strip() if isinstance(text, str) else ""
    if not text:
        return "empty SMILES"
    if not text.isascii() or not text.isprintable() or " " in text or "~" in text:
        return "a blank, a ~ or a character that is not printable ASCII"
    if reason := _too_much(text, limits):
        return reason
    if "[C]" in text and SELFIES.fullmatch(text):
        return "the text is SELFIES, not a SMILES"
    with rdBase.BlockLogs():
        try:
            mol, relaxed = _parse(text)
            if mol is None:
                return "RDKit can't read it"
            found = _canonical(_plain(mol), relaxed, limits)
            is_final = isinstance(found, str) or relaxed or not standardize
            return found if is_final else _standard(found, limits)
        except (RuntimeError, ValueError) as error:
            return " ".join(str(error).split())[:150]


def _too_much(text: str, limits: Mapping[str, int]) -> str:
    """What the model reads no more of, counted before the text is parsed; empty where nothing is too much."""
    outside = ATOM.sub("", text)
    depth = deepest = 0
    for character in outside:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    counted = {
        "text_bytes": (len(text), "characters"),
        "atom_tokens": (len(ATOM.findall(text)), "atoms written"),
        "ring_digits": (sum(map(str.isdigit, outside)), "ring-closure digits"),
        "fragments": (outside.count(".") + 1, "fragments"),
        "nesting": (deepest, "parentheses inside each other"),
    }
    reasons = (f"{count} {what}, at most {limits[name]} are read"
               for name, (count, what) in counted.items() if count > limits[name])  # fmt: skip
    return next(reasons, "")


def _parse(text: str) -> tuple[Any, bool]:
    mol = Chem.MolFromSmiles(text)
    if mol is not None:
        return mol, False
    raw = Chem.MolFromSmiles(text, sanitize=False)
    if raw is None:
        return None, True
    raw.UpdatePropertyCache(strict=False)
    mol = Chem.RemoveHs(raw, sanitize=False)
    mol.UpdatePropertyCache(strict=False)
    if not _is_relaxable(mol):
        return None, True
    _sanitize(mol)
    return mol, True


def _is_relaxable(mol: Any) -> bool:
    """Whether too many bonds of an element beyond C, N, O, F and H are all that RDKit complains of."""
    problems = Chem.DetectChemistryProblems(mol)
    return bool(problems) and all(
        problem.GetType() == "AtomValenceException"
        and mol.GetAtomWithIdx(problem.GetAtomIdx()).GetAtomicNum() not in VALENCE_IS_STRICT
        for problem in problems
    )


def _sanitize(mol: Any) -> None:
    mol.UpdatePropertyCache(strict=False)
    Chem.SanitizeMol(mol, sanitizeOps=rdmolops.SANITIZE_ALL ^ rdmolops.SANITIZE_PROPERTIES)
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)


def _plain(mol: Any) -> Any:
    """Without atom maps and isotopes: deuterium is a hydrogen like others."""
    isotopes = [atom for atom in mol.GetAtoms() if atom.GetIsotope()]
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
        atom.SetIsotope(0)
        is_end = any(bond.GetBondType() == Chem.BondType.DOUBLE for bond in atom.GetBonds())
        if isotopes and is_end and atom.GetTotalNumHs(includeNeighbors=True) > 1:
            for bond in atom.GetBonds():
                bond.SetStereo(Chem.BondStereo.STEREONONE)
                bond.SetBondDir(Chem.BondDir.NONE)
    return Chem.RemoveHs(mol) if isotopes else mol


def _canonical(mol: Any, relaxed: bool, limits: Mapping[str, int]) -> Any:
    if not 0 < mol.GetNumAtoms() <= limits["heavy_atoms"]:
        return f"{mol.GetNumAtoms()} atoms without hydrogens, 1 to {limits['heavy_atoms']} are read"
    if _walks(mol) > MOST_WALKS:
        return "atoms bound too densely"
    spelling = ""
    for _ in range(ROUNDS):
        smiles = Chem.MolToSmiles(mol)
        if ":" in smiles:  # maps are dropped, so it's a bond
            return "an aromatic bond is not in a ring"
        if smiles == spelling:
            break
        spelling, mol = smiles, Chem.MolFromSmiles(smiles, sanitize=not relaxed)
        if mol is None:
            return f"its canonical SMILES does not parse back: {smiles}"
        if relaxed:
            _sanitize(mol)
    return _too_much(spelling, limits) or mol  # it may have more ring digits than the text it came from


def _walks(mol: Any) -> float:
    """Number of walks of six bonds."""
    adjacency_NN = (Chem.GetAdjacencyMatrix(mol) > 0).astype(float)
    reached_N = np.ones(len(adjacency_NN))
    for _ in range(6):
        reached_N = adjacency_NN @ reached_N
    return float(reached_N.sum())


def _standard(mol: Any, limits: Mapping[str, int]) -> Any:
    """The largest organic part, neutral where protons make it so."""
    if not any(sign in Chem.MolToSmiles(mol) for sign in ".+-"):
        return mol
    steps: Any = rdMolStandardize.CleanupParameters()
    steps.preferOrganic = True
    part = rdMolStandardize.Uncharger().uncharge(rdMolStandardize.LargestFragmentChooser(steps).choose(mol))
    try:
        return _canonical(Chem.RemoveHs(part), False, limits)
    except Chem.MolSanitizeException:
        part = Chem.RemoveHs(part, sanitize=False)
        _sanitize(part)
        return _canonical(part, True, limits)


# Molecule to integers.


def graph(mol: Any, settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Features of one molecule: `atoms` (N, 9), `bonds` (E, 2) both ways, `bond_features` (E, 3), `identifiers`."""
    if settings["explicit_hydrogens"]:
        mol = Chem.AddHs(mol)
    atoms_N9 = np.array([_atom(atom) for atom in mol.GetAtoms()], dtype=np.int64).reshape(-1, 9)
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    bonds_E2 = np.array([way for a, b in ends for way in ((a, b), (b, a))], dtype=np.int64).reshape(-1, 2)
    of_bonds = np.array([_bond(bond) for bond in mol.GetBonds()], dtype=np.int64).reshape(-1, 3)
    found = {"atoms": atoms_N9, "bonds": bonds_E2, "bond_features": of_bonds.repeat(2, axis=0)}
    if settings["identifiers"]:
        made = IDENTIFIERS[settings["identifiers"]["kind"]]
        found["identifiers"] = made(atoms_N9, bonds_E2, found["bond_features"], settings["identifiers"]["columns"])
    return found


def _atom(atom: Any) -> list[int]:
    return [
        _index(atom.GetAtomicNum(), ATOMIC_NUMBERS),
        _index(str(atom.GetChiralTag()), CHIRALITY),
        _index(atom.GetTotalDegree(), DEGREES),
        _index(atom.GetFormalCharge(), CHARGES),
        _index(atom.GetTotalNumHs(), HYDROGENS),
        _index(atom.GetNumRadicalElectrons(), RADICALS),
        _index(str(atom.GetHybridization()), HYBRIDIZATION),
        int(atom.GetIsAromatic()),
        int(atom.IsInRing()),
    ]


def _bond(bond: Any) -> list[int]:
    stereo = str(bond.GetStereo())
    return [
        _index(str(bond.GetBondType()), BOND_TYPE),
        BOND_STEREO.index(stereo) if stereo in BOND_STEREO else 0,
        int(bond.GetIsConjugated()),
    ]


def _index(value: Any, known: Sequence[Any]) -> int:
    return known.index(value) if value in known else len(known)


def pack(graphs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The inputs of model.onnx: all molecules one behind the other."""
    sizes_B = np.array([len(own["atoms"]) for own in graphs], dtype=np.int64)
    first_B = np.cumsum(sizes_B) - sizes_B
    bonds_E2 = np.concatenate([own["bonds"] + first for own, first in zip(graphs, first_B, strict=True)])
    inputs = {
        "atom_features": np.concatenate([own["atoms"] for own in graphs]),
        "bond_ends": np.ascontiguousarray(bonds_E2.T),
        "bond_features": np.concatenate([own["bond_features"] for own in graphs]),
        "molecule_of_atom": np.arange(len(graphs)).repeat(sizes_B),
        "atoms_per_molecule": sizes_B,
    }
    if "identifiers" in graphs[0]:
        inputs["identifiers"] = np.concatenate([own["identifiers"] for own in graphs]).astype(np.float32)
    return inputs


# Identifiers of the atoms, for TokenGT and GPS alone.
#
# `laplacian`: eigenvectors of the normalised Laplacian, unit columns, lowest eigenvalues first. A hash of each atom and
# its surroundings settles their signs and the order of equal eigenvalues. Where symmetry leaves two eigenvalues equal,
# a fixed weight of each atom chooses the basis of their space, so that no vector depends on the library of linear
# algebra. `orf`: rows of a random orthonormal matrix, drawn from the hash of the molecule. `walks`: the chance that a
# random walk from an atom is back after 1, 2 ... K steps.

_MIX_1, _MIX_2 = np.int64(0x3F58476D1CE4E5B9), np.int64(0x14D049BB133111EB)
_COLOUR_ROUNDS, _COLOUR_TIE_BREAK, _ORDER_TIE_BREAK = 6, 1e-6, 1e-9
_EQUAL_EIGENVALUES, _ATOM_WEIGHT = 1e-10, 0.6180339887498949
_GOLDEN = np.int64(0x1E3779B97F4A7C15)


def laplacian_identifiers(
    atoms_n9: np.ndarray, bonds_E2: np.ndarray, of_bonds_E3: np.ndarray, columns: int
) -> np.ndarray:
    """Identifiers `(n, K)` of the atoms of one molecule; zeros where there are fewer than K atoms."""
    unit_n, laplacian_nn = laplacian(atoms_n9, bonds_E2, of_bonds_E3)
    vectors_nk = _settled(*np.linalg.eigh(laplacian_nn))[:, :columns]
    by_colour_k, by_order_k = (unit_n - 0.5) @ vectors_nk, (1 / np.arange(1, len(unit_n) + 1)) @ vectors_nk
    score_k = np.where(np.abs(by_colour_k) > 1e-5, by_colour_k, by_order_k)
    found_nK = np.zeros((len(unit_n), columns))
    found_nK[:, : vectors_nk.shape[1]] = vectors_nk * np.where(score_k < 0, -1.0, 1.0)
    return found_nK


def _settled(values_n: np.ndarray, vectors_nn: np.ndarray) -> np.ndarray:
    """The eigenvectors, those of one eigenvalue turned so that they diagonalise a fixed weight of the atoms."""
    found_nn = vectors_nn.copy()
    weight_n = (np.arange(1.0, len(values_n) + 1) * _ATOM_WEIGHT) % 1
    edges = np.flatnonzero(np.diff(values_n) >= _EQUAL_EIGENVALUES) + 1
    for first, end in zip([0, *edges], [*edges, len(values_n)], strict=True):
        if end - first > 1:
            own_nm = vectors_nn[:, first:end]
            found_nn[:, first:end] = own_nm @ np.linalg.eigh(own_nm.T @ (weight_n[:, None] * own_nm))[1]
    return found_nn


def orthonormal_identifiers(
    atoms_n9: np.ndarray, bonds_E2: np.ndarray, of_bonds_E3: np.ndarray, columns: int
) -> np.ndarray:
    """Identifiers `(n, K)` of length 1, filled up with zeros where there are fewer than K atoms."""
    size = len(atoms_n9)
    orthonormal_nn, triangular_nn = np.linalg.qr(_gaussian(_colours(atoms_n9, bonds_E2, of_bonds_E3)))
    rows_nk = (orthonormal_nn * np.where(np.diag(triangular_nn) < 0, -1.0, 1.0))[:, :columns]
    found_nK = np.zeros((size, columns))
    found_nK[:, : rows_nk.shape[1]] = rows_nk / np.linalg.norm(rows_nk, axis=1, keepdims=True).clip(min=1e-12)
    return found_nK


def walk_identifiers(atoms_n9: np.ndarray, bonds_E2: np.ndarray, of_bonds_E3: np.ndarray, columns: int) -> np.ndarray:
    """Identifiers `(n, K)`: the diagonals of the powers of the random walk's matrix."""
    step_nn = np.zeros((len(atoms_n9), len(atoms_n9)))
    step_nn[bonds_E2[:, 0], bonds_E2[:, 1]] = 1.0
    step_nn /= step_nn.sum(1, keepdims=True).clip(min=1)
    found_nK = np.zeros((len(atoms_n9), columns))
    walk_nn = step_nn
    for column in range(columns):
        found_nK[:, column] = np.diag(walk_nn)
        walk_nn = walk_nn @ step_nn
    return found_nK


IDENTIFIERS = {"laplacian": laplacian_identifiers, "orf": orthonormal_identifiers, "walks": walk_identifiers}


def _gaussian(colour_n: np.ndarray) -> np.ndarray:
    """Normal numbers `(n, n)` that only the molecule decides; row u goes with the hash of atom u."""
    size = len(colour_n)
    rank_n = np.argsort(np.argsort(colour_n, kind="stable"), kind="stable")
    with np.errstate(over="ignore"):
        molecule = _mixed(np.array([_mixed(colour_n).sum() + _GOLDEN]))
        counter_nn = rank_n[:, None] * size + np.arange(size)
        key_nn = _mixed(molecule[:, None] + counter_nn * _GOLDEN)
        second_nn = _unit_interval(_mixed(key_nn + _GOLDEN))
    length_nn = np.sqrt(-2 * np.log(_unit_interval(key_nn).clip(min=1e-12)))  # of Box and Muller
    found: np.ndarray = length_nn * np.cos(2 * np.pi * second_nn)
    return found


def _unit_interval(values: np.ndarray) -> np.ndarray:
    """64-bit integers as numbers within 0 ... 1."""
    found: np.ndarray = ((values >> 11) & (2**53 - 1)) / 2**53
    return found


def laplacian(atoms_n9: np.ndarray, bonds_E2: np.ndarray, of_bonds_E3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colours of the atoms within 0 … 1, and the normalised Laplacian `(n, n)` with a little of them added."""
    size = len(atoms_n9)
    colour_n = _colours(atoms_n9, bonds_E2, of_bonds_E3)
    unit_n = _unit_interval(colour_n)
    earlier_n = np.array([np.count_nonzero(colour_n[:place] == own) for place, own in enumerate(colour_n)])
    adjacency_nn = np.zeros((size, size))
    adjacency_nn[bonds_E2[:, 0], bonds_E2[:, 1]] = 1.0
    scale_n = 1 / np.sqrt(adjacency_nn.sum(1).clip(min=1))
    diagonal_nn = np.diag(1 + _COLOUR_TIE_BREAK * unit_n + _ORDER_TIE_BREAK * earlier_n)
    return unit_n, diagonal_nn - scale_n[:, None] * adjacency_nn * scale_n


def _colours(atoms_n9: np.ndarray, bonds_E2: np.ndarray, of_bonds_E3: np.ndarray) -> np.ndarray:
    """A 64-bit hash of every atom and of what lies up to six bonds away."""
    colour_n, bond_E = _hashed_rows(atoms_n9), _hashed_rows(of_bonds_E3)
    with np.errstate(over="ignore"):
        for _ in range(_COLOUR_ROUNDS):
            received_n = np.zeros_like(colour_n)
            np.add.at(received_n, bonds_E2[:, 1], _mixed(colour_n[bonds_E2[:, 0]] + bond_E))
            colour_n = _mixed(colour_n * 3 + received_n)
    return colour_n


def _hashed_rows(rows: np.ndarray) -> np.ndarray:
    hashed = np.zeros(len(rows), dtype=np.int64)
    with np.errstate(over="ignore"):
        for column in rows.T:
            hashed = _mixed(hashed * 31 + column + 1)
    return hashed


def _mixed(values: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit integers that scatters their bits; overflow wraps around by design."""
    values = (values ^ ((values >> 30) & 0x3FFFFFFFF)) * _MIX_1
    values = (values ^ ((values >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    mixed: np.ndarray = values ^ ((values >> 31) & 0x1FFFFFFFF)
    return mixed
