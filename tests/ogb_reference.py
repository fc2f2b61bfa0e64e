"""OGB's own featuriser and the ten sets in `data/ogb`, as tests see them."""

from __future__ import annotations

import csv
import gzip
import sys
import types
from functools import cache
from pathlib import Path

import numpy as np

from dnd.chemistry.molecule import MolecularGraph

DATA = Path(__file__).parents[1] / "data" / "ogb"
SETS = ("bace", "bbbp", "clintox", "esol", "freesolv", "hiv", "lipo", "sider", "tox21", "toxcast")


@cache
def smiles2graph():
    """`ogb.utils.smiles2graph`; importing ogb asks the network for a newer version, which is kept from it here."""
    silent = types.ModuleType("outdated")
    silent.check_outdated = lambda *_: (False, "")
    sys.modules.setdefault("outdated", silent)
    from ogb.utils.mol import smiles2graph as function

    return function


@cache
def smiles_of(name: str) -> tuple[str, ...]:
    """SMILES of an OGB set in its row order."""
    with gzip.open(DATA / f"ogbg_mol{name}" / "mapping" / "mol.csv.gz", "rt") as stream:
        return tuple(row["smiles"] for row in csv.DictReader(stream))


@cache
def _every_smiles() -> tuple[str, ...]:
    return tuple(sorted({smiles for name in SETS for smiles in smiles_of(name)}))


def sample(count: int, seed: int = 0) -> list[str]:
    """`count` distinct SMILES from all ten sets."""
    every = _every_smiles()
    rows = np.random.default_rng(seed).choice(len(every), count, replace=False)
    return [every[row] for row in rows]


def assert_same(graph: MolecularGraph, reference: dict[str, np.ndarray]) -> None:
    """The graph and OGB's dictionary hold the same integers in the same order; OGB has each bond both ways."""
    np.testing.assert_array_equal(graph.node_features_NF, reference["node_feat"])
    np.testing.assert_array_equal(graph.bonds_U2, reference["edge_index"][:, ::2].T)
    np.testing.assert_array_equal(graph.bonds_U2[:, ::-1], reference["edge_index"][:, 1::2].T)
    np.testing.assert_array_equal(graph.bond_features_UF, reference["edge_feat"][::2])
    np.testing.assert_array_equal(graph.bond_features_UF, reference["edge_feat"][1::2])


def same_graph(first: MolecularGraph, second: MolecularGraph) -> bool:
    """Whether two graphs are equal, column for column."""
    return (
        np.array_equal(first.node_features_NF, second.node_features_NF)
        and np.array_equal(first.bonds_U2, second.bonds_U2)
        and np.array_equal(first.bond_features_UF, second.bond_features_UF)
    )
