"""Atom and bond features as OGB defines them, read from RDKit column by column.

`ogb.utils.smiles2graph` looks every value up in a list of strings. Here a column is one pass of C-level calls and one
table by enum value, which gives the same integers.
"""

from __future__ import annotations

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdchem

from dnd.graphs.graph import MolecularGraph
from dnd.graphs.vocabulary import (
    ATOM_FEATURE_SIZES,
    BOND_STEREO_NAMES,
    BOND_TYPE_NAMES,
    CHIRALITY_NAMES,
    HYBRIDIZATION_NAMES,
    NEUTRAL_CHARGE_INDEX,
    NUM_BOND_FEATURES,
)

_Atom, _Bond = rdchem.Atom, rdchem.Bond


def _table(enum: type, names: tuple[str, ...], other: int) -> tuple[int, ...]:
    """Index of each value of an RDKit enum by its number: its place in `names`, `other` where it has none."""
    values = {int(number): str(value) for number, value in enum.values.items()}  # type: ignore[attr-defined]
    return tuple(
        names.index(values[number]) if values.get(number) in names else other for number in range(max(values) + 1)
    )


_CHIRALITY = _table(rdchem.ChiralType, CHIRALITY_NAMES, other=len(CHIRALITY_NAMES))
_HYBRIDIZATION = _table(rdchem.HybridizationType, HYBRIDIZATION_NAMES, other=len(HYBRIDIZATION_NAMES))
_BOND_TYPE = _table(rdchem.BondType, BOND_TYPE_NAMES, other=len(BOND_TYPE_NAMES))
# The RDKit versions that OGB was built with know no atropisomers and leave such bonds without stereo. OGB's own code
# raises on them.
_BOND_STEREO = _table(rdchem.BondStereo, BOND_STEREO_NAMES, other=0)

# First value that a column lists: atomic number 1 has index 0, charge -5 has index 0.
_FIRST_9 = np.array([[1], [0], [0], [-NEUTRAL_CHARGE_INDEX], [0], [0], [0], [0], [0]], dtype=np.int64)
_LAST_9 = np.array(ATOM_FEATURE_SIZES, dtype=np.uint64)[:, None] - np.uint64(1)


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
    bonds_M2, bond_features_MF = _bonds(mol)
    return MolecularGraph(_atom_features(mol), bonds_M2, bond_features_MF)


def _atom_features(mol: Chem.Mol) -> np.ndarray:
    atoms = list(mol.GetAtoms())
    columns = np.array(
        [
            list(map(_Atom.GetAtomicNum, atoms)),
            [_CHIRALITY[tag] for tag in map(_Atom.GetChiralTag, atoms)],
            list(map(_Atom.GetTotalDegree, atoms)),
            list(map(_Atom.GetFormalCharge, atoms)),
            list(map(_Atom.GetTotalNumHs, atoms)),
            list(map(_Atom.GetNumRadicalElectrons, atoms)),
            [_HYBRIDIZATION[kind] for kind in map(_Atom.GetHybridization, atoms)],
            list(map(_Atom.GetIsAromatic, atoms)),
            list(map(_Atom.IsInRing, atoms)),
        ],
        dtype=np.int64,
    ).reshape(len(ATOM_FEATURE_SIZES), len(atoms))
    columns -= _FIRST_9
    # Read as unsigned, a value below the first is large, so one minimum sends both ends to the last index.
    return np.ascontiguousarray(np.minimum(columns.view(np.uint64), _LAST_9).view(np.int64).T)


def _bonds(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray]:
    bonds = list(mol.GetBonds())
    ends_2M = [list(map(_Bond.GetBeginAtomIdx, bonds)), list(map(_Bond.GetEndAtomIdx, bonds))]
    features_FM = [
        [_BOND_TYPE[kind] for kind in map(_Bond.GetBondType, bonds)],
        [_BOND_STEREO[stereo] for stereo in map(_Bond.GetStereo, bonds)],
        list(map(_Bond.GetIsConjugated, bonds)),
    ]
    bonds_M2 = np.array(ends_2M, dtype=np.int64).reshape(2, len(bonds)).T
    bond_features_MF = np.array(features_FM, dtype=np.int64).reshape(NUM_BOND_FEATURES, len(bonds)).T
    return np.ascontiguousarray(bonds_M2), np.ascontiguousarray(bond_features_MF)
