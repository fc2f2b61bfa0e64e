"""How densely the atoms of a molecule are bound, and what is refused because some features would not end.

Searches for paths take longer by the number of neighbours with each bond: 14 atoms bound all to all keep RDKit's Chi4n
busy for 10 minutes, and Avalon's fingerprint did not end in 90 seconds. Chemistry is far from there: C60 has 44,000
walks of six bonds and ferrocene 64,000, where 10 atoms bound all to all have 5 million.
The parser refuses such molecules, so that every command treats them alike.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int
from rdkit import Chem

from dnd.common.errors import InputError

WALK = 6
"""Bonds of the walks counted."""
MOST_WALKS = 3_000_000
"""Largest number of walks of `WALK` bonds. Below, every search over paths of four bonds ends within a second."""


class TooDenseError(InputError):
    """The atoms of a molecule are bound so densely that a feature of it would not be found in bounded time."""


def may_be_dense(
    num_atoms: Int[np.ndarray, "..."] | int, most_neighbours: Int[np.ndarray, "..."] | int
) -> Bool[np.ndarray, "..."]:
    r"""Whether the walks have to be counted: there are at most :math:`N d^6` of N atoms with up to d neighbours each.

    With up to four neighbours, so for all of organic chemistry, no molecule within the limits of the parser needs it.
    """
    return np.asarray(num_atoms * most_neighbours**WALK > MOST_WALKS)


def density_problem(mol: Chem.Mol) -> str | None:
    """Why a parsed molecule is too densely bound to be read; None when it's not."""
    if not may_be_dense(mol.GetNumAtoms(), max(map(Chem.Atom.GetDegree, mol.GetAtoms()), default=0)):
        return None
    found = walks(mol)
    if found <= MOST_WALKS:
        return None
    return (
        f"atoms bound too densely: {mol.GetNumAtoms()} atoms with {mol.GetNumBonds()} bonds have {found:.2g} walks of "
        f"{WALK} bonds, at most {MOST_WALKS:.2g} are read"
    )


def walks(mol: Chem.Mol) -> float:
    r"""Number of walks of six bonds: the sum of the entries of :math:`A^6`, A the adjacency matrix."""
    adjacency_NN = (Chem.GetAdjacencyMatrix(mol) > 0).astype(float)
    reached_N = np.ones(len(adjacency_NN))
    for _ in range(WALK):
        reached_N = adjacency_NN @ reached_N
    return float(reached_N.sum())


def refuse_dense(mol: Chem.Mol, what: str, most_walks: float = MOST_WALKS) -> None:
    """Raise `TooDenseError` if the molecule has more than `most_walks` walks of six bonds.

    Args:
        mol: the molecule.
        what: the feature that would be computed, as the message names it.
        most_walks: largest number accepted.
    """
    found = walks(mol)
    if found > most_walks:
        raise TooDenseError(
            f"{what} of such a densely bonded molecule can't be computed in bounded time",
            found=f"{mol.GetNumAtoms()} atoms with {mol.GetNumBonds()} bonds and {found:.2g} walks of {WALK} bonds",
            expected=f"at most {most_walks:.2g}",
            next_step="Leave the molecule out.",
        )
