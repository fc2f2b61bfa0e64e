"""Substructure queries asked of one molecule at once: most are settled by the classes of its atoms and bonds.

RDKit's descriptors ask some 200 SMARTS of every molecule, and nine of ten have no match. A query can match only if the
molecule has, for each atom and bond of the query, an atom and a bond that fits it. What fits is read from RDKit's own
description of the query, with three outcomes (yes, no, perhaps), and kept per *class* of atom (element, aromaticity,
charge, hydrogens, valence, isotope, degree, rings) and of bond (two classes and an order); molecules share few classes.
A query of one or two atoms without a "perhaps" is counted from the classes alone. All others go to RDKit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem

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
class QuerySet:
    """Queries that are asked together of many molecules.

    Args:
        queries: RDKit query molecules.
    """

    queries: Sequence[Chem.Mol]
    _atom_needs: dict[Any, tuple[int, _Condition]] = field(default_factory=dict)
    _bond_needs: dict[Any, tuple[int, _Condition]] = field(default_factory=dict)
    _bits: int = 0
    _class_ids: dict[AtomValues, int] = field(default_factory=dict)
    _atom_bits: list[int] = field(default_factory=list)
    _atom_fits: list[np.ndarray] = field(default_factory=list)
    _bond_bits: dict[int, int] = field(default_factory=dict)
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

    def _id_of(self, atom: AtomValues) -> int:
        known = self._class_ids.get(atom)
        if known is None:
            known = self._class_ids[atom] = len(self._class_ids)
            bits = self._bits_of_atom(AtomClass(*atom))
            self._atom_bits.append(bits)
            self._atom_fits.append(np.array([bits >> bit & 1 for bit in range(self._bits)], dtype=bool))
        return known

    def _bits_of_atom(self, atom: AtomClass) -> int:
        bits = 0
        for bit, condition in self._atom_needs.values():
            bits |= _atom_may_fit(condition, atom) << bit
        return bits

    def _bits_of_bond(self, one: int, other: int, order: float) -> int:
        firsts, seconds, bits = self._bond_columns(order)
        a, b = self._atom_fits[one], self._atom_fits[other]
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
        if len(self._class_ids) + len(self._bond_bits) > MOST_CLASSES:
            self._class_ids, self._atom_bits, self._atom_fits, self._bond_bits = {}, [], [], {}
        have, ids = 0, [self._id_of(atom) for atom in atoms]
        atom_counts = [(self._atom_bits[known], count) for known, count in Counter(ids).items()]
        bond_counts = []
        keys = [(ids[one] * MOST_CLASSES + ids[other]) * 8 + int(2 * order) for one, other, order in bonds]
        for key, count in Counter(keys).items():
            bits = self._bond_bits.get(key)
            if bits is None:
                ends, order = divmod(key, 8)
                bits = self._bond_bits[key] = self._bits_of_bond(*divmod(ends, MOST_CLASSES), order / 2)
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
