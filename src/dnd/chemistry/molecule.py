"""A molecule or the reason why there is none, the limits that it must keep, and its arrays: graph and conformers.

Neither RDKit nor torch is loaded here: a training machine needs no RDKit, and what only makes graphs starts several
times faster without torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int, Integer

if TYPE_CHECKING:
    from rdkit import Chem

# What a molecule may be: rules on its text that hold before RDKit sees it, and bounds on what it may parse to.
#
# RDKit's time grows faster than the text: 5,001 characters of linear polyphenylene took 3.1 s, 100,001 ring digits
# 15 s, and canonicalising 10,000 carbons 3.3 s (two-core CPU machine, RDKit 2026.03).


@dataclass(frozen=True)
class Limits:
    """Bounds on one molecule.

    Attributes:
        text_bytes: longest SMILES.
        atom_tokens: most atoms written in a SMILES, hydrogens in brackets included.
        ring_digits: most ring-closure digits.
        nesting: deepest parentheses.
        heavy_atoms: most atoms after parsing. The largest molecule of the ten OGB sets has under 500.
        fragments: most disconnected parts. The ten OGB sets reach 20.
        molblock_bytes: longest record of an SDF.
        molblock_atoms: most atoms of an SDF record, hydrogens included.
    """

    text_bytes: int = 4096
    atom_tokens: int = 1024
    ring_digits: int = 1024
    nesting: int = 256
    heavy_atoms: int = 512
    fragments: int = 32
    molblock_bytes: int = 2**20
    molblock_atoms: int = 2048


LIMITS = Limits()

CLOSEST_APPROACH = 0.3
"""Angstrom. No two nuclei of a molecule come closer (H2: 0.74); below lie broken files."""

_ATOM_TOKEN = re.compile(r"\[[^\[\]]*\]|Br|Cl|[BCNOPSFIbcnops*]")
_NOT_PRINTABLE = re.compile(r"[^!-~]")


def text_problem(text: str, limits: Limits = LIMITS) -> str | None:
    """Why `text` can't be a SMILES we accept, in time linear in its length; None when it may be one.

    RDKit itself accepts the empty string, ignores some characters beyond ASCII at the end and takes text after a
    blank for a name, so these are settled here.

    Args:
        text: a SMILES without blanks around it.
        limits: the bounds.
    """
    if not text:
        return "empty SMILES"
    if len(text) > limits.text_bytes:
        return f"SMILES of {len(text)} characters, at most {limits.text_bytes} are read"
    text = without_extension(text)
    odd = _NOT_PRINTABLE.search(text)
    if odd is not None and odd.group() in " \t":
        return f"text after a blank at position {odd.start() + 1}; a name belongs in a column of its own"
    if odd is not None:
        return f"character {odd.group()!a} at position {odd.start() + 1} is not printable ASCII"
    if "~" in text:
        return "~ stands for a bond of any kind, so this is a query, not a molecule"
    tokens = len(_ATOM_TOKEN.findall(text))
    if tokens == 0:
        return "no atom in the SMILES"
    if tokens > limits.atom_tokens:
        return f"{tokens} atoms written, at most {limits.atom_tokens} are read"
    outside = _ATOM_TOKEN.sub("", text)
    if sum(map(outside.count, "0123456789")) > limits.ring_digits:
        return f"more than {limits.ring_digits} ring-closure digits"
    if outside.count(".") >= limits.fragments:
        return f"{outside.count('.') + 1} fragments, at most {limits.fragments} are read"
    deepest = _nesting(outside) if outside.count("(") > limits.nesting else 0
    return f"parentheses {deepest} deep, at most {limits.nesting} are read" if deepest > limits.nesting else None


def without_extension(text: str) -> str:
    """A SMILES without the extension of CXSMILES, which stands in bars behind it."""
    bar = text.find("|")
    is_one = bar > 1 and text[bar - 1] in " \t" and text.endswith("|") and text.count("|") == 2
    return text[:bar].rstrip() if is_one else text


def molecule_problem(num_atoms: int, limits: Limits = LIMITS) -> str | None:
    """Why a parsed molecule of `num_atoms` atoms, hydrogens not counted, is refused; None when it's not."""
    if num_atoms == 0:
        return "no atom in the molecule"
    if num_atoms > limits.heavy_atoms:
        return f"{num_atoms} atoms without hydrogens, at most {limits.heavy_atoms} are read"
    return None


def _nesting(outside: str) -> int:
    depth = deepest = 0
    for character in outside:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest


