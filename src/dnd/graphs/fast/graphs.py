"""SMILES to graphs, many at a time, and back: a quick way for ordinary molecules, the parser for others.

Over 500 lines: the quick way reads RDKit's binary form, and what it can't read must be known exactly."""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

import numpy as np
from jaxtyping import Bool, Int, UInt8
from rdkit import Chem
from rdkit.Chem import rdqueries

from dnd.chemistry.molecule import CHIRALITY_NAMES, NEUTRAL_CHARGE_INDEX, InvalidMolecule, MolecularGraph
from dnd.chemistry.parse import may_be_dense, read_smiles
from dnd.common.ragged import offsets_of, ragged_range
from dnd.graphs.features import BOND_STEREO, BOND_TYPE, CHIRALITY, HYBRIDIZATION, featurize, indices_of_values

# Features of many molecules at once, from RDKit's binary form of each: no call per atom or bond.
#
# The layout (versions 16.2 to 16.4 of the form, RDKit 2025.09 to 2026.09, `Code/GraphMol/MolPickler.cpp`), little-
# endian, for up to 255 atoms:
#
# - head: mark, 0, three numbers of the version, atoms, bonds (4 bytes each), two bytes of flags.
# - atom: atomic number, flags, 4 bytes that say which of these follow, a byte each: mass, charge, chirality,
#   hybridisation (left out for SP3), hydrogens in brackets, explicit valence, implicit hydrogens, radical electrons.
# - bond: its two atoms, flags, and as these say: type (left out for a single bond), direction, stereo with its atoms.
# - rings: their number in 4 bytes; of each its size and its atoms.
#
# Records differ in length, so where one starts is known from the one before. All molecules are walked side by side: a
# step reads one record of each. A molecule with anything else in it (isotopes, queries, atom maps) is not readable and
# left to the calls per atom; so is every molecule, should another RDKit write another version.

_MOST_COUNTED_ATOMS = 255
DEGREE, RING = 2, 8  # columns that need more than the atom's own record

_HEADS = tuple(struct.pack("<5i", -559038737, 0, 16, minor, 0) for minor in (2, 3, 4))
_COUNTS = struct.Struct("<2i")
_MOLECULE_FLAGS, _FIRST_ATOM = b"\x80\x01", 30
_BEFORE_BONDS, _BEFORE_RINGS = 11, 66
_LONGEST_RECORD = 256 + 6  # a bond whose stereo claims 255 atoms: where a walk that goes astray may end
_AROMATIC_ATOM, _NO_IMPLICIT = 0x40, 0x20
_AROMATIC_BOND, _CONJUGATED, _TYPE, _DIRECTION, _STEREO = 0x40, 0x20, 0x08, 0x04, 0x02
_MASS, _CHARGE, _CHIRALITY, _HYBRIDIZATION, _BRACKET_H, _VALENCE, _IMPLICIT_H, _RADICALS = range(8)
_SINGLE, _SP3 = 1, 4


def _by_byte(table: Sequence[int]) -> Int[np.ndarray, "256"]:
    return np.array([*table, *[table[-1]] * (256 - len(table))], dtype=np.int64)


_CHIRALITY_INDEX, _HYBRIDIZATION_INDEX = _by_byte(CHIRALITY), _by_byte(HYBRIDIZATION)
_BOND_TYPE_INDEX, _BOND_STEREO_INDEX = _by_byte(BOND_TYPE), _by_byte(BOND_STEREO)
_BITS = np.array([[byte >> bit & 1 for bit in range(8)] for byte in range(256)], dtype=np.int64)
_ATOM_LENGTH = 6 + _BITS.sum(1)
_ATOM_FIELD = 6 + np.cumsum(_BITS, axis=1) - _BITS  # where in the record a field is that is there
_BOND_LENGTH = 3 + _BITS[:, 3] + _BITS[:, 2] + 2 * _BITS[:, 1]  # the atoms of the stereo come on top


@dataclass(frozen=True)
class FlatGraphs:
    """Graphs of several molecules end to end.

    Attributes:
        atom_offsets: `(molecules + 1,)` where the atoms of each begin.
        bond_offsets: `(molecules + 1,)` where the bonds of each begin.
        node_features_NF: as in `MolecularGraph`.
        bonds_U2: atom indices within the molecule.
        bond_features_UF: as in `MolecularGraph`.
        readable_B: whether the other arrays are valid for each molecule; where not, they hold noise.
    """

    atom_offsets: Int[np.ndarray, "offsets"]
    bond_offsets: Int[np.ndarray, "offsets"]
    node_features_NF: Int[np.ndarray, "atoms 9"]
    bonds_U2: Int[np.ndarray, "bonds 2"]
    bond_features_UF: Int[np.ndarray, "bonds 3"]
    readable_B: Bool[np.ndarray, "molecules"]


