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
from dnd.models.teachers.layers import cosine_cutoff

# Dense tiles of atom pairs: the layout in which the messages of the equivariant transformer are summed.
#
# A block holds a few molecules of similar size. Its cells (i, j) lie in tiles: some rows i with the columns j that they
# reach. A block of small molecules is one tile. The atoms of large molecules are sorted along the molecule's longest
# axis first, so that what a few rows reach is a short run of columns: most cells beyond the cutoff are never made, and
# a tile stays in the cache of a core.


@dataclass(frozen=True)
class PairTile:
    """Some rows (atoms i) of a block with the columns (atoms j) that they reach.

    Attributes:
        rows, columns: r and c of the n atoms of the block's largest molecule.
        shape: (B, r, c).
        cells: which of the block's Z cells are this tile's.
        source: `(B·r·c,)` row of the filter table that each cell reads: a pair, or P for the atom itself. Cells without
            a pair read P as well and are blanked.
        blank: cells of the tile with no pair: padding, and atoms farther apart than the cutoff.
        loops: cells (i, i) of real atoms.
        upper, pairs: cells of the tile with i < j, and which pairs these are.
        lower, mirrored: cells of the tile with i > j, and their places in the order that `PairBlock.mirror_P` gives.
    """

    rows: slice
    columns: slice
    shape: tuple[int, int, int]
    cells: slice
    source: Int[Tensor, "cells"]
    blank: Int[Tensor, "blanks"]
    loops: Int[Tensor, "loops"]
    upper: Int[Tensor, "uppers"]
    pairs: slice
    lower: Int[Tensor, "lowers"]
    mirrored: slice


@dataclass(frozen=True)
class PairBlock:
    """Pairs of a few molecules of similar size.

    Attributes:
        shape: (B, n).
        tiles: together they hold every pair twice, as (i, j) and (j, i), and every atom with itself once.
        cutoff_P: C(d_ij) of each pair; pairs are numbered tile after tile by their cell (i, j), i < j.
        mirror_P: the place of each pair where pairs are numbered tile after tile by their cell (j, i).
        cutoff_Z: C(d_ij) of each cell, 1 for the atom itself, 0 where there is no pair.
        direction_Z3: unit vector from i to j, 0 for the atom itself and where there is no pair.
    """

    shape: tuple[int, int]
    tiles: tuple[PairTile, ...]
    cutoff_P: Float[Tensor, "pairs"]
    mirror_P: Int[Tensor, "pairs"]
    cutoff_Z: Float[Tensor, "cells"]
    direction_Z3: Float[Tensor, "cells 3"]

    @property
    def num_pairs(self) -> int:
        """P."""
        return len(self.cutoff_P)

    @property
    def largest_tile(self) -> int:
        """Cells of the largest tile."""
        return max(len(tile.source) for tile in self.tiles)

    def pair_cutoff(self) -> Float[Tensor, "rows"]:
        """C of each pair and, last, 1 for the atom itself."""
        return torch.cat([self.cutoff_P, self.cutoff_P.new_ones(1)])


@dataclass(frozen=True)
class PairList:
    """The unordered pairs of a block, tile after tile.

    Attributes:
        molecule_P: molecule of each pair of the block.
        first_P, second_P: atoms i < j of the molecule, in the block's order.
        distance_P: angstrom.
        offset_P3: from i to j, angstrom.
        rows: number of rows of each tile except the last.
    """

    molecule_P: Int[Tensor, "pairs"]
    first_P: Int[Tensor, "pairs"]
    second_P: Int[Tensor, "pairs"]
    distance_P: Float[Tensor, "pairs"]
    offset_P3: Float[Tensor, "pairs 3"]
    rows: int


