"""Auxiliary columns of a store: what RDKit and quantum chemistry know of a molecule and a student can learn.

Computed in the worker processes of `dnd prepare`, so that training from a store needs neither."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator, rdFreeSASA, rdPartialCharges
from rdkit.rdBase import BlockLogs

from dnd.chemistry.descriptors import DESCRIPTOR_NAMES as ALL_NAMES
from dnd.chemistry.descriptors import DescriptorCalculator
from dnd.chemistry.fingerprints import fingerprint
from dnd.chemistry.molecule import Conformers, MolecularGraph, Molecule
from dnd.chemistry.parse import TooDenseError
from dnd.common.errors import ConfigError, InputError
from dnd.conformers.atom_matching import Placed
from dnd.conformers.quantum import (
    ACCURACY,
    ATOM_QUANTITIES,
    METHOD,
    QUANTITIES,
    QuantumLabel,
    QuantumLabels,
    quantum_values,
    require_tblite,
    smiles_crc,
)
from dnd.conformers.records import Record
from dnd.store.schema import FINGERPRINT_PLACES, ConformerSource, HydrogenSetting

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


# The quantum columns of a molecule: calculated now in a worker process, or taken from a file of labels.
#
# A molecule is never lost for them: where there is no calculation its columns are NaN, and the reason is counted.

CALCULATE = "gfn2"
"""The word of `--quantum` that stands for a calculation; every other one is a file of labels."""

NO_LABEL = "no label in the file"


def require_possible(
    quantum: Sequence[str], conformers: ConformerSource, hydrogens: HydrogenSetting, sources: Sequence[str]
) -> None:
    """Refuse what can't work before any work starts.

    Args:
        quantum: words of `--quantum`.
        conformers: where the conformers come from.
        hydrogens: which hydrogens are explicit.
        sources: file names of the inputs.

    Raises:
        ConfigError: there are no conformers, tblite is not installed, or labels do not suit the store.
        InputError: a file of labels can't be read, or is of none of the inputs.
    """
    if not quantum:
        return
    if conformers == "none":
        raise ConfigError(
            "the quantum teacher calculates conformers, and there are none",
            found="--conformers none",
            next_step="Add --conformers etkdg, or give an input that has coordinates",
        )
    if CALCULATE in quantum:
        require_tblite()
    files = [word for word in quantum if word != CALCULATE]
    if files and (conformers != "file" or hydrogens == "all_both"):
        raise ConfigError(
            f"the labels of {files[0]} are for the file's conformers, with hydrogens added to their heavy atoms",
            found=f"--conformers {conformers} --hydrogens {hydrogens}",
            expected="--conformers file --hydrogens teacher_all_student_heavy or heavy_both",
            next_step=f"Or calculate with --quantum {CALCULATE}",
        )
    words_of_sources(quantum, sources)


def words_of_sources(quantum: Sequence[str], sources: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Which words of `--quantum` concern each of several sources that become stores of their own.

    Raises:
        InputError: a file of labels can't be read, or is of none of them.
    """
    words: dict[str, tuple[str, ...]] = dict.fromkeys(sources, ())
    for word in quantum:
        own = sources if word == CALCULATE else [QuantumLabels.read(Path(word)).about["source"]]
        if not set(own) <= words.keys():
            raise InputError(f"the labels of {word} belong to none of the inputs", found=own[0], expected=list(sources))
        words |= {source: (*words[source], word) for source in own}
    return words


def with_labels(records: Iterator[Record], quantum: Sequence[str]) -> Iterator[Record]:
    """The records with what the files of labels know of them.

    Args:
        records: records of any source.
        quantum: words of `--quantum`; without `gfn2` a record that no file has gets that as its reason.
    """
    known: dict[tuple[str, int], QuantumLabel | str] = {}
    for file in (word for word in quantum if word != CALCULATE):
        labels = QuantumLabels.read(Path(file))
        source = labels.about["source"]
        known |= {(source, row): reason for row, reason in labels.failures.items()}
        known |= {(source, row): label for row, label in labels.items()}
    otherwise = None if CALCULATE in quantum else NO_LABEL
    for record in records:
        yield replace(record, quantum=known.get((record.source, record.row), otherwise))


def quantum_columns(
    record: Record, placed: Placed, graph: MolecularGraph, full: Conformers | None, *, explicit_hydrogens: bool
) -> tuple[dict[str, np.ndarray], str | None]:
    """The columns of one molecule, and why they are NaN if they are.

    Args:
        record: what was read; its `quantum` decides whether anything is calculated.
        placed: its molecule.
        graph: the graph of the row, whose atoms and bonds the columns follow.
        full: its conformers with all the atoms that there are; the first is calculated.
        explicit_hydrogens: whether the graph has the hydrogens as atoms.
    """
    found: Mapping[str, np.ndarray] | str
    if isinstance(record.quantum, str):
        found = record.quantum
    elif record.quantum is not None:
        found = _of_label(record.quantum, record, placed, graph)
    elif full is None:
        found = "no conformer"
    else:
        found = _calculated(placed.molecule, full, explicit_hydrogens)
    if not isinstance(found, str):
        return dict(found), None
    return {
        "quantum": np.full(len(QUANTITIES), np.nan),
        "quantum_atoms": np.full((graph.num_atoms, len(ATOM_QUANTITIES)), np.nan),
        "quantum_bonds": np.full(len(graph.bonds_U2), np.nan),
    }, found


def describe_quantum() -> dict[str, Any]:
    """What a store's manifest says of its quantum columns: method, and names and units of the values in order."""
    return {
        "method": METHOD,
        "accuracy": ACCURACY,
        "conformer": "first",
        "quantum": [list(pair) for pair in QUANTITIES.items()],
        "quantum_atoms": [list(pair) for pair in ATOM_QUANTITIES.items()],
        "quantum_bonds": [["bond_order", "1"]],
    }


def _calculated(molecule: Molecule, full: Conformers, explicit_hydrogens: bool) -> dict[str, np.ndarray] | str:
    values = quantum_values(molecule.mol, full.positions_JA3[0], explicit_hydrogens=explicit_hydrogens)
    if isinstance(values, str):
        return values
    return {"quantum": values.molecule(), "quantum_atoms": values.atoms(), "quantum_bonds": values.bond_orders_U}


def _of_label(
    label: QuantumLabel, record: Record, placed: Placed, graph: MolecularGraph
) -> dict[str, np.ndarray] | str:
    """A label in the order of the graph: atoms by where they stood in the source, bonds by their pairs of atoms."""
    if label.smiles_crc != smiles_crc(record.smiles[0]):
        return "the label is of another molecule"
    if placed.source_A is None or len(label.atoms_N2) != graph.num_atoms or len(label.bonds_U) != len(graph.bonds_U2):
        return "the label has other atoms or bonds than the graph"
    source_N = placed.source_A[: graph.num_atoms]
    if source_N.max(initial=0) >= graph.num_atoms:
        return "the label has other atoms or bonds than the graph"
    low_U, high_U = np.sort(source_N[graph.bonds_U2.astype(np.int64)], axis=1).T
    bonds_U = np.empty(len(graph.bonds_U2))
    bonds_U[np.lexsort((high_U, low_U))] = label.bonds_U
    return {"quantum": label.molecule_C, "quantum_atoms": label.atoms_N2[source_N], "quantum_bonds": bonds_U}
