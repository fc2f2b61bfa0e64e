"""A molecule's arrays: its 2D graph with OGB's features, and its conformers.

No torch here, so that a process that only makes graphs starts several times faster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Integer

# Sizes and meanings of OGB's 9 atom and 3 bond features; no RDKit here, so that a training machine needs none.
#
# Source: Hu et al., "Open Graph Benchmark" (NeurIPS 2020), package ogb 1.3.6, `ogb/utils/features.py`. The last index
# of a feature takes every value that is not listed, except for the last two atom features and for the bond stereo,
# which OGB leaves without such an index.


ATOM_FEATURE_NAMES = (
    "atomic_number",
    "chirality",
    "degree",
    "formal_charge",
    "num_hydrogens",
    "num_radical_electrons",
    "hybridization",
    "is_aromatic",
    "is_in_ring",
)
"""Columns of `node_features_NF`. Index 0 of `atomic_number` is hydrogen, index 5 of `formal_charge` is neutral."""

BOND_FEATURE_NAMES = ("bond_type", "bond_stereo", "is_conjugated")
"""Columns of `bond_features_UF`."""

ATOM_FEATURE_SIZES = (119, 5, 12, 12, 10, 6, 6, 2, 2)
"""Number of indices of each atom feature."""

BOND_FEATURE_SIZES = (5, 6, 2)
"""Number of indices of each bond feature."""

NUM_ATOM_FEATURES = len(ATOM_FEATURE_SIZES)
NUM_BOND_FEATURES = len(BOND_FEATURE_SIZES)

CHIRALITY_NAMES = ("CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW", "CHI_OTHER")
HYBRIDIZATION_NAMES = ("SP", "SP2", "SP3", "SP3D", "SP3D2")
BOND_TYPE_NAMES = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
BOND_STEREO_NAMES = ("STEREONONE", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS", "STEREOANY")

NEUTRAL_CHARGE_INDEX = 5
"""`formal_charge` index minus this is the charge, from -5 to +5."""

FEATURE_VERSION = 1
"""Raised when the same molecule would get other features or another atom order; stores and models carry it."""


# One molecule's arrays, as features and store hand them on.


@dataclass(frozen=True)
class MolecularGraph:
    """A 2D molecular graph with OGB's features.

    Attributes:
        node_features_NF: `(atoms, 9)` integers, column 0 is the atomic number minus 1; see `features.py`.
        bonds_U2: `(bonds, 2)` atom indices, each bond once, begin before end as RDKit stores it.
        bond_features_UF: `(bonds, 3)` integers.
    """

    node_features_NF: Integer[np.ndarray, "atoms 9"]
    bonds_U2: Integer[np.ndarray, "bonds 2"]
    bond_features_UF: Integer[np.ndarray, "bonds 3"]

    @property
    def num_atoms(self) -> int:
        """Number of atoms."""
        return len(self.node_features_NF)

    @property
    def num_bonds(self) -> int:
        """Number of bonds, each counted once."""
        return len(self.bonds_U2)


@dataclass(frozen=True)
class Conformers:
    """J geometries of one molecule, in the atom order of its graph.

    Attributes:
        atomic_numbers_A: `(conformer atoms,)` atomic numbers. Atom `i < graph.num_atoms` is graph atom `i`; atoms
            beyond are hydrogens that the graph leaves implicit.
        positions_JA3: `(conformers, conformer atoms, 3)` in angstrom.
    """

    atomic_numbers_A: Int[np.ndarray, "atoms"]
    positions_JA3: Float[np.ndarray, "conformers atoms 3"]
