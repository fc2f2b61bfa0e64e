"""Which conformer atom is which graph atom: each record becomes a canonical molecule with its coordinates.

The law of a placed conformer: atom i of the coordinates is atom i of the graph, further atoms are the hydrogens that
the graph leaves implicit, grouped by the atom they're bound to. Coordinates that can't be matched are a `Misfit` with a
reason, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds
from rdkit.Geometry import Point3D

from dnd.chemistry.geometry import flat_problem, stereo_problem
from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.parse import (
    conformer_order,
    has_isotopes,
    logged_reason,
    molecule_from_mol,
    of_usual_isotopes,
    parse_smiles,
)
from dnd.common.ragged import ragged_range
from dnd.conformers.records import Record
from dnd.tables.sdf import parse_molblock

# Atoms within 1.3 times the sum of their covalent radii are taken for bonded where only coordinates are known. A bond
# too many in a strained ring does no harm, since the SMILES' bonds only have to be among them.
_COVALENT_FACTOR = 1.3
_NOT_FINITE = "a coordinate is not a finite number"
_MOST_MATCHES = 200  # that are tried, where equal branches may be exchanged, for one with the molecule's configuration


@dataclass(frozen=True)
class Placed:
    """A molecule with coordinates.

    Attributes:
        molecule: canonical molecule.
        atomic_numbers_A: its atoms, then further hydrogens.
        positions_A3: angstrom, float32; None where the record has no coordinates.
        source_A: which atom each is of the molecule as it was read, `AddHs(MolFromSmiles(smiles))` where the record has
            a SMILES; None where that was not kept.
    """

    molecule: Molecule
    atomic_numbers_A: Int[np.ndarray, "atoms"]
    positions_A3: Float[np.ndarray, "atoms 3"] | None = None
    source_A: Int[np.ndarray, "atoms"] | None = None


@dataclass(frozen=True)
class Misfit:
    """A record that gives no molecule with coordinates.

    Attributes:
        stage: `parse` or `match`.
        reason: what is wrong.
        smiles: the text, if any.
    """

    stage: Literal["parse", "match"]
    reason: str
    smiles: str = ""


def place(record: Record) -> Placed | Misfit:
    """The molecule of a record, with its coordinates in canonical order, where these can be its own.

    It is the molecule that models see, of the usual isotopes: see `without_isotopes`.
    """
    if not _is_finite(record.positions_A3):
        return Misfit("parse", _NOT_FINITE, " ".join(record.smiles))
    placed = _place(record)
    if isinstance(placed, Placed) and not _is_finite(placed.positions_A3):
        return Misfit("parse", _NOT_FINITE, placed.molecule.smiles)
    if isinstance(placed, Placed) and has_isotopes(placed.molecule.mol):
        placed = _of_usual_isotopes(placed)
    if isinstance(placed, Misfit) or placed.positions_A3 is None:
        return placed
    problem = flat_problem(placed.molecule.mol, placed.positions_A3)
    if problem is None and (problem := _stereo_misfit(placed)) is not None:
        own = next((other for other in _exchanged(placed) if _stereo_misfit(other) is None), None)
        if own is not None:
            return own
    return Misfit("match", problem, placed.molecule.smiles) if problem else placed


def _is_finite(positions_A3: Float[np.ndarray, "atoms 3"] | None) -> bool:
    return positions_A3 is None or bool(np.isfinite(positions_A3).all())


def _of_usual_isotopes(placed: Placed) -> Placed | Misfit:
    """The same with deuterium as one of the hydrogens, which the graph leaves out."""
    mol, positions_A3 = placed.molecule.mol, placed.positions_A3
    hidden = sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    has_hidden = positions_A3 is not None and len(positions_A3) > mol.GetNumAtoms()
    plain = of_usual_isotopes(Chem.AddHs(mol) if has_hidden else mol)
    outcome, order = molecule_from_mol(plain)
    if isinstance(outcome, InvalidMolecule):
        return Misfit("parse", outcome.reason, placed.molecule.smiles)
    if positions_A3 is None:
        return Placed(outcome, _elements(outcome.mol))
    # A file of heavy atoms has no place for the other hydrogens, so that of deuterium goes too.
    atoms = conformer_order(plain, order) if has_hidden or not hidden else order
    source_A = None if placed.source_A is None else placed.source_A[atoms]
    return Placed(outcome, placed.atomic_numbers_A[atoms], positions_A3[atoms], source_A)


def _stereo_misfit(placed: Placed) -> str | None:
    assert placed.positions_A3 is not None
    return stereo_problem(placed.molecule.mol, placed.positions_A3)


def _exchanged(placed: Placed) -> Iterator[Placed]:
    """The molecule laid on the coordinates in every other way that its symmetry allows, configuration aside.

    A molecule that is its own mirror image, such as a *cis*-1,3-disubstituted cyclobutane, fits in one of these ways
    where a file has the right molecule and names its two halves the other way round.
    """
    assert placed.positions_A3 is not None
    mol = placed.molecule.mol
    hidden_N = np.array([atom.GetTotalNumHs() for atom in mol.GetAtoms()], dtype=np.int64)
    has_hidden = len(placed.positions_A3) > len(hidden_N)
    firsts_N = len(hidden_N) + np.cumsum(hidden_N) - hidden_N
    for found in mol.GetSubstructMatches(mol, uniquify=False, useChirality=False, maxMatches=_MOST_MATCHES):
        own_N = np.array(found, dtype=np.int64)
        if (hidden_N[own_N] == hidden_N).all():
            atoms = np.concatenate([own_N, ragged_range(firsts_N[own_N], hidden_N)]) if has_hidden else own_N
            source_A = None if placed.source_A is None else placed.source_A[atoms]
            yield replace(placed, positions_A3=placed.positions_A3[atoms], source_A=source_A)


def _place(record: Record) -> Placed | Misfit:
    match record.layout:
        case "smiles":
            return _plain(record.smiles[0] if record.smiles else "")
        case "smiles_with_hydrogens":
            return _smiles_with_hydrogens(record)
        case "coordinates":
            return _coordinates(record)
        case "molblock":
            return _molblock(record.molblock)
        case "molblock_for_smiles":
            return _molblock_for_smiles(record)


def _plain(text: str) -> Placed | Misfit:
    outcome = parse_smiles(text)
    if isinstance(outcome, InvalidMolecule):
        return Misfit("parse", outcome.reason, text)
    return Placed(outcome, _elements(outcome.mol))


def _smiles_with_hydrogens(record: Record) -> Placed | Misfit:
    assert record.atomic_numbers_A is not None
    assert record.positions_A3 is not None
    text = record.smiles[0]
    parsed = Chem.MolFromSmiles(text)
    if parsed is None:
        return _plain_misfit(text)
    mol = Chem.AddHs(parsed)
    if not np.array_equal(_elements(mol), record.atomic_numbers_A):
        return Misfit("match", "elements differ from AddHs(MolFromSmiles(smiles))", text)
    return _reorder(mol, record.positions_A3, text)


def _plain_misfit(text: str) -> Misfit:
    outcome = parse_smiles(text, relaxed=False)
    return Misfit("parse", outcome.reason if isinstance(outcome, InvalidMolecule) else "RDKit refuses it", text)


def _coordinates(record: Record) -> Placed | Misfit:
    assert record.atomic_numbers_A is not None
    assert record.positions_A3 is not None
    if not record.smiles:
        return _bonds_from_coordinates(record)
    misfit = None
    bonded = _bonded_mol(record.atomic_numbers_A, record.positions_A3)
    for text in record.smiles:
        parsed = Chem.MolFromSmiles(text)
        if parsed is None:
            misfit = misfit or _plain_misfit(text)
            continue
        mol = Chem.AddHs(parsed)
        if record.charge is not None and Chem.GetFormalCharge(mol) != record.charge:
            found = f"charge {record.charge} of the coordinates, {Chem.GetFormalCharge(mol)} of the SMILES"
            misfit = Misfit("match", found, text)
            continue
        fits = (_reorder(mol, record.positions_A3[atoms], text) for atoms in _matches(_skeleton(mol), bonded))
        found_fit = _first_with_its_stereo(fits)
        if found_fit is not None:
            return found_fit
        misfit = Misfit("match", "the SMILES' bonds are not among the coordinates' close atoms", text)
    return misfit or Misfit("parse", "no SMILES")


def _bonds_from_coordinates(record: Record) -> Placed | Misfit:
    assert record.atomic_numbers_A is not None
    assert record.positions_A3 is not None
    mol, charge = _point_mol(record.atomic_numbers_A, record.positions_A3), record.charge or 0
    try:
        if mol.GetNumAtoms() == 1:
            _settle_alone(mol, charge)
        else:
            rdDetermineBonds.DetermineBonds(mol, charge=charge)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        return Misfit("match", f"no bonds fit the coordinates at charge {charge}: {reason}")
    Chem.AssignStereochemistryFrom3D(mol)
    return _reorder(mol, record.positions_A3, "")


def _settle_alone(mol: Chem.Mol, charge: int) -> None:
    """Give a single atom its charge and no hydrogens: RDKit's search for bonds leaves it as it is."""
    (atom,) = mol.GetAtoms()
    atom.SetFormalCharge(charge)
    atom.SetNoImplicit(True)
    Chem.SanitizeMol(mol)


