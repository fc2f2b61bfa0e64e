"""Which molecules are one, and which standard form a model sees, if that is asked for.

A molecule can be drawn with separated charges, with dative bonds or with neither: `C[S+](C)[O-]` is `CS(C)=O`. The
identity is the canonical SMILES of one of these forms, with stereochemistry. Duplicates, leaks, contradictions, splits
and exclusions are found by it. Where stereoisomers and tautomers are to be one molecule too, it is the connectivity
key. Salts, charge states and other tautomers stay apart."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

from rdkit import Chem
from rdkit.Chem import inchi
from rdkit.Chem.MolStandardize import rdMolStandardize

from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.parse import molecule_from_mol, parse_smiles, read_smiles, sanitize_without_valence, without_isotopes

# Salts, solvates and charges: the one form of a molecule that a model learns and predicts, if that is asked for.
#
# The largest organic part of a molecule, neutral where protons make it so: `CC(=O)[O-].[Na+]` is `CC(=O)O`. Both steps
# are those of RDKit's MolStandardize. Tautomers stay as they are written, and so does what RDKit's valence check
# refuses.

_LIKE_SIZE = 0.5  # of the heavy atoms of the largest part: a second part as large as that is no counter-ion
_LIGHT = ("H", "*")
_ELEMENT = re.compile(r"\[\d{0,5}([A-Z][a-z]?|[a-z][a-z]?|\*)[^\[\]]{0,60}\]|(Br|Cl|[BCNOPSFIbcnops*])")


def molecule_for_model(text: str, standardize: bool) -> Molecule | InvalidMolecule:
    """What a model sees of a SMILES: the usual isotopes, and the standard form where the model has it."""
    given = without_isotopes(parse_smiles(text))
    return standard_form(given) if standardize else given


def standard_form(molecule: Molecule | InvalidMolecule) -> Molecule | InvalidMolecule:
    """The largest organic part, neutral; `molecule` itself where that is what it is."""
    if isinstance(molecule, InvalidMolecule) or molecule.relaxed or not may_change(molecule.smiles):
        return molecule
    chooser, uncharger = _steps()
    try:
        found = molecule_from_mol(uncharger.uncharge(chooser.choose(molecule.mol)))[0]
    except (Chem.MolSanitizeException, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:150]
        return InvalidMolecule(f"RDKit cannot standardize it: {said}", "standardize", molecule.smiles)
    return molecule if isinstance(found, Molecule) and found.smiles == molecule.smiles else found


@cache
def _steps() -> tuple[Any, Any]:
    parameters: Any = rdMolStandardize.CleanupParameters()
    parameters.preferOrganic = True
    return rdMolStandardize.LargestFragmentChooser(parameters), rdMolStandardize.Uncharger()


def may_change(smiles: str) -> bool:
    """Whether a canonical SMILES has parts or charges; all others are in their standard form."""
    return "." in smiles or "+" in smiles or "-" in smiles


def organic_parts(smiles: str) -> list[int]:
    """Heavy atoms of each different part of a canonical SMILES that has carbon, the largest first."""
    parts = [[*map("".join, _ELEMENT.findall(part))] for part in dict.fromkeys(smiles.split("."))]
    heavy = [sum(name not in _LIGHT for name in names) for names in parts if "C" in names or "c" in names]
    return sorted(heavy, reverse=True)


def is_mixture(smiles: str) -> bool:
    """Whether two different parts have carbon, the second half as large as the first; no salts or solvates."""
    sizes = organic_parts(smiles)
    return len(sizes) > 1 and sizes[1] >= _LIKE_SIZE * sizes[0]


_BLOCK = 14
_MAY_DIFFER = re.compile(
    r"->|<-|N#\[N\+\]|\[N\+\]#N|\[\d{0,5}(?:Cl|Br|I|Se?|P|Te|As|Sb|Bi|se?|p|te|as)(?![a-z])[^\[\]]*\+"
)
"""What a canonical SMILES has in it that may be drawn otherwise; all others are their own identity, without a parse."""

_CENTRES = frozenset({15, 16, 17, 33, 34, 35, 51, 52, 53, 83})  # P, S, Cl and what is below them: four bonds or more
_PARTNERS = (8, 16, 34, 52, 7, 6)  # the first of these takes the double bond where there is a choice
_SINGLE, _DOUBLE, _DATIVE = Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.DATIVE
_AZIDE = Chem.MolFromSmarts("[N-,C-]-[N+]#[N;D1;+0]")


@lru_cache(maxsize=2**16)
def molecule_identity(smiles: str) -> str:
    """What two canonical SMILES share if, and only if, they are one molecule.

    Args:
        smiles: canonical, as a parsed `Molecule` has it.

    Returns:
        The canonical SMILES of the unified form; `smiles` itself where that can't be made.

    Example:
        >>> molecule_identity("C[S+](C)[O-]")
        'CS(C)=O'
    """
    if _MAY_DIFFER.search(smiles) is None:
        return smiles
    read = read_smiles(smiles)
    if isinstance(read, InvalidMolecule):
        return smiles
    unified = unified_form(read[0])
    return smiles if unified is None else str(Chem.MolToSmiles(unified))


def identities_of(smiles: Iterable[str]) -> list[str]:
    """`molecule_identity` of each."""
    return list(map(molecule_identity, smiles))


def connectivity_key(mol: Chem.Mol) -> str:
    """The key by which molecules are left out, whatever their stereochemistry.

    It is the first block of the InChIKey of the unified form, a hash of formula and connectivity: stereoisomers,
    isotopologues and most tautomers share it. Where InChI has no answer, as for dummy atoms, it is the canonical SMILES
    without stereochemistry.
    """
    unified = unified_form(mol) if _MAY_DIFFER.search(Chem.MolToSmiles(mol)) else mol
    mol = mol if unified is None else unified
    key = inchi.MolToInchiKey(mol)  # type: ignore[no-untyped-call]
    if key:
        return str(key[:_BLOCK])
    plain = Chem.Mol(mol)
    for atom in plain.GetAtoms():
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
    return str(Chem.MolToSmiles(plain, isomericSmiles=False))


def unified_form(mol: Chem.Mol) -> Chem.Mol | None:
    """A copy of a sanitised molecule in which dative bonds are charges, and charges double bonds where they can be.

    Returns:
        The copy in RDKit's own spelling; None where it can't be sanitised.
    """
    made = Chem.RWMol(mol)
    try:
        Chem.Kekulize(made, clearAromaticFlags=True)
        _open_dative_bonds(made)
        _move_azide_charges(made)
        _close_charges(made)
        sanitize_without_valence(made)
        reread = Chem.MolFromSmiles(Chem.MolToSmiles(made))  # aromaticity as of a molecule that was read
    except (Chem.MolSanitizeException, RuntimeError, ValueError):
        return None
    return reread if reread is not None else made.GetMol()


def _freeze_hydrogens(atom: Chem.Atom) -> None:
    atom.SetNumExplicitHs(atom.GetTotalNumHs())
    atom.SetNoImplicit(True)


def _open_dative_bonds(mol: Chem.RWMol) -> None:
    """`donor->acceptor` becomes `[donor+]-[acceptor-]`."""
    bonds = [bond for bond in mol.GetBonds() if bond.GetBondType() == _DATIVE]
    for atom in {atom.GetIdx(): atom for bond in bonds for atom in (bond.GetBeginAtom(), bond.GetEndAtom())}.values():
        _freeze_hydrogens(atom)
    for bond in bonds:
        donor, acceptor = bond.GetBeginAtom(), bond.GetEndAtom()
        bond.SetBondType(_SINGLE)
        donor.SetFormalCharge(donor.GetFormalCharge() + 1)
        acceptor.SetFormalCharge(acceptor.GetFormalCharge() - 1)
        if acceptor.GetAtomicNum() == 8 and acceptor.GetDegree() == 1:
            acceptor.SetNumExplicitHs(0)  # the oxygen of `O<-n`, to which RDKit gives a hydrogen


def _move_azide_charges(mol: Chem.RWMol) -> None:
    """`[N-]-[N+]#N` becomes `N=[N+]=[N-]`."""
    for first, middle, last in mol.GetSubstructMatches(_AZIDE):
        begin, end = mol.GetAtomWithIdx(first), mol.GetAtomWithIdx(last)
        for atom in (begin, end):
            _freeze_hydrogens(atom)
        mol.GetBondBetweenAtoms(first, middle).SetBondType(_DOUBLE)
        mol.GetBondBetweenAtoms(middle, last).SetBondType(_DOUBLE)
        begin.SetFormalCharge(0)
        end.SetFormalCharge(-1)


def _close_charges(mol: Chem.RWMol) -> None:
    """`[S+]-[O-]` becomes `S=O`, and so for the elements below and beside sulfur, as long as there is such a pair."""
    ranks = list(Chem.CanonicalRankAtoms(mol))

    def preference(atom: Chem.Atom) -> tuple[int, int]:
        return _PARTNERS.index(atom.GetAtomicNum()), ranks[atom.GetIdx()]

    centres = [atom for atom in mol.GetAtoms() if atom.GetAtomicNum() in _CENTRES and atom.GetFormalCharge() > 0]
    for centre in sorted(centres, key=lambda atom: ranks[atom.GetIdx()]):
        partners = [
            atom
            for atom in centre.GetNeighbors()
            if atom.GetFormalCharge() < 0
            and atom.GetAtomicNum() in _PARTNERS
            and mol.GetBondBetweenAtoms(centre.GetIdx(), atom.GetIdx()).GetBondType() == _SINGLE
        ]
        for partner in sorted(partners, key=preference)[: centre.GetFormalCharge()]:
            for atom in (centre, partner):
                _freeze_hydrogens(atom)
            mol.GetBondBetweenAtoms(centre.GetIdx(), partner.GetIdx()).SetBondType(_DOUBLE)
            centre.SetFormalCharge(centre.GetFormalCharge() - 1)
            partner.SetFormalCharge(partner.GetFormalCharge() + 1)
