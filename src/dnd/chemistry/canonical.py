"""One spelling and one atom order for a molecule, however it came.

RDKit's canonical SMILES is rewritten and reparsed until it no longer changes (RDKit 2026.09: once for all 67,246
distinct SMILES of the ten OGB sets). Ten random spellings of each gave one form, but for a stereoisomer of
hexachlorocyclohexane: there RDKit's writer of random SMILES turns out the mirror image, by InChI too, so the two forms
are two molecules.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from rdkit import Chem

from dnd.chemistry.limits import molecule_problem, text_problem
from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.relaxed import sanitize_without_valence

MAX_ROUNDS = 8


def canonical_form(
    mol: Chem.Mol, relaxed: bool, text: str
) -> tuple[Molecule, Int[np.ndarray, "atoms"]] | InvalidMolecule:
    """The molecule in the atom order of its canonical SMILES, and where each of its atoms was in `mol`.

    Args:
        mol: sanitised, hydrogens implicit, no atom maps.
        relaxed: whether the SMILES has to be reparsed without the valence check.
        text: what `mol` was parsed from, in case it's canonical already; empty when it's from elsewhere.

    Returns:
        Molecule and order, or why there is no canonical form.
    """
    problem = molecule_problem(mol.GetNumAtoms())
    if problem is not None:
        return InvalidMolecule(problem, "limits", text)
    order, spelling = np.arange(mol.GetNumAtoms()), text
    for _ in range(MAX_ROUNDS):
        smiles = Chem.MolToSmiles(mol)
        if smiles == spelling:
            break
        reparsed = _reparse(smiles, relaxed)
        if reparsed is None or reparsed.GetNumAtoms() != len(order):
            return InvalidMolecule(f"its canonical SMILES does not parse back: {smiles}", "canonical", text)
        order = order[_written_order(mol)]
        mol, spelling = reparsed, smiles
    problem = text_problem(spelling)  # it may have more ring digits than the text it came from, and is read again
    if problem is not None:
        return InvalidMolecule(f"its canonical SMILES is beyond what is read: {problem}", "canonical", text)
    return Molecule(mol, spelling, relaxed), order


def _written_order(mol: Chem.Mol) -> Int[np.ndarray, "atoms"]:
    """Atom indices in the order in which the last `Chem.MolToSmiles(mol)` wrote them."""
    return np.array(mol.GetProp("_smilesAtomOutputOrder").strip("[],").split(","), dtype=np.int64)


def _reparse(smiles: str, relaxed: bool) -> Chem.Mol | None:
    if not relaxed:
        return Chem.MolFromSmiles(smiles)
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    try:
        if mol is not None:
            sanitize_without_valence(mol)
    except Chem.MolSanitizeException:
        return None
    return mol
