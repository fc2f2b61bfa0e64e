"""Atom and bond features as OGB defines them, read from RDKit column by column.

`ogb.utils.smiles2graph` looks every value up in a list of strings. Here a column is one pass of C-level calls. Making
a Python object of an RDKit enum costs five times a call that returns an integer, so enums are read only where a
substructure query, which runs in C++, says that the atom or bond isn't of the common kind.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from rdkit import Chem
from rdkit.Chem import rdchem, rdqueries

from dnd.chemistry.molecule import (
    ATOM_FEATURE_SIZES,
    BOND_STEREO_NAMES,
    BOND_TYPE_NAMES,
    CHIRALITY_NAMES,
    HYBRIDIZATION_NAMES,
    NEUTRAL_CHARGE_INDEX,
    NUM_BOND_FEATURES,
    MolecularGraph,
)

_Atom, _Bond = rdchem.Atom, rdchem.Bond


def _table(enum: type, names: tuple[str, ...], other: int) -> tuple[int, ...]:
    """Index of each value of an RDKit enum by its number: its place in `names`, `other` where it has none."""
    values = {int(number): str(value) for number, value in enum.values.items()}  # type: ignore[attr-defined]
    return tuple(
        names.index(values[number]) if values.get(number) in names else other for number in range(max(values) + 1)
    )


CHIRALITY = _table(rdchem.ChiralType, CHIRALITY_NAMES, other=len(CHIRALITY_NAMES))
HYBRIDIZATION = _table(rdchem.HybridizationType, HYBRIDIZATION_NAMES, other=len(HYBRIDIZATION_NAMES))
BOND_TYPE = _table(rdchem.BondType, BOND_TYPE_NAMES, other=len(BOND_TYPE_NAMES))
# The RDKit versions that OGB was built with know no atropisomers and leave such bonds without stereo. OGB's own code
# raises on them.
BOND_STEREO = _table(rdchem.BondStereo, BOND_STEREO_NAMES, other=0)

# First value that a column lists: atomic number 1 has index 0, charge -5 has index 0.
_FIRST_9 = np.array([[1], [0], [0], [-NEUTRAL_CHARGE_INDEX], [0], [0], [0], [0], [0]], dtype=np.int64)
_LAST_9 = np.array(ATOM_FEATURE_SIZES, dtype=np.uint64)[:, None] - np.uint64(1)
_CHIRALITY_ROW, _HYBRIDIZATION_ROW = 1, 6

_SP2, _SP3 = HYBRIDIZATION_NAMES.index("SP2"), HYBRIDIZATION_NAMES.index("SP3")
_DOUBLE, _AROMATIC_ORDER = 2.0, 1.5
_TYPE_OF_ORDER = {1.0: 0, _DOUBLE: 1, 3.0: 2, _AROMATIC_ORDER: 3}


def _atom_query(atom: rdchem.QueryAtom) -> Chem.Mol:
    query = Chem.RWMol()
    query.AddAtom(atom)
    return query.GetMol()


_WITH_CHIRALITY = _atom_query(rdqueries.HasChiralTagQueryAtom())
_IS_SP2 = Chem.MolFromSmarts("[^2]")
_NEITHER_SP2_NOR_SP3 = Chem.MolFromSmarts("[!^2;!^3]")
_UNCOMMON_BOND = Chem.MolFromSmarts("*!-;!=;!#;!:*")


def featurize(mol: Chem.Mol, explicit_hydrogens: bool = False) -> MolecularGraph:
    """Graph of a sanitised RDKit molecule with OGB's features, in the atom and bond order of `mol`.

    Equal to `ogb.utils.smiles2graph` on the molecule that the SMILES parses to. With explicit hydrogens it's equal to
    OGB's functions on `Chem.AddHs(mol)`; there the number-of-hydrogens column is 0.

    Args:
        mol: molecule with its property cache filled (`parse_smiles` and `Chem.MolFromSmiles` do).
        explicit_hydrogens: make every hydrogen an atom of the graph: those of `mol` keep their places, the new ones
            follow in the order of `Chem.AddHs`, that is grouped by the atom they're bound to, ascending.

    Returns:
        The graph, all arrays int64.
    """
    if explicit_hydrogens:
        mol = Chem.AddHs(mol)
    bonds_U2, bond_features_UF = _bonds(mol)
    return MolecularGraph(_atom_features(mol), bonds_U2, bond_features_UF)


def _atom_features(mol: Chem.Mol) -> np.ndarray:
    num_atoms = mol.GetNumAtoms()
    atoms = list(map(mol.GetAtomWithIdx, range(num_atoms)))  # half the time of list(mol.GetAtoms())
    columns = np.array(
        [
            list(map(_Atom.GetAtomicNum, atoms)),
            [0] * num_atoms,
            list(map(_Atom.GetTotalDegree, atoms)),
            list(map(_Atom.GetFormalCharge, atoms)),
            list(map(_Atom.GetTotalNumHs, atoms)),
            list(map(_Atom.GetNumRadicalElectrons, atoms)),
            [_SP3] * num_atoms,
            list(map(_Atom.GetIsAromatic, atoms)),
            list(map(_Atom.IsInRing, atoms)),
        ],
        dtype=np.int64,
    )
    for index in _matching(mol, _WITH_CHIRALITY):
        columns[_CHIRALITY_ROW, index] = CHIRALITY[atoms[index].GetChiralTag()]
    columns[_HYBRIDIZATION_ROW, _matching(mol, _IS_SP2)] = _SP2
    for index in _matching(mol, _NEITHER_SP2_NOR_SP3):
        columns[_HYBRIDIZATION_ROW, index] = HYBRIDIZATION[atoms[index].GetHybridization()]
    return indices_of_values(columns)


def indices_of_values(columns_9N: Int[np.ndarray, "9 atoms"]) -> Int[np.ndarray, "atoms 9"]:
    """Index of each value in its feature's list, the last one for a value that is not there.

    Args:
        columns_9N: the values themselves; in the columns of chirality and hybridisation indices already.
    """
    # Read as unsigned, a value below the first is large, so one minimum sends both ends to the last index.
    return np.ascontiguousarray(np.minimum((columns_9N - _FIRST_9).view(np.uint64), _LAST_9).view(np.int64).T)


def _matching(mol: Chem.Mol, query: Chem.Mol) -> list[int]:
    """Indices of the atoms that a query of one atom matches."""
    return [index for (index,) in mol.GetSubstructMatches(query, uniquify=False, maxMatches=mol.GetNumAtoms())]


def _bonds(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray]:
    num_bonds = mol.GetNumBonds()
    bonds = list(map(mol.GetBondWithIdx, range(num_bonds)))
    if mol.HasSubstructMatch(_UNCOMMON_BOND):
        types = [BOND_TYPE[kind] for kind in map(_Bond.GetBondType, bonds)]
        stereo = [BOND_STEREO[kind] for kind in map(_Bond.GetStereo, bonds)]
    else:
        orders = list(map(_Bond.GetBondTypeAsDouble, bonds))
        types = [_TYPE_OF_ORDER[order] for order in orders]
        stereo = [BOND_STEREO[bonds[i].GetStereo()] if order == _DOUBLE else 0 for i, order in enumerate(orders)]
    ends_2U = [list(map(_Bond.GetBeginAtomIdx, bonds)), list(map(_Bond.GetEndAtomIdx, bonds))]
    bonds_U2 = np.array(ends_2U, dtype=np.int64).reshape(2, num_bonds).T
    conjugated = list(map(_Bond.GetIsConjugated, bonds))
    features_UF = np.array([types, stereo, conjugated], dtype=np.int64).reshape(NUM_BOND_FEATURES, num_bonds).T
    return np.ascontiguousarray(bonds_U2), np.ascontiguousarray(features_UF)