def read_binaries(binaries: Sequence[bytes]) -> FlatGraphs:
    """Graphs from `mol.ToBinary(0)` of sanitised molecules, equal to `featurize(mol)` where they are readable."""
    counts_B2 = np.array([_counts(binary) for binary in binaries], dtype=np.int64).reshape(len(binaries), 2)
    atoms_B, bonds_B = counts_B2[:, 0], counts_B2[:, 1]
    spare = bytes((int(counts_B2.max(initial=0)) + 2) * _LONGEST_RECORD)
    data = np.frombuffer(b"".join([*binaries, spare]), dtype=np.uint8)
    starts_B = offsets_of(np.fromiter(map(len, binaries), dtype=np.int64, count=len(binaries)))[:-1]
    atom_at, end = _walk(starts_B + _FIRST_ATOM, atoms_B, lambda at: _ATOM_LENGTH[data[at + 2]])
    readable = (atoms_B > 0) & (data[end] == _BEFORE_BONDS)
    bond_at, end = _walk(end + 1, bonds_B, lambda at: _bond_lengths(data, at))
    readable &= (data[end] == _BEFORE_RINGS) & (data[end + 2] == 0)  # fewer than 256 rings
    columns_9N, known_N = _atoms(data, atom_at)
    bonds_U2, bond_features_UF, known_U = _bonds(data, bond_at)
    molecule_N, molecule_U = np.repeat(np.arange(len(binaries)), atoms_B), np.repeat(np.arange(len(binaries)), bonds_B)
    readable[molecule_N[~known_N]] = False
    readable[molecule_U[~known_U | (bonds_U2.max(1, initial=0) >= atoms_B[molecule_U])]] = False
    atom_offsets = offsets_of(atoms_B)
    ends = (bonds_U2 + atom_offsets[molecule_U, None])[readable[molecule_U]]
    columns_9N[DEGREE] += np.bincount(ends.ravel(), minlength=len(atom_at))
    columns_9N[RING, _ring_atoms(data, np.where(readable, end, 0), atom_offsets)] = 1
    features_NF = indices_of_values(columns_9N)
    return FlatGraphs(atom_offsets, offsets_of(bonds_B), features_NF, bonds_U2, bond_features_UF, readable)


def _counts(binary: bytes) -> tuple[int, int]:
    """Atoms and bonds, 0 and 0 where the form is not the one that can be read."""
    if binary[:20] not in _HEADS or binary[28:30] != _MOLECULE_FLAGS:
        return 0, 0
    atoms, bonds = _COUNTS.unpack_from(binary, 20)
    return (atoms, bonds) if atoms <= _MOST_COUNTED_ATOMS else (0, 0)


def _walk(
    starts_B: Int[np.ndarray, "molecules"],
    counts_B: Int[np.ndarray, "molecules"],
    lengths: Callable[[Int[np.ndarray, "active"]], Int[np.ndarray, "active"]],
) -> tuple[Int[np.ndarray, "records"], Int[np.ndarray, "molecules"]]:
    """Where each record is, molecule after molecule, and where the records of each molecule end."""
    order = np.argsort(-counts_B, kind="stable")
    steps = np.arange(int(counts_B.max(initial=0)))
    active = np.searchsorted(-counts_B[order], -steps)  # molecules with more records than there were steps before
    here = starts_B[order]
    at_XB = np.zeros((len(steps), len(starts_B)), dtype=np.int64)
    for step, count in enumerate(active.tolist()):
        at = at_XB[step, :count] = here[:count]
        here[:count] = at + lengths(at)
    back = np.argsort(order, kind="stable")
    return at_XB.T[back][steps < counts_B[:, None]], here[back]


def _bond_lengths(data: UInt8[np.ndarray, "bytes"], at: Int[np.ndarray, "active"]) -> Int[np.ndarray, "active"]:
    flags = data[at + 2]
    lengths: np.ndarray = _BOND_LENGTH[flags]
    stereo = np.flatnonzero(flags & _STEREO)
    lengths[stereo] += data[(at + lengths)[stereo] - 1]
    return lengths


