"""Quantum-chemical values of many conformers in one small file, so that hours of calculation are done once.

The file is an .npz that names its source, the .npz of conformers that `dnd.conformers.formats` reads, and the
row of each molecule in it. Atoms are those of `Chem.MolFromSmiles(smiles)` with the source's own SMILES, in its order,
hydrogens added to the atom they're bound to; bonds are pairs of such atoms (i < j), ascending by i, then j. A CRC of
each SMILES guards against a source that has changed.

Arrays: `rows` int32, `smiles_crc` uint32, `num_atoms` and `num_bonds` uint16 (B,); `molecules` float32 (B, 9) in the
order of `quantum.QUANTITIES`; `atoms` int16 (flat, 2) in the order of `quantum.ATOM_QUANTITIES` and `bonds` int16
(flat), in steps of `ATOM_STEPS` and `BOND_STEP`; `failed_rows` int32, `failed_reasons` ASCII bytes; `about`, JSON:
source, its number of molecules, method, accuracy, version of tblite, atom order, names, units and steps.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem

from dnd.common.errors import CorruptFileError, InputError
from dnd.common.files import write_bytes
from dnd.common.ragged import offsets_of
from dnd.conformers.quantum import ACCURACY, ATOM_QUANTITIES, METHOD, QUANTITIES, quantum_values, require_tblite
from dnd.conformers.records import Record

ATOM_STEPS = (0.0002, 0.02)
"""What 1 stands for in `atoms`: e and kcal/mol; a fifth of what the calculation's own accuracy leaves open."""
BOND_STEP = 0.0002
_KIND = "dnd quantum labels 1"
_ARRAYS = ("rows", "smiles_crc", "num_atoms", "num_bonds", "molecules", "atoms", "bonds", "failed_rows")


@dataclass(frozen=True)
class QuantumLabel:
    """Values of one conformer, atoms and bonds in the order of the file.

    Attributes:
        molecule_C: in the order of `quantum.QUANTITIES`.
        atoms_N2: in the order of `quantum.ATOM_QUANTITIES`.
        bonds_U: Wiberg bond orders.
        smiles_crc: CRC-32 of the SMILES they belong to.
    """

    molecule_C: Float[np.ndarray, "quantities"]
    atoms_N2: Float[np.ndarray, "atoms 2"]
    bonds_U: Float[np.ndarray, "bonds"]
    smiles_crc: int


def smiles_crc(smiles: str) -> int:
    """CRC-32 of a SMILES."""
    return zlib.crc32(smiles.encode())


def bonds_in_order(mol: Chem.Mol) -> Int[np.ndarray, "bonds"]:
    """Numbers of the molecule's bonds, ascending by their lower, then by their higher atom."""
    ends = [sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())) for bond in mol.GetBonds()]
    return np.array(sorted(range(len(ends)), key=ends.__getitem__), dtype=np.int64)


def make_labeller(accuracy: float = ACCURACY) -> Callable[[Record], QuantumLabel | str]:
    """The function that a worker process runs on each record: its label, or the reason why there is none."""
    require_tblite()

    def label(record: Record) -> QuantumLabel | str:
        smiles, mol = record.smiles[0], Chem.MolFromSmiles(record.smiles[0])
        if mol is None:
            return "RDKit refuses the SMILES"
        if record.positions_A3 is None or record.atomic_numbers_A is None:
            return "no conformer"
        elements = [atom.GetAtomicNum() for atom in Chem.AddHs(mol).GetAtoms()]
        if not np.array_equal(elements, record.atomic_numbers_A):
            return "elements differ from AddHs(MolFromSmiles(smiles))"
        found = quantum_values(mol, record.positions_A3, accuracy=accuracy)
        if isinstance(found, str):
            return found
        made = QuantumLabel(
            found.molecule(), found.atoms(), found.bond_orders_U[bonds_in_order(mol)], smiles_crc(smiles)
        )
        largest = np.array([*np.abs(made.atoms_N2).max(axis=0, initial=0.0), np.abs(made.bonds_U).max(initial=0.0)])
        outside = (largest > np.iinfo(np.int16).max * np.array([*ATOM_STEPS, BOND_STEP])).any()
        return "a value is too large for the file" if outside else made

    return label


