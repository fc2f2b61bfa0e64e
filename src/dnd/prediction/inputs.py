"""Texts that may be molecules → the valid ones as a store, and a reason for each of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from dnd.finetuning.molecules import as_store, featurize_smiles
from dnd.store.reader import Store
from dnd.store.schema import HydrogenSetting


@dataclass(frozen=True)
class ValidMolecules:
    """The usable part of a list of SMILES.

    Attributes:
        store: their graphs.
        places: their positions in the list, ascending.
        smiles: their canonical SMILES.
        errors: per position of the list the reason why it can't be used; empty where it can.
    """

    store: Store
    places: Int[np.ndarray, "valid"]
    smiles: list[str]
    errors: list[str]


def valid_molecules(smiles: Sequence[str], hydrogens: HydrogenSetting, jobs: int = 1) -> ValidMolecules:
    """Parse and featurise; what is not text (None, NaN of a data frame) counts as an empty SMILES."""
    texts = [text if isinstance(text, str) else "" for text in smiles]
    molecules = featurize_smiles(texts, hydrogens, jobs=jobs)
    places = np.array([place for place, one in enumerate(molecules) if one.graph is not None], dtype=np.int64)
    valid = [molecules[place] for place in places]
    reasons = [molecule.reason for molecule in molecules]
    return ValidMolecules(as_store(valid, hydrogens), places, [molecule.smiles for molecule in valid], reasons)