# The two outcomes of every parse: a molecule, or the reason why there is none.


@dataclass(frozen=True)
class Molecule:
    """A parsed molecule in canonical atom order.

    Attributes:
        mol: RDKit molecule, hydrogens implicit, atoms and bonds as `Chem.MolFromSmiles(smiles)` numbers them.
        smiles: canonical isomeric SMILES.
        relaxed: RDKit's valence check refuses this molecule; it was read without that check.
    """

    mol: Chem.Mol
    smiles: str
    relaxed: bool = False

    @property
    def ok(self) -> Literal[True]:
        """Always True; tells the two outcomes apart."""
        return True


@dataclass(frozen=True)
class InvalidMolecule:
    """A text that is not accepted as a molecule.

    Attributes:
        reason: what is wrong, in words for the `error` column.
        stage: `limits` (refused before RDKit saw it), `parse` (syntax), `chemistry` (valence, aromaticity) or
            `canonical` (no stable canonical form).
        text: the text as given.
    """

    reason: str
    stage: str
    text: str

    @property
    def ok(self) -> Literal[False]:
        """Always False; tells the two outcomes apart."""
        return False


# Sizes and meanings of OGB's 9 atom and 3 bond features.
#
# Source: Hu et al., "Open Graph Benchmark" (NeurIPS 2020), package ogb 1.3.6, `ogb/utils/features.py`. The last index
# of a feature takes every value that is not listed, except for the last two atom features and for the bond stereo,
# which OGB leaves without such an index.


ATOM_FEATURE_NAMES = (
    "atomic_number",
    "chirality",
    "degree",
    "formal_charge",
    "num_hydrogens",
    "num_radical_electrons",
    "hybridization",
    "is_aromatic",
    "is_in_ring",
)
"""Columns of `node_features_NF`. Index 0 of `atomic_number` is hydrogen, index 5 of `formal_charge` is neutral."""

BOND_FEATURE_NAMES = ("bond_type", "bond_stereo", "is_conjugated")
"""Columns of `bond_features_UF`."""

ATOM_FEATURE_SIZES = (119, 5, 12, 12, 10, 6, 6, 2, 2)
"""Number of indices of each atom feature."""

BOND_FEATURE_SIZES = (5, 6, 2)
"""Number of indices of each bond feature."""

NUM_ATOM_FEATURES = len(ATOM_FEATURE_SIZES)
NUM_BOND_FEATURES = len(BOND_FEATURE_SIZES)

CHIRALITY_NAMES = ("CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW", "CHI_OTHER")
HYBRIDIZATION_NAMES = ("SP", "SP2", "SP3", "SP3D", "SP3D2")
BOND_TYPE_NAMES = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
BOND_STEREO_NAMES = ("STEREONONE", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS", "STEREOANY")

NEUTRAL_CHARGE_INDEX = 5
"""`formal_charge` index minus this is the charge, from -5 to +5."""

FEATURE_VERSION = 1
"""Raised when the same molecule would get other features or another atom order; stores and models carry it."""


# One molecule's arrays, as features and store hand them on.


@dataclass(frozen=True)
class MolecularGraph:
    """A 2D molecular graph with OGB's features.

    Attributes:
        node_features_NF: `(atoms, 9)` integers, column 0 is the atomic number minus 1; see `graphs.features`.
        bonds_U2: `(bonds, 2)` atom indices, each bond once, begin before end as RDKit stores it.
        bond_features_UF: `(bonds, 3)` integers.
    """

    node_features_NF: Integer[np.ndarray, "atoms 9"]
    bonds_U2: Integer[np.ndarray, "bonds 2"]
    bond_features_UF: Integer[np.ndarray, "bonds 3"]

    @property
    def num_atoms(self) -> int:
        """Number of atoms."""
        return len(self.node_features_NF)

    @property
    def num_bonds(self) -> int:
        """Number of bonds, each counted once."""
        return len(self.bonds_U2)


@dataclass(frozen=True)
class Conformers:
    """J geometries of one molecule, in the atom order of its graph.

    Attributes:
        atomic_numbers_A: `(conformer atoms,)` atomic numbers. Atom `i < graph.num_atoms` is graph atom `i`; atoms
            beyond are hydrogens that the graph leaves implicit.
        positions_JA3: `(conformers, conformer atoms, 3)` in angstrom.
    """

    atomic_numbers_A: Int[np.ndarray, "atoms"]
    positions_JA3: Float[np.ndarray, "conformers atoms 3"]