def _atoms(
    data: UInt8[np.ndarray, "bytes"], at: Int[np.ndarray, "atoms"]
) -> tuple[Int[np.ndarray, "9 atoms"], Bool[np.ndarray, "atoms"]]:
    """Values of the features as far as an atom's own record has them, and which records have nothing else."""
    flags, present = data[at + 1], data[at + 2]
    other = data[at + 3] | data[at + 4] | data[at + 5] | (present & (1 << _MASS))
    other |= flags & np.uint8(0xFF ^ _AROMATIC_ATOM ^ _NO_IMPLICIT)

    def field(number: int, absent: int) -> Int[np.ndarray, "atoms"]:
        values = np.full(len(at), absent, dtype=np.int64)
        those = np.flatnonzero(present & (1 << number))
        values[those] = data[at[those] + _ATOM_FIELD[present[those], number]]
        return values

    hydrogens = field(_BRACKET_H, 0) + field(_IMPLICIT_H, 0)
    none = np.zeros(len(at), dtype=np.int64)
    columns_9N = np.stack([
        data[at], _CHIRALITY_INDEX[field(_CHIRALITY, 0)], hydrogens, field(_CHARGE, 0).astype(np.int8), hydrogens,
        field(_RADICALS, 0), _HYBRIDIZATION_INDEX[field(_HYBRIDIZATION, _SP3)], flags & _AROMATIC_ATOM != 0, none,
    ])  # fmt: skip
    return columns_9N, other == 0


def _bonds(
    data: UInt8[np.ndarray, "bytes"], at: Int[np.ndarray, "bonds"]
) -> tuple[Int[np.ndarray, "bonds 2"], Int[np.ndarray, "bonds 3"], Bool[np.ndarray, "bonds"]]:
    """Ends and features of bonds, and which records have nothing else."""
    flags = data[at + 2]
    other = flags & np.uint8(0xFF ^ _AROMATIC_BOND ^ _CONJUGATED ^ _TYPE ^ _DIRECTION ^ _STEREO)
    kind, stereo = np.full(len(at), _SINGLE), np.zeros(len(at), dtype=np.int64)
    typed, marked = np.flatnonzero(flags & _TYPE), np.flatnonzero(flags & _STEREO)
    kind[typed] = data[at[typed] + 3]
    stereo[marked] = data[at[marked] + _BOND_LENGTH[flags[marked]] - 2]
    features = [_BOND_TYPE_INDEX[kind], _BOND_STEREO_INDEX[stereo], (flags & _CONJUGATED) != 0]
    ends_U2 = np.stack([data[at], data[at + 1]], axis=1).astype(np.int64)
    return ends_U2, np.stack(features, axis=1).astype(np.int64), other == 0


def _ring_atoms(
    data: UInt8[np.ndarray, "bytes"], at: Int[np.ndarray, "molecules"], atom_offsets: Int[np.ndarray, "offsets"]
) -> Int[np.ndarray, "members"]:
    """Atoms in rings, counted over all molecules, once per ring.

    Args:
        data: all bytes.
        at: where the rings of each molecule begin; 0 for a molecule whose rings are not wanted.
        atom_offsets: where its atoms begin.
    """
    rings_B = np.where(at > 0, data[at + 1], 0).astype(np.int64)
    ring_at, _ = _walk(at + 5, rings_B, lambda here: 1 + data[here].astype(np.int64))
    sizes = data[ring_at].astype(np.int64)
    first = np.repeat(atom_offsets[:-1], rings_B)
    members: np.ndarray = data[ragged_range(ring_at + 1, sizes)] + np.repeat(first, sizes)
    return members


# Graphs in the atom and bond order of a canonical SMILES, without parsing it.
#
# RDKit's parser numbers atoms as they're written. Bonds: first each atom's bond to the atom it's written behind, in the
# order of the atoms, then the bonds that ring digits close, by digit and of one digit as they're written; these begin
# at the later atom (`SmilesParseOps::CloseMolRings`). `@` says how neighbours turn in the order of the text, RDKit's
# tag how bonds turn in the order of their numbers (`AdjustAtomChiralityFlags`): between the two are as many swaps as
# are counted here. A SMILES is a depth-first walk, so of an atom's neighbours before it the last is the one it's
# written behind, and all others are joined by ring digits.
#
# This holds for the texts that `is_plain` lets through; all others have to be parsed.


_CHIRALITY_COLUMN, _DEGREE_COLUMN, _HYDROGENS_COLUMN = 1, 2, 4  # columns
_CLOCKWISE = CHIRALITY_NAMES.index("CHI_TETRAHEDRAL_CW")
_COUNTERCLOCKWISE = CHIRALITY_NAMES.index("CHI_TETRAHEDRAL_CCW")

