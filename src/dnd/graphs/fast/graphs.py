"""SMILES to graphs, many at a time: a quick way for ordinary molecules, the parser and calls per atom for others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from dnd.chemistry.density import may_be_dense
from dnd.chemistry.molecule import InvalidMolecule
from dnd.chemistry.parse import read_smiles
from dnd.graphs.fast.binary import DEGREE, FlatGraphs, read_binaries
from dnd.graphs.fast.order import in_written_order, is_plain
from dnd.graphs.fast.parse import Rewritten, parse_ordinary, rewrite
from dnd.graphs.features import featurize
from dnd.graphs.molecular_graph import MolecularGraph

BATCH = 512
"""Molecules at a time; their bytes and arrays stay in the processor's cache."""


def rewritten_graphs(texts: Sequence[str]) -> list[tuple[str, MolecularGraph] | None]:
    """Canonical SMILES and graph of each text, hydrogens implicit; None where the quick way doesn't reach.

    Equal to `parse_smiles` and `featurize` of its molecule, which are for the rest: a molecule that may be too densely
    bound is among it.
    """
    outcomes: list[tuple[str, MolecularGraph] | None] = []
    for start in range(0, len(texts), BATCH):
        outcomes += _canonical([rewrite(text) for text in texts[start : start + BATCH]])
    return outcomes


def written_graphs(texts: Sequence[str]) -> list[MolecularGraph | None]:
    """Graph of each text in its own atom order, as `ogb.utils.smiles2graph` gives it; None where there is no molecule.

    Example:
        >>> [None if graph is None else graph.num_atoms for graph in written_graphs(["OCC", "C1CC"])]
        [3, None]
    """
    graphs: list[MolecularGraph | None] = []
    for start in range(0, len(texts), BATCH):
        flat = read_binaries([_binary(text) for text in texts[start : start + BATCH]])
        graphs += [graph if known else None for graph, known in zip(_split(flat), flat.readable_B, strict=True)]
    return [_slowly(text) if graph is None else graph for text, graph in zip(texts, graphs, strict=True)]


def _binary(text: str) -> bytes:
    mol = parse_ordinary(text)
    return b"" if mol is None else mol.ToBinary(0)


def _slowly(text: str) -> MolecularGraph | None:
    read = read_smiles(text)
    return None if isinstance(read, InvalidMolecule) else featurize(read[0])


def _canonical(rewritten: Sequence[Rewritten | None]) -> list[tuple[str, MolecularGraph] | None]:
    outcomes: list[tuple[str, MolecularGraph] | None] = [None] * len(rewritten)
    plain = {place: one for place, one in enumerate(rewritten) if one is not None and is_plain(one.smiles)}
    graphs = read_binaries([one.binary for one in plain.values()])
    usable_B = graphs.readable_B & ~_may_be_dense(graphs)
    if not usable_B.all():
        plain = {place: plain[place] for place, usable in zip(plain, usable_B, strict=True) if usable}
        graphs = read_binaries([one.binary for one in plain.values()])
    canonical = in_written_order(graphs, _orders(list(plain.values())), [one.smiles for one in plain.values()])
    if canonical is not None:
        for (place, one), graph in zip(plain.items(), _split(canonical), strict=True):
            outcomes[place] = (one.smiles, graph)
    return outcomes


def _may_be_dense(graphs: FlatGraphs) -> Bool[np.ndarray, "molecules"]:
    """Molecules whose density the parser has to look at."""
    sizes_B = np.diff(graphs.atom_offsets)
    dense_N = may_be_dense(np.repeat(sizes_B, sizes_B), graphs.node_features_NF[:, DEGREE])
    found_B = np.zeros(len(sizes_B), dtype=bool)
    found_B[np.repeat(np.arange(len(sizes_B)), sizes_B)[dense_N]] = True
    return found_B


def _orders(rewritten: Sequence[Rewritten]) -> Int[np.ndarray, "atoms"]:
    numbers = ",".join([one.written[1:-1] for one in rewritten])
    return np.array(numbers.split(",") if numbers else [], dtype=np.int64)


def _split(graphs: FlatGraphs) -> list[MolecularGraph]:
    atoms, bonds = graphs.atom_offsets.tolist(), graphs.bond_offsets.tolist()
    features_NF, bonds_M2, bond_features_MF = graphs.node_features_NF, graphs.bonds_M2, graphs.bond_features_MF
    return [
        MolecularGraph(features_NF[a:b], bonds_M2[c:d], bond_features_MF[c:d])
        for a, b, c, d in zip(atoms[:-1], atoms[1:], bonds[:-1], bonds[1:], strict=True)
    ]
