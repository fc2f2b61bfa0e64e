"""Dense tiles of atom pairs: the layout in which the messages of the equivariant transformer are summed.

A block holds a few molecules of similar size. Its cells (i, j) lie in tiles: some rows i with the columns j that they
reach. A block of small molecules is one tile. The atoms of large molecules are sorted along the molecule's longest axis
first, so that what a few rows reach is a short run of columns: most cells beyond the cutoff are never made, and a tile
stays in the cache of a core.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dnd.models.teachers.layers import cosine_cutoff


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
