"""Atom pairs within the cutoff, arranged for speed: filters per unordered pair, messages on small dense tiles.

Distances are symmetric, so whatever depends on the distance alone is computed once per unordered pair and mirrored
into dense tiles of atoms i and j. Blocks hold a few molecules of similar size, so that on a CPU one block of small
molecules stays in the cache and on any device the memory of the dense form is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dnd.chemistry.molecule import CLOSEST_APPROACH
from dnd.common.errors import InputError
from dnd.graphs.batch import ConformerBatch
from dnd.models.teachers.fast_pairs.tiles import PairBlock, PairList, along_axis, cut_tiles, list_pairs

FEWEST_TILES = 3
"""Molecules that would be cut into fewer tiles are not: nearly all their atoms reach each other."""


class CoincidentAtomsError(InputError):
    """Two atoms of a molecule lie (nearly) at one place.

    Attributes:
        molecule: position of the molecule in its batch.
    """

    def __init__(self, molecule: int, atoms: tuple[int, int], distance: float, name: str | None = None) -> None:
        self.molecule, self.atoms, self.distance = molecule, atoms, distance
        super().__init__(
            f"{name or f'molecule {molecule} of the batch'}: atoms {atoms[0]} and {atoms[1]} coincide",
            found=f"{distance:.3f} angstrom",
            expected=f"at least {CLOSEST_APPROACH} angstrom",
            next_step="Remove this conformer from the data",
        )

    def named(self, name: str) -> CoincidentAtomsError:
        """The same error with the molecule's name (SMILES and row) in its message."""
        return CoincidentAtomsError(self.molecule, self.atoms, self.distance, name)


@dataclass(frozen=True)
class Neighbourhood:
    """All pairs of a batch in blocks, and the padded layout `(Z, ...)` in which the blocks follow one another.

    Attributes:
        packed_Z: for each cell of the padded layout the packed atom it copies (some atom of its block if padding).
        slot_A: for each packed atom its cell in the padded layout.
        blocks: in the order of the padded layout.
        distances: angstrom; block by block its P distances and then one 0 for the atom itself.
        first_P, second_P: cells (padded layout) of the two atoms of every pair of the batch.
        is_pair: which entries of `distances` are pairs.
    """

    packed_Z: Int[Tensor, "cells"]
    slot_A: Int[Tensor, "conformer_atoms"]
    blocks: list[PairBlock]
    distances: Float[Tensor, "rows"]
    first_P: Int[Tensor, "all_pairs"]
    second_P: Int[Tensor, "all_pairs"]
    is_pair: Bool[Tensor, "rows"]

    def rows_per_block(self) -> list[int]:
        """Rows of `distances` that belong to each block."""
        return [block.num_pairs + 1 for block in self.blocks]

    def cells_per_block(self) -> list[int]:
        """Cells of the padded layout that belong to each block."""
        return [block.shape[0] * block.shape[1] for block in self.blocks]


