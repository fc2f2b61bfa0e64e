"""Complexes of metals, boron and other main-group elements that RDKit's valence check refuses.

Of the 67,246 distinct SMILES of the ten OGB sets there are 15 (7 in HIV, 8 in Tox21): hypervalent aluminium, boron and
germanium. OGB kept them, with an older RDKit; so they're read without the valence check, and marked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rdkit import Chem
from rdkit.Chem import rdmolops

from dnd.chemistry.rdkit_log import logged_reason

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


def relax(raw: Chem.Mol, parse: Callable[[], object]) -> Chem.Mol | str:
    """Sanitise a molecule that RDKit refused, if too high a valence of a relaxable element was the only reason.

    Args:
        raw: the molecule, unsanitised; it's changed in place.
        parse: the call that refused it, for its message.

    Returns:
        The molecule, or the reason why it stays refused.
    """
    raw.UpdatePropertyCache(strict=False)
    problems = Chem.DetectChemistryProblems(raw)
    if not problems:  # an aromatic atom with too many bonds shows only while RDKit assigns the double bonds
        return logged_reason(parse)
    reason = _strict_problem(raw, problems)
    if reason is not None:
        return reason
    try:
        sanitize_without_valence(raw)
    except Chem.MolSanitizeException as error:
        return str(error)
    return _strict_problem(raw, Chem.DetectChemistryProblems(raw)) or raw


def _strict_problem(mol: Chem.Mol, problems: Sequence[Any]) -> str | None:
    """Message of the first problem that is more than a valence which may be relaxed."""
    for problem in problems:
        is_valence = problem.GetType() == "AtomValenceException"
        if not is_valence or mol.GetAtomWithIdx(problem.GetAtomIdx()).GetAtomicNum() in VALENCE_IS_STRICT:
            return str(problem.Message())
    return None
