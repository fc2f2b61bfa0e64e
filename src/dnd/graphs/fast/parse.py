"""What a graph needs of a SMILES at the least cost: one parse and one canonical SMILES, for ordinary molecules.

`parse_smiles` parses the canonical SMILES again, and writes that again to see that it no longer changes. Here both are
left out where they are known to change nothing: for molecules of up to 100 atoms without isotopes, dummies, hydrogens
as atoms or centres of chirality that exist only through one another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rdkit import Chem
from rdkit.Chem import rdqueries

MAX_ATOMS = 100

# What an ordinary text has none of: maps, dummies, isotopes and hydrogens as atoms. The pattern looks for a single
# character: with a longer one `re` allocates so much that the C library tidies its free lists before every parse, up to
# a tenth of its time.
_UNUSUAL = re.compile(r"[^A-Za-z0-9@+\-\[\]()=#/\\.%]")
_ISOTOPES_AND_HYDROGENS = tuple(f"[{sign}" for sign in "H0123456789")
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
    if "[" in text and any(sign in text for sign in _ISOTOPES_AND_HYDROGENS):
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
