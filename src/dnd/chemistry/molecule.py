"""The two outcomes of every parse: a molecule, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rdkit import Chem


@dataclass(frozen=True)
class Molecule:
    """A parsed molecule in canonical atom order.

    Attributes:
        mol: RDKit molecule, hydrogens implicit, atoms and bonds as `Chem.MolFromSmiles(smiles)` numbers them.
        smiles: canonical isomeric SMILES.
        relaxed: RDKit's valence check refuses this molecule; it was read without that check.
    """

    mol: Chem.Mol
    smiles: str
    relaxed: bool = False

    @property
    def ok(self) -> Literal[True]:
        """Always True; tells the two outcomes apart."""
        return True


@dataclass(frozen=True)
class InvalidMolecule:
    """A text that is no molecule for us.

    Attributes:
        reason: what is wrong, in words for the `error` column.
        stage: `limits` (refused before RDKit saw it), `parse` (syntax), `chemistry` (valence, aromaticity) or
            `canonical` (no stable canonical form).
        text: the text as given.
    """

    reason: str
    stage: str
    text: str

    @property
    def ok(self) -> Literal[False]:
        """Always False; tells the two outcomes apart."""
        return False
