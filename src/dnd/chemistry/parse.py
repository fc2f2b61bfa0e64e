"""Text to `Molecule`: limits first, then RDKit, then canonical atom order.

Law of the canonical order: the atoms of a `Molecule` stand in the order in which its canonical SMILES names them, so
every spelling of a molecule gives the same graph, chirality and stereo columns included.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from rdkit import Chem
from rdkit.Chem import rdmolops

from dnd.chemistry.limits import molecule_problem, text_problem
from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.rdkit_log import logged_reason

MAX_CANONICAL_ROUNDS = 8
_SOURCE = "_dnd_source_atom"
_ALL_BUT_VALENCE = rdmolops.SANITIZE_ALL ^ rdmolops.SANITIZE_PROPERTIES
# One bond too many at these atoms is a slip of the pen. Elsewhere it's mostly a complex that other programs accept.
_VALENCE_IS_STRICT = frozenset({1, 6, 7, 8, 9})


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
    stripped = text.strip()
    problem = text_problem(stripped)
    if problem is not None:
        return InvalidMolecule(problem, "limits", text)
    mol = Chem.MolFromSmiles(stripped)
    is_relaxed = mol is None
    if mol is None:
        mol_or_invalid = _parse_relaxed(stripped, relaxed)
        if isinstance(mol_or_invalid, InvalidMolecule):
            return mol_or_invalid
        mol = mol_or_invalid
    if ":" in stripped:
        _drop_atom_maps(mol)
    outcome = _canonical(mol, is_relaxed, stripped)
    return InvalidMolecule(outcome.reason, outcome.stage, text) if isinstance(outcome, InvalidMolecule) else outcome[0]


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
        _sanitize_without_valence(heavy)
    outcome = _canonical(heavy, relaxed, "")
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


def _canonical(mol: Chem.Mol, relaxed: bool, text: str) -> tuple[Molecule, Int[np.ndarray, "atoms"]] | InvalidMolecule:
    """Rewrite and reparse until the SMILES no longer changes; also the order of the final atoms in `mol`."""
    problem = molecule_problem(mol.GetNumAtoms())
    if problem is not None:
        return InvalidMolecule(problem, "limits", text)
    order = np.arange(mol.GetNumAtoms())
    spelling = text
    for _ in range(MAX_CANONICAL_ROUNDS):
        smiles = Chem.MolToSmiles(mol)
        if smiles == spelling:
            return Molecule(mol, smiles, relaxed), order
        written = mol.GetProp("_smilesAtomOutputOrder").strip("[],").split(",")
        order = order[np.array(written, dtype=np.int64)]
        reparsed = _sanitized(smiles, relaxed)
        if reparsed is None or reparsed.GetNumAtoms() != len(order):
            return InvalidMolecule(f"its canonical SMILES does not parse back: {smiles}", "canonical", text)
        mol, spelling = reparsed, smiles
    return Molecule(mol, spelling, relaxed), order


def _sanitized(smiles: str, relaxed: bool) -> Chem.Mol | None:
    if not relaxed:
        return Chem.MolFromSmiles(smiles)
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    if mol is not None:
        _sanitize_without_valence(mol)
    return mol


def _sanitize_without_valence(mol: Chem.Mol) -> None:
    mol.UpdatePropertyCache(strict=False)
    Chem.SanitizeMol(mol, sanitizeOps=_ALL_BUT_VALENCE)
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)


def _parse_relaxed(text: str, allowed: bool) -> Chem.Mol | InvalidMolecule:
    raw = Chem.MolFromSmiles(text, sanitize=False)
    if raw is None:
        return InvalidMolecule(logged_reason(lambda: Chem.MolFromSmiles(text, sanitize=False)), "parse", text)
    raw.UpdatePropertyCache(strict=False)
    problems = Chem.DetectChemistryProblems(raw)
    strict = [problem for problem in problems if not _may_relax(raw, problem)]
    if strict or not problems or not allowed:
        message = (strict or list(problems))[0].Message() if problems else "RDKit refuses it without a reason"
        return InvalidMolecule(message, "chemistry", text)
    try:
        mol = Chem.RemoveHs(raw, sanitize=False)
        _sanitize_without_valence(mol)
    except Chem.MolSanitizeException as error:
        return InvalidMolecule(str(error), "chemistry", text)
    return mol


def _may_relax(mol: Chem.Mol, problem: object) -> bool:
    if problem.GetType() != "AtomValenceException":  # type: ignore[attr-defined]
        return False
    atom = mol.GetAtomWithIdx(problem.GetAtomIdx())  # type: ignore[attr-defined]
    return atom.GetAtomicNum() not in _VALENCE_IS_STRICT


def _drop_atom_maps(mol: Chem.Mol) -> None:
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
