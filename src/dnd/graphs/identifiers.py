"""Node identifiers of TokenGT: Laplacian eigenvectors and orthonormal random vectors, each from the molecule alone.

Eigenvectors of a graph are fixed only up to sign, and up to rotation where eigenvalues repeat (benzene, CF3, salts).
Three things fix them here: every atom has a colour, a hash of its features and of what it is bonded to, and the colours
break ties; what symmetry leaves open, the order of the atoms decides; and eigenvalues that are equal even then share a
space, in which a fixed weight of each atom chooses the vectors. So no vector depends on the library of linear algebra.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from dnd.graphs.batch import GraphBatch

COLOUR_ROUNDS = 6
# Added to the Laplacian's diagonal: enough to separate repeated eigenvalues in float64 (error 1e-15), so little
# that other eigenvectors keep the digits that matter. The order acts only among atoms of one colour.
COLOUR_TIE_BREAK = 1e-6
ORDER_TIE_BREAK = 1e-9
# Eigenvalues closer than this are one: rounding turns their vectors by 1e-16 / gap, here by less than 1e-5.
EQUAL_EIGENVALUES = 1e-10
_ATOM_WEIGHT = 0.6180339887498949  # its multiples, modulo 1, are distinct and spread evenly
# A molecule's own hash in one step: odd 63-bit constants of SplitMix64, kept below 2**63.
_MIX_1, _MIX_2 = 0x3F58476D1CE4E5B9, 0x14D049BB133111EB
_GOLDEN = 0x1E3779B97F4A7C15


class _SameSize(NamedTuple):
    """Molecules of one size: their atoms in packed order and the dense bond matrix."""

    atoms_Gn: Tensor
    adjacency_Gnn: Tensor


def laplacian_identifiers(graph: GraphBatch, num_identifiers: int) -> Float[Tensor, "atoms identifiers"]:
    r"""The eigenvectors of lowest eigenvalue, the trivial one included, of each molecule's normalised Laplacian.

    .. math:: L = I - D^{-1/2} A D^{-1/2}

    on the unweighted bonds, degrees clipped to at least 1 (so an isolated atom has eigenvalue 1, not 0). Source:
    TokenGT (Kim et al., NeurIPS 2022). Unit columns, ascending eigenvalues, zeros where a molecule has fewer
    atoms. Each sign is fixed: the projection on the atom colours is positive. Vectors of one eigenvalue are settled by
    `_settled`.

    Args:
        graph: B molecules; without a conformer, without padding.
        num_identifiers: I.

    Returns:
        `(N, I)` float64 on the graph's device.
    """
    colours = atom_colours(graph)
    colour_N, local_N = _unit_interval(colours), _position_in_molecule(graph)
    tie_break_N = COLOUR_TIE_BREAK * colour_N + ORDER_TIE_BREAK * _rank_among_equals(colours, graph.batch_N)
    vectors_NI = torch.zeros(len(colour_N), num_identifiers, dtype=torch.float64, device=colour_N.device)
    for atoms_Gn, adjacency_Gnn in _by_size(graph):
        scale_Gn = adjacency_Gnn.sum(2).clamp(min=1).rsqrt()
        diagonal_Gnn = torch.diag_embed(1 + tie_break_N[atoms_Gn])
        laplacian_Gnn = diagonal_Gnn - scale_Gn[:, :, None] * adjacency_Gnn * scale_Gn[:, None, :]
        values_Gn, vectors_Gnn = torch.linalg.eigh(laplacian_Gnn)
        vectors_Gni = _settled(values_Gn, vectors_Gnn, num_identifiers)
        signed_Gni = vectors_Gni * _sign(vectors_Gni, colour_N[atoms_Gn], local_N[atoms_Gn])
        vectors_NI[atoms_Gn.flatten(), : signed_Gni.shape[2]] = signed_Gni.flatten(0, 1)
    return vectors_NI


KEPT_BYTES = 128 * 2**20


class KeptIdentifiers:
    """Laplacian identifiers of molecules that return in every epoch, each computed once.

    A molecule is recognised by a digest of its graph. The identifiers follow from the graph alone, so they are bit for
    bit those that `laplacian_identifiers` computes. The first molecules are kept, about 100,000 drug-like ones. A copy
    of this object begins empty.

    Args:
        num_identifiers: I.
        limit_bytes: how much may be kept.
    """

    def __init__(self, num_identifiers: int, limit_bytes: int = KEPT_BYTES) -> None:
        self._num_identifiers, self._limit_bytes, self._bytes = num_identifiers, limit_bytes, 0
        self._kept: dict[bytes, Tensor] = {}

    def __deepcopy__(self, memo: object) -> KeptIdentifiers:
        return KeptIdentifiers(self._num_identifiers, self._limit_bytes)

    def of(self, graph: GraphBatch, dtype: torch.dtype) -> Float[Tensor, "atoms identifiers"]:
        """`(N, I)` identifiers of a graph on the CPU, as `laplacian_identifiers` computes them, in `dtype`."""
        digests = [digest + str(dtype).encode() for digest in _digests(graph)]
        found = [self._kept.get(digest) for digest in digests]
        missing_B = torch.tensor([one is None for one in found])
        if bool(missing_B.any()):
            part = graph if bool(missing_B.all()) else _molecules(graph, missing_B)
            computed_NI = laplacian_identifiers(part, self._num_identifiers).to(dtype)
            computed = iter(torch.split(computed_NI, part.atoms_per_molecule_B.tolist()))
            for place in missing_B.nonzero()[:, 0].tolist():
                found[place] = self._keep(digests[place], next(computed))
        return torch.cat([one for one in found if one is not None])

    def _keep(self, digest: bytes, vectors_NI: Tensor) -> Tensor:
        size = vectors_NI.nbytes + _ENTRY_BYTES
        if self._bytes + size <= self._limit_bytes and digest not in self._kept:
            self._kept[digest], self._bytes = vectors_NI.clone(), self._bytes + size
        return vectors_NI


_ENTRY_BYTES = 600  # of a tensor, its digest and their place, about


def _digests(graph: GraphBatch) -> Iterator[bytes]:
    """A digest of each molecule's atoms and bonds in their order."""
    nodes_NF, features_EF = (
        graph.node_features_NF.to(torch.int16).numpy(),
        graph.edge_features_EF.to(torch.int16).numpy(),
    )
    ends_E2 = (graph.edge_index_2E - graph.atom_offsets[graph.edge_batch_E]).T.to(torch.int32).numpy()
    atoms, edges = graph.atom_offsets.tolist(), graph.edge_offsets.tolist()
    for (atom, last_atom), (edge, last_edge) in zip(pairwise(atoms), pairwise(edges), strict=True):
        digest = hashlib.blake2b(
            nodes_NF[atom:last_atom].tobytes(), digest_size=16, salt=str(last_atom - atom).encode()
        )
        digest.update(ends_E2[edge:last_edge].tobytes())
        digest.update(features_EF[edge:last_edge].tobytes())
        yield digest.digest()