# Rings with two-digit numbers, ring bonds with a symbol of their own (they may begin at the earlier atom), isotopes,
# hydrogens and dummies as atoms, coordinate bonds, and marks of chirality at anything but carbon or of another kind.
_SPECIAL = re.compile(r"%|[-=#:/\\$~]\d|\[\d|\[H|\*|[<>~]|\[(?!C@)[^\[\]@]*@|@[A-GI-Z]")

_BYTES = np.arange(256)
_STARTS_ATOM = np.isin(_BYTES, list(b"[BCNOPSFIbcnops"))
_DIGIT = np.isin(_BYTES, list(b"0123456789"))


def is_plain(smiles: str) -> bool:
    """Whether the rules above cover a canonical SMILES."""
    return _SPECIAL.search(smiles) is None


@dataclass(frozen=True)
class _Texts:
    """The parsed texts of a batch; atoms are counted over all texts.

    Attributes:
        atoms_B: atoms written in each text.
        digits_X: the atom before each ring digit, in the order of the texts.
        ranks_X: the place of the bond it closes among all such bonds, in the parser's order.
        closures_X2: earlier and later atom of these bonds, in that order.
        marks_X: atoms with `@` or `@@`.
        doubled_X: which of them have `@@`.
    """

    atoms_B: Int[np.ndarray, "molecules"]
    digits_X: Int[np.ndarray, "digits"]
    ranks_X: Int[np.ndarray, "digits"]
    closures_X2: Int[np.ndarray, "closures 2"]
    marks_X: Int[np.ndarray, "marks"]
    doubled_X: Bool[np.ndarray, "marks"]


def in_written_order(graphs: FlatGraphs, order_N: Int[np.ndarray, "atoms"], smiles: Sequence[str]) -> FlatGraphs | None:
    """Renumber atoms and bonds, and set the tags of chirality, as in canonical SMILES.

    Args:
        graphs: in any other order, all readable.
        order_N: for each molecule the indices of its atoms as they are written (`_smilesAtomOutputOrder`).
        smiles: the canonical SMILES, all plain.

    Returns:
        The graphs that parsing the texts would give; None where a text and its graph don't fit together.
    """
    texts = _read(smiles)
    atoms_B, first_B = np.diff(graphs.atom_offsets), graphs.atom_offsets[:-1]
    if texts is None or not np.array_equal(texts.atoms_B, atoms_B):
        return None
    source_N = order_N + np.repeat(first_B, atoms_B)
    place_N = np.empty_like(source_N)
    place_N[source_N] = np.arange(len(source_N))
    molecule_U = np.repeat(np.arange(len(smiles)), np.diff(graphs.bond_offsets))
    ends_U2 = np.sort(place_N[graphs.bonds_U2 + first_B[molecule_U, None]], axis=1)
    rank_U = _closure_ranks(ends_U2, texts.closures_X2, len(source_N))
    if rank_U is None:
        return None
    closes_U = rank_U >= 0
    last_U = graphs.atom_offsets[molecule_U + 1] - 1
    after = len(texts.closures_X2) + 1
    order_U = np.argsort(np.where(closes_U, last_U * after + rank_U + 1, ends_U2[:, 1] * after))
    bonds_U2 = np.where(closes_U[:, None], ends_U2[:, ::-1], ends_U2)[order_U] - first_B[molecule_U, None]
    features_NF = graphs.node_features_NF[source_N]
    features_NF[:, _CHIRALITY_COLUMN] = 0
    features_NF[texts.marks_X, _CHIRALITY_COLUMN] = _tags(texts, ends_U2, closes_U, features_NF[:, _HYDROGENS_COLUMN])
    return FlatGraphs(
        graphs.atom_offsets,
        graphs.bond_offsets,
        features_NF,
        bonds_U2,
        graphs.bond_features_UF[order_U],
        graphs.readable_B,
    )


