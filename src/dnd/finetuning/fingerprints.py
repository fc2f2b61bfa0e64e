"""Classical molecular features: Morgan count fingerprints and RDKit's 2D descriptors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from dnd.chemistry.descriptors import DescriptorCalculator

RADIUS = 2
NUM_BITS = 2048
LIMIT_DESCRIPTOR = 1e6

_all_descriptors = DescriptorCalculator()


def count_fingerprints(molecules: Sequence[Chem.Mol]) -> Float[np.ndarray, "molecules bits"]:
    """Morgan counts, radius 2, folded to 2048 places: how often each atom environment occurs."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=NUM_BITS)
    counts = np.empty((len(molecules), NUM_BITS), np.float32)
    for row, molecule in enumerate(molecules):
        counts[row] = generator.GetCountFingerprintAsNumPy(molecule)
    return counts


def descriptors_2d(molecules: Sequence[Chem.Mol]) -> Float[np.ndarray, "molecules descriptors"]:
    """All of RDKit's 2D descriptors; what is undefined or infinite becomes 0, and values are kept within ±1e6.

    A few descriptors are NaN for metals or without charges, and one (Ipc) overflows on large molecules.

    Raises:
        TooDenseError: see `dnd.chemistry.descriptors`.
    """
    values = np.zeros((len(molecules), len(_all_descriptors.names)), np.float64)
    for row, molecule in enumerate(molecules):
        values[row] = _all_descriptors(molecule)
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    return finite.clip(-LIMIT_DESCRIPTOR, LIMIT_DESCRIPTOR).astype(np.float32)