def _molblock(block: str) -> Placed | Misfit:
    parsed = parse_molblock(block)
    if isinstance(parsed.outcome, InvalidMolecule):
        return Misfit("parse", parsed.outcome.reason, parsed.outcome.text)
    if parsed.positions_A3 is None or parsed.atomic_numbers_A is None:
        return Placed(parsed.outcome, _elements(parsed.outcome.mol))
    return Placed(parsed.outcome, parsed.atomic_numbers_A, parsed.positions_A3.astype(np.float32))


def _molblock_for_smiles(record: Record) -> Placed | Misfit:
    text = record.smiles[0]
    outcome = parse_smiles(text)
    if isinstance(outcome, InvalidMolecule):
        return Misfit("parse", outcome.reason, text)
    mol = Chem.MolFromMolBlock(record.molblock, sanitize=False, removeHs=False)
    if mol is None or mol.GetNumConformers() == 0:
        reason = logged_reason(lambda: Chem.MolFromMolBlock(record.molblock, sanitize=False, removeHs=False))
        return Misfit("parse", reason, text)
    if not mol.GetConformer().Is3D():
        return Misfit("match", "2D coordinates, a conformer is needed", text)
    hydrogens = sum(atom.GetAtomicNum() == 1 for atom in mol.GetAtoms())
    expected = sum(atom.GetTotalNumHs(includeNeighbors=True) for atom in outcome.mol.GetAtoms())
    if hydrogens and hydrogens != expected:
        return Misfit("match", f"{hydrogens} hydrogens in the file, {expected} in the SMILES", text)
    heavy = np.array([atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1], dtype=np.int64)
    if len(heavy) != outcome.mol.GetNumAtoms():
        found = f"{len(heavy)} heavy atoms in the file, {outcome.mol.GetNumAtoms()} in the SMILES"
        return Misfit("match", found, text)
    target = _without_hydrogens(mol)
    # Bond orders first, so that C=O is not laid on C-OH; without them where the two programs disagree about orders.
    positions_A3, numbers_A = mol.GetConformer().GetPositions().astype(np.float32), _elements(outcome.mol)
    for matches in (_match_orders(outcome.mol, target), _matches(_skeleton(outcome.mol), _skeleton(target))):
        placed = _first_with_its_stereo(Placed(outcome, numbers_A, positions_A3[heavy[atoms]]) for atoms in matches)
        if placed is not None:
            return placed
    return Misfit("match", "the SMILES' bonds differ from the file's", text)


