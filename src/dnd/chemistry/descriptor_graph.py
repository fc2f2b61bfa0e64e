"""Topological indices of one molecule from its matrices: the values of RDKit's Python functions, in numpy."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

DISCONNECTED = 1e6
"""Distances from here on lie between atoms of different fragments."""
_DEEPEST_ROW = 100
"""Bertz's index compares atoms by their 100 smallest distances."""


class Paths(NamedTuple):
    """Paths of two bonds, each once: `start` - `centre` - `end`.

    Attributes:
        start, centre, end: atoms of each path.
        adjacency_NN: 1.0 where two atoms are bound.
        bonds_2U: ends of each bond.
        small_rings: whether there is a ring of three or four atoms.
    """

    start: Int[np.ndarray, " paths"]
    centre: Int[np.ndarray, " paths"]
    end: Int[np.ndarray, " paths"]
    adjacency_NN: Float[np.ndarray, "atoms atoms"]
    bonds_2U: Int[np.ndarray, "2 bonds"]
    small_rings: bool


def two_bond_paths(
    adjacency_NN: Float[np.ndarray, "atoms atoms"],
    directed_2E: Int[np.ndarray, "2 directed_bonds"],
    bonds_2U: Int[np.ndarray, "2 bonds"],
    *,
    small_rings: bool,
) -> Paths:
    """All paths of two bonds, from directed bonds sorted by the atom they leave."""
    leaves, enters = directed_2E
    degree = np.bincount(leaves, minlength=len(adjacency_NN))
    later = (np.cumsum(degree)[leaves] - 1 - np.arange(len(leaves))).astype(np.int64)  # neighbours after this one
    first = np.repeat(np.arange(len(leaves)), later)
    offset = np.arange(len(first)) - np.repeat(np.cumsum(later) - later, later)
    second = first + 1 + offset
    return Paths(enters[first], leaves[first], enters[second], adjacency_NN, bonds_2U, small_rings)


def path_sums(weights_FN: Float[np.ndarray, "weights atoms"], paths: Paths) -> list[Float[np.ndarray, " weights"]]:
    r"""Sums over paths of two, three and four bonds of the product of their atoms' weights.

    .. math:: \sum_{\text{paths}} \prod_{a \in \text{path}} w_a

    Closed forms instead of a search: the neighbours of both ends of a shorter path, less the combinations in which an
    atom occurs twice. As RDKit does it, a ring of three or four bonds is one more path, each of its atoms taken once,
    and a ring of three with one bond beside it one more path of four bonds, the shared atom taken twice.
    """
    w, (i, j, k) = weights_FN, (paths.start, paths.centre, paths.end)
    begin, other = paths.bonds_2U
    sums_FN = w @ paths.adjacency_NN
    wi, wj, wk = w[:, i], w[:, j], w[:, k]
    product_FP = wi * wj * wk
    two = product_FP.sum(axis=1)
    wb, wo = w[:, begin], w[:, other]
    three = (wb * wo * (sums_FN[:, begin] - wo) * (sums_FN[:, other] - wb)).sum(axis=1)
    ti, tk = sums_FN[:, i] - wj, sums_FN[:, k] - wj
    if not paths.small_rings:
        return [two, three, (product_FP * ti * tk).sum(axis=1)]
    adjacency = paths.adjacency_NN
    closed_P = adjacency[i, k]  # 1 where the two bonds are part of a ring of three
    triangles_FP = product_FP * closed_P
    three = three - (triangles_FP * wj).sum(axis=1) + triangles_FP.sum(axis=1) / 3
    common = (adjacency * w[:, None, :]) @ adjacency  # sums over the common neighbours of two atoms
    squares = (adjacency * (w**2)[:, None, :]) @ adjacency
    open_ends = ti * tk - (squares[:, i, k] - wj**2) - closed_P * (wk * tk + wi * ti - wi * wk)
    rings = product_FP * (common[:, i, k] - wj) / 4
    beside = triangles_FP * wj * (sums_FN[:, j] - wi - wk)
    return [two, three, (product_FP * open_ends + rings + beside).sum(axis=1)]


def electrotopological_states(
    intrinsic_N: Float[np.ndarray, " atoms"], distances_NN: Float[np.ndarray, "atoms atoms"]
) -> Float[np.ndarray, " atoms"]:
    r"""EState indices :math:`I_i + \sum_j (I_i - I_j) / (d_{ij} + 1)^2`; Hall, Mohney and Kier, JCICS 31, 76 (1991).

    The sum runs over j in order, so that it is RDKit's to the last bit: the values are sorted into bins later.
    """
    reach_NN = distances_NN + 1.0
    terms_NN = (intrinsic_N[None, :] - intrinsic_N[:, None]) / (reach_NN * reach_NN)
    terms_NN[reach_NN >= DISCONNECTED] = 0.0
    states_N: Float[np.ndarray, " atoms"] = terms_NN.sum(axis=0) + intrinsic_N
    return states_N