@dataclass(frozen=True)
class QuantumLabels:
    """The content of a file of labels.

    Attributes:
        about: source, its number of molecules (`source_molecules`), method, accuracy, version of tblite, names, units.
        arrays: see the head of this file.
        failures: reason by row, for the molecules whose calculation failed.
    """

    about: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    failures: Mapping[int, str]

    @classmethod
    def of(
        cls,
        source: str,
        source_molecules: int,
        outcomes: Mapping[int, QuantumLabel | str],
        *,
        accuracy: float = ACCURACY,
    ) -> QuantumLabels:
        """Labels and reasons by row of the source, made of what `make_labeller` gives."""
        labels = {row: outcome for row, outcome in sorted(outcomes.items()) if isinstance(outcome, QuantumLabel)}
        atoms = [label.atoms_N2 for label in labels.values()]
        bonds = [label.bonds_U for label in labels.values()]
        molecules = np.array([label.molecule_C for label in labels.values()], dtype=np.float32)
        arrays: dict[str, np.ndarray] = {
            "rows": np.array(list(labels), dtype=np.int32),
            "smiles_crc": np.array([label.smiles_crc for label in labels.values()], dtype=np.uint32),
            "num_atoms": np.array([len(values) for values in atoms], dtype=np.uint16),
            "num_bonds": np.array([len(values) for values in bonds], dtype=np.uint16),
            "molecules": molecules.reshape(-1, len(QUANTITIES)),
            "atoms": np.rint(np.concatenate([np.empty((0, 2)), *atoms]) / ATOM_STEPS).astype(np.int16),
            "bonds": np.rint(np.concatenate([np.empty(0), *bonds]) / BOND_STEP).astype(np.int16),
        }
        about = {
            "kind": _KIND,
            "source": source,
            "source_molecules": source_molecules,
            "method": METHOD,
            "accuracy": accuracy,
            "tblite": require_tblite(),
            "molecules": [list(pair) for pair in QUANTITIES.items()],
            "atoms": [list(pair) for pair in ATOM_QUANTITIES.items()],
            "atom_steps": list(ATOM_STEPS),
            "atom_order": "Chem.MolFromSmiles of the source's SMILES; hydrogens are added to the atom they're bound to",
            "bonds": "Wiberg bond order",
            "bond_step": BOND_STEP,
            "bond_order": "pairs of atoms (i < j), ascending by i, then j",
        }
        failures = {row: outcome for row, outcome in sorted(outcomes.items()) if isinstance(outcome, str)}
        return cls(about, arrays, failures)

    @classmethod
    def read(cls, path: Path) -> QuantumLabels:
        """Read a file.

        Raises:
            InputError: there is no such file, or it holds no labels.
            CorruptFileError: it is damaged, or its arrays do not fit together.
        """
        if not path.is_file():
            raise InputError(f"there is no file {path}", expected="quantum labels, .npz")
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            about = json.loads(str(arrays.pop("about", "{}")))
        except (zipfile.BadZipFile, ValueError, EOFError, OSError, AttributeError) as error:
            raise CorruptFileError(f"{path} is not a readable .npz file", found=str(error)) from error
        if not isinstance(about, dict) or about.get("kind") != _KIND:
            raise InputError(f"{path} contains no quantum labels", found=sorted(arrays), expected=_KIND)
        reasons = arrays.pop("failed_reasons", np.empty(0, dtype="S1"))
        if not _fit(arrays) or len(reasons) != len(arrays["failed_rows"]):
            raise CorruptFileError(f"the arrays of {path} do not fit together")
        rows = arrays.pop("failed_rows").tolist()
        return cls(about, arrays, dict(zip(rows, (reason.decode() for reason in reasons.tolist()), strict=True)))

    def write(self, path: Path) -> None:
        """Write a file, compressed; all of it or nothing."""
        reasons = [reason.encode("ascii", "replace") for reason in self.failures.values()]
        stream = io.BytesIO()
        content: dict[str, Any] = {
            **self.arrays,
            "about": np.array(json.dumps(self.about, sort_keys=True)),
            "failed_rows": np.array(list(self.failures), dtype=np.int32),
            "failed_reasons": np.array(reasons, dtype=np.bytes_ if reasons else "S1"),
        }
        np.savez_compressed(stream, **content)
        write_bytes(path, stream.getvalue())

    def items(self) -> Iterator[tuple[int, QuantumLabel]]:
        """Row in the source and label, ascending."""
        arrays = self.arrays
        atoms, bonds = offsets_of(arrays["num_atoms"]), offsets_of(arrays["num_bonds"])
        atoms_X2, bonds_X = arrays["atoms"] * np.array(ATOM_STEPS), arrays["bonds"] * BOND_STEP
        for place, row in enumerate(arrays["rows"].tolist()):
            yield (
                row,
                QuantumLabel(
                    arrays["molecules"][place].astype(np.float64),
                    atoms_X2[atoms[place] : atoms[place + 1]],
                    bonds_X[bonds[place] : bonds[place + 1]],
                    int(arrays["smiles_crc"][place]),
                ),
            )


def joined(parts: Sequence[QuantumLabels]) -> QuantumLabels:
    """The labels of several files of one source, by row; a row that two have counts once.

    Raises:
        InputError: the files differ in source, method or accuracy, or there is no file.
    """
    if not parts:
        raise InputError("there are no quantum labels to join")
    for part in parts[1:]:
        if part.about != parts[0].about:
            raise InputError("quantum labels differ in how they were made", found=part.about, expected=parts[0].about)
    outcomes: dict[int, QuantumLabel | str] = {}
    for part in parts:
        outcomes |= part.failures
    for part in parts:
        outcomes |= dict(part.items())
    about = parts[0].about
    made = QuantumLabels.of(about["source"], about["source_molecules"], outcomes, accuracy=about["accuracy"])
    return QuantumLabels(about, made.arrays, made.failures)


def _fit(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether all arrays are there and as long as each other says."""
    if any(name not in arrays for name in _ARRAYS):
        return False
    number = len(arrays["rows"])
    shapes = {
        "smiles_crc": (number,),
        "num_atoms": (number,),
        "num_bonds": (number,),
        "molecules": (number, len(QUANTITIES)),
        "atoms": (int(arrays["num_atoms"].sum(dtype=np.int64)), len(ATOM_QUANTITIES)),
        "bonds": (int(arrays["num_bonds"].sum(dtype=np.int64)),),
    }
    return all(arrays[name].shape == shape for name, shape in shapes.items())