def _read(smiles: Sequence[str]) -> _Texts | None:
    characters = np.frombuffer("\n".join([*smiles, ""]).encode(), dtype=np.uint8)
    opens = characters == ord("[")
    inside = (np.cumsum(opens) - np.cumsum(characters == ord("]"))) > 0
    starts = _STARTS_ATOM[characters] & (opens | ~inside)
    atom, text = np.cumsum(starts) - 1, np.cumsum(characters == ord("\n"))
    at = np.flatnonzero(_DIGIT[characters] & ~inside)
    order = np.lexsort((at, characters[at], text[at]))
    opening, closing = order[0::2], order[1::2]
    same = len(opening) == len(closing) and all(
        np.array_equal(values[at[opening]], values[at[closing]]) for values in (characters, text)
    )
    if not same:  # a digit without a partner
        return None
    ranks_X = np.empty(len(at), dtype=np.int64)
    ranks_X[opening] = ranks_X[closing] = np.arange(len(opening))
    marks = np.flatnonzero((characters[1:] == ord("@")) & (characters[:-1] != ord("@"))) + 1
    return _Texts(
        np.bincount(text[starts], minlength=len(smiles)),
        atom[at],
        ranks_X,
        np.stack([atom[at[opening]], atom[at[closing]]], axis=1),
        atom[marks],
        characters[marks + 1] == ord("@"),
    )


def _closure_ranks(
    ends_U2: Int[np.ndarray, "bonds 2"], closures_X2: Int[np.ndarray, "closures 2"], atoms: int
) -> Int[np.ndarray, "bonds"] | None:
    """Which ring bond of the text each bond is, -1 for the others; None where the text has another bond."""
    rank_U = np.full(len(ends_U2), -1)
    codes_U, wanted_X = ends_U2 @ [1, atoms], closures_X2 @ [1, atoms]
    order = np.argsort(codes_U)
    found = np.searchsorted(codes_U, wanted_X, sorter=order)
    if (found == len(order)).any() or (codes_U[order[found]] != wanted_X).any():
        return None
    rank_U[order[found]] = np.arange(len(wanted_X))
    behind = ends_U2[rank_U < 0, 1]
    return None if len(np.unique(behind)) < len(behind) else rank_U


def _tags(
    texts: _Texts,
    ends_U2: Int[np.ndarray, "bonds 2"],
    closes_U: Bool[np.ndarray, "bonds"],
    hydrogens_N: Int[np.ndarray, "atoms"],
) -> Int[np.ndarray, "marks"]:
    """RDKit's tags: from text to bond order, ring bonds move behind branches, and among themselves by rank."""
    atoms, digits_X, ranks_X = len(hydrogens_N), texts.digits_X, texts.ranks_X
    degree_N, rings_N = np.bincount(ends_U2.ravel(), minlength=atoms), np.bincount(digits_X, minlength=atoms)
    behind_N = np.bincount(ends_U2[~closes_U, 1], minlength=atoms)
    swaps_N = rings_N * (degree_N - rings_N - behind_N)
    for gap in range(1, int(rings_N.max(initial=0))):
        swapped = (digits_X[gap:] == digits_X[:-gap]) & (ranks_X[:-gap] > ranks_X[gap:])
        swaps_N += np.bincount(digits_X[gap:][swapped], minlength=atoms)
    swaps_N += (behind_N == 0) & (degree_N == 3) & (hydrogens_N == 1)  # its hydrogen comes before all others
    clockwise = texts.doubled_X ^ (swaps_N[texts.marks_X] % 2 == 1)
    return np.where(clockwise, _CLOCKWISE, _COUNTERCLOCKWISE)


BATCH = 512
"""Molecules at a time; their bytes and arrays stay in the processor's cache."""


def rewritten_graphs(texts: Sequence[str]) -> list[tuple[str, MolecularGraph] | None]:
    """Canonical SMILES and graph of each text, hydrogens implicit; None where the quick way doesn't reach.

    Equal to `parse_smiles` and `featurize` of its molecule, which are for the rest: a molecule that may be too densely
    bound is among it.
    """
    outcomes: list[tuple[str, MolecularGraph] | None] = []
    for start in range(0, len(texts), BATCH):
        outcomes += _canonical([rewrite(text) for text in texts[start : start + BATCH]])
    return outcomes


def written_graphs(texts: Sequence[str]) -> list[MolecularGraph | None]:
    """Graph of each text in its own atom order, as `ogb.utils.smiles2graph` gives it; None where there is no molecule.

    Example:
        >>> [None if graph is None else graph.num_atoms for graph in written_graphs(["OCC", "C1CC"])]
        [3, None]
    """
    graphs: list[MolecularGraph | None] = []
    for start in range(0, len(texts), BATCH):
        flat = read_binaries([_binary(text) for text in texts[start : start + BATCH]])
        graphs += [graph if known else None for graph, known in zip(_split(flat), flat.readable_B, strict=True)]
    return [_slowly(text) if graph is None else graph for text, graph in zip(texts, graphs, strict=True)]


def _binary(text: str) -> bytes:
    mol = parse_ordinary(text)
    return b"" if mol is None else mol.ToBinary(0)


