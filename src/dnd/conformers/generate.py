"""Conformers from a SMILES: ETKDGv3 (Wang et al. 2020), then MMFF94s, or UFF where MMFF has no parameters, or neither.

By RDKit, deterministic for (SMILES, seed), inside a worker process, since embedding a strained cage can take for ever;
or by nvMolKit for thousands of molecules at once.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from dnd.chemistry.molecule import Molecule
from dnd.chemistry.parse import parse_smiles, without_isotopes
from dnd.common.compute import derive_seed
from dnd.common.log import LOGGER
from dnd.conformers.records import Record

LIMIT_HEAVY_ATOMS = 128
"""Larger molecules are refused: their embedding takes minutes and a random fold says little."""

NVMOLKIT = "nvmolkit"
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


# Conformers of thousands of molecules at once on an NVIDIA GPU, by nvMolKit: ETKDGv3, then MMFF94s.
#
# What nvMolKit can't do or fails at is left to RDKit in the worker processes: salts and mixtures, molecules without
# MMFF parameters, failed embeddings, broken geometries. Each row of a store says which of the two made its conformers.
# Not exact to the bit from run to run, as little as any sum over threads.


def nvmolkit_is_available() -> bool:
    """Whether nvMolKit is installed and torch sees an NVIDIA GPU."""
    if importlib.util.find_spec("nvmolkit") is None:
        return False
    import torch

    return torch.cuda.is_available()


def with_conformers(
    records: Iterator[Record], *, num_conformers: int, seed: int, relax: bool, chunk: int
) -> Iterator[Record]:
    """The records, those that the GPU could do with `generated_JA3`.

    Args:
        records: records of any layout; those without a SMILES pass as they are.
        num_conformers: K wanted.
        seed: the run's seed.
        relax: minimise MMFF94s energies.
        chunk: records per call; a chunk's seed is that of its first record, so a resumed run that begins at a multiple
            of it asks for the same.
    """
    while block := list(itertools.islice(records, chunk)):
        try:
            yield from _embed_on_gpu(block, num_conformers, seed, relax)
        except (RuntimeError, ValueError, MemoryError) as error:  # out of GPU memory, a driver: RDKit does the chunk
            text = " ".join(str(error).split())[:200]
            LOGGER.warning(f"warning: nvMolKit failed, RDKit makes {len(block)} conformers: {text}")
            yield from block


def _embed_on_gpu(block: list[Record], num_conformers: int, seed: int, relax: bool) -> list[Record]:
    mols = [_molecule_for_gpu(record, relax) for record in block]
    places = [place for place, mol in enumerate(mols) if mol is not None]
    if not places:
        return block
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.useRandomCoords = True  # nvMolKit knows no other start
    parameters.randomSeed = derive_seed(seed, f"nvmolkit:{block[0].source}:{block[0].row}") % 2**31
    embed = importlib.import_module("nvmolkit.embedMolecules").EmbedMolecules
    embed([mols[place] for place in places], parameters, confsPerMolecule=num_conformers)
    embedded = [place for place in places if mols[place].GetNumConformers() > 0]
    if relax and embedded:
        _relax_on_gpu([mols[place] for place in embedded])
    done = list(block)
    for place in embedded:
        positions = np.stack([one.GetPositions() for one in mols[place].GetConformers()]).astype(np.float32)
        if np.isfinite(positions).all():
            done[place] = replace(
                block[place], generated_JA3=positions, method=f"{NVMOLKIT}+mmff94s" if relax else NVMOLKIT
            )
    return done


def _molecule_for_gpu(record: Record, relax: bool) -> Any:
    """The molecule with hydrogens, in the order that the workers will have; None for what is left to RDKit."""
    read = record.smiles and record.problem is None
    outcome = without_isotopes(parse_smiles(record.smiles[0])) if read else None
    if not isinstance(outcome, Molecule) or not 1 < outcome.mol.GetNumAtoms() <= LIMIT_HEAVY_ATOMS:
        return None
    if len(Chem.GetMolFrags(outcome.mol)) > 1:
        return None
    mol = Chem.AddHs(outcome.mol)
    return None if relax and not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol) else mol


def _relax_on_gpu(mols: Sequence[Any]) -> None:
    properties = [rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s") for mol in mols]
    optimize = importlib.import_module("nvmolkit.mmffOptimization").MMFFOptimizeMoleculesConfs
    optimize(list(mols), maxIters=_FORCE_FIELD_STEPS, properties=properties)
