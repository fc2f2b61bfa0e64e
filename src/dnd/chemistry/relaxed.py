"""Complexes of metals, boron and other main-group elements that RDKit's valence check refuses.

Of the 67,246 distinct SMILES of the ten OGB sets there are 15 (7 in HIV, 8 in Tox21): hypervalent aluminium, boron and
germanium. OGB kept them, with an older RDKit; so they're read without the valence check, and marked.
"""

from __future__ import annotations

from rdkit import Chem
from rdkit.Chem import rdmolops

_ALL_BUT_VALENCE = rdmolops.SANITIZE_ALL ^ rdmolops.SANITIZE_PROPERTIES

VALENCE_IS_STRICT = frozenset({1, 6, 7, 8, 9})
"""One bond too many at H, C, N, O or F is a slip of the pen, not chemistry that a program is too young for."""


def sanitize_without_valence(mol: Chem.Mol) -> None:
    """Sanitise in place as `Chem.MolFromSmiles` does, but for the valence check.

    Raises:
        Chem.MolSanitizeException: something else is wrong, such as aromaticity.
    """
    mol.UpdatePropertyCache(strict=False)
    Chem.SanitizeMol(mol, sanitizeOps=_ALL_BUT_VALENCE)
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)


def strict_problem(mol: Chem.Mol) -> str | None:
    """First problem of an unsanitised molecule that is more than a valence which may be relaxed, or None."""
    mol.UpdatePropertyCache(strict=False)
    for problem in Chem.DetectChemistryProblems(mol):
        is_valence = problem.GetType() == "AtomValenceException"
        if not is_valence or mol.GetAtomWithIdx(problem.GetAtomIdx()).GetAtomicNum() in VALENCE_IS_STRICT:
            return str(problem.Message())
    return None