def characteristic_coefficients(eigenvalues_N: Float[np.ndarray, " atoms"]) -> Float[np.ndarray, " coefficients"]:
    r"""Absolute coefficients of :math:`\prod_i (z - \lambda_i)`, from its values on the unit circle.

    The error of each is about 1e-16 of their sum, which is all that sums and entropies of them see.
    """
    places = len(eigenvalues_N) + 1
    values = np.multiply.reduce(_half_circle(places) - eigenvalues_N[:, None], axis=0)
    coefficients: np.ndarray = np.abs(np.fft.irfft(values, places))
    return coefficients


@cache
def _half_circle(places: int) -> np.ndarray:
    """Points of the unit circle at which a real polynomial's values fix it; the others are their conjugates."""
    points: np.ndarray = np.exp(-2j * np.pi / places * np.arange(places // 2 + 1))
    return points


_EXACT = 2.0**53
"""Largest whole number below which all are exact in double precision."""


def recursive_coefficients(adjacency_NN: Float[np.ndarray, "atoms atoms"]) -> Float[np.ndarray, " coefficients"]:
    """Absolute coefficients of the characteristic polynomial by the recursion of Le Verrier, Faddeev and Frame.

    A product with the adjacency matrix adds the rows of neighbours, which is exact while all numbers are whole and
    below 2^53. Once they are not, the order of the sums decides what is found, so that the recursion starts again with
    products of matrices, which round as RDKit's do.
    """
    atoms = len(adjacency_NN)
    neighbours_eN = np.full((max(1, int(adjacency_NN.sum(axis=1).max())), atoms), atoms)  # the last row stays zero
    for atom, row in enumerate(adjacency_NN):
        bound = np.flatnonzero(row)
        neighbours_eN[: len(bound), atom] = bound
    padded, diagonal = np.zeros((atoms + 1, atoms)), np.arange(atoms)
    coefficients = np.ones(atoms + 1)
    product_NN = adjacency_NN
    for place in range(1, atoms + 1):
        coefficients[place] = 1.0 / place * np.trace(product_NN)
        padded[:atoms] = product_NN
        padded[diagonal, diagonal] -= coefficients[place]
        product_NN = padded[neighbours_eN[0]]
        for neighbours_N in neighbours_eN[1:]:
            product_NN += padded[neighbours_N]
        if max(product_NN.max(), -product_NN.min()) >= _EXACT:
            return _coefficients_by_matrices(adjacency_NN)
    return np.abs(coefficients)


def _coefficients_by_matrices(adjacency_NN: Float[np.ndarray, "atoms atoms"]) -> Float[np.ndarray, " coefficients"]:
    atoms = len(adjacency_NN)
    coefficients, product_NN, identity_NN = np.ones(atoms + 1), adjacency_NN, np.identity(atoms)
    for place in range(1, atoms + 1):
        coefficients[place] = 1.0 / place * np.trace(product_NN)
        product_NN = adjacency_NN @ (product_NN - coefficients[place] * identity_NN)
    return np.abs(coefficients)


def entropy_bits(amounts: Float[np.ndarray, " kinds"]) -> float:
    """Shannon entropy in bits of amounts of any sum; zeros do not count."""
    total = float(amounts.sum())
    shares = amounts[amounts > 0] / total
    return float(-(shares * np.log2(shares)).sum()) if total > 0 else 0.0


def balaban_j(distances_NN: Float[np.ndarray, "atoms atoms"], bonds_2U: Int[np.ndarray, "2 bonds"]) -> float:
    r"""Balaban's :math:`J = q / (\mu + 1) \sum_{ij} (s_i s_j)^{-1/2}` over bonds; Chem. Phys. Lett. 89, 399 (1982)."""
    sums_N, bonds = distances_NN.sum(axis=0), bonds_2U.shape[1]
    rings = bonds - len(distances_NN) + 1
    if rings + 1 == 0:
        return 0.0
    total = float((1.0 / np.sqrt(sums_N[bonds_2U[0]] * sums_N[bonds_2U[1]])).sum())
    return float(bonds / (rings + 1) * total)


def bertz_complexity(
    atomic_numbers: list[int],
    distances_NN: Float[np.ndarray, "atoms atoms"],
    orders_NN: Float[np.ndarray, "atoms atoms"],
    paths: Paths,
) -> float:
    r"""Bertz's index: :math:`2 C \log_2 C - \sum_c c \log_2 c` of the bond pairs, plus the entropy of the elements.

    Connections are counted per symmetry classes of their atoms: atoms with the same sorted distances, to 4 decimals.
    Source: Bertz, J. Am. Chem. Soc. 103, 3599 (1981).

    Args:
        atomic_numbers: element of every atom.
        distances_NN: distances along bonds of length 1/order.
        orders_NN: bond orders, 1.5 for aromatic; 0 where there is no bond.
        paths: pairs of bonds that share an atom.
    """
    atoms = len(atomic_numbers)
    if atoms < 2:
        return 0.0
    rows = np.rint(np.sort(distances_NN, axis=1)[:, :_DEEPEST_ROW] * 1e4).astype(np.int64)
    text, width = rows.tobytes(), rows.shape[1] * rows.itemsize
    seen: dict[bytes, int] = {}
    class_N = np.array(
        [seen.setdefault(text[place : place + width], len(seen)) for place in range(0, len(text), width)]
    )
    start, end, centre = class_N[paths.start], class_N[paths.end], class_N[paths.centre]
    pair_keys = (np.minimum(start, end) * (atoms + 1) + centre + 1) * atoms + np.maximum(start, end)
    pair_amounts = orders_NN[paths.start, paths.centre] * orders_NN[paths.centre, paths.end]
    begin, other = paths.bonds_2U[:, orders_NN[paths.bonds_2U[0], paths.bonds_2U[1]] > 1]
    order_U, begin_class, other_class = orders_NN[begin, other], class_N[begin], class_N[other]
    bond_keys = np.minimum(begin_class, other_class) * (atoms + 1) * atoms + np.maximum(begin_class, other_class)
    amounts: dict[int, float] = {}
    for key, amount in zip(pair_keys.tolist(), pair_amounts.tolist(), strict=True):
        amounts[key] = amounts.get(key, 0.0) + amount
    for key, amount in zip(bond_keys.tolist(), (order_U * (order_U - 1) / 2).tolist(), strict=True):
        amounts[key] = amounts.get(key, 0.0) + amount
    found = list(amounts.values()) or [1.0]
    total = sum(found)
    connections = 2 * total * math.log2(total) - sum(amount * math.log2(amount) for amount in found)
    elements = np.array(list(Counter(atomic_numbers).values()), dtype=float)
    return atoms * entropy_bits(elements) + connections


def ring_count(kept: list[bool], bonds: list[tuple[int, int]]) -> int:
    """Independent rings among the kept atoms: bonds - atoms + fragments."""
    parent = list(range(len(kept)))
    rings = 0
    for one, other in bonds:
        if kept[one] and kept[other]:
            while parent[one] != one:
                parent[one] = one = parent[parent[one]]
            while parent[other] != other:
                parent[other] = other = parent[parent[other]]
            rings += one == other
            parent[one] = other
    return rings


def rotatable_bonds(
    atomic_numbers: list[int],
    aromatic: list[bool],
    hydrogens: list[int],
    bonds: list[tuple[int, int, float, bool]],
) -> int:
    """Rotatable bonds as RDKit counts them by default ("strict").

    Single bonds outside rings between atoms that have other neighbours, unless an end has a triple bond or carries
    three equal halogens or methyls, or both ends are part of an amide, ester or the like.

    Args:
        atomic_numbers, aromatic, hydrogens: of every atom.
        bonds: two ends, order and whether it is in a ring; each bond in both directions.
    """
    neighbours: list[list[tuple[int, float, bool]]] = [[] for _ in atomic_numbers]
    for one, other, order, in_ring in bonds:
        neighbours[one].append((other, order, in_ring))

    def turns(atom: int) -> bool:
        if len(neighbours[atom]) == 1 or any(order == 3.0 for _, order, _ in neighbours[atom]):
            return False
        if atomic_numbers[atom] != 6 or aromatic[atom] or len(neighbours[atom]) < 4:
            return True
        single = [other for other, order, _ in neighbours[atom] if order == 1.0]
        kinds = [atomic_numbers[other] for other in single]
        methyls = sum(atomic_numbers[other] == 6 and hydrogens[other] == 3 for other in single)
        return methyls < 3 and all(kinds.count(halogen) < 3 for halogen in (9, 17, 35))

    def acyl(atom: int) -> bool:
        return (
            atomic_numbers[atom] == 6
            and not aromatic[atom]
            and len(neighbours[atom]) == 3
            and any(
                order == 2.0 and atomic_numbers[other] in (7, 8, 16) and not aromatic[other]
                for other, order, _ in neighbours[atom]
            )
        )

    def partner(atom: int) -> bool:
        z = atomic_numbers[atom]
        return z == 7 or (not aromatic[atom] and (z == 8 or (z == 16 and len(neighbours[atom]) != 1)))

    def stiff(atom: int) -> bool:
        beside = [other for other, order, in_ring in neighbours[atom] if order == 1.0 and not in_ring]
        return (acyl(atom) and any(map(partner, beside))) or (partner(atom) and any(map(acyl, beside)))

    return sum(
        turns(one) and turns(other) and not (stiff(one) and stiff(other))
        for one, other, order, in_ring in bonds
        if one < other and order == 1.0 and not in_ring
    )