def _molecules(graph: GraphBatch, chosen_B: Bool[Tensor, "molecules"]) -> GraphBatch:
    """Some molecules of a batch, in their order."""
    atom_N, edge_E = chosen_B[graph.batch_N], chosen_B[graph.edge_batch_E]
    number_N = atom_N.cumsum(0) - 1
    return GraphBatch(
        graph.node_features_NF[atom_N],
        number_N[graph.edge_index_2E[:, edge_E]],
        graph.edge_features_EF[edge_E],
        F.pad(graph.atoms_per_molecule_B[chosen_B].cumsum(0), (1, 0)),
        F.pad(graph.edge_offsets.diff()[chosen_B].cumsum(0), (1, 0)),
    )


def orthonormal_identifiers(
    graph: GraphBatch, num_identifiers: int, *, seed: int | None = 0
) -> Float[Tensor, "atoms identifiers"]:
    """Random orthonormal vectors (ORF) of each molecule: row u of a random orthonormal matrix identifies atom u.

    The reference draws a matrix of the batch's largest molecule at every call, so its predictions are random and
    depend on the batch. Here the matrix has the molecule's own size, and with a `seed` it is drawn from the hash of the
    molecule itself, so a molecule's result depends on nothing else. Rows are cut or zero padded to I and scaled to
    length 1, as in the reference.

    Args:
        graph: B molecules.
        num_identifiers: I.
        seed: chooses among reproducible draws; None draws from torch's global generator (training).

    Returns:
        `(N, I)` float64 on the graph's device.
    """
    colour_N = atom_colours(graph)
    identifiers_NI = torch.zeros(len(colour_N), num_identifiers, dtype=torch.float64, device=colour_N.device)
    for atoms_Gn, _ in _by_size(graph):
        if seed is None:
            gaussian_Gnn = torch.randn(*atoms_Gn.shape, atoms_Gn.shape[1], dtype=torch.float64, device=colour_N.device)
        else:
            gaussian_Gnn = _gaussian_of_molecule(colour_N[atoms_Gn], seed)
        orthonormal_Gnn, triangular_Gnn = torch.linalg.qr(gaussian_Gnn)
        # A positive diagonal makes the factor unique, so permuting the rows of the input permutes those of Q.
        signs_Gn = torch.where(triangular_Gnn.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0).to(torch.float64)
        rows_Gni = (orthonormal_Gnn * signs_Gn[:, None, :])[:, :, :num_identifiers]
        rows_Gni = torch.nn.functional.normalize(rows_Gni, dim=2)
        identifiers_NI[atoms_Gn.flatten(), : rows_Gni.shape[2]] = rows_Gni.flatten(0, 1)
    return identifiers_NI


