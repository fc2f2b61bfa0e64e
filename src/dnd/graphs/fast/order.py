"""Graphs in the atom and bond order of a canonical SMILES, without parsing it.

RDKit's parser numbers atoms as they're written. Bonds: first each atom's bond to the atom it's written behind, in the
order of the atoms, then the bonds that ring digits close, by digit and of one digit as they're written; these begin
at the later atom (`SmilesParseOps::CloseMolRings`). `@` says how neighbours turn in the order of the text, RDKit's tag
how bonds turn in the order of their numbers (`AdjustAtomChiralityFlags`): between the two are as many swaps as are
counted here. A SMILES is a depth-first walk, so of an atom's neighbours before it the last is the one it's written
behind, and all others are joined by ring digits.

This holds for the texts that `is_plain` lets through; all others have to be parsed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from dnd.graphs.fast.binary import FlatGraphs
from dnd.graphs.molecular_graph import CHIRALITY_NAMES

_CHIRALITY, _DEGREE, _HYDROGENS = 1, 2, 4  # columns
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
    """What the texts of a batch say; atoms are counted over all of them.

    Attributes:
        atoms_B: atoms written in each text.
        digits_D: the atom before each ring digit, in the order of the texts.
        ranks_D: the place of the bond it closes among all such bonds, in the parser's order.
        closures_R2: earlier and later atom of these bonds, in that order.
        marks_H: atoms with `@` or `@@`.
        doubled_H: which of them have `@@`.
    """

    atoms_B: Int[np.ndarray, "molecules"]
    digits_D: Int[np.ndarray, "digits"]
    ranks_D: Int[np.ndarray, "digits"]
    closures_R2: Int[np.ndarray, "closures 2"]
    marks_H: Int[np.ndarray, "marks"]
    doubled_H: Bool[np.ndarray, "marks"]


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
    molecule_M = np.repeat(np.arange(len(smiles)), np.diff(graphs.bond_offsets))
    ends_M2 = np.sort(place_N[graphs.bonds_M2 + first_B[molecule_M, None]], axis=1)
    rank_M = _closure_ranks(ends_M2, texts.closures_R2, len(source_N))
    if rank_M is None:
        return None
    closes_M = rank_M >= 0
    last_M = graphs.atom_offsets[molecule_M + 1] - 1
    after = len(texts.closures_R2) + 1
    order_M = np.argsort(np.where(closes_M, last_M * after + rank_M + 1, ends_M2[:, 1] * after))
    bonds_M2 = np.where(closes_M[:, None], ends_M2[:, ::-1], ends_M2)[order_M] - first_B[molecule_M, None]
    features_NF = graphs.node_features_NF[source_N]
    features_NF[:, _CHIRALITY] = 0
    features_NF[texts.marks_H, _CHIRALITY] = _tags(texts, ends_M2, closes_M, features_NF[:, _HYDROGENS])
    return FlatGraphs(
        graphs.atom_offsets,
        graphs.bond_offsets,
        features_NF,
        bonds_M2,
        graphs.bond_features_MF[order_M],
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
    ranks_D = np.empty(len(at), dtype=np.int64)
    ranks_D[opening] = ranks_D[closing] = np.arange(len(opening))
    marks = np.flatnonzero((characters[1:] == ord("@")) & (characters[:-1] != ord("@"))) + 1
    return _Texts(
        np.bincount(text[starts], minlength=len(smiles)),
        atom[at],
        ranks_D,
        np.stack([atom[at[opening]], atom[at[closing]]], axis=1),
        atom[marks],
        characters[marks + 1] == ord("@"),
    )


def _closure_ranks(
    ends_M2: Int[np.ndarray, "bonds 2"], closures_R2: Int[np.ndarray, "closures 2"], atoms: int
) -> Int[np.ndarray, "bonds"] | None:
    """Which ring bond of the text each bond is, -1 for the others; None where the text has another bond."""
    rank_M = np.full(len(ends_M2), -1)
    codes_M, wanted_R = ends_M2 @ [1, atoms], closures_R2 @ [1, atoms]
    order = np.argsort(codes_M)
    found = np.searchsorted(codes_M, wanted_R, sorter=order)
    if (found == len(order)).any() or (codes_M[order[found]] != wanted_R).any():
        return None
    rank_M[order[found]] = np.arange(len(wanted_R))
    behind = ends_M2[rank_M < 0, 1]
    return None if len(np.unique(behind)) < len(behind) else rank_M


def _tags(
    texts: _Texts,
    ends_M2: Int[np.ndarray, "bonds 2"],
    closes_M: Bool[np.ndarray, "bonds"],
    hydrogens_N: Int[np.ndarray, "atoms"],
) -> Int[np.ndarray, "marks"]:
    """RDKit's tags: from text to bond order, ring bonds move behind branches, and among themselves by rank."""
    atoms, digits_D, ranks_D = len(hydrogens_N), texts.digits_D, texts.ranks_D
    degree_N, rings_N = np.bincount(ends_M2.ravel(), minlength=atoms), np.bincount(digits_D, minlength=atoms)
    behind_N = np.bincount(ends_M2[~closes_M, 1], minlength=atoms)
    swaps_N = rings_N * (degree_N - rings_N - behind_N)
    for gap in range(1, int(rings_N.max(initial=0))):
        swapped = (digits_D[gap:] == digits_D[:-gap]) & (ranks_D[:-gap] > ranks_D[gap:])
        swaps_N += np.bincount(digits_D[gap:][swapped], minlength=atoms)
    swaps_N += (behind_N == 0) & (degree_N == 3) & (hydrogens_N == 1)  # its hydrogen comes before all others
    clockwise = texts.doubled_H ^ (swaps_N[texts.marks_H] % 2 == 1)
    return np.where(clockwise, _CLOCKWISE, _COUNTERCLOCKWISE)
