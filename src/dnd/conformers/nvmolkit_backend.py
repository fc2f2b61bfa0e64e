"""Conformers of thousands of molecules at once on an NVIDIA GPU, by nvMolKit: ETKDGv3, then MMFF94s.

What nvMolKit can't do or fails at is left to RDKit in the worker processes: salts and mixtures, molecules without MMFF
parameters, failed embeddings, broken geometries. Each row of a store says which of the two made its conformers.
Not exact to the bit from run to run, as little as any sum over threads.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dnd.common.compute import derive_seed
from dnd.common.log import LOGGER
from dnd.conformers.records import Record

METHOD = "nvmolkit"
_FORCE_FIELD_STEPS = 400


def is_available() -> bool:
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
            yield from _embed(block, num_conformers, seed, relax)
        except (RuntimeError, ValueError, MemoryError) as error:  # out of GPU memory, a driver: RDKit does the chunk
            text = " ".join(str(error).split())[:200]
            LOGGER.warning(f"warning: nvMolKit failed, RDKit makes {len(block)} conformers: {text}")
            yield from block


def _embed(block: list[Record], num_conformers: int, seed: int, relax: bool) -> list[Record]:
    from rdkit.Chem import rdDistGeom

    mols = [_molecule(record, relax) for record in block]
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
        _relax([mols[place] for place in embedded])
    done = list(block)
    for place in embedded:
        positions = np.stack([one.GetPositions() for one in mols[place].GetConformers()]).astype(np.float32)
        if np.isfinite(positions).all():
            done[place] = replace(
                block[place], generated_JA3=positions, method=f"{METHOD}+mmff94s" if relax else METHOD
            )
    return done


def _molecule(record: Record, relax: bool) -> Any:
    """The molecule with hydrogens, in the order that the workers will have; None for what is left to RDKit."""
    from rdkit import Chem
    from rdkit.Chem import rdForceFieldHelpers

    from dnd.chemistry.molecule import Molecule
    from dnd.chemistry.parse import parse_smiles
    from dnd.conformers.generate import LIMIT_HEAVY_ATOMS

    outcome = parse_smiles(record.smiles[0]) if record.smiles and record.problem is None else None
    if not isinstance(outcome, Molecule) or not 1 < outcome.mol.GetNumAtoms() <= LIMIT_HEAVY_ATOMS:
        return None
    if len(Chem.GetMolFrags(outcome.mol)) > 1:
        return None
    mol = Chem.AddHs(outcome.mol)
    return None if relax and not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol) else mol


def _relax(mols: Sequence[Any]) -> None:
    from rdkit.Chem import rdForceFieldHelpers

    properties = [rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s") for mol in mols]
    optimize = importlib.import_module("nvmolkit.mmffOptimization").MMFFOptimizeMoleculesConfs
    optimize(list(mols), maxIters=_FORCE_FIELD_STEPS, properties=properties)
