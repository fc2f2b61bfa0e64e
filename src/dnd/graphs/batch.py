"""Packed batches of molecules: flat tensors and offsets (PyG's convention), without padding."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_Batch = TypeVar("_Batch", bound="PackedBatch")


class PackedBatch:
    """Base of the batch dataclasses: every tensor field moves together."""

    def to(self: _Batch, device: torch.device | str) -> _Batch:
        """The same batch on `device`."""
        moved: dict[str, Tensor | PackedBatch | dict[str, Tensor]] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device, non_blocking=True)
            elif isinstance(value, PackedBatch):
                moved[field.name] = value.to(device)
            elif isinstance(value, dict):
                moved[field.name] = {name: tensor.to(device, non_blocking=True) for name, tensor in value.items()}
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class GraphBatch(PackedBatch):
    """Molecular graphs, packed.

    Attributes:
        node_features_NF: `(N, 9)` int64, OGB's atom features.
        edge_index_2E: `(2, E)` int64, source row 0, target row 1, numbered over the batch; a bond is two consecutive
            columns (u, v), (v, u).
        edge_features_EF: `(E, 3)` int64, OGB's bond features, same order.
        atom_offsets: `(B + 1,)` int64; molecule `b` owns atoms `atom_offsets[b]:atom_offsets[b + 1]`.
        edge_offsets: `(B + 1,)` int64, the same for directed bonds.
    """

    node_features_NF: Int[Tensor, "atoms 9"]
    edge_index_2E: Int[Tensor, "2 edges"]
    edge_features_EF: Int[Tensor, "edges 3"]
    atom_offsets: Int[Tensor, "boundaries"]
    edge_offsets: Int[Tensor, "boundaries"]

    @property
    def num_molecules(self) -> int:
        """B."""
        return len(self.atom_offsets) - 1

    @property
    def atoms_per_molecule_B(self) -> Int[Tensor, "molecules"]:
        """Number of atoms of each molecule."""
        return self.atom_offsets.diff()

    @property
    def batch_N(self) -> Int[Tensor, "atoms"]:
        """Molecule index of every atom, non-decreasing."""
        return molecule_index(self.atom_offsets, len(self.node_features_NF))

    @property
    def edge_batch_E(self) -> Int[Tensor, "edges"]:
        """Molecule index of every directed bond, non-decreasing."""
        return molecule_index(self.edge_offsets, self.edge_index_2E.shape[1])


@dataclass(frozen=True)
class ConformerBatch(PackedBatch):
    """One conformer per molecule, packed.

    Attributes:
        atomic_numbers_A: `(A,)` int64.
        positions_A3: `(A, 3)` float32, angstrom.
        atom_offsets: `(B + 1,)` int64, numbered over conformer atoms.
        graph_atoms_N: `(N,)` int64, for each graph atom of the paired `GraphBatch` its conformer atom.
    """

    atomic_numbers_A: Int[Tensor, "conformer_atoms"]
    positions_A3: Float[Tensor, "conformer_atoms 3"]
    atom_offsets: Int[Tensor, "boundaries"]
    graph_atoms_N: Int[Tensor, "atoms"]

    @property
    def num_molecules(self) -> int:
        """B."""
        return len(self.atom_offsets) - 1

    @property
    def batch_A(self) -> Int[Tensor, "conformer_atoms"]:
        """Molecule index of every conformer atom, non-decreasing."""
        return molecule_index(self.atom_offsets, len(self.atomic_numbers_A))


@dataclass(frozen=True)
class MoleculeBatch(PackedBatch):
    """What a training or prediction step receives.

    Attributes:
        graph: the 2D graphs.
        conformers: one conformer per molecule, or None if the source has none.
        targets_BC: `(B, C)` float32, NaN = missing; C may be 0.
        rows_B: `(B,)` int64, positions in the source, for messages that name molecules.
    """

    graph: GraphBatch
    conformers: ConformerBatch | None
    targets_BC: Float[Tensor, "molecules targets"]
    rows_B: Int[Tensor, "molecules"]

    @property
    def num_molecules(self) -> int:
        """B."""
        return self.graph.num_molecules


def molecule_index(offsets: Int[Tensor, "boundaries"], total: int) -> Int[Tensor, "items"]:
    """Molecule index of each of `total` packed items."""
    molecules = torch.arange(len(offsets) - 1, device=offsets.device)
    return torch.repeat_interleave(molecules, offsets.diff(), output_size=total)


def ordered_pairs(offsets: Int[Tensor, "offsets"]) -> tuple[Int[Tensor, "pairs"], Int[Tensor, "pairs"]]:
    """Source and target of every ordered pair of different items of one molecule, source-major, packed numbering."""
    size_B = offsets.diff()
    pairs_B = size_B * size_B
    index_E = torch.arange(int(pairs_B.sum()), device=offsets.device)
    molecule_E = torch.repeat_interleave(torch.arange(len(size_B), device=offsets.device), pairs_B)
    within_E = index_E - (pairs_B.cumsum(0) - pairs_B)[molecule_E]
    source_E = offsets[:-1][molecule_E] + within_E // size_B[molecule_E]
    target_E = offsets[:-1][molecule_E] + within_E % size_B[molecule_E]
    different_E = source_E != target_E
    return source_E[different_E], target_E[different_E]


def atom_pairs(offsets: Int[Tensor, "offsets"]) -> Int[Tensor, "2 pairs"]:
    """Every unordered pair of different atoms of one molecule, in packed numbering."""
    source_E, target_E = ordered_pairs(offsets)
    once_E = source_E < target_E
    return torch.stack([source_E[once_E], target_E[once_E]])


def padding_index(
    offsets: Int[Tensor, "boundaries"], length: int | None = None
) -> tuple[Int[Tensor, "molecules length"], Bool[Tensor, "molecules length"]]:
    """Index into the packed layout for each cell of a padded `(B, n)` layout.

    Args:
        offsets: `(B + 1,)`.
        length: T; the largest molecule when None.

    Returns:
        Indices into the packed axis, clamped to a valid item in the padding, and the mask of real cells.
    """
    sizes_B = offsets.diff()
    length = length if length is not None else int(sizes_B.max())
    places = torch.arange(length, device=offsets.device)
    real_Bn = places < sizes_B[:, None]
    index_Bn = (offsets[:-1, None] + places).clamp(max=int(offsets[-1]) - 1)
    return index_Bn, real_Bn


def mean_per_molecule(
    values_XD: Float[Tensor, "items dim"], offsets: Int[Tensor, "boundaries"]
) -> Float[Tensor, "molecules dim"]:
    r"""Mean of each molecule's items, :math:`\bar h_b = \frac{1}{N_b} \sum_{i \in b} h_i`; 0 where there are none."""
    index_X = molecule_index(offsets, len(values_XD))
    total_BD = values_XD.new_zeros(len(offsets) - 1, values_XD.shape[1]).index_add_(0, index_X, values_XD)
    return total_BD / offsets.diff().clamp(min=1)[:, None].to(values_XD.dtype)
