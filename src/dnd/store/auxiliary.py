"""Auxiliary columns of a store: what RDKit knows of a molecule and a student can learn beside its teacher.

Computed in the worker processes of `dnd prepare`, so that training from a store needs no RDKit.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator, rdFreeSASA, rdPartialCharges
from rdkit.rdBase import BlockLogs

from dnd.chemistry.density import TooDenseError
from dnd.chemistry.descriptors import DESCRIPTOR_NAMES as ALL_NAMES
from dnd.chemistry.descriptors import DescriptorCalculator
from dnd.chemistry.fingerprints import fingerprint
from dnd.store.schema import FINGERPRINT_PLACES

# `Ipc` grows exponentially with the atoms and would overflow half precision, so its logarithm is kept.
_EXPONENTIAL = ALL_NAMES.index("Ipc")
DESCRIPTOR_NAMES: tuple[str, ...] = tuple("log(1 + Ipc)" if name == "Ipc" else name for name in ALL_NAMES)
_descriptors = DescriptorCalculator()
LIMIT_HALF = 65504.0
"""Largest finite number in half precision; larger values are kept at it."""

_RADIUS = 2
_MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=_RADIUS, fpSize=FINGERPRINT_PLACES)


def auxiliary_values(
    names: Iterable[str],
    mol: Chem.Mol,
    positions_A3: Float[np.ndarray, "atoms 3"] | None,
    *,
    explicit_hydrogens: bool,
) -> dict[str, np.ndarray]:
    """The auxiliary columns of one molecule.

    Args:
        names: columns wanted, of `schema.AUXILIARY_FIELDS`.
        mol: canonical molecule without explicit hydrogens.
        positions_A3: a conformer, angstrom, in the order of `Chem.AddHs(mol)`; None where there is none.
        explicit_hydrogens: whether the graph has the hydrogens as atoms.

    Returns:
        Flat values by name, as the store's schema has them.
    """
    wanted = set(names)
    found: dict[str, np.ndarray] = {}
    if "descriptors" in wanted:
        found["descriptors"] = descriptor_values(mol)
    if "fingerprints" in wanted:
        found["fingerprints"] = fingerprint_places(mol)
    if "avalon" in wanted:
        found["avalon"] = avalon_places(mol)
    if "charges" in wanted:
        charges_A = gasteiger_charges(mol)
        found["charges"] = charges_A if explicit_hydrogens else charges_A[: mol.GetNumAtoms()]
    if "surface" in wanted:
        found["surface"] = surface_of_atoms(mol, positions_A3, explicit_hydrogens=explicit_hydrogens)
    return found


def descriptor_values(mol: Chem.Mol) -> Float[np.ndarray, "descriptors"]:
    """All of RDKit's 2D descriptors, as `DESCRIPTOR_NAMES` has them, float16; NaN where one is undefined."""
    try:
        values = _descriptors(mol)
    except TooDenseError:
        values = np.full(len(DESCRIPTOR_NAMES), np.nan)
    values[_EXPONENTIAL] = np.log1p(values[_EXPONENTIAL])
    values[np.isinf(values)] = np.nan
    return values.clip(-LIMIT_HALF, LIMIT_HALF).astype(np.float16)


def fingerprint_places(mol: Chem.Mol) -> Int[np.ndarray, "environments"]:
    """Folded place of every atom environment of radius 0 to 2, ascending, as often as it occurs, uint16."""
    counts = _MORGAN.GetCountFingerprint(mol).GetNonzeroElements()
    places = np.array(sorted(counts), dtype=np.int64)
    return np.repeat(places, [counts[place] for place in places.tolist()]).astype(np.uint16)


def avalon_places(mol: Chem.Mol) -> Int[np.ndarray, "features"]:
    """Folded place of every feature of Avalon's fingerprint, ascending, as often as it occurs, uint16.

    Nothing where the molecule is bound too densely for it, which a reader takes for unknown: every molecule has one.
    """
    try:
        counts = fingerprint("avalon", mol).astype(np.int64)
    except TooDenseError:
        return np.empty(0, dtype=np.uint16)
    return np.repeat(np.arange(len(counts)), counts).astype(np.uint16)


def gasteiger_charges(mol: Chem.Mol) -> Float[np.ndarray, "atoms"]:
    """Gasteiger charges of all atoms of `Chem.AddHs(mol)`, elementary charges, float16; NaN without parameters."""
    with_hydrogens = Chem.AddHs(mol)
    with BlockLogs():
        rdPartialCharges.ComputeGasteigerCharges(with_hydrogens, throwOnParamFailure=False)
    charges_A = np.array([atom.GetDoubleProp("_GasteigerCharge") for atom in with_hydrogens.GetAtoms()])
    charges_A[~np.isfinite(charges_A)] = np.nan
    return charges_A.clip(-LIMIT_HALF, LIMIT_HALF).astype(np.float16)


def surface_of_atoms(
    mol: Chem.Mol, positions_A3: Float[np.ndarray, "atoms 3"] | None, *, explicit_hydrogens: bool
) -> Float[np.ndarray, "graph_atoms"]:
    """Solvent-accessible area per graph atom, square angstrom, float16; van der Waals radii, probe of 1.4 angstrom.

    The area of a hydrogen that the graph leaves out counts for the atom it is bound to, so that the sum is the
    molecule's. NaN where the conformer lacks hydrogens, whose place would be taken for open surface.
    """
    with_hydrogens = Chem.AddHs(mol)
    atoms = list(with_hydrogens.GetAtoms())
    graph_atoms = len(atoms) if explicit_hydrogens else mol.GetNumAtoms()
    if positions_A3 is None or len(positions_A3) != len(atoms):
        return np.full(graph_atoms, np.nan, dtype=np.float16)
    conformer, table = Chem.Conformer(len(atoms)), Chem.GetPeriodicTable()
    conformer.SetPositions(np.asarray(positions_A3, dtype=np.float64))
    with_hydrogens.RemoveAllConformers()
    with_hydrogens.AddConformer(conformer)
    rdFreeSASA.CalcSASA(with_hydrogens, [table.GetRvdw(atom.GetAtomicNum()) for atom in atoms])
    area_A = [atom.GetDoubleProp("SASA") for atom in atoms]
    owner_A = [*range(graph_atoms), *(atom.GetNeighbors()[0].GetIdx() for atom in atoms[graph_atoms:])]
    return np.bincount(owner_A, area_A, minlength=graph_atoms).astype(np.float16)
