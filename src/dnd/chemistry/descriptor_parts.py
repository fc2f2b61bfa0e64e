"""What many of RDKit's descriptors share, computed once per molecule: a graph as arrays, and substructure queries.

Over 500 lines because the fragment queries are a long table."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem

# Topological indices of one molecule from its matrices: the values of RDKit's Python functions, in numpy.

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


# Substructure queries asked of one molecule at once: most are settled by the classes of its atoms and bonds.
#
# RDKit's descriptors ask some 200 SMARTS of every molecule, and nine of ten have no match. A query can match only if
# the molecule has, for each atom and bond of the query, an atom and a bond that fits it. What fits is read from RDKit's
# own description of the query, with three outcomes (yes, no, perhaps), and kept per *class* of atom (element,
# aromaticity, charge, hydrogens, valence, isotope, degree, rings) and of bond (two classes and an order); molecules
# share few classes. A query of one or two atoms without a "perhaps" is counted from the classes alone. All others go to
# RDKit.

MOST_CLASSES = 100_000
"""Classes kept before all are dropped; a million drug-like molecules have about a tenth as many."""
_MOST_ALTERNATIVES = 16
_MOST_COUNTED = 400
"""Counts above this are left to RDKit, whose search for matches stops at 1,000."""
_LEAF = re.compile(r"\b(\w+) (-?\d+) (=|!=) val")


class AtomClass(NamedTuple):
    """What a query may ask of an atom without looking at its neighbours."""

    atomic_number: int
    aromatic: bool
    charge: int
    hydrogens: int
    valence: int
    isotope: int
    degree: int
    rings: int


AtomValues = tuple[int, bool, int, int, int, int, int, int]
"""The values of an `AtomClass`, which are quicker to make."""


@dataclass(frozen=True)
class _Condition:
    """One line of RDKit's description of a query, with the lines below it.

    Attributes:
        name: `AtomAnd`, `AtomOr`, a primitive such as `AtomHCount`, or the whole line where it is not understood.
        value: the number a primitive compares with.
        negated: whether the primitive must differ from the number.
        parts: conditions joined by an "and" or an "or"; of a `$(...)` that must match, that of its first atom.
        within: the query inside a `$(...)` that must match; None elsewhere.
    """

    name: str
    value: int = 0
    negated: bool = False
    parts: tuple[_Condition, ...] = ()
    within: Chem.Mol | None = None


def _conditions(description: str, recursive: Sequence[Chem.Mol]) -> _Condition:
    """Tree of a description: one condition a line, two blanks of indentation a level.

    Args:
        description: text of RDKit's `DescribeQuery`.
        recursive: the queries inside `$(...)`, in the order in which they are written; empty when that is unknown.
    """
    lines = [line for line in description.splitlines() if line.strip()]
    inner = iter(recursive)

    def read(place: int, depth: int) -> tuple[_Condition, int]:
        text = lines[place].strip()
        place, parts = place + 1, []
        while place < len(lines) and (len(lines[place]) - len(lines[place].lstrip())) // 2 > depth:
            part, place = read(place, depth + 1)
            parts.append(part)
        leaf = _LEAF.fullmatch(text)
        if text.startswith("RecursiveStructure"):
            query = next(inner, None)
            if query is None or text != "RecursiveStructure val in ()":
                return _Condition(text), place
            return _Condition(text, parts=(_condition_of(query.GetAtomWithIdx(0)),), within=query), place
        if leaf is not None and not parts:
            return _Condition(leaf[1], int(leaf[2]), leaf[3] == "!="), place
        return _Condition(text, parts=tuple(parts)), place

    return read(0, 0)[0]


def _condition_of(atom: Chem.Atom) -> _Condition:
    description, inner = atom.DescribeQuery(), _inner_queries(atom.GetSmarts())
    return _conditions(description, inner if len(inner) == description.count("RecursiveStructure") else ())


def _inner_queries(smarts: str) -> list[Chem.Mol]:
    """The queries of the outermost `$(...)` in the SMARTS of an atom, in the order in which they are written."""
    found, place = [], smarts.find("$(")
    while place >= 0:
        end, open_brackets = place + 2, 1
        while open_brackets:
            open_brackets += (smarts[end] == "(") - (smarts[end] == ")")
            end += 1
        found.append(Chem.MolFromSmarts(smarts[place + 2 : end - 1]))
        place = smarts.find("$(", end)
    return found


def _known(condition: _Condition) -> bool:
    """Whether a class decides the condition, so that there is no "perhaps"."""
    if condition.name in ("AtomAnd", "AtomOr", "BondAnd", "BondOr"):
        return all(_known(part) for part in condition.parts)
    return condition.name in _ATOM_VALUES or condition.name in (
        "AtomNull",
        "BondNull",
        "SingleOrAromaticBond",
        "BondOrder",
    )


_ATOM_VALUES: dict[str, Callable[[AtomClass], int]] = {
    "AtomType": lambda atom: atom.atomic_number + 1000 * atom.aromatic,
    "AtomAtomicNum": lambda atom: atom.atomic_number,
    "AtomIsAromatic": lambda atom: int(atom.aromatic),
    "AtomIsAliphatic": lambda atom: int(not atom.aromatic),
    "AtomFormalCharge": lambda atom: atom.charge,
    "AtomHCount": lambda atom: atom.hydrogens,
    "AtomTotalDegree": lambda atom: atom.degree + atom.hydrogens,
    "AtomExplicitDegree": lambda atom: atom.degree,
    "AtomTotalValence": lambda atom: atom.valence,
    "AtomIsotope": lambda atom: atom.isotope,
    "AtomInNRings": lambda atom: atom.rings,
    "AtomInRing": lambda atom: int(atom.rings > 0),
}
_ORDERS = {1: 1.0, 2: 2.0, 3: 3.0, 12: 1.5}


def _atom_may_fit(condition: _Condition, atom: AtomClass) -> bool:
    if condition.name == "AtomAnd" or condition.within is not None:
        return all(_atom_may_fit(part, atom) for part in condition.parts)
    if condition.name == "AtomOr":
        return any(_atom_may_fit(part, atom) for part in condition.parts)
    value_of = _ATOM_VALUES.get(condition.name)
    if value_of is None:
        return True
    value = value_of(atom)
    if condition.name == "AtomInNRings" and condition.value == -1:  # any number of rings
        return (value > 0) != condition.negated
    return (value == condition.value) != condition.negated


def _bond_may_fit(condition: _Condition, order: float) -> bool:
    if condition.name == "BondAnd":
        return all(_bond_may_fit(part, order) for part in condition.parts)
    if condition.name == "BondOr":
        return any(_bond_may_fit(part, order) for part in condition.parts)
    if condition.name == "SingleOrAromaticBond":
        return (order in (1.0, 1.5)) != condition.negated
    if condition.name == "BondOrder":
        return (order == _ORDERS.get(condition.value)) != condition.negated
    return True


class Rings(NamedTuple):
    """What is known of the rings of a molecule or a query.

    Attributes:
        sizes: sizes of the smallest rings.
        independent: bonds - atoms + fragments.
        fused: whether two of the smallest rings share an atom.
    """

    sizes: frozenset[int]
    independent: int
    fused: bool

    def may_hold(self, query: Rings) -> bool:
        """Whether rings like those of a query may be among these.

        Every ring of a graph is a sum of smallest rings that are not larger; without fused rings it is one of them.
        """
        if query.independent > self.independent or (query.fused and not self.fused):
            return False
        if not self.fused:
            return query.sizes <= self.sizes
        smallest = min(self.sizes)
        return all(smallest <= size for size in query.sizes)


def rings_of(rings: Sequence[Sequence[int]], num_atoms: int, num_bonds: int, fragments: int) -> Rings:
    """Summary of the smallest rings of a graph, given as the atoms of each."""
    inside = sum(map(len, rings))
    fused = len(set().union(*rings)) < inside
    return Rings(frozenset(map(len, rings)), num_bonds - num_atoms + fragments, fused)


def _rings_of_query(query: Chem.Mol) -> Rings:
    copy = Chem.Mol(query)
    rings = [tuple(ring) for ring in Chem.GetSSSR(copy)]
    return rings_of(rings, query.GetNumAtoms(), query.GetNumBonds(), len(Chem.GetMolFrags(query)))


class _Needs(NamedTuple):
    """What a molecule must have for a query to match.

    Attributes:
        place: number of the query; -1 for one inside a `$(...)`.
        rings: rings that it must have.
        always: bits that it must have in any case.
        alternatives: sets of bits of which it must have one.
        simple: whether `always` is the only alternative.
        counted_atom: bit of the atoms to count, for a query of one atom that its class decides.
        counted_bond: bit of the bonds to count, for a query of two atoms that their classes decide.
    """

    place: int
    rings: Rings
    always: int
    alternatives: list[int]
    simple: bool
    counted_atom: int | None
    counted_bond: int | None


@dataclass
class _Found:
    """What was found about classes of atoms and bonds so far, shared by the threads of a process.

    A class has its number last, when all is there that belongs to it. Two threads that meet a class at the same time
    give it a number each, and each of these is right.

    Attributes:
        numbers: to be drawn.
        atoms: number of each class of atoms.
        atom_bits: bits of a class of atoms, by its number.
        atom_fits: the same as an array.
        bond_bits: bits of a class of bonds, by the numbers of its atoms and its order.
    """

    numbers: Iterator[int] = field(default_factory=itertools.count)
    atoms: dict[AtomValues, int] = field(default_factory=dict)
    atom_bits: dict[int, int] = field(default_factory=dict)
    atom_fits: dict[int, np.ndarray] = field(default_factory=dict)
    bond_bits: dict[int, int] = field(default_factory=dict)


@dataclass
class QuerySet:
    """Queries that are asked together of many molecules, by any number of threads.

    Args:
        queries: RDKit query molecules.
    """

    queries: Sequence[Chem.Mol]
    _atom_needs: dict[Any, tuple[int, _Condition]] = field(default_factory=dict)
    _bond_needs: dict[Any, tuple[int, _Condition]] = field(default_factory=dict)
    _bits: int = 0
    _found: _Found = field(default_factory=_Found)
    _by_order: dict[float, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._needs = [self._needs_of(query, place) for place, query in enumerate(self.queries)]
        self._always = [(needs.place, needs.always) for needs in self._needs]

    def _needs_of(self, query: Chem.Mol, place: int) -> _Needs:
        base, alternatives, bits, known, last = 0, [0], [], True, 0
        for atom in query.GetAtoms():
            smarts = atom.GetSmarts()
            condition = _condition_of(atom)
            known = known and _known(condition)
            bits.append(self._bit(self._atom_needs, (atom.DescribeQuery(), smarts), condition))
            base |= 1 << bits[-1]
            alternatives = _both(alternatives, self._alternatives(condition))
        for bond in query.GetBonds():
            text = bond.DescribeQuery()
            condition = _conditions(text, ())
            known = known and _known(condition)
            ends = sorted((bits[bond.GetBeginAtomIdx()], bits[bond.GetEndAtomIdx()]))
            last = self._bit(self._bond_needs, (ends[0], ends[1], text), condition)
            base |= 1 << last
        joined = [base | alternative for alternative in alternatives]
        single = known and len(bits) == 1
        pair = known and len(bits) == 2 and query.GetNumBonds() == 1
        return _Needs(
            place,
            _rings_of_query(query),
            base,
            joined,
            joined == [base],
            bits[0] if single else None,
            last if pair else None,
        )

    def _alternatives(self, condition: _Condition) -> list[int]:
        """Sets of bits of which a molecule must have one for the `$(...)` in an atom's condition to match."""
        if condition.within is not None:
            return self._needs_of(condition.within, -1).alternatives
        found = [self._alternatives(part) for part in condition.parts]
        if condition.name == "AtomOr":
            every = [alternative for part in found for alternative in part]
            return every if len(every) <= _MOST_ALTERNATIVES else [0]
        joined = [0]
        if condition.name == "AtomAnd":
            for part in found:
                joined = _both(joined, part)
        return joined

    def _bit(self, known: dict[Any, tuple[int, _Condition]], key: Any, condition: _Condition) -> int:
        if key not in known:
            known[key] = (self._bits, condition)
            self._bits += 1
        return known[key][0]

    def _number_of(self, found: _Found, atom: AtomValues) -> int:
        known = found.atoms.get(atom)
        if known is None:
            bits = self._bits_of_atom(AtomClass(*atom))
            known = next(found.numbers)
            found.atom_bits[known] = bits
            found.atom_fits[known] = np.array([bits >> bit & 1 for bit in range(self._bits)], dtype=bool)
            found.atoms[atom] = known
        return known

    def _bits_of_atom(self, atom: AtomClass) -> int:
        bits = 0
        for bit, condition in self._atom_needs.values():
            bits |= _atom_may_fit(condition, atom) << bit
        return bits

    def _bits_of_bond(self, a: np.ndarray, b: np.ndarray, order: float) -> int:
        """Bits of a bond between atoms of two classes, from what these fit."""
        firsts, seconds, bits = self._bond_columns(order)
        fits = (a[firsts] & b[seconds]) | (a[seconds] & b[firsts])
        return sum(1 << bit for bit in bits[fits].tolist())

    def _bond_columns(self, order: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bits of both ends and of the bond itself, of the needs that a bond of some order may fit."""
        if order not in self._by_order:
            found = [
                (first, second, bit)
                for (first, second, _), (bit, condition) in self._bond_needs.items()
                if _bond_may_fit(condition, order)
            ]
            firsts, seconds, bits = np.array(found).T
            self._by_order[order] = firsts, seconds, bits
        return self._by_order[order]

    def ask(self, atoms: Sequence[AtomValues], bonds: Iterable[tuple[int, int, float]], rings: Rings) -> Answers:
        """What the classes of a molecule say about all queries.

        Args:
            atoms: class of every atom, the values of an `AtomClass`; no hydrogen among them.
            bonds: ends and order (1, 1.5, 2 or 3) of every bond.
            rings: the molecule's rings.
        """
        found = self._found
        if len(found.atoms) + len(found.bond_bits) > MOST_CLASSES:
            found = self._found = _Found()
        have, ids = 0, [self._number_of(found, atom) for atom in atoms]
        atom_counts = [(found.atom_bits[known], count) for known, count in Counter(ids).items()]
        bond_counts = []
        keys = [(ids[one] * MOST_CLASSES + ids[other]) * 8 + int(2 * order) for one, other, order in bonds]
        for key, count in Counter(keys).items():
            bits = found.bond_bits.get(key)
            if bits is None:
                ends, order = divmod(key, 8)
                one, other = divmod(ends, MOST_CLASSES)
                bits = self._bits_of_bond(found.atom_fits[one], found.atom_fits[other], order / 2)
                found.bond_bits[key] = bits
            bond_counts.append((bits, count))
        for bits, _ in atom_counts + bond_counts:
            have |= bits
        lacking = ~have
        candidates = [self._needs[place] for place, always in self._always if not always & lacking]
        possible = {
            needs.place
            for needs in candidates
            if (needs.simple or any(not some & lacking for some in needs.alternatives))
            and (not needs.rings.sizes or rings.may_hold(needs.rings))
        }
        return Answers(self.queries, self._needs, possible, atom_counts, bond_counts)


def _both(one: list[int], other: list[int]) -> list[int]:
    if len(one) * len(other) > _MOST_ALTERNATIVES:
        return one if len(one) <= len(other) else other
    return [a | b for a in one for b in other]


@dataclass(frozen=True)
class Answers:
    """Answers of one molecule to a set of queries.

    Attributes:
        queries: the queries.
        needs: what each query needs.
        possible: places of the queries that may match.
        atom_counts, bond_counts: bits and number of each class of atoms and bonds.
    """

    queries: Sequence[Chem.Mol]
    needs: Sequence[_Needs]
    possible: set[int]
    atom_counts: list[tuple[int, int]]
    bond_counts: list[tuple[int, int]]

    def count(self, place: int, mol: Chem.Mol) -> int:
        """Number of matches with different atoms, as `len(mol.GetSubstructMatches(query))`."""
        if place not in self.possible:
            return 0
        needs = self.needs[place]
        if needs.counted_atom is not None:
            counted = sum([count for bits, count in self.atom_counts if bits >> needs.counted_atom & 1])
        elif needs.counted_bond is not None:
            counted = sum([count for bits, count in self.bond_counts if bits >> needs.counted_bond & 1])
        else:
            return len(mol.GetSubstructMatches(self.queries[place]))
        return counted if counted <= _MOST_COUNTED else len(mol.GetSubstructMatches(self.queries[place]))

    def matches(self, place: int, mol: Chem.Mol) -> bool:
        """Whether the query at `place` matches, as `mol.HasSubstructMatch(query)`."""
        if place not in self.possible:
            return False
        needs = self.needs[place]
        if needs.counted_atom is not None or needs.counted_bond is not None:
            return True
        found: bool = mol.HasSubstructMatch(self.queries[place])
        return found