def random_walk_identifiers(graph: GraphBatch, num_identifiers: int) -> Float[Tensor, "atoms identifiers"]:
    r"""Chance that a random walk from an atom is back after 1, 2 … I steps: the diagonals of :math:`(D^{-1} A)^k`.

    Source: Dwivedi et al., ICLR 2022; GPS (Rampášek et al., NeurIPS 2022). Has neither sign nor basis to choose.

    Returns:
        `(N, I)` float64 on the graph's device.
    """
    device = graph.node_features_NF.device
    chances_NI = torch.zeros(len(graph.node_features_NF), num_identifiers, dtype=torch.float64, device=device)
    for atoms_Gn, adjacency_Gnn in _by_size(graph):
        step_Gnn = adjacency_Gnn / adjacency_Gnn.sum(2, keepdim=True).clamp(min=1)
        walk_Gnn = step_Gnn
        for column in range(num_identifiers):
            chances_NI[atoms_Gn.flatten(), column] = walk_Gnn.diagonal(dim1=1, dim2=2).flatten()
            walk_Gnn = walk_Gnn @ step_Gnn
    return chances_NI


def atom_colours(graph: GraphBatch) -> Int[Tensor, "atoms"]:
    """A 64-bit hash per atom of its features and of its surroundings up to six bonds away (Weisfeiler-Lehman).

    Integers only, so it is the same on every machine, and permuting the atoms permutes the colours exactly.
    """
    source_E, target_E = graph.edge_index_2E
    colour_N = _hash_rows(graph.node_features_NF)
    bond_E = _hash_rows(graph.edge_features_EF)
    for _ in range(COLOUR_ROUNDS):
        messages_E = _mix(colour_N[source_E] + bond_E)
        colour_N = _mix(colour_N * 3 + torch.zeros_like(colour_N).index_add_(0, target_E, messages_E))
    return colour_N


def flip_signs(
    vectors_NI: Float[Tensor, "atoms identifiers"], batch_N: Int[Tensor, "atoms"]
) -> Float[Tensor, "atoms identifiers"]:
    """Each column of each molecule times a random sign, from torch's global generator: augmentation in training."""
    num_molecules = int(batch_N[-1]) + 1
    signs_BI = 2 * torch.randint(0, 2, (num_molecules, vectors_NI.shape[1]), device=vectors_NI.device) - 1
    return vectors_NI * signs_BI.to(vectors_NI.dtype)[batch_N]


def _by_size(graph: GraphBatch) -> Iterator[_SameSize]:
    """Dense bond matrices, float64, one stack per molecule size; no padding, at most one stack per distinct size."""
    device = graph.node_features_NF.device
    sizes_B = graph.atoms_per_molecule_B
    cells_B = sizes_B**2
    first_cell_B = torch.cumsum(cells_B, 0) - cells_B
    local_N = _position_in_molecule(graph)
    source_E, target_E = graph.edge_index_2E
    molecule_E = graph.batch_N[source_E]
    cell_E = first_cell_B[molecule_E] + local_N[source_E] * sizes_B[molecule_E] + local_N[target_E]
    cells = torch.zeros(int(cells_B.sum()), dtype=torch.float64, device=device)
    cells[cell_E] = 1.0
    for size in torch.unique(sizes_B).tolist():
        molecules_G = torch.nonzero(sizes_B == size)[:, 0]
        atoms_Gn = graph.atom_offsets[molecules_G, None] + torch.arange(size, device=device)
        index_GZ = first_cell_B[molecules_G, None] + torch.arange(size * size, device=device)
        yield _SameSize(atoms_Gn, cells[index_GZ].view(-1, size, size))


def _position_in_molecule(graph: GraphBatch) -> Tensor:
    """0, 1, 2 … within each molecule."""
    atoms_N = torch.arange(len(graph.node_features_NF), device=graph.node_features_NF.device)
    return atoms_N - graph.atom_offsets[:-1][graph.batch_N]


def _rank_among_equals(colour_N: Tensor, batch_N: Tensor) -> Tensor:
    """How many earlier atoms of the molecule have the same colour: 0 everywhere unless the molecule has symmetry."""
    by_colour_N = torch.argsort(colour_N, stable=True)
    order_N = by_colour_N[torch.argsort(batch_N[by_colour_N], stable=True)]
    same_N = (colour_N[order_N].diff() == 0) & (batch_N[order_N].diff() == 0)
    place_N = torch.arange(len(order_N), device=order_N.device)
    starts_N = torch.cat([place_N[:1], torch.where(same_N, 0, place_N[1:])])
    return torch.empty_like(place_N).scatter_(0, order_N, place_N - starts_N.cummax(0).values)


