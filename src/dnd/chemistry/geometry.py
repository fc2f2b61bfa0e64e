"""Whether coordinates can be those of a molecule: lengths of bonds, flat drawings, its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

if TYPE_CHECKING:  # a store is written and checked without RDKit
    from rdkit import Chem

BOND_FACTORS = (0.6, 1.3)
"""Shortest and longest bond as a share of the sum of covalent radii: Cr2 has 0.61, N2 0.77 and N2O4 1.25."""
SHORTEST_BOND = 0.7
"""Angstrom; H2 has 0.74."""

_UNKNOWN_RADII = 0.0, 2.0  # angstrom, of an element without a radius: as good as no bound
_FLAT = 0.05  # angstrom; a tetrahedral carbon lies 0.3 to 0.5 above the plane of three neighbours
_FLAT_CENTRE = 0.1  # of the volume in a regular tetrahedron
_PYRAMID = 4 / 3**1.5  # that volume, times 6, of three unit vectors
_THREES = {3: {(0, 1, 2): 1}, 4: {(0, 1, 2): 1, (0, 1, 3): -1, (0, 2, 3): 1, (1, 2, 3): -1}}  # and their parity

# Angstrom, of H to Cm; carbon as sp3, Mn, Fe and Co as high spin. Cordero et al., Dalton Trans. 2832 (2008)
_RADII = np.array(
    [
        np.nan, 0.31, 0.28, 1.28, 0.96, 0.84, 0.76, 0.71, 0.66, 0.57, 0.58, 1.66, 1.41, 1.21, 1.11, 1.07, 1.05, 1.02,
        1.06, 2.03, 1.76, 1.70, 1.60, 1.53, 1.39, 1.61, 1.52, 1.50, 1.24, 1.32, 1.22, 1.22, 1.20, 1.19, 1.20, 1.20,
        1.16, 2.20, 1.95, 1.90, 1.75, 1.64, 1.54, 1.47, 1.46, 1.42, 1.39, 1.45, 1.44, 1.42, 1.39, 1.39, 1.38, 1.39,
        1.40, 2.44, 2.15, 2.07, 2.04, 2.03, 2.01, 1.99, 1.98, 1.98, 1.96, 1.94, 1.92, 1.92, 1.89, 1.90, 1.87, 1.87,
        1.75, 1.70, 1.62, 1.51, 1.44, 1.41, 1.36, 1.36, 1.32, 1.45, 1.46, 1.48, 1.40, 1.50, 1.50, 2.60, 2.21, 2.15,
        2.06, 2.00, 1.96, 1.90, 1.87, 1.80, 1.69,
    ]
)  # fmt: skip


def impossible_bonds(
    lengths_U: Float[np.ndarray, "bonds"], numbers_U2: Int[np.ndarray, "bonds 2"]
) -> Bool[np.ndarray, "bonds"]:
    """Which bonds no molecule has.

    Args:
        lengths_U: angstrom.
        numbers_U2: atomic numbers of both ends; 0 or beyond 96 = not known.
    """
    radii_U2 = _RADII[np.where((numbers_U2 >= 0) & (numbers_U2 < len(_RADII)), numbers_U2, 0)]
    shortest_U, longest_U = (
        factor * np.where(np.isnan(radii_U2), unknown, radii_U2).sum(axis=1)
        for factor, unknown in zip(BOND_FACTORS, _UNKNOWN_RADII, strict=True)
    )
    impossible: np.ndarray = (lengths_U < np.maximum(shortest_U, SHORTEST_BOND)) | (lengths_U > longest_U)
    return impossible


def flat_problem(mol: Chem.Mol, positions_A3: Float[np.ndarray, "atoms 3"]) -> str | None:
    """Why coordinates in a plane are a drawing: an atom with four single bonds has three neighbours in that plane.

    Args:
        mol: hydrogens implicit or not.
        positions_A3: angstrom; row i is atom i, further rows are hydrogens.
    """
    if len(positions_A3) < 4:
        return None
    centred_A3 = positions_A3.astype(np.float64) - positions_A3.mean(axis=0)
    normal_3 = np.linalg.svd(centred_A3, full_matrices=False)[2][2]
    if np.abs(centred_A3 @ normal_3).max() > _FLAT:
        return None
    hidden = len(positions_A3) - mol.GetNumAtoms()
    for atom in mol.GetAtoms():
        seen = atom.GetDegree() + (atom.GetTotalNumHs() if hidden else 0)
        saturated = atom.GetTotalDegree() == 4 and atom.GetTotalValence() == 4
        if saturated and seen >= 3 and atom.GetAtomicNum() in (6, 7, 14):
            return f"all atoms lie in a plane, but atom {atom.GetIdx()} has four bonds: this is a 2D drawing"
    return None


def stereo_problem(mol: Chem.Mol, positions_A3: Float[np.ndarray, "atoms 3"]) -> str | None:
    """Why coordinates contradict the configuration of a molecule; what the molecule leaves open, any may have.

    A centre that is as good as flat, such as a nitrogen half-way through, has no configuration to contradict.

    Args:
        mol: hydrogens implicit, sanitised.
        positions_A3: angstrom; row i is atom i, further rows are its hydrogens, grouped by their atoms, or none.
    """
    hidden_N = [atom.GetTotalNumHs() for atom in mol.GetAtoms()]
    has_hidden = len(positions_A3) == len(hidden_N) + sum(hidden_N)
    for atom in mol.GetAtoms():
        sign = _tetrahedral_sign(atom)
        own = range(hidden_N[atom.GetIdx()] if sign and has_hidden else 0)
        hydrogens = [len(hidden_N) + sum(hidden_N[: atom.GetIdx()]) + number for number in own]
        if sign and sign * handedness(atom, positions_A3, hydrogens) < -_FLAT_CENTRE:
            return f"tetrahedral configuration of the coordinates is not the molecule's at atom {atom.GetIdx()}"
    for bond in mol.GetBonds():
        is_cis = _says_cis(bond)
        if is_cis is not None:
            first, last = bond.GetStereoAtoms()
            ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            if (_cosine_of_torsion(positions_A3[[first, *ends, last]]) > 0) != is_cis:
                return f"configuration of the coordinates is not the molecule's at double bond {ends[0]}={ends[1]}"
    return None


def handedness(atom: Chem.Atom, positions_A3: Float[np.ndarray, "atoms 3"], hydrogens: Sequence[int] = ()) -> float:
    """On which side of a centre its neighbours stand, and how clearly: 1 or -1 for a regular tetrahedron.

    It is the volume that the directions to three neighbours span, in the order of the atom's bonds; positive =
    anticlockwise, as RDKit's tags have it. Of four neighbours it is the smallest of four such volumes, and 0 where they
    differ in sign: the atom then lies outside of its neighbours, as in some strained cages, and programs read its
    configuration differently.

    Args:
        atom: the centre.
        positions_A3: angstrom; row i is atom i.
        hydrogens: rows of the hydrogens on the centre that are no atoms of the molecule.
    """
    centre_3 = positions_A3[atom.GetIdx()].astype(np.float64)
    neighbours = [bond.GetOtherAtomIdx(atom.GetIdx()) for bond in atom.GetBonds()]
    around_D3 = positions_A3[[*neighbours, *hydrogens]] - centre_3
    around_D3 = around_D3 / np.maximum(np.linalg.norm(around_D3, axis=1, keepdims=True), SHORTEST_BOND)
    threes = _THREES.get(len(around_D3), {})
    volumes = np.array([sign * np.linalg.det(around_D3[list(three)]) for three, sign in threes.items()]) / _PYRAMID
    if not len(volumes) or volumes.min() < 0 < volumes.max():
        return 0.0
    # A hydrogen says whether the centre is among its neighbours; how clearly it is on one side, the three others say.
    return float(volumes[0 if len(hydrogens) == 1 else np.abs(volumes).argmin()])


def _tetrahedral_sign(atom: Chem.Atom) -> int:
    """1 for an atom whose neighbours stand anticlockwise, -1 for clockwise, 0 where that is left open."""
    return {"CHI_TETRAHEDRAL_CCW": 1, "CHI_TETRAHEDRAL_CW": -1}.get(str(atom.GetChiralTag()), 0)


def _says_cis(bond: Chem.Bond) -> bool | None:
    """Whether the two stereo atoms of a bond are on one side; None where that is left open."""
    name = str(bond.GetStereo())
    if len(bond.GetStereoAtoms()) != 2 or name not in ("STEREOZ", "STEREOCIS", "STEREOE", "STEREOTRANS"):
        return None
    return name in ("STEREOZ", "STEREOCIS")


def _cosine_of_torsion(positions_43: Float[np.ndarray, "4 3"]) -> float:
    """Not scaled; its sign tells cis from trans."""
    before, axis, after = np.diff(positions_43.astype(np.float64), axis=0)
    return float(np.cross(before, axis) @ np.cross(axis, after))