def _first_with_its_stereo(fits: Iterable[Placed | Misfit]) -> Placed | Misfit | None:
    """The first of the ways to lay a molecule on coordinates that has its configuration; the first where none has."""
    first = None
    for fit in fits:
        if isinstance(fit, Misfit) or _stereo_misfit(fit) is None:
            return fit
        first = first or fit
    return first


def _reorder(mol: Chem.Mol, positions_A3: Float[np.ndarray, "atoms 3"], text: str) -> Placed | Misfit:
    """Canonical molecule of `mol`, which holds all atoms the coordinates have, and the coordinates in its order."""
    outcome, order = molecule_from_mol(mol)
    if isinstance(outcome, InvalidMolecule):
        return Misfit("parse", outcome.reason, text)
    atoms = conformer_order(mol, order)
    return Placed(outcome, _elements(mol)[atoms], np.asarray(positions_A3, dtype=np.float32)[atoms], atoms)


def _elements(mol: Chem.Mol) -> Int[np.ndarray, "atoms"]:
    return np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64)


def _matches(query: Chem.Mol, target: Chem.Mol) -> Iterator[Int[np.ndarray, "atoms"]]:
    """For each atom of `query` its atom in `target` of the same size, in every way; the identity first if that fits."""
    if query.GetNumAtoms() != target.GetNumAtoms():
        return
    same_elements = np.array_equal(_elements(query), _elements(target))
    if same_elements and all(
        target.GetBondBetweenAtoms(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) is not None
        for bond in query.GetBonds()
    ):
        yield np.arange(query.GetNumAtoms())
    yield from _substructures(query, target)