def _slowly(text: str) -> MolecularGraph | None:
    read = read_smiles(text)
    return None if isinstance(read, InvalidMolecule) else featurize(read[0])


def _canonical(rewritten: Sequence[Rewritten | None]) -> list[tuple[str, MolecularGraph] | None]:
    outcomes: list[tuple[str, MolecularGraph] | None] = [None] * len(rewritten)
    plain = {place: one for place, one in enumerate(rewritten) if one is not None and is_plain(one.smiles)}
    graphs = read_binaries([one.binary for one in plain.values()])
    usable_B = graphs.readable_B & ~_may_be_dense(graphs)
    if not usable_B.all():
        plain = {place: plain[place] for place, usable in zip(plain, usable_B, strict=True) if usable}
        graphs = read_binaries([one.binary for one in plain.values()])
    canonical = in_written_order(graphs, _orders(list(plain.values())), [one.smiles for one in plain.values()])
    if canonical is not None:
        for (place, one), graph in zip(plain.items(), _split(canonical), strict=True):
            outcomes[place] = (one.smiles, graph)
    return outcomes


def _may_be_dense(graphs: FlatGraphs) -> Bool[np.ndarray, "molecules"]:
    """Molecules whose density the parser has to look at."""
    sizes_B = np.diff(graphs.atom_offsets)
    dense_N = may_be_dense(np.repeat(sizes_B, sizes_B), graphs.node_features_NF[:, DEGREE])
    found_B = np.zeros(len(sizes_B), dtype=bool)
    found_B[np.repeat(np.arange(len(sizes_B)), sizes_B)[dense_N]] = True
    return found_B


def _orders(rewritten: Sequence[Rewritten]) -> Int[np.ndarray, "atoms"]:
    numbers = ",".join([one.written[1:-1] for one in rewritten])
    return np.array(numbers.split(",") if numbers else [], dtype=np.int64)


def _split(graphs: FlatGraphs) -> list[MolecularGraph]:
    atoms, bonds = graphs.atom_offsets.tolist(), graphs.bond_offsets.tolist()
    features_NF, bonds_U2, bond_features_UF = graphs.node_features_NF, graphs.bonds_U2, graphs.bond_features_UF
    return [
        MolecularGraph(features_NF[a:b], bonds_U2[c:d], bond_features_UF[c:d])
        for a, b, c, d in zip(atoms[:-1], atoms[1:], bonds[:-1], bonds[1:], strict=True)
    ]


# What a graph needs of a SMILES at the least cost: one parse and one canonical SMILES, for ordinary molecules.
#
# `parse_smiles` parses the canonical SMILES again, and writes that again to see that it no longer changes. Here both
# are left out where they are known to change nothing: for molecules of up to 100 atoms without isotopes, dummies,
# hydrogens as atoms or centres of chirality that exist only through one another.


MAX_ATOMS = 100

# What an ordinary text has none of: maps, dummies, isotopes, hydrogens as atoms, and carbon atoms that have none, as in
# SELFIES. The pattern looks for a single
# character: with a longer one `re` allocates so much that the C library tidies its free lists before every parse, up to
# a tenth of its time.
_UNUSUAL = re.compile(r"[^A-Za-z0-9@+\-\[\]()=#/\\.%]")
_UNUSUAL_ATOMS = (*(f"[{sign}" for sign in "H0123456789"), "[C]")
_MAX_LENGTH, _MAX_DOTS = 256, 20  # within every limit on texts
_MARK = re.compile("@@?")

_UNSANITIZED = Chem.SmilesParserParams()
_UNSANITIZED.sanitize = False  # type: ignore[assignment]  # its stub is wrong
_UNSANITIZED.removeHs = False  # type: ignore[assignment]
# Without brackets there are no metals, chirality marks or radicals, so these steps of sanitising change nothing.
_FLAGS = Chem.SanitizeFlags
_NO_BRACKETS = int(_FLAGS.SANITIZE_ALL) & ~int(
    _FLAGS.SANITIZE_CLEANUP_ORGANOMETALLICS
    | _FLAGS.SANITIZE_CLEANUPATROPISOMERS
    | _FLAGS.SANITIZE_CLEANUPCHIRALITY
    | _FLAGS.SANITIZE_FINDRADICALS
)
_WITH_LABEL = Chem.RWMol()
_WITH_LABEL.AddAtom(rdqueries.HasPropQueryAtom("_CIPCode"))


