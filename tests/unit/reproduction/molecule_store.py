"""A store in memory with made-up geometries, for tests of the analyses."""

from __future__ import annotations

import numpy as np

from dnd.chemistry.molecule import Conformers
from dnd.chemistry.parse import parse_smiles
from dnd.graphs.features import featurize
from dnd.store.reader import Store
from dnd.store.schema import StoreRow


def store_of(smiles: list[str], seed: int = 0) -> Store:
    generator = np.random.default_rng(seed)
    rows = []
    for number, text in enumerate(smiles):
        molecule = parse_smiles(text)
        graph = featurize(molecule.mol)
        numbers = np.array([atom.GetAtomicNum() for atom in molecule.mol.GetAtoms()])
        positions = generator.normal(size=(1, len(numbers), 3)).astype(np.float32) * 2
        rows.append(StoreRow(number, "test", molecule.smiles, graph, Conformers(numbers, positions), "file"))
    return Store.from_rows(rows)
