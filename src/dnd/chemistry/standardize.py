"""Optional clean-up of a molecule before anything is learnt from it; what changed is recorded, never silent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize

from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.parse import molecule_from_mol
from dnd.common.registry import look_up


@dataclass(frozen=True)
class Standardized:
    """A molecule after its clean-up.

    Attributes:
        outcome: the molecule, or why a step failed.
        changed_by: names of the steps that changed it, in order.
    """

    outcome: Molecule | InvalidMolecule
    changed_by: tuple[str, ...]


def _largest_fragment(mol: Chem.Mol) -> Chem.Mol:
    return rdMolStandardize.LargestFragmentChooser(preferOrganic=True).choose(mol)


def _neutralise(mol: Chem.Mol) -> Chem.Mol:
    return rdMolStandardize.Uncharger().uncharge(mol)


STEPS: dict[str, Callable[[Chem.Mol], Chem.Mol]] = {
    "largest_fragment": _largest_fragment,
    "neutralise": _neutralise,
}
"""`largest_fragment` keeps the largest organic part of a salt or mixture; `neutralise` adds or removes protons until
no charge is left that can go."""


def standardize(molecule: Molecule, steps: Sequence[str] = tuple(STEPS)) -> Standardized:
    """Apply clean-up steps in order.

    A molecule that was read without the valence check stays as it is: RDKit's steps would refuse it.

    Args:
        molecule: what `parse_smiles` returned.
        steps: names from `STEPS`.

    Raises:
        ConfigError: there is no such step.

    Example:
        >>> standardize(parse_smiles("CC(=O)[O-].[Na+]")).outcome.smiles
        'CC(=O)O'
    """
    changed: list[str] = []
    current = molecule
    for step, name in [(look_up(STEPS, name, "standardisation step"), name) for name in steps]:
        if current.relaxed:
            break
        outcome, _ = molecule_from_mol(step(current.mol))
        if isinstance(outcome, InvalidMolecule):
            return Standardized(
                InvalidMolecule(f"{name}: {outcome.reason}", "standardize", molecule.smiles), tuple(changed)
            )
        if outcome.smiles != current.smiles:
            changed.append(name)
        current = outcome
    return Standardized(current, tuple(changed))
