"""The connectivity key, first block of the InChIKey: one name for a molecule whatever its stereochemistry."""

from __future__ import annotations

from rdkit import Chem
from rdkit.Chem import inchi

_BLOCK = 14


def connectivity_key(mol: Chem.Mol) -> str | None:
    """First 14 characters of the InChIKey, a hash of formula and connectivity; None where InChI has no answer.

    Stereoisomers, isotopologues and most tautomers share it, so it's the safe key for leaving test molecules out of
    pretraining data.
    """
    key = inchi.MolToInchiKey(mol)  # type: ignore[no-untyped-call]
    return key[:_BLOCK] if key else None
