"""Laplacian eigenvectors and orthonormal vectors: what they are, and that they depend on the molecule alone."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.graphs import identifiers
from dnd.graphs.identifiers import (
    KeptIdentifiers,
    atom_colours,
    flip_signs,
    laplacian_identifiers,
    orthonormal_identifiers,
)
from student_batches import Molecule, batch_of, permuted, random_molecule, recorded_batch, unbonded

RECORDING = np.load(Path(__file__).parents[2] / "reference" / "tokengt_lap.npz")


def uniform(atoms: int, bonds: list[tuple[int, int]]) -> Molecule:
    """A molecule whose atoms and bonds all look alike."""
    features = torch.zeros(len(bonds), 3, dtype=torch.int64)
    return torch.zeros(atoms, 9, dtype=torch.int64), torch.tensor(bonds).reshape(-1, 2), features


def laplacian(molecule: Molecule) -> np.ndarray:
    nodes, bonds, _ = molecule
    adjacency = np.zeros((len(nodes), len(nodes)))
    for first, second in bonds.tolist():
        adjacency[first, second] = adjacency[second, first] = 1
    scale = 1 / np.sqrt(np.maximum(adjacency.sum(1), 1))
    return np.eye(len(nodes)) - scale[:, None] * adjacency * scale


@pytest.mark.parametrize("molecule", [random_molecule(11, 1), uniform(6, [(i, (i + 1) % 6) for i in range(6)])])
def test_they_are_the_lowest_eigenvectors(molecule):
    """Also of a benzene-like ring, whose eigenvalues repeat."""
    vectors = laplacian_identifiers(batch_of([molecule]), 4).numpy()
    matrix = laplacian(molecule)
    values = np.linalg.eigvalsh(matrix)[:4]
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(matrix @ vectors, vectors * values, atol=1e-5)


def test_they_agree_with_the_reference_up_to_sign_where_eigenvalues_are_single():
    vectors = laplacian_identifiers(recorded_batch(RECORDING), 14).numpy()
    values, offset, compared = RECORDING["in.lap_eigval"], 0, 0
    for atoms in RECORDING["in.n_nodes"]:
        rows, own = slice(offset, offset + atoms), np.sort(np.abs(values[offset, :atoms]))
        for column in range(atoms):
            if np.sum(np.abs(own - values[offset, column]) < 1e-4) == 1:
                agreement = abs(vectors[rows, column] @ RECORDING["in.lap_eigvec"][rows, column])
                assert agreement == pytest.approx(1, abs=1e-5)
                compared += 1
        offset += atoms
    assert compared > 25


def test_short_molecules_are_zero_padded():
    vectors = laplacian_identifiers(batch_of([random_molecule(3, 1), random_molecule(9, 2)]), 5)
    assert torch.count_nonzero(vectors[:3, 3:]) == 0
    assert torch.count_nonzero(vectors[3:, 4]) > 0


def test_lone_atoms():
    """Degree clipped to 1: an isolated atom is an eigenvector by itself."""
    assert laplacian_identifiers(batch_of([unbonded(1, 1)]), 3).tolist() == [[1, 0, 0]]
    ions = laplacian_identifiers(batch_of([unbonded(3, 1)]), 3)
    torch.testing.assert_close(ions.abs().sum(0), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["laplacian", "orf"])
@pytest.mark.parametrize("seed", range(5))
def test_they_follow_a_permutation_of_the_atoms(kind, seed):
    """Trees of this size have repeated eigenvalues as a rule; the colours settle them."""
    compute = laplacian_identifiers if kind == "laplacian" else orthonormal_identifiers
    molecule = random_molecule(17, seed, extra_bonds=0)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(seed))
    first, second = compute(batch_of([molecule]), 8), compute(batch_of([permuted(molecule, order)]), 8)
    torch.testing.assert_close(second, first[order], atol=1e-6, rtol=0)


def test_symmetric_molecules_repeat_in_any_batch():
    ring = uniform(6, [(i, (i + 1) % 6) for i in range(6)])
    alone = laplacian_identifiers(batch_of([ring]), 6)
    batch = laplacian_identifiers(batch_of([random_molecule(6, 1), ring, random_molecule(9, 2), ring]), 6)
    torch.testing.assert_close(batch[6:12], alone, atol=1e-10, rtol=0)
    torch.testing.assert_close(batch[-6:], alone, atol=1e-10, rtol=0)


def test_a_repeated_eigenvalue_has_one_basis_however_its_space_was_found(monkeypatch: pytest.MonkeyPatch):
    """Another library of linear algebra returns other vectors of the same space: a rotation in its place."""
    solve = torch.linalg.eigh
    cube = [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)]
    batch = batch_of([random_molecule(9, 1), uniform(8, cube)])
    monkeypatch.setattr(identifiers, "ORDER_TIE_BREAK", 0.0)  # so that the cube's eigenvalues repeat
    expected = laplacian_identifiers(batch, 6)

    def turned(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = solve(matrix)
        if matrix.shape[1:] == (8, 8):
            half = vectors[:, :, 1:3] @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=vectors.dtype)
            vectors = torch.cat([vectors[:, :, :1], half, vectors[:, :, 3:]], dim=2)
        return values, vectors

    monkeypatch.setattr(torch.linalg, "eigh", turned)
    torch.testing.assert_close(laplacian_identifiers(batch, 6), expected, atol=1e-9, rtol=0)


def test_orthonormal_rows():
    vectors = orthonormal_identifiers(batch_of([random_molecule(6, 1), random_molecule(12, 2)]), 9)
    np.testing.assert_allclose(vectors[:6] @ vectors[:6].T, np.eye(6), atol=1e-12)
    assert torch.count_nonzero(vectors[:6, 6:]) == 0
    np.testing.assert_allclose(vectors[6:].norm(dim=1), 1, atol=1e-12)


def test_orthonormal_vectors_depend_on_the_molecule_and_the_seed_alone():
    molecule = random_molecule(8, 1)
    alone = orthonormal_identifiers(batch_of([molecule]), 8, seed=3)
    batch = orthonormal_identifiers(batch_of([random_molecule(8, 2), random_molecule(20, 3), molecule]), 8, seed=3)
    torch.testing.assert_close(batch[-8:], alone)
    assert not torch.allclose(batch[:8], alone)
    assert not torch.allclose(orthonormal_identifiers(batch_of([molecule]), 8, seed=4), alone)
    assert not torch.allclose(*(orthonormal_identifiers(batch_of([molecule]), 8, seed=None) for _ in range(2)))


def test_random_vectors_are_normally_distributed():
    """Entries of a random orthonormal matrix of size n have mean 0 and variance 1/n."""
    vectors = orthonormal_identifiers(batch_of([random_molecule(32, seed) for seed in range(32)]), 32)
    assert abs(vectors.mean()) < 0.003
    assert vectors.var() == pytest.approx(1 / 32, rel=0.02)


def test_colours_see_features_bonds_and_surroundings():
    nodes, bonds, features = uniform(7, [(i, i + 1) for i in range(6)])
    chain = atom_colours(batch_of([(nodes, bonds, features)]))
    assert len(chain.unique()) == 4  # symmetric about the middle
    for changed in (
        (nodes.index_fill(0, torch.tensor(0), 1), features),
        (nodes, features.index_fill(0, torch.tensor(0), 1)),
    ):
        assert len(atom_colours(batch_of([(changed[0], bonds, changed[1])])).unique()) == 7


def test_flipped_signs_are_whole_columns_of_a_molecule():
    torch.manual_seed(0)
    graph = batch_of([random_molecule(8, 1), random_molecule(9, 2)])
    vectors = laplacian_identifiers(graph, 6)
    ratio = flip_signs(vectors, graph.batch_N) / vectors
    for rows in (ratio[:8], ratio[8:]):
        assert torch.equal(rows.nan_to_num(0).sign(), rows[0].sign().expand_as(rows))
    assert set(ratio.flatten().tolist()) == {1.0, -1.0}


def molecules_of_many_kinds() -> list[Molecule]:
    ring = uniform(6, [(i, (i + 1) % 6) for i in range(6)])
    return [*(random_molecule(2 + seed % 9, seed) for seed in range(24)), ring, unbonded(1, 1), unbonded(3, 2), ring]


@pytest.mark.parametrize("limit", [identifiers.KEPT_BYTES, 5_000, 0])
def test_kept_identifiers_are_the_computed_ones_to_the_bit(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever batch a molecule was in when they were computed, so a resumed run ends at the same bits."""
    computed: list[int] = []
    compute = identifiers.laplacian_identifiers
    monkeypatch.setattr(
        identifiers, "laplacian_identifiers", lambda graph, k: computed.append(graph.num_molecules) or compute(graph, k)
    )
    molecules, kept = molecules_of_many_kinds(), KeptIdentifiers(5, limit)
    for epoch in range(3):
        order = np.random.default_rng(epoch).permutation(len(molecules))
        for rows in np.split(order, [9, 10, 17]):
            graph = batch_of([molecules[row] for row in rows])
            assert torch.equal(kept.of(graph, torch.float32), compute(graph, 5).float())
    assert (sum(computed) <= len(molecules)) == (limit == identifiers.KEPT_BYTES)
    assert kept._bytes <= limit
    assert torch.equal(kept.of(graph, torch.float64), compute(graph, 5))
    assert copy.deepcopy(kept)._bytes == 0


def test_graphs_that_differ_in_anything_have_their_own() -> None:
    nodes, bonds, features = random_molecule(6, 3)
    more = nodes.clone()
    more[0, 8] += 1
    others = [(more, bonds, features), (nodes, bonds[:-1], features[:-1]), (nodes, bonds, (features + 1) % 2)]
    digests = set(identifiers._digests(batch_of([(nodes, bonds, features), *others])))
    assert len(digests) == 4
