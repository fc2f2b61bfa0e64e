"""Text to `Molecule`: limits first, then RDKit, then canonical atom order.

Law of the canonical order: the atoms of a `Molecule` stand in the order in which its canonical SMILES names them, so
every spelling of a molecule gives the same graph, chirality and stereo columns included.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Int
from rdkit import Chem

from dnd.chemistry.canonical import canonical_form
from dnd.chemistry.limits import text_problem
from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.rdkit_log import logged_reason
from dnd.chemistry.relaxed import relax, sanitize_without_valence

_SOURCE = "_dnd_source_atom"


def parse_smiles(text: str, *, relaxed: bool = True) -> Molecule | InvalidMolecule:
    """Parse one SMILES.

    Args:
        text: the SMILES; blanks around it are ignored.
        relaxed: read metal, boron and other complexes whose valence RDKit refuses without the valence check, and mark
            them. Never applied where H, C, N, O or F has too many bonds.

    Returns:
        The molecule in canonical atom order, or the reason why there is none. Never raises on any string.

    Example:
        >>> parse_smiles("OCC").smiles
        'CCO'
        >>> parse_smiles("C1CC").reason
        "unclosed ring for input: 'C1CC'"
    """
    read = read_smiles(text, relaxed=relaxed)
    if isinstance(read, InvalidMolecule):
        return read
    try:
        outcome = canonical_form(*read, text.strip())
    except (RuntimeError, ValueError) as error:
        return _given_up(text, error)
    return replace(outcome, text=text) if isinstance(outcome, InvalidMolecule) else outcome[0]


def read_smiles(text: str, *, relaxed: bool = True) -> tuple[Chem.Mol, bool] | InvalidMolecule:
    """As `parse_smiles`, without the canonical order.

    Returns:
        The RDKit molecule in the atom order of `text`, without atom maps, and whether its valences were relaxed.
    """
    stripped = text.strip()
    problem = text_problem(stripped)
    if problem is not None:
        return InvalidMolecule(problem, "limits", text)
    try:
        mol = Chem.MolFromSmiles(stripped)
        is_relaxed = mol is None
        read = _read_relaxed(stripped, relaxed) if is_relaxed else mol
    except (RuntimeError, ValueError) as error:
        return _given_up(text, error)
    if is_relaxed:
        if isinstance(read, InvalidMolecule):
            return replace(read, text=text)
        mol = read
    if ":" in stripped:
        _drop_atom_maps(mol)
    return mol, is_relaxed


def molecule_from_mol(mol: Chem.Mol) -> tuple[Molecule | InvalidMolecule, Int[np.ndarray, "atoms"]]:
    """Bring an RDKit molecule, with or without explicit hydrogens, into canonical order.

    Args:
        mol: a sanitised molecule.

    Returns:
        The molecule, and for each of its atoms the index of the same atom in `mol` (empty when it's invalid).
    """
    source = Chem.Mol(mol)
    for atom in source.GetAtoms():
        atom.SetIntProp(_SOURCE, atom.GetIdx())
        atom.SetAtomMapNum(0)
    try:
        heavy = Chem.RemoveHs(source)
        relaxed = False
    except Chem.MolSanitizeException:
        heavy, relaxed = Chem.RemoveHs(source, sanitize=False), True
        sanitize_without_valence(heavy)
    outcome = canonical_form(heavy, relaxed, "")
    if isinstance(outcome, InvalidMolecule):
        return outcome, np.empty(0, dtype=np.int64)
    molecule, order = outcome
    sources = np.array([atom.GetIntProp(_SOURCE) for atom in heavy.GetAtoms()], dtype=np.int64)
    return molecule, sources[order]


def conformer_order(mol: Chem.Mol, order: Int[np.ndarray, "atoms"]) -> Int[np.ndarray, "conformer_atoms"]:
    """All atoms of `mol` in the order of a conformer: those of the graph, then the hydrogens the graph leaves out.

    Args:
        mol: the molecule given to `molecule_from_mol`.
        order: the order it returned.

    Returns:
        Indices into `mol`. The hydrogens are grouped by the graph atom they're bound to, ascending, which is the
        order of `Chem.AddHs` on the canonical molecule.
    """
    place = {int(index): new for new, index in enumerate(order)}
    hydrogens = [atom for atom in mol.GetAtoms() if atom.GetIdx() not in place]
    parents = [place[atom.GetNeighbors()[0].GetIdx()] for atom in hydrogens]  # only bound hydrogens are left out
    ranked = sorted(range(len(hydrogens)), key=lambda index: (parents[index], hydrogens[index].GetIdx()))
    return np.concatenate([order, np.array([hydrogens[index].GetIdx() for index in ranked], dtype=np.int64)])


def _read_relaxed(text: str, allowed: bool) -> Chem.Mol | InvalidMolecule:
    raw = Chem.MolFromSmiles(text, sanitize=False)
    if raw is None:
        return InvalidMolecule(logged_reason(lambda: Chem.MolFromSmiles(text, sanitize=False)), "parse", text)
    raw.UpdatePropertyCache(strict=False)
    relaxed = relax(Chem.RemoveHs(raw, sanitize=False), lambda: Chem.MolFromSmiles(text))
    if isinstance(relaxed, str) or not allowed:
        reason = relaxed if isinstance(relaxed, str) else logged_reason(lambda: Chem.MolFromSmiles(text))
        return InvalidMolecule(reason, "chemistry", text)
    return relaxed


def _given_up(text: str, error: Exception) -> InvalidMolecule:
    """A condition of RDKit's own that a molecule does not meet, such as 128 hydrogens on an atom."""
    said = " ".join(str(error).replace("Pre-condition Violation", "").split())
    return InvalidMolecule(f"RDKit gave up: {said[:150]}", "parse", text)


def _drop_atom_maps(mol: Chem.Mol) -> None:
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