@dataclass(frozen=True)
class Rewritten:
    """A molecule's canonical SMILES and the molecule as it was given.

    Attributes:
        smiles: canonical isomeric SMILES.
        binary: RDKit's binary form of the molecule, without properties, atoms in the order of the given text.
        written: the numbers of its atoms as `smiles` names them, as RDKit's text, `[2,0,1]`.
    """

    smiles: str
    binary: bytes
    written: str


def parse_ordinary(text: str) -> Chem.Mol | None:
    """What `Chem.MolFromSmiles` makes of an ordinary SMILES, atoms as written; None for any other, valid or not.

    `Chem.MolFromSmiles` also looks for centres of chirality that the text leaves open, a fifth of its time. No feature
    and no canonical SMILES depends on those.

    Args:
        text: a SMILES; blanks around it are ignored.
    """
    text = text.strip()
    mol = _parsed(text)
    if mol is None:
        return None
    try:
        if "[" in text:
            Chem.SanitizeMol(mol)
        else:
            Chem.SanitizeMol(mol, _NO_BRACKETS)
    except Chem.MolSanitizeException:
        return None
    if "@" in text or "/" in text or "\\" in text:
        Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    return mol


def parse_canonical(smiles: str) -> Chem.Mol | None:
    """The molecule of a canonical SMILES as far as Morgan fingerprints see it, at a third of the cost of a full parse.

    RDKit writes canonical SMILES of molecules it has sanitised, so aromaticity and charges are as they should be in the
    text already; only hydrogens are counted and rings found. There are no ring sizes, hybridisation or stereo.

    Args:
        smiles: as `rewrite` or `parse_smiles` give it; of any other spelling the result is wrong.

    Returns:
        None for what is not ordinary, as in `parse_ordinary`.
    """
    mol = _parsed(smiles)
    if mol is not None:
        mol.UpdatePropertyCache(False)
        Chem.FastFindRings(mol)
    return mol


def _parsed(text: str) -> Chem.Mol | None:
    """An ordinary molecule as the text has it; None for any other text."""
    mol = Chem.MolFromSmiles(text, _UNSANITIZED) if _is_ordinary(text) else None
    return mol if mol is not None and 0 < mol.GetNumAtoms() <= MAX_ATOMS else None


def _is_ordinary(text: str) -> bool:
    if not 0 < len(text) <= _MAX_LENGTH or _UNUSUAL.search(text) is not None:
        return False
    if "." in text and text.count(".") > _MAX_DOTS:
        return False
    return not ("[" in text and any(sign in text for sign in _UNUSUAL_ATOMS))


def rewrite(text: str) -> Rewritten | None:
    """The canonical SMILES of an ordinary molecule; None for anything else, and then `parse_smiles` knows more.

    Args:
        text: a SMILES; blanks around it are ignored.
    """
    mol = parse_ordinary(text)
    if mol is None:
        return None
    smiles = Chem.MolToSmiles(mol)
    if _marks_too_much(text, smiles) or not _centres_are_labelled(mol, smiles):
        return None
    return Rewritten(smiles, mol.ToBinary(0), mol.GetProp("_smilesAtomOutputOrder"))


def _marks_too_much(text: str, smiles: str) -> bool:
    """Whether a text has an aromatic atom or a centre that the canonical SMILES does not have as such.

    RDKit's hybridisation of sulfur and of heavier atoms follows that mark, and so may the charges of phosphorus; a
    parse of the canonical SMILES gives what they are without it.
    """
    return (
        text.count("s") > smiles.count("s")  # s, se, si; other symbols with these letters are the same in both
        or text.count("p") > smiles.count("p")
        or text.count("a") > smiles.count("a")  # as
        or text.count("t") > smiles.count("t")  # te
        or ("@" in text and len(_MARK.findall(text)) > len(_MARK.findall(smiles)))
    )


def _centres_are_labelled(mol: Chem.Mol, smiles: str) -> bool:
    """Whether each centre of chirality in a canonical SMILES has a label; one that exists through others has none."""
    marks = len(_MARK.findall(smiles)) if "@" in smiles else 0
    return not marks or marks == len(mol.GetSubstructMatches(_WITH_LABEL, uniquify=False))


# The molecule of a graph: what a parse of its canonical SMILES gives, without that parse.
#
# Descriptors and fingerprints follow the order of atoms, of bonds and of rings. A graph has atoms and bonds in the
# order of the canonical SMILES, so the molecule that is built from it has them too, and RDKit finds the same rings in
# it. The text adds what a graph does not have: which atoms are in brackets, and the directions beside double bonds.