def _settled(values_Gn: Tensor, vectors_Gnn: Tensor, count: int) -> Tensor:
    r"""The first `count` eigenvectors `(G, n, i)`, with a basis of its own for each repeated eigenvalue.

    Vectors V of one eigenvalue are any basis of its space; only the space is defined. The basis that is taken
    diagonalises a fixed weight of the atoms within it, which is generic, so its eigenvalues are distinct:

    .. math:: V^T \mathrm{diag}(w)\, V = R \Theta R^T, \quad V \to V R, \quad w_u = u \varphi \bmod 1
    """
    vectors_Gni = vectors_Gnn[:, :, :count].clone()
    equal_Gn = values_Gn.diff(dim=1) < EQUAL_EIGENVALUES
    atoms_n = torch.arange(1, values_Gn.shape[1] + 1, dtype=values_Gn.dtype, device=values_Gn.device)
    weight_n = (atoms_n * _ATOM_WEIGHT) % 1
    for molecule in torch.nonzero(equal_Gn[:, :count].any(1))[:, 0].tolist():
        for first, end in _runs(equal_Gn[molecule].tolist()):
            own_nm = vectors_Gnn[molecule, :, first:end]
            _, rotation_mm = torch.linalg.eigh(own_nm.T @ (weight_n[:, None] * own_nm))
            vectors_Gni[molecule, :, first:end] = (own_nm @ rotation_mm)[:, : max(0, count - first)]
    return vectors_Gni


def _runs(equal_m: list[bool]) -> Iterator[tuple[int, int]]:
    """First and end of each run of equal eigenvalues, where place k says whether k and k + 1 are equal."""
    first = 0
    for place, is_equal in enumerate([*equal_m, False]):
        if not is_equal:
            if place > first:
                yield first, place + 1
            first = place + 1


def _sign(vectors_Gni: Tensor, colour_Gn: Tensor, local_Gn: Tensor) -> Tensor:
    """+1 or -1 per eigenvector; by the colours, or by the order of the atoms where symmetry makes those useless."""
    by_colour_Gi = torch.einsum("gn,gnk->gk", colour_Gn - 0.5, vectors_Gni)
    by_order_Gi = torch.einsum("gn,gnk->gk", (1.0 + local_Gn.double()).reciprocal(), vectors_Gni)
    score_Gi = torch.where(by_colour_Gi.abs() > 1e-5, by_colour_Gi, by_order_Gi)
    return torch.where(score_Gi < 0, -1.0, 1.0).to(vectors_Gni.dtype)[:, None, :]


def _gaussian_of_molecule(colour_Gn: Tensor, seed: int) -> Tensor:
    """Normal numbers `(G, n, n)` that only the molecule and `seed` decide; row u goes with atom u's colour."""
    size = colour_Gn.shape[1]
    molecule_G1 = _mix(_mix(colour_Gn).sum(1, keepdim=True) + ((seed + 1) * _GOLDEN) % 2**63)
    rank_Gn = torch.argsort(torch.argsort(colour_Gn, dim=1, stable=True), dim=1, stable=True)
    counter_Gnn = rank_Gn[:, :, None] * size + torch.arange(size, device=colour_Gn.device)
    key_Gnn = _mix(molecule_G1[:, :, None] + counter_Gnn * _GOLDEN)
    first, second = _unit_interval(key_Gnn), _unit_interval(_mix(key_Gnn + _GOLDEN))
    return torch.sqrt(-2 * torch.log(first.clamp(min=1e-12))) * torch.cos(2 * torch.pi * second)  # Box-Muller


def _hash_rows(features_XF: Tensor) -> Tensor:
    """One 64-bit hash per row of small non-negative integers."""
    hashed_X = torch.zeros(len(features_XF), dtype=torch.int64, device=features_XF.device)
    for column_X in features_XF.unbind(1):
        hashed_X = _mix(hashed_X * 31 + column_X + 1)
    return hashed_X


def _mix(values: Tensor) -> Tensor:
    """A bijection of 64-bit integers that scatters their bits; overflow wraps around by design."""
    values = (values ^ ((values >> 30) & 0x3FFFFFFFF)) * _MIX_1
    values = (values ^ ((values >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return values ^ ((values >> 31) & 0x1FFFFFFFF)


def _unit_interval(values: Tensor) -> Tensor:
    """64-bit integers as float64 in [0, 1)."""
    return ((values >> 11) & (2**53 - 1)).to(torch.float64) / 2**53
