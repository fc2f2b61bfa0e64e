"""Recognise a text that is not a SMILES (a name, an InChI, a CAS number, SELFIES …) for the reason of its row.

Apart from `parse`, which asks it after RDKit has failed: nothing here reads a molecule.
"""

from __future__ import annotations

import re

_LONGEST = 4096
_CAS = re.compile(r"\d{2,7}-\d\d-\d")
_INCHIKEY = re.compile(r"(?:InChIKey=)?[A-Z]{14}-[A-Z]{10}-[A-Z]", re.IGNORECASE)
_SELFIES = re.compile(r"(?:\[[^\[\]\s]{1,24}\]\.?){2,}")
_SELFIES_TOKEN = re.compile(r"\[(?:[=#/\\]?(?:Branch|Ring)\d|[=#/\\-]{1,2}\w*|Expl[=#]Ring\d|nop)\]")
_BARE_ATOMS = re.compile(r"(?:\[(?:C|N|O|S|P|F|Cl|Br|I)\]){2,}")
_SMARTS = re.compile(r"\[[^\]]{0,40}[;,!&][^\]]{0,40}\]|\[#\d+\]|~|\$\(")
_PEPTIDE = re.compile(r"[ACDEFGHIKLMNPQRSTVWY]{3,}")
_PEPTIDE_CODES = re.compile(r"(?:[A-Z][a-z]{2})(?:-[A-Z][a-z]{2})+")
_FORMULA = re.compile(r"(?:[A-Z][a-z]?\d*){1,20}")
_SYMBOL = re.compile(r"[A-Z][a-z]?")
_DATABASE = re.compile(
    r"(?:CHEMBL|CID|SID|DB|ZINC|DTXSID|DTXCID|CHEBI:|NSC|MFCD|SCHEMBL|BDBM)[ -]?\d{2,15}", re.IGNORECASE
)
_ONLY_PEPTIDE, _HYDROGENS = re.compile(r"[ADEGHKLMQRTVWY]"), re.compile(r"H\d|H(?![a-z])")
_SMILES_AND_MORE = re.compile(r"(?:Br|Cl|[BCNOPSFIbcnops*]|\[[^\]\s]{1,40}\]|[-=#$:/\\.()]|%\d\d|\d)+\s")
_NO_NAMES = {"nan", "none", "null", "n/a", "missing"}
_NAME = re.compile(r"[A-Za-z0-9,'()\[\]+\-\s./]*[a-z]{3}[A-Za-z0-9,'()\[\]+\-\s./]*")
_SMILES_SIGNS = re.compile(r"[=#@\\]|[BCNOPSFIcnops]\d|\)\w*\(")


def foreign_notation(text: str) -> str | None:
    """What a text is that can't be read as a SMILES, in words; None where that can't be told.

    Every pattern takes time linear in the length, or in the length times a small bound.

    Args:
        text: without blanks around it.
    """
    if not text or len(text) > _LONGEST:
        return None
    if text.startswith(("InChI=", "1S/", "AuxInfo=")):
        return "an InChI"
    if _INCHIKEY.fullmatch(text):
        return "an InChIKey"
    if _CAS.fullmatch(text):
        return "a CAS number"
    if _DATABASE.fullmatch(text):
        return "a number of a database"
    if text.startswith(("PEPTIDE", "RNA1", "CHEM1")) and "{" in text:
        return "a peptide in HELM"
    if is_selfies(text) or (_SELFIES.fullmatch(text) and _SELFIES_TOKEN.search(text)):
        return "SELFIES"
    if text.count(">") >= 2:
        return "a reaction"
    if _SMARTS.search(text):
        return "SMARTS"
    return _word(text)


def is_selfies(text: str) -> bool:
    """Whether a text that is a SMILES too is SELFIES: `[C][C][O]`, which as SMILES are atoms without hydrogens."""
    return "[C]" in text and _BARE_ATOMS.fullmatch(text) is not None


def _word(text: str) -> str | None:
    """A name, a peptide or a formula; the kinds that only look unlike a SMILES."""
    if text.lower() in _NO_NAMES or _SMILES_AND_MORE.match(text):
        return None
    if _PEPTIDE_CODES.fullmatch(text) or (_PEPTIDE.fullmatch(text) and _ONLY_PEPTIDE.search(text)):
        return "a peptide"
    if _NAME.fullmatch(text) and not _SMILES_SIGNS.search(text):
        return "a name"
    return "a formula" if _is_formula(text) else None


def _is_formula(text: str) -> bool:
    """Whether a text is made of symbols of elements and numbers, with hydrogen among them."""
    if not _FORMULA.fullmatch(text) or not _HYDROGENS.search(text) or not any(map(str.isdigit, text)):
        return False
    from rdkit import Chem  # few texts come so far

    elements = {Chem.GetPeriodicTable().GetElementSymbol(number) for number in range(1, 119)}
    return elements.issuperset(_SYMBOL.findall(text))