_ATOM = re.compile(r"([/\\]?)(\[[^\[\]]{1,60}\]|Br|Cl|[BCNOPSFIbcnops])")
_OPENING = itemgetter(0)
_DIRECTIONS = {"/": Chem.BondDir.ENDUPRIGHT, "\\": Chem.BondDir.ENDDOWNRIGHT}
_BONDS = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC)
_TAGS = tuple(Chem.ChiralType.names[name] for name in CHIRALITY_NAMES[: _COUNTERCLOCKWISE + 1])
_MOST_CHARGE, _MOST_HYDROGENS = 2 * NEUTRAL_CHARGE_INDEX, 8  # beyond, features share an index


def molecule_of(smiles: str, graph: MolecularGraph) -> Chem.Mol | None:
    """The molecule that `Chem.MolFromSmiles` makes of a canonical SMILES, without a parse of it.

    Equal to it in every atom, bond, ring and property, in the same order.

    Args:
        smiles: canonical.
        graph: its graph, hydrogens implicit.

    Returns:
        None where only a parse can tell, as for the molecules that `rewrite` leaves out.
    """
    mol = _built(smiles, graph)
    if mol is None:
        return None
    try:
        Chem.SanitizeMol(mol)
    except Chem.MolSanitizeException:  # read with relaxed valences
        return None
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True, flagPossibleStereoCenters=True)
    return mol if _centres_are_labelled(mol, smiles) else None


def fingerprint_molecule_of(smiles: str, graph: MolecularGraph) -> Chem.Mol | None:
    """The same as far as Morgan fingerprints see it, as `parse_canonical` has it."""
    mol = _built(smiles, graph)
    if mol is not None:
        mol.UpdatePropertyCache(False)
        Chem.FastFindRings(mol)
    return mol


def _built(smiles: str, graph: MolecularGraph) -> Chem.RWMol | None:
    """Atoms and bonds as the parser has them before it sanitises; None where text and graph do not have them all."""
    if not _is_ordinary(smiles) or not is_plain(smiles) or graph.num_atoms > MAX_ATOMS:
        return None
    written = _ATOM.findall(smiles)
    if len(written) != graph.num_atoms:  # hydrogens are explicit
        return None
    number_N, tag_N, _, charge_N, hydrogens_N, _, _, aromatic_N, _ = graph.node_features_NF.T.tolist()
    signs, texts = zip(*written, strict=True)
    found = map(_atom, map(_OPENING, texts), number_N, tag_N, charge_N, hydrogens_N, aromatic_N)
    atoms = [atom for atom in found if atom is not None]
    kinds = graph.bond_features_UF[:, 0].tolist()
    if len(atoms) < len(texts) or max(kinds, default=0) >= len(_BONDS):
        return None
    mol = Chem.RWMol()
    deque(map(mol.AddAtom, atoms), maxlen=0)
    deque(map(mol.AddBond, *graph.bonds_U2.T.tolist(), map(_BONDS.__getitem__, kinds)), maxlen=0)
    if "/" in smiles or "\\" in smiles:
        _set_directions(mol, signs)
    return mol


@lru_cache(maxsize=4096)
def _atom(opening: str, number: int, tag: int, charge: int, hydrogens: int, aromatic: int) -> Chem.Atom | None:
    """An atom as the parser makes it of `C`, or of `[CH3-]`, whose hydrogens the text names; None for one it may not.

    Args:
        opening: the first character of its text.
        number: index of the atomic number; this and the following are features of the graph.
        tag: index of the chirality tag.
        charge: index of the formal charge.
        hydrogens: number of hydrogens bound to it.
        aromatic: 1 if it is aromatic.
    """
    if tag >= len(_TAGS) or charge > _MOST_CHARGE or hydrogens > _MOST_HYDROGENS:
        return None
    atom = Chem.Atom(number + 1)
    atom.SetChiralTag(_TAGS[tag])
    atom.SetFormalCharge(charge - NEUTRAL_CHARGE_INDEX)
    atom.SetIsAromatic(bool(aromatic))
    if opening == "[":
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(hydrogens)
    return atom


def _set_directions(mol: Chem.RWMol, signs: Sequence[str]) -> None:
    """Set the direction of each bond that has `/` or `\\`, which stand before the later of its two atoms."""
    for bond in mol.GetBonds():
        sign = signs[bond.GetEndAtomIdx()]
        if sign and bond.GetBeginAtomIdx() < bond.GetEndAtomIdx():  # no ring closure, which begins at the later one
            bond.SetBondDir(_DIRECTIONS[sign])
