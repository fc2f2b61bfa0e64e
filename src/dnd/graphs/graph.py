"""One molecule's arrays, as features and store hand them on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class MolecularGraph:
    """A 2D molecular graph with OGB's features.

    Attributes:
        node_features_NF: `(atoms, 9)` integers, column 0 is the atomic number minus 1; see `features.py`.
        bonds_M2: `(bonds, 2)` atom indices, each bond once, begin before end as RDKit stores it.
        bond_features_MF: `(bonds, 3)` integers.
    """

    node_features_NF: Int[np.ndarray, "atoms 9"]
    bonds_M2: Int[np.ndarray, "bonds 2"]
    bond_features_MF: Int[np.ndarray, "bonds 3"]

    @property
    def num_atoms(self) -> int:
        """Number of atoms."""
        return len(self.node_features_NF)

    @property
    def num_bonds(self) -> int:
        """Number of bonds, each counted once."""
        return len(self.bonds_M2)


@dataclass(frozen=True)
class Conformers:
    """K geometries of one molecule, in the atom order of its graph.

    Attributes:
        atomic_numbers_A: `(conformer atoms,)` atomic numbers. Atom `i < graph.num_atoms` is graph atom `i`; atoms
            beyond are hydrogens that the graph leaves implicit.
        positions_KA3: `(conformers, conformer atoms, 3)` in angstrom.
    """

    atomic_numbers_A: Int[np.ndarray, "atoms"]
    positions_KA3: Float[np.ndarray, "conformers atoms 3"]
