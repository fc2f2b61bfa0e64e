"""Which molecules are one: the identity by which duplicates, leaks, contradictions, splits and exclusions are found.

A molecule can be drawn with separated charges, with dative bonds or with neither: `C[S+](C)[O-]` is `CS(C)=O`. The
identity is the canonical SMILES of one of these forms, with stereochemistry. Where stereoisomers and tautomers are to
be one molecule too, it is the connectivity key. Salts, charge states and other tautomers stay apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from rdkit import Chem
from rdkit.Chem import inchi

from dnd.chemistry.molecule import InvalidMolecule
from dnd.chemistry.parse import read_smiles, sanitize_without_valence

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
