"""Salts, solvates and charges: the one form of a molecule that a model learns and predicts, if that is asked for.

The largest organic part of a molecule, neutral where protons make it so: `CC(=O)[O-].[Na+]` is `CC(=O)O`. Both steps
are those of RDKit's MolStandardize. Tautomers stay as they are written, and so does what RDKit's valence check refuses.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize

from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.parse import molecule_from_mol, parse_smiles, without_isotopes

_LIKE_SIZE = 0.5  # of the heavy atoms of the largest part: a second part as large as that is no counter-ion
_CARBON = 6


def molecule_for_model(text: str, standardize: bool) -> Molecule | InvalidMolecule:
    """What a model sees of a SMILES: the usual isotopes, and the standard form where the model has it."""
    given = without_isotopes(parse_smiles(text))
    return standard_form(given) if standardize else given


def standard_form(molecule: Molecule | InvalidMolecule) -> Molecule | InvalidMolecule:
    """The largest organic part, neutral; `molecule` itself where that is what it is."""
    if isinstance(molecule, InvalidMolecule) or molecule.relaxed or not may_change(molecule.smiles):
        return molecule
    chooser, uncharger = _steps()
    try:
        found = molecule_from_mol(uncharger.uncharge(chooser.choose(molecule.mol)))[0]
    except (Chem.MolSanitizeException, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:150]
        return InvalidMolecule(f"RDKit cannot standardize it: {said}", "standardize", molecule.smiles)
    return molecule if isinstance(found, Molecule) and found.smiles == molecule.smiles else found


@cache
def _steps() -> tuple[Any, Any]:
    parameters: Any = rdMolStandardize.CleanupParameters()
    parameters.preferOrganic = True
    return rdMolStandardize.LargestFragmentChooser(parameters), rdMolStandardize.Uncharger()


def may_change(smiles: str) -> bool:
    """Whether a canonical SMILES has parts or charges; all others are in their standard form."""
    return "." in smiles or "+" in smiles or "-" in smiles


def organic_parts(mol: Chem.Mol) -> list[int]:
    """Heavy atoms of each different part with carbon, the largest first."""
    parts = {Chem.MolToSmiles(part): part for part in Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)}
    organic = [part for part in parts.values() if any(atom.GetAtomicNum() == _CARBON for atom in part.GetAtoms())]
    return sorted((part.GetNumHeavyAtoms() for part in organic), reverse=True)


def is_mixture(mol: Chem.Mol) -> bool:
    """Whether two different parts have carbon, the second half as large as the first; no salts or solvates."""
    sizes = organic_parts(mol)
    return len(sizes) > 1 and sizes[1] >= _LIKE_SIZE * sizes[0]
