"""Atom pairs within the cutoff, arranged for speed: filters per unordered pair, messages on small dense blocks.

Distances are symmetric, so whatever depends on the distance alone is computed once per unordered pair and mirrored
into a dense `(molecules, T, T)` block. Blocks hold a few molecules of similar size, so that on a CPU one block stays
in the cache and on any device the memory of the dense form is bounded.

Legend: B molecules of a block, T atoms of its largest molecule, P unordered pairs within the cutoff, M = B·T·T cells,
R cells of the padded layout of all atoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dnd.chemistry.limits import CLOSEST_APPROACH
from dnd.common.errors import InputError
from dnd.graphs.batch import ConformerBatch
from dnd.teacher.radial import cosine_cutoff


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
class PairBlock:
    """Pairs of a few molecules of similar size.

    Attributes:
        shape: (B, T).
        num_pairs: P.
        source_M: `(M,)` row of the filter table that each cell (i, j) reads: a pair, or P for the atom itself. Cells
            without a pair read P as well and are blanked.
        blank: cells with no pair: padding, and atoms farther apart than the cutoff.
        upper_P, lower_P: the cells (i, j) and (j, i) of each pair, i < j.
        loops: the cells (i, i) of real atoms.
        cutoff_BTT: C(d_ij), 1 for the atom itself, 0 where there is no pair.
        direction_BTT3: unit vector from i to j, 0 for the atom itself and where there is no pair.
    """

    shape: tuple[int, int]
    num_pairs: int
    source_M: Int[Tensor, "cells"]
    blank: Int[Tensor, "blanks"]
    upper_P: Int[Tensor, "pairs"]
    lower_P: Int[Tensor, "pairs"]
    loops: Int[Tensor, "real_atoms"]
    cutoff_BTT: Float[Tensor, "molecules atoms atoms"]
    direction_BTT3: Float[Tensor, "molecules atoms atoms 3"]

    def pair_cutoff(self) -> Float[Tensor, "rows"]:
        """C of each pair and, last, 1 for the atom itself."""
        cutoff_P = self.cutoff_BTT.flatten()[self.upper_P]
        return torch.cat([cutoff_P, cutoff_P.new_ones(1)])


@dataclass(frozen=True)
class Neighbourhood:
    """All pairs of a batch in blocks, and the padded layout `(R, ...)` in which the blocks follow one another.

    Attributes:
        packed_R: for each cell of the padded layout the packed atom it copies (some atom of its block if padding).
        slot_A: for each packed atom its cell in the padded layout.
        blocks: in the order of the padded layout.
        distances: angstrom; block by block its P distances and then one 0 for the atom itself.
        first_P, second_P: cells (padded layout) of the two atoms of every pair of the batch.
        is_pair: which entries of `distances` are pairs.
    """

    packed_R: Int[Tensor, "cells"]
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
    conformers: ConformerBatch, cutoff: float, *, cells_per_block: int, closest: float = CLOSEST_APPROACH
) -> Neighbourhood:
    """All pairs closer than `cutoff`, without a limit on their number.

    Args:
        conformers: packed batch; gradients flow to its positions.
        cutoff: angstrom.
        cells_per_block: at most so many cells M per block (one molecule at least).
        closest: pairs below this distance (angstrom) are refused.

    Raises:
        CoincidentAtomsError: two atoms of a molecule are closer than `closest`.
    """
    offsets = conformers.atom_offsets.cpu().numpy()
    blocks, distances, packed, first, second = [], [], [], [], []
    start = 0
    for molecules in _group_by_size(np.diff(offsets), cells_per_block):
        index_BT, real_BT = _padded_index(offsets, molecules, conformers.positions_A3.device)
        positions_BT3 = conformers.positions_A3[index_BT]
        block, distances_P = _pairs_of_block(positions_BT3, real_BT, cutoff, closest, molecules)
        size = block.shape[1]
        blocks.append(block)
        packed.append(torch.where(real_BT, index_BT, -1 - index_BT).flatten())
        distances += [distances_P, distances_P.new_zeros(1)]
        # cell (b, i, j) of the block belongs to atoms b·T + i and b·T + j of the padded layout
        first.append(start + block.upper_P // size)
        second.append(start + block.upper_P // size**2 * size + block.upper_P % size)
        start += index_BT.numel()
    signed_R = torch.cat(packed)
    cells_A = (signed_R >= 0).nonzero()[:, 0]
    slot_A = torch.empty_like(cells_A).index_copy_(0, signed_R[cells_A], cells_A)
    counts = torch.tensor([block.num_pairs + 1 for block in blocks])
    is_pair = torch.ones(int(counts.sum()), dtype=torch.bool).index_fill_(0, counts.cumsum(0) - 1, False)
    return Neighbourhood(
        packed_R=torch.where(signed_R >= 0, signed_R, -1 - signed_R),
        slot_A=slot_A,
        blocks=blocks,
        distances=torch.cat(distances),
        first_P=torch.cat(first),
        second_P=torch.cat(second),
        is_pair=is_pair.to(signed_R.device),
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


def _pairs_of_block(
    positions_BT3: Float[Tensor, "molecules atoms 3"],
    real_BT: Bool[Tensor, "molecules atoms"],
    cutoff: float,
    closest: float,
    molecules: Int[np.ndarray, "molecules"],
) -> tuple[PairBlock, Float[Tensor, "pairs"]]:
    shape = (real_BT.shape[0], real_BT.shape[1])
    num_cells, size = shape[0] * shape[1] ** 2, shape[1]
    device = real_BT.device
    with torch.no_grad():
        distances_BTT = (positions_BT3[:, None] - positions_BT3[:, :, None]).norm(dim=-1)
        both_real = real_BT[:, None] & real_BT[:, :, None]
        upper_P = (both_real & (distances_BTT < cutoff)).triu(1).flatten().nonzero()[:, 0]
    cell = torch.arange(num_cells, device=device)
    mirror_M = (cell - cell % size**2) + cell % size * size + cell % size**2 // size
    lower_P = mirror_M[upper_P]
    loops = (torch.eye(size, dtype=torch.bool, device=device) & real_BT[:, :, None]).flatten().nonzero()[:, 0]

    flat_R3 = positions_BT3.reshape(-1, 3)
    first_P, second_P = upper_P // size, upper_P // size**2 * size + upper_P % size
    offset_P3 = flat_R3[second_P] - flat_R3[first_P]
    distances_P = offset_P3.norm(dim=-1)
    if len(upper_P) and float(distances_P.detach().min()) < closest:
        _refuse_closest(distances_P, upper_P, size, molecules)
    direction_P3, cutoff_P = offset_P3 / distances_P[:, None], cosine_cutoff(distances_P, cutoff)

    pair_cells = torch.cat([upper_P, lower_P])
    source_M = torch.full((num_cells,), len(upper_P), device=device)
    pairs = torch.arange(len(upper_P), device=device)
    source_M.index_copy_(0, pair_cells, torch.cat([pairs, pairs]))
    is_blank = torch.ones(num_cells, dtype=torch.bool, device=device)
    is_blank.index_fill_(0, torch.cat([pair_cells, loops]), False)
    cutoff_M = flat_R3.new_zeros(num_cells).index_fill(0, loops, 1.0)
    direction_M3 = flat_R3.new_zeros(num_cells, 3)
    block = PairBlock(
        shape=shape,
        num_pairs=len(upper_P),
        source_M=source_M,
        blank=is_blank.nonzero()[:, 0],
        upper_P=upper_P,
        lower_P=lower_P,
        loops=loops,
        cutoff_BTT=cutoff_M.index_copy(0, pair_cells, torch.cat([cutoff_P, cutoff_P])).view(*shape, size),
        direction_BTT3=direction_M3.index_copy(0, pair_cells, torch.cat([direction_P3, -direction_P3])).view(
            *shape, size, 3
        ),
    )
    return block, distances_P


def _refuse_closest(
    distances_P: Float[Tensor, "pairs"], upper_P: Int[Tensor, "pairs"], size: int, molecules: Int[np.ndarray, "block"]
) -> None:
    worst = int(distances_P.detach().argmin())
    cell = int(upper_P[worst])
    atoms = (cell % size**2 // size, cell % size)
    raise CoincidentAtomsError(int(molecules[cell // size**2]), atoms, float(distances_P[worst].detach()))
