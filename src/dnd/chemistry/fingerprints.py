"""Fingerprints of molecules as arrays of numbers: how often each feature occurs, and ErG's fuzzy counts.

One table says what there is, one function computes it. Avalon's fingerprint is C code that searches all paths and rings
without a bound, so it alone has narrow limits, which chemistry does not reach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from rdkit import Chem, DataStructs
from rdkit.Avalon import pyAvalonTools
from rdkit.Chem import rdFingerprintGenerator, rdReducedGraphs

from dnd.chemistry.parse import TooDenseError, refuse_dense
from dnd.common.errors import InputError

_AVALON_PLACES = 1024
MOST_AVALON_WALKS = 350_000
"""Walks of six bonds up to which Avalon's search is done within two seconds; at 370,000 to 560,000 it has hung."""
MOST_AVALON_RINGS = 64
"""Independent rings up to which Avalon is done within two seconds. C84 has 43."""
MOST_AVALON_NEIGHBOURS = 20
"""Avalon leaves out what is bound to an atom with more neighbours."""


@dataclass(frozen=True)
class Fingerprint:
    """One kind of fingerprint.

    Attributes:
        size: number of values.
        unit: what a value counts.
        compute: the function from a sanitised molecule to the values.
    """

    size: int
    unit: str
    compute: Callable[[Chem.Mol], np.ndarray]


def _avalon_counts(mol: Chem.Mol) -> np.ndarray:
    """Avalon counts; Gedeck, Rohde and Bartels, J. Chem. Inf. Model. 46, 1924 (2006)."""
    refuse_dense(mol, "the Avalon fingerprint", MOST_AVALON_WALKS)
    rings = mol.GetNumBonds() - mol.GetNumAtoms() + len(Chem.GetMolFrags(mol))
    neighbours = int((Chem.GetAdjacencyMatrix(mol) > 0).sum(axis=1).max(initial=0))
    if rings > MOST_AVALON_RINGS or neighbours > MOST_AVALON_NEIGHBOURS:
        raise TooDenseError(
            "the Avalon fingerprint of this molecule can't be computed in bounded time",
            found=f"{rings} rings and an atom with {neighbours} neighbours",
            expected=f"at most {MOST_AVALON_RINGS} and {MOST_AVALON_NEIGHBOURS}",
            next_step="Leave the molecule out.",
        )
    counts = np.zeros(_AVALON_PLACES, np.int32)
    DataStructs.ConvertToNumpyArray(pyAvalonTools.GetAvalonCountFP(mol, nBits=_AVALON_PLACES), counts)
    return counts


def _erg(mol: Chem.Mol) -> np.ndarray:
    """Extended reduced graph; Stiefl et al., J. Chem. Inf. Model. 46, 208 (2006).

    RDKit adds an atom for each ring to a copy of the molecule and asks the copy for its distances. A matrix that a
    descriptor left in the molecule is copied too, has no rows for the new atoms, and is read beyond its end. Only the
    removal of a ring atom clears it, so barbiturates, for one, got values that changed from run to run. A quick copy
    has no matrix.
    """
    refuse_dense(mol, "the ErG fingerprint")
    values: np.ndarray = rdReducedGraphs.GetErGFingerprint(Chem.Mol(mol, True))
    return values


_TORSIONS = rdFingerprintGenerator.GetTopologicalTorsionGenerator(fpSize=1024)


def _torsion_counts(mol: Chem.Mol) -> np.ndarray:
    """Paths of four atoms; Nilakantan et al., J. Chem. Inf. Comput. Sci. 27, 82 (1987)."""
    refuse_dense(mol, "the torsion fingerprint")
    counts: np.ndarray = _TORSIONS.GetCountFingerprintAsNumPy(mol)
    return counts


def _morgan(places: int) -> Callable[[Chem.Mol], np.ndarray]:
    """Atom environments of radius 0 to 2; Rogers and Hahn, J. Chem. Inf. Model. 50, 742 (2010)."""
    compute: Callable[[Chem.Mol], np.ndarray] = rdFingerprintGenerator.GetMorganGenerator(
        radius=2, fpSize=places
    ).GetCountFingerprintAsNumPy
    return compute


FINGERPRINTS: dict[str, Fingerprint] = {
    "morgan_1024": Fingerprint(1024, "atom environments of radius 0 to 2, folded", _morgan(1024)),
    "morgan_2048": Fingerprint(2048, "atom environments of radius 0 to 2, folded", _morgan(2048)),
    "avalon": Fingerprint(_AVALON_PLACES, "atoms, paths, rings and pairs of features, folded", _avalon_counts),
    "erg": Fingerprint(315, "pairs of pharmacophore features at each distance in bonds, spread to neighbours", _erg),
    "atom_pairs": Fingerprint(
        1024,
        "pairs of atoms with their distance in bonds, folded",
        rdFingerprintGenerator.GetAtomPairGenerator(fpSize=1024).GetCountFingerprintAsNumPy,
    ),
    "torsions": Fingerprint(1024, "paths of four atoms, folded", _torsion_counts),
}
"""All kinds by name."""


def fingerprint(name: str, mol: Chem.Mol) -> Float[np.ndarray, " size"]:
    """One fingerprint of a molecule.

    Args:
        name: a kind among `FINGERPRINTS`.
        mol: sanitised molecule.

    Returns:
        Its values, float32: whole numbers, except for `erg`.

    Raises:
        InputError: there is no such kind.
        TooDenseError: the molecule is so densely bound that the search would not end.

    Example:
        >>> fingerprint("torsions", Chem.MolFromSmiles("CCCC")).sum()
        np.float32(1.0)
    """
    kind = FINGERPRINTS.get(name)
    if kind is None:
        raise InputError(
            "unknown fingerprint",
            found=name,
            expected=f"one of {', '.join(FINGERPRINTS)}",
            next_step="Choose one of these.",
        )
    return kind.compute(mol).astype(np.float32)