def list_pairs(
    positions_Bn3: Float[Tensor, "molecules atoms 3"],
    real_Bn: Bool[Tensor, "molecules atoms"],
    cutoff: float,
    rows: int,
) -> PairList:
    """Pairs closer than `cutoff` (angstrom), in the order of tiles of `rows` rows."""
    with torch.no_grad():
        distance_Bnn = (positions_Bn3[:, None] - positions_Bn3[:, :, None]).norm(dim=-1)
        both_real = real_Bn[:, None] & real_Bn[:, :, None]
        molecule, first, second = (both_real & (distance_Bnn < cutoff)).triu(1).nonzero().unbind(1)
        if rows < real_Bn.shape[1]:
            order = (first // rows).argsort(stable=True)
            molecule, first, second = molecule[order], first[order], second[order]
    offset_P3 = positions_Bn3[molecule, second] - positions_Bn3[molecule, first]
    return PairList(molecule, first, second, offset_P3.norm(dim=-1), offset_P3, rows)


def along_axis(
    positions_Bn3: Float[Tensor, "molecules atoms 3"], real_Bn: Bool[Tensor, "molecules atoms"]
) -> Int[Tensor, "molecules atoms"]:
    """Order of each molecule's atoms along its longest axis (largest spread of positions), padding last."""
    with torch.no_grad():
        real_Bn1 = real_Bn[..., None]
        centre_B13 = (positions_Bn3 * real_Bn1).sum(1, keepdim=True) / real_Bn1.sum(1, keepdim=True)
        centred_Bn3 = (positions_Bn3 - centre_B13) * real_Bn1
        axis_B3 = torch.linalg.eigh(centred_Bn3.mT @ centred_Bn3).eigenvectors[..., -1]
        along_Bn = (centred_Bn3 @ axis_B3[..., None])[..., 0]
        order_Bn: Tensor = along_Bn.masked_fill(~real_Bn, torch.inf).argsort(stable=True)
        return order_Bn


def cut_tiles(pairs: PairList, real_Bn: Bool[Tensor, "molecules atoms"], cutoff: float) -> PairBlock:
    """The tiles of a block."""
    size, device = real_Bn.shape[1], real_Bn.device
    starts = range(0, size, pairs.rows)
    by_lower = (pairs.second_P // pairs.rows).argsort(stable=True)
    bounds = torch.arange(len(starts) + 1, device=device)
    uppers = torch.searchsorted(pairs.first_P // pairs.rows, bounds).tolist()
    lowers = torch.searchsorted((pairs.second_P // pairs.rows)[by_lower], bounds).tolist()
    tiles: list[PairTile] = []
    for number, start in enumerate(starts):
        rows = slice(start, min(start + pairs.rows, size))
        own, mirrored = slice(*uppers[number : number + 2]), slice(*lowers[number : number + 2])
        first_cell = tiles[-1].cells.stop if tiles else 0
        tiles.append(_tile(pairs, real_Bn, rows, own, mirrored, by_lower[mirrored], first_cell))
    upper_P = torch.cat([tile.upper + tile.cells.start for tile in tiles])
    lower_P = torch.cat([tile.lower + tile.cells.start for tile in tiles])
    loops = torch.cat([tile.loops + tile.cells.start for tile in tiles])
    both, cells = torch.cat([upper_P, lower_P]), tiles[-1].cells.stop
    cutoff_P = cosine_cutoff(pairs.distance_P, cutoff)
    direction_P3 = pairs.offset_P3 / pairs.distance_P[:, None]
    cutoff_Z = cutoff_P.new_zeros(cells).index_fill(0, loops, 1.0)
    direction_Z3 = direction_P3.new_zeros(cells, 3)
    return PairBlock(
        shape=(real_Bn.shape[0], size),
        tiles=tuple(tiles),
        cutoff_P=cutoff_P,
        mirror_P=torch.empty_like(by_lower).index_copy_(0, by_lower, torch.arange(len(by_lower), device=device)),
        cutoff_Z=cutoff_Z.index_copy(0, both, torch.cat([cutoff_P, cutoff_P[by_lower]])),
        direction_Z3=direction_Z3.index_copy(0, both, torch.cat([direction_P3, -direction_P3[by_lower]])),
    )


def _tile(
    pairs: PairList,
    real_Bn: Bool[Tensor, "molecules atoms"],
    rows: slice,
    own: slice,
    mirrored: slice,
    lower_pairs: Int[Tensor, "lowers"],
    first_cell: int,
) -> PairTile:
    molecules, size = real_Bn.shape
    right, left = pairs.second_P[own], pairs.first_P[lower_pairs]
    columns = slice(0, size)
    if rows.stop - rows.start < size:
        columns = slice(
            min(rows.start, int(left.min()) if len(left) else size),
            max(rows.stop, int(right.max()) + 1 if len(right) else 0),
        )
    shape = (molecules, rows.stop - rows.start, columns.stop - columns.start)

    def cell(molecule: Tensor, row: Tensor, column: Tensor) -> Tensor:
        cells: Tensor = (molecule * shape[1] + row - rows.start) * shape[2] + column - columns.start
        return cells

    molecule, atom = real_Bn[:, rows].nonzero().unbind(1)
    loops = cell(molecule, atom + rows.start, atom + rows.start)
    upper = cell(pairs.molecule_P[own], pairs.first_P[own], right)
    lower = cell(pairs.molecule_P[lower_pairs], pairs.second_P[lower_pairs], left)
    num_cells, device = shape[0] * shape[1] * shape[2], real_Bn.device
    source = torch.full((num_cells,), len(pairs.distance_P), device=device)
    source[upper] = torch.arange(own.start, own.stop, device=device)
    source[lower] = lower_pairs
    is_blank = torch.ones(num_cells, dtype=torch.bool, device=device)
    is_blank[torch.cat([loops, upper, lower])] = False
    return PairTile(
        rows=rows,
        columns=columns,
        shape=shape,
        cells=slice(first_cell, first_cell + num_cells),
        source=source,
        blank=is_blank.nonzero()[:, 0],
        loops=loops,
        upper=upper,
        pairs=own,
        lower=lower,
        mirrored=mirrored,
    )


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