def _match_orders(query: Chem.Mol, target: Chem.Mol) -> Iterator[Int[np.ndarray, "atoms"]]:
    try:
        Chem.SanitizeMol(target)
    except Chem.MolSanitizeException:
        return
    if query.GetNumBonds() == target.GetNumBonds():
        yield from _substructures(query, target)


def _substructures(query: Chem.Mol, target: Chem.Mol) -> Iterator[Int[np.ndarray, "atoms"]]:
    """One match first, since all together take longer."""
    found = target.GetSubstructMatch(query)
    if found:
        yield np.array(found, dtype=np.int64)
        for other in target.GetSubstructMatches(query, uniquify=False, maxMatches=_MOST_MATCHES):
            yield np.array(other, dtype=np.int64)


def _without_hydrogens(mol: Chem.Mol) -> Chem.Mol:
    editable = Chem.RWMol(mol)
    for index in sorted((atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() == 1), reverse=True):
        editable.RemoveAtom(index)
    return editable.GetMol()


def _skeleton(mol: Chem.Mol) -> Chem.Mol:
    """Elements and single bonds only: no charges, orders or chirality."""
    editable = Chem.RWMol()
    for atom in mol.GetAtoms():
        editable.AddAtom(Chem.Atom(atom.GetAtomicNum()))
    for bond in mol.GetBonds():
        editable.AddBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), Chem.BondType.SINGLE)
    return editable.GetMol()


def _point_mol(numbers_A: Int[np.ndarray, "atoms"], positions_A3: Float[np.ndarray, "atoms 3"]) -> Chem.Mol:
    editable = Chem.RWMol()
    conformer = Chem.Conformer(len(numbers_A))
    for index, (number, position) in enumerate(zip(numbers_A.tolist(), positions_A3.tolist(), strict=True)):
        editable.AddAtom(Chem.Atom(number))
        conformer.SetAtomPosition(index, Point3D(*position))
    mol = editable.GetMol()
    mol.AddConformer(conformer)
    return mol


def _bonded_mol(numbers_A: Int[np.ndarray, "atoms"], positions_A3: Float[np.ndarray, "atoms 3"]) -> Chem.Mol:
    mol = _point_mol(numbers_A, positions_A3)
    rdDetermineBonds.DetermineConnectivity(mol, covFactor=_COVALENT_FACTOR, useVdw=False)
    return _skeleton(mol)
