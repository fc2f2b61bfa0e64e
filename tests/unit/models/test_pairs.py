"""Pairs equal brute force, blocks cover the batch, and the hand-written gradients are the gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dnd.graphs.batch import ConformerBatch
from dnd.models.teachers import equivariant_transformer
from dnd.models.teachers.base import TeacherConfig
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer
from dnd.models.teachers.fast_pairs.messages import WORKSPACE_WIDTHS, pair_messages
from dnd.models.teachers.fast_pairs.pairs import CoincidentAtomsError, check_closest_approach, find_pairs
from dnd.models.teachers.layers import WhiteningNorm, inverse_square_root


def batch_of(counts: list[int], seed: int = 0, spread: float = 2.5) -> ConformerBatch:
    generator = torch.Generator().manual_seed(seed)
    positions = spread * torch.randn(sum(counts), 3, generator=generator, dtype=torch.float64)
    offsets = torch.tensor([0, *counts]).cumsum(0)
    return ConformerBatch(torch.ones(sum(counts), dtype=torch.int64), positions, offsets, torch.arange(sum(counts)))


@pytest.mark.parametrize("rows_per_tile", [None, 2])
@pytest.mark.parametrize("cells_per_block", [1, 60, 10_000])
def test_pairs_equal_brute_force(cells_per_block: int, rows_per_tile: int | None) -> None:
    conformers = batch_of([5, 1, 9, 3, 9, 2])
    near = find_pairs(conformers, 4.0, cells_per_block=cells_per_block, rows_per_tile=rows_per_tile, closest=0.0)
    molecule = conformers.batch_A
    distance = torch.cdist(conformers.positions_A3, conformers.positions_A3)
    expected = ((molecule[:, None] == molecule) & (distance < 4.0)).triu(1)
    first, second = near.packed_Z[near.first_P], near.packed_Z[near.second_P]
    found = torch.zeros_like(expected)
    found[torch.minimum(first, second), torch.maximum(first, second)] = True
    assert torch.equal(found, expected)
    assert len(first) == int(expected.sum())
    torch.testing.assert_close(near.distances[near.is_pair], distance[first, second])
    assert torch.equal(near.packed_Z[near.slot_A], torch.arange(29))
    assert all(block.shape[0] * block.shape[1] ** 2 <= max(cells_per_block, 81) for block in near.blocks)


def test_blocks_hold_molecules_of_similar_size() -> None:
    near = find_pairs(batch_of([3, 30, 3, 30]), 5.0, cells_per_block=1800, closest=0.0)
    assert [block.shape for block in near.blocks] == [(2, 3), (2, 30)]


def test_tiles_hold_every_pair_twice_and_every_atom_once() -> None:
    conformers = batch_of([8, 11], spread=1.0)
    conformers.positions_A3[:, 1] *= 8
    (block,) = find_pairs(conformers, 3.0, cells_per_block=1000, rows_per_tile=3, closest=0.0).blocks
    assert [tile.rows for tile in block.tiles] == [slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 11)]
    assert sum(len(tile.source) for tile in block.tiles) < 2 * 11 * 11, "columns out of reach are not made"
    read = torch.cat([tile.source[~torch.isin(torch.arange(len(tile.source)), tile.blank)] for tile in block.tiles])
    assert torch.bincount(read).tolist() == [2] * block.num_pairs + [8 + 11]
    for tile in block.tiles:
        assert torch.equal(tile.source[tile.upper], torch.arange(tile.pairs.start, tile.pairs.stop))
        places = block.mirror_P[tile.source[tile.lower]]
        assert torch.equal(places, torch.arange(tile.mirrored.start, tile.mirrored.stop))
        upper, lower = tile.cells.start + tile.upper, tile.cells.start + tile.lower
        torch.testing.assert_close(block.cutoff_Z[upper], block.cutoff_P[tile.pairs])
        torch.testing.assert_close(block.cutoff_Z[lower], block.cutoff_P[tile.source[tile.lower]])


def test_closest_approach_names_the_closest_pair() -> None:
    conformers = batch_of([4, 3], spread=5.0)
    conformers.positions_A3[6] = conformers.positions_A3[4] + 0.1
    with pytest.raises(CoincidentAtomsError, match=r"molecule 1 of the batch: atoms 0 and 2 coincide.*0\.173"):
        check_closest_approach(conformers)
    check_closest_approach(conformers, closest=0.1)


def test_closest_approach_names_atoms_as_given_where_they_were_sorted() -> None:
    conformers = batch_of([12], spread=5.0)
    conformers.positions_A3[9] = conformers.positions_A3[2] + 0.1
    with pytest.raises(CoincidentAtomsError, match="atoms 2 and 9 coincide"):
        find_pairs(conformers, 5.0, cells_per_block=10, rows_per_tile=2)


@pytest.mark.parametrize("rows_per_tile", [None, 1])
def test_gradients_of_pair_messages(rows_per_tile: int | None) -> None:
    width, heads = 4, 2
    conformers = batch_of([4, 3])
    (block,) = find_pairs(conformers, 5.0, cells_per_block=100, rows_per_tile=rows_per_tile, closest=0.0).blocks
    assert len(block.tiles) == (1 if rows_per_tile is None else 4)
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    atoms = (*block.shape, width)
    workspace = torch.empty(block.largest_tile * WORKSPACE_WIDTHS * width, dtype=torch.float64)
    inputs = (draw(block.num_pairs + 1, 4 * width), draw(*atoms), draw(*atoms), draw(*atoms))
    inputs += (draw(*block.shape, 3, width), draw(*atoms), draw(len(block.cutoff_Z)))

    def messages(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return pair_messages(*tensors, block, heads, workspace)

    assert torch.autograd.gradcheck(messages, inputs)


def test_large_molecules_in_tiles_give_what_one_tile_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    teacher = EquivariantTransformer(TeacherConfig(width=16, num_layers=2, num_heads=4)).double()
    conformers = batch_of([40, 12, 55], spread=4.0)
    teacher.closest_approach = 0.0

    def outcome() -> list[torch.Tensor]:
        positions = conformers.positions_A3.clone().requires_grad_()
        teacher.zero_grad()
        output = teacher(replace(conformers, positions_A3=positions))
        (output.scalars_AD.square().sum() + output.vectors_A3D.square().sum()).backward()
        gradients = [parameter.grad for parameter in teacher.parameters() if parameter.grad is not None]
        return [output.scalars_AD.detach(), output.vectors_A3D.detach(), positions.grad, *gradients]

    tiled = outcome()
    monkeypatch.setattr(equivariant_transformer, "ROWS_PER_TILE", {})
    for found, expected in zip(tiled, outcome(), strict=True):
        torch.testing.assert_close(found, expected)


def test_inverse_square_root_of_equal_eigenvalues() -> None:
    """Where automatic differentiation of an eigendecomposition gives NaN."""
    matrix = (2.0 * torch.eye(3, dtype=torch.float64)).requires_grad_()
    root = inverse_square_root(matrix, 0.0)
    torch.testing.assert_close(root.detach(), torch.eye(3, dtype=torch.float64) / 2**0.5)
    (gradient,) = torch.autograd.grad(root.diagonal().sum(), matrix)
    torch.testing.assert_close(gradient, torch.eye(3, dtype=torch.float64) * -0.5 * 2**-1.5)


def test_whitening_has_unit_covariance_and_finite_gradients() -> None:
    norm = WhiteningNorm(64).double()
    vectors = torch.randn(5, 3, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whitened = norm(vectors)
    covariance = whitened @ whitened.mT / 64
    torch.testing.assert_close(covariance, torch.eye(3, dtype=torch.float64).expand(5, 3, 3), atol=2e-4, rtol=0)
    flat = torch.zeros(2, 3, 64, dtype=torch.float64)
    flat[1, 0] = vectors[1, 0]
    flat.requires_grad_()
    norm(flat).square().sum().backward()
    assert torch.isfinite(flat.grad).all()
    few = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(WhiteningNorm(5).double(), few)
