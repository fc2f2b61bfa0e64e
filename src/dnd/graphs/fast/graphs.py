"""SMILES to graphs, many at a time: a quick way for ordinary molecules, the parser and calls per atom for others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from rdkit import Chem
from rdkit.Chem import rdqueries

from dnd.chemistry.density import may_be_dense
from dnd.chemistry.molecule import InvalidMolecule
from dnd.chemistry.parse import read_smiles
from dnd.graphs.fast.flat_graphs import DEGREE, FlatGraphs, in_written_order, is_plain, read_binaries
from dnd.graphs.features import featurize
from dnd.graphs.molecular_graph import MolecularGraph

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
    """The molecule of a canonical SMILES as far as fingerprints see it, at a third of the cost of a full parse.

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
    if not 0 < len(text) <= _MAX_LENGTH or _UNUSUAL.search(text) is not None:
        return None
    if "." in text and text.count(".") > _MAX_DOTS:
        return None
    if "[" in text and any(sign in text for sign in _UNUSUAL_ATOMS):
        return None
    mol = Chem.MolFromSmiles(text, _UNSANITIZED)
    return mol if mol is not None and 0 < mol.GetNumAtoms() <= MAX_ATOMS else None


def rewrite(text: str) -> Rewritten | None:
    """The canonical SMILES of an ordinary molecule; None for anything else, and then `parse_smiles` knows more.

    Args:
        text: a SMILES; blanks around it are ignored.
    """
    mol = parse_ordinary(text)
    if mol is None:
        return None
    smiles = Chem.MolToSmiles(mol)
    marks = len(_MARK.findall(smiles)) if "@" in smiles else 0
    if marks and marks != len(mol.GetSubstructMatches(_WITH_LABEL, uniquify=False)):
        return None
    return Rewritten(smiles, mol.ToBinary(0), mol.GetProp("_smilesAtomOutputOrder"))
