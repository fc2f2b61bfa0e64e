"""The inputs of an exported network, packed as in `GraphBatch`, and what every student makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from dnd.chemistry.molecule import NUM_ATOM_FEATURES, NUM_BOND_FEATURES
from dnd.export.graph import Graph
from dnd.models.students.base import FeatureEmbedding


@dataclass(frozen=True)
class Inputs:
    """The inputs of a network, and what follows from them."""

    graph: Graph

    @cached_property
    def atom_features(self) -> str:
        """`(N, 9)`."""
        return self.graph.input("atom_features", "int64", ["atoms", NUM_ATOM_FEATURES])

    @cached_property
    def ends(self) -> tuple[str, str]:
        """Source and target of each directed bond, `(E,)` each."""
        ends = self.graph.input("bond_ends", "int64", [2, "bonds"])
        source, target = (self.graph("Gather", ends, self.graph.constant(end, "int64"), axis=0) for end in (0, 1))
        return source, target

    @cached_property
    def bond_features(self) -> str:
        """`(E, 3)`."""
        return self.graph.input("bond_features", "int64", ["bonds", NUM_BOND_FEATURES])

    @cached_property
    def molecule(self) -> str:
        """`(N,)`, the molecule of each atom."""
        return self.graph.input("molecule_of_atom", "int64", ["atoms"])

    @cached_property
    def sizes(self) -> str:
        """`(B, 1)` float32, the atoms of each molecule."""
        counts = self.graph("Unsqueeze", self._sizes, self.graph.constant([1]))
        return self.graph("Cast", counts, to=1)

    @cached_property
    def molecules(self) -> str:
        """B, in an array of one."""
        return self.graph("Shape", self._sizes)

    @cached_property
    def _sizes(self) -> str:
        return self.graph.input("atoms_per_molecule", "int64", ["molecules"])

    @cached_property
    def atoms(self) -> str:
        """N, in an array of one."""
        return self.graph("Shape", self.atom_features, start=0, end=1)

    @cached_property
    def degrees(self) -> str:
        """`(N, 1)` float32, the bonds of each atom."""
        ones = self.graph.filled(1.0, self.graph("Shape", self.bond_features, start=0, end=1), 1)
        return self.received(ones, 1)

    def identifiers(self, columns: int) -> str:
        """`(N, columns)` float32, made by `featurizer.py`."""
        return self.graph.input("identifiers", "float32", ["atoms", columns])

    def received(self, messages: str, width: int, reduction: str = "add", start: float = 0.0) -> str:
        """The messages of the bonds, reduced at the atoms they point to, `(N, width)`; `start` where there are none."""
        return self.graph.scatter(self.graph.filled(start, self.atoms, width), self.ends[1], messages, reduction)

    def sums(self, atoms: str, width: int) -> str:
        """The sum of the rows of each molecule's atoms."""
        return self.graph.scatter(self.graph.filled(0.0, self.molecules, width), self.molecule, atoms)


def embedding(graph: Graph, tables: FeatureEmbedding, features: str) -> str:
    """The vectors of integer features, a row for each."""
    rows = graph("Add", features, graph.constant(tables.row_of_feature_F))
    return graph("ReduceSum", graph.rows(graph.constant(tables.table), rows), graph.constant([1]), keepdims=0)
