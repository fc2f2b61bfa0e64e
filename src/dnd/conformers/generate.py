"""Conformers from a SMILES: ETKDGv3 (Wang et al. 2020), then MMFF94s, or UFF where MMFF has no parameters, or neither.

Deterministic for (SMILES, seed). Runs inside a worker process: embedding a strained cage can take for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from dnd.chemistry.molecule import Molecule
from dnd.common.compute import derive_seed

LIMIT_HEAVY_ATOMS = 128
"""Larger molecules are refused: their embedding takes minutes and a random fold says little."""

_FORCE_FIELD_STEPS = 400
_FRAGMENT_GAP = 3.0  # angstrom, about a contact of two molecules


@dataclass(frozen=True)
class Generated:
    """Generated conformers.

    Attributes:
        positions_JA3: angstrom, float32, atoms as in `Chem.AddHs(molecule.mol)`.
        method: `etkdg+mmff94s`, `etkdg+uff`, or `etkdg` where none is wanted or none has parameters.
    """

    positions_JA3: Float[np.ndarray, "conformers atoms 3"]
    method: str


def generate_conformers(molecule: Molecule, num_conformers: int, seed: int, *, relax: bool = True) -> Generated | str:
    """Embed and relax up to `num_conformers` geometries.

    Args:
        molecule: canonical molecule.
        num_conformers: K wanted; fewer come back where some fail.
        seed: the run's seed; the embedding is the same with and without relaxing.
        relax: minimise the energy of a force field.

    Returns:
        The conformers, or the reason why there is none.
    """
    if molecule.mol.GetNumAtoms() > LIMIT_HEAVY_ATOMS:
        return f"{molecule.mol.GetNumAtoms()} heavy atoms, conformers are generated up to {LIMIT_HEAVY_ATOMS}"
    mol = Chem.AddHs(molecule.mol)
    parameters = _parameters(derive_seed(seed, f"etkdg:{molecule.smiles}") % 2**31, random_coordinates=False)
    identifiers = list(rdDistGeom.EmbedMultipleConfs(mol, num_conformers, parameters))
    if not identifiers:
        parameters = _parameters(parameters.randomSeed, random_coordinates=True)
        identifiers = list(rdDistGeom.EmbedMultipleConfs(mol, num_conformers, parameters))
    if not identifiers:
        return f"embedding failed: {_failure(parameters)}"
    _set_apart(mol)
    method = _relax(mol) if relax else "etkdg"
    positions = np.stack([mol.GetConformer(identifier).GetPositions() for identifier in identifiers])
    return Generated(positions.astype(np.float32), method)


def _parameters(seed: int, *, random_coordinates: bool) -> Any:
    parameters: Any = rdDistGeom.ETKDGv3()  # RDKit's type hints call its attributes read-only
    parameters.randomSeed = seed
    parameters.useRandomCoords = random_coordinates
    parameters.numThreads = 1
    parameters.trackFailures = True
    return parameters


def _set_apart(mol: Chem.Mol) -> None:
    """Lay the fragments of a salt or mixture side by side; RDKit embeds each around the origin."""
    fragments = Chem.GetMolFrags(mol)
    if len(fragments) < 2:
        return
    for conformer in mol.GetConformers():
        positions_A3, edge = conformer.GetPositions(), 0.0
        for fragment in map(list, fragments):
            positions_A3[fragment, 0] += edge - positions_A3[fragment, 0].min()
            edge = positions_A3[fragment, 0].max() + _FRAGMENT_GAP
        conformer.SetPositions(positions_A3)


def _relax(mol: Chem.Mol) -> str:
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(
            mol, numThreads=1, maxIters=_FORCE_FIELD_STEPS, mmffVariant="MMFF94s"
        )
        return "etkdg+mmff94s"
    if rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
        rdForceFieldHelpers.UFFOptimizeMoleculeConfs(mol, numThreads=1, maxIters=_FORCE_FIELD_STEPS)
        return "etkdg+uff"
    return "etkdg"


def _failure(parameters: Any) -> str:
    """The most frequent cause that RDKit counted."""
    names = {int(number): str(name) for number, name in rdDistGeom.EmbedFailureCauses.values.items()}
    counts = list(parameters.GetFailureCounts())
    worst = int(np.argmax(counts)) if any(counts) else -1
    return names.get(worst, "unknown cause").lower().replace("_", " ")
