"""Graph batches for the tests of students, built by hand or from a recording."""

from __future__ import annotations

import numpy as np
import torch

from dnd.chemistry.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES
from dnd.graphs.batch import GraphBatch

Molecule = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # node features (n, 9), bonds (m, 2), bond features (m, 3)


def random_molecule(atoms: int, seed: int, extra_bonds: int = 1) -> Molecule:
    """A random tree with a few rings closed and random features; asymmetric from about five atoms on."""
    generator = np.random.default_rng(seed)
    bonds = {(int(generator.integers(0, atom)), atom) for atom in range(1, atoms)}
    for _ in range(extra_bonds if atoms > 3 else 0):
        first, second = sorted(generator.choice(atoms, 2, replace=False).tolist())
        bonds.add((first, second))
    nodes = np.stack([generator.integers(0, size, atoms) for size in ATOM_FEATURE_SIZES], axis=1)
    features = np.stack([generator.integers(0, size, len(bonds)) for size in BOND_FEATURE_SIZES], axis=1)
    pairs = np.array(sorted(bonds), dtype=np.int64).reshape(-1, 2)
    return torch.from_numpy(nodes), torch.from_numpy(pairs), torch.from_numpy(features)


def unbonded(atoms: int, seed: int) -> Molecule:
    """Ions without a single bond."""
    nodes = random_molecule(atoms, seed)[0]
    return nodes, torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.int64)


def batch_of(molecules: list[Molecule]) -> GraphBatch:
    atom_offsets = torch.tensor([0, *np.cumsum([len(nodes) for nodes, _, _ in molecules])])
    edge_offsets = torch.tensor([0, *np.cumsum([2 * len(bonds) for _, bonds, _ in molecules])])
    directed = [
        torch.stack([bonds, bonds.flip(1)], dim=1).reshape(-1, 2) + offset
        for (_, bonds, _), offset in zip(molecules, atom_offsets[:-1], strict=True)
    ]
    return GraphBatch(
        torch.cat([nodes for nodes, _, _ in molecules]),
        torch.cat(directed).T.contiguous(),
        torch.cat([features.repeat_interleave(2, dim=0) for _, _, features in molecules]),
        atom_offsets,
        edge_offsets,
    )


def permuted(molecule: Molecule, order: torch.Tensor) -> Molecule:
    """The same molecule with its atoms in another order: new atom `i` is old atom `order[i]`; bonds reversed."""
    nodes, bonds, features = molecule
    return nodes[order], torch.argsort(order)[bonds].flip(0), features.flip(0)


def recorded_batch(recording: np.lib.npyio.NpzFile) -> GraphBatch:
    """The batch of a recording, whose bonds are numbered within each molecule."""
    atoms, edges = torch.from_numpy(recording["in.n_nodes"]), torch.from_numpy(recording["in.n_edges"])
    atom_offsets = torch.cat([torch.zeros(1, dtype=torch.int64), atoms.cumsum(0)])
    edge_offsets = torch.cat([torch.zeros(1, dtype=torch.int64), edges.cumsum(0)])
    shift = torch.repeat_interleave(atom_offsets[:-1], edges)
    return GraphBatch(
        torch.from_numpy(recording["in.node_feat"]),
        torch.from_numpy(recording["in.edge_index"]) + shift,
        torch.from_numpy(recording["in.edge_feat"]),
        atom_offsets,
        edge_offsets,
    )