def find_pairs(
    conformers: ConformerBatch,
    cutoff: float,
    *,
    cells_per_block: int,
    rows_per_tile: int | None = None,
    closest: float = CLOSEST_APPROACH,
) -> Neighbourhood:
    """All pairs closer than `cutoff`, without a limit on their number.

    Args:
        conformers: packed batch; gradients flow to its positions.
        cutoff: angstrom.
        cells_per_block: largest number of cells B·n·n per block (one molecule at least).
        rows_per_tile: rows of a tile of molecules with more than `FEWEST_TILES` times as many atoms; None = every block
            is one tile.
        closest: pairs below this distance (angstrom) are refused.

    Raises:
        CoincidentAtomsError: two atoms of a molecule are closer than `closest`.
    """
    offsets = conformers.atom_offsets.cpu().numpy()
    blocks, distances, packed, first, second = [], [], [], [], []
    start = 0
    for molecules in _group_by_size(np.diff(offsets), cells_per_block):
        index_Bn, real_Bn = _padded_index(offsets, molecules, conformers.positions_A3.device)
        size = rows = index_Bn.shape[1]
        if rows_per_tile is not None and size > FEWEST_TILES * rows_per_tile:
            rows = rows_per_tile
            index_Bn = index_Bn.gather(1, along_axis(conformers.positions_A3[index_Bn], real_Bn))
        pairs = list_pairs(conformers.positions_A3[index_Bn], real_Bn, cutoff, rows)
        if len(pairs.distance_P) and float(pairs.distance_P.detach().min()) < closest:
            _refuse_closest(pairs, index_Bn.cpu().numpy() - offsets[molecules][:, None], molecules)
        blocks.append(cut_tiles(pairs, real_Bn, cutoff))
        packed.append(torch.where(real_Bn, index_Bn, -1 - index_Bn).flatten())
        distances += [pairs.distance_P, pairs.distance_P.new_zeros(1)]
        first.append(start + pairs.molecule_P * size + pairs.first_P)
        second.append(start + pairs.molecule_P * size + pairs.second_P)
        start += index_Bn.numel()
    signed_Z = torch.cat(packed)
    cells_A = (signed_Z >= 0).nonzero()[:, 0]
    slot_A = torch.empty_like(cells_A).index_copy_(0, signed_Z[cells_A], cells_A)
    counts = torch.tensor([block.num_pairs + 1 for block in blocks])
    is_pair = torch.ones(int(counts.sum()), dtype=torch.bool).index_fill_(0, counts.cumsum(0) - 1, False)
    return Neighbourhood(
        packed_Z=torch.where(signed_Z >= 0, signed_Z, -1 - signed_Z),
        slot_A=slot_A,
        blocks=blocks,
        distances=torch.cat(distances),
        first_P=torch.cat(first),
        second_P=torch.cat(second),
        is_pair=is_pair.to(signed_Z.device),
    )


def check_closest_approach(conformers: ConformerBatch, closest: float = CLOSEST_APPROACH) -> None:
    """Refuse a batch in which two atoms of a molecule are closer than `closest` angstrom.

    Raises:
        CoincidentAtomsError: see above.
    """
    with torch.no_grad():
        find_pairs(conformers, max(2 * closest, 1.0), cells_per_block=2**20, closest=closest)


def _group_by_size(sizes_B: Int[np.ndarray, "molecules"], cells_per_block: int) -> list[Int[np.ndarray, "_block"]]:
    """Molecules by increasing size, cut into runs whose padded square blocks stay within `cells_per_block`."""
    order = np.argsort(sizes_B, kind="stable")
    cuts = [0]
    for position, molecule in enumerate(order):
        if position > cuts[-1] and (position - cuts[-1] + 1) * int(sizes_B[molecule]) ** 2 > cells_per_block:
            cuts.append(position)
    return [order[begin:end] for begin, end in pairwise([*cuts, len(order)])]


def _padded_index(
    offsets: Int[np.ndarray, "offsets"], molecules: Int[np.ndarray, "block"], device: torch.device
) -> tuple[Int[Tensor, "molecules atoms"], Bool[Tensor, "molecules atoms"]]:
    sizes = np.diff(offsets)[molecules]
    column = np.arange(sizes.max())
    index = offsets[molecules][:, None] + np.minimum(column, sizes[:, None] - 1)
    return torch.from_numpy(index).to(device), torch.from_numpy(column < sizes[:, None]).to(device)


def _refuse_closest(
    pairs: PairList, atom_Bn: Int[np.ndarray, "molecules atoms"], molecules: Int[np.ndarray, "molecules"]
) -> None:
    worst = int(pairs.distance_P.detach().argmin())
    molecule = int(pairs.molecule_P[worst])
    first, second = sorted(int(atom_Bn[molecule, int(atom[worst])]) for atom in (pairs.first_P, pairs.second_P))
    raise CoincidentAtomsError(int(molecules[molecule]), (first, second), float(pairs.distance_P[worst].detach()))
