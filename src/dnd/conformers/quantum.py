"""One GFN2-xTB calculation of one conformer, and its numbers with units.

GFN2-xTB is semi-empirical quantum chemistry (Bannwarth, Ehlert, Grimme, JCTC 2019, 15, 1652) and ALPB its implicit
solvent (Ehlert, Stahn, Spicher, Grimme, JCTC 2021, 17, 4250); `tblite` (extra `quantum`) computes both. A free energy
of solvation is the energy in the solvent minus the energy without, at the given geometry.

The graph decides what an atom's numbers are: where it leaves hydrogens out, their charge and their share of the energy
are added to the atom they're bound to. So charges sum to the total charge and shares to the energy in either case."""

from __future__ import annotations

import importlib.util
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem

from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.common.files import write_bytes
from dnd.common.ragged import offsets_of
from dnd.conformers.records import Record, read_arrays

METHOD = "GFN2-xTB"
SOLVENTS = ("water", "octanol", "hexane")
ACCURACY = 10.0
"""tblite's `accuracy`: 10 instead of 1 saves a quarter of the time and moves free energies by at most 0.001
kcal/mol and charges by at most 0.001 e (24 molecules of QM9 and of drug size)."""

QUANTITIES: dict[str, str] = {
    "solvation_water": "kcal/mol",
    "solvation_octanol": "kcal/mol",
    "solvation_hexane": "kcal/mol",
    "homo": "eV",
    "lumo": "eV",
    "gap": "eV",
    "dipole": "debye",
    "quadrupole": "debye angstrom",
    "energy": "kcal/mol",
}
"""Values of a molecule and their units, in the order of the arrays that hold them."""

ATOM_QUANTITIES: dict[str, str] = {"charge": "e", "energy_share": "kcal/mol"}
"""Values of an atom and their units, in the order of the arrays that hold them."""

KCAL_PER_MOL = 627.509474  # of a hartree
_ELECTRONVOLT = 27.211386  # of a hartree
_BOHR = 0.529177211  # angstrom
_DEBYE = 4.80320471  # of an elementary charge times an angstrom
_HEAVIEST = 86  # of GFN2-xTB


@dataclass(frozen=True)
class QuantumValues:
    r"""What a calculation gives for the conformer of a graph.

    Attributes:
        solvation_water: free energy of solvation in water, kcal/mol, 1 mol/l in the gas to 1 mol/l in solution.
        solvation_octanol: the same in 1-octanol.
        solvation_hexane: the same in hexane.
        homo: energy of the highest occupied orbital, eV; of a radical the highest that is singly occupied.
        lumo: energy of the next orbital above, eV; NaN where the basis has none.
        gap: lumo - homo, eV.
        dipole: length of the dipole moment, debye; for ions about the centre of nuclear charge.
        quadrupole: :math:`\sqrt{\tfrac23 \sum_{ij} \Theta_{ij}^2}` of Buckingham's traceless moment about the centre of
            nuclear charge, debye angstrom. It is the same in every orientation; for a linear molecule it is the
            size of the single number in textbooks.
        energy: energy relative to the isolated neutral atoms, by the same method, kcal/mol; negative = bound.
        charges_N: Mulliken charge of each graph atom, e, with those of its hydrogens that are not graph atoms.
        energy_shares_N: share of each graph atom in `energy`, kcal/mol, with its hydrogens' likewise.
        bond_orders_U: Wiberg bond order of each bond of the graph.
    """

    solvation_water: float
    solvation_octanol: float
    solvation_hexane: float
    homo: float
    lumo: float
    gap: float
    dipole: float
    quadrupole: float
    energy: float
    charges_N: Float[np.ndarray, "graph_atoms"]
    energy_shares_N: Float[np.ndarray, "graph_atoms"]
    bond_orders_U: Float[np.ndarray, "bonds"]

    def molecule(self) -> Float[np.ndarray, "quantities"]:
        """The molecule's values in the order of `QUANTITIES`."""
        return np.array([getattr(self, name) for name in QUANTITIES])

    def atoms(self) -> Float[np.ndarray, "graph_atoms 2"]:
        """The atoms' values in the order of `ATOM_QUANTITIES`."""
        return np.stack([self.charges_N, self.energy_shares_N], axis=1)


def require_tblite() -> str:
    """The version of tblite.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("tblite") is None:
        raise ConfigError(
            "the quantum teacher needs tblite, which is not installed",
            next_step='Install it with: pip install "dnd-mol[quantum]"',
        )
    return metadata.version("tblite")


def quantum_values(
    mol: Chem.Mol,
    positions_A3: Float[np.ndarray, "atoms 3"],
    *,
    explicit_hydrogens: bool = False,
    accuracy: float = ACCURACY,
) -> QuantumValues | str:
    """Calculate one conformer of a molecule.

    Args:
        mol: the molecule without explicit hydrogens; its formal charges and radical electrons are those of the
            calculation.
        positions_A3: angstrom, all hydrogens included, in the order of `Chem.AddHs(mol)`.
        explicit_hydrogens: whether the graph has the hydrogens as atoms; its bonds are then all, else those of `mol`.
        accuracy: tblite's; smaller is tighter.

    Returns:
        The values, or the reason why there are none. Bonds are in the order of `GetBonds`.
    """
    full = Chem.AddHs(mol)
    atoms = list(full.GetAtoms())
    if len(positions_A3) != len(atoms):
        return f"the conformer has {len(positions_A3)} of {len(atoms)} atoms"
    if not np.isfinite(positions_A3).all():
        return "a coordinate is not a finite number"
    numbers_A = np.array([atom.GetAtomicNum() for atom in atoms], dtype=np.int64)
    unknown = numbers_A[(numbers_A < 1) | (numbers_A > _HEAVIEST)]
    if len(unknown) or not len(atoms):
        return f"{METHOD} has no parameters for atomic number {unknown.max(initial=0)}"
    charge = sum(atom.GetFormalCharge() for atom in atoms)
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in atoms)
    found = _calculate(numbers_A, _own_frame(numbers_A, np.asarray(positions_A3)), charge, unpaired, accuracy)
    if isinstance(found, str):
        return found
    graph_atoms = len(atoms) if explicit_hydrogens else mol.GetNumAtoms()
    owner_A = [*range(graph_atoms), *(atom.GetNeighbors()[0].GetIdx() for atom in atoms[graph_atoms:])]
    bonds = (full if explicit_hydrogens else mol).GetBonds()
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds]
    first_U, second_U = np.array(ends, dtype=np.int64).reshape(-1, 2).T
    return QuantumValues(
        **found.molecule,
        charges_N=np.bincount(owner_A, found.charges_A, minlength=graph_atoms),
        energy_shares_N=np.bincount(owner_A, found.shares_A, minlength=graph_atoms),
        bond_orders_U=found.orders_AA[first_U, second_U],
    )


@dataclass(frozen=True)
class _Calculated:
    """Results by conformer atom, in the units of `QuantumValues`."""

    molecule: dict[str, float]
    charges_A: np.ndarray
    shares_A: np.ndarray
    orders_AA: np.ndarray


def _calculate(
    numbers_A: Int[np.ndarray, "atoms"],
    positions_A3: Float[np.ndarray, "atoms 3"],
    charge: int,
    unpaired: int,
    accuracy: float,
) -> _Calculated | str:
    """The calculation without solvent, and from its density one in each solvent."""
    from tblite.exceptions import TBLiteRuntimeError, TBLiteValueError
    from tblite.interface import Result

    try:
        gas = _calculator(numbers_A, positions_A3, charge, unpaired, accuracy).singlepoint()
        energy = float(gas.get("energy"))
        solvation = {}
        for solvent in SOLVENTS:
            calculator = _calculator(numbers_A, positions_A3, charge, unpaired, accuracy)
            calculator.add("alpb-solvation", solvent)
            solvated = float(calculator.singlepoint(Result(gas)).get("energy"))
            solvation[f"solvation_{solvent}"] = (solvated - energy) * KCAL_PER_MOL
        atom_energies_A = np.array([isolated_atom_energy(number) for number in numbers_A.tolist()])
    except (TBLiteRuntimeError, TBLiteValueError) as error:
        return "tblite: " + " ".join(str(error).split())
    orbitals = _frontier_orbitals(gas, unpaired)
    if isinstance(orbitals, str):
        return orbitals
    # One matrix for a closed shell; of an open one the first of two is the whole, laid out with the spin first.
    orders_AA = np.asarray(gas.get("bond-orders")).reshape(-1, len(numbers_A), len(numbers_A))[0]
    found = _Calculated(
        molecule={
            **solvation,
            **orbitals,
            "dipole": float(np.linalg.norm(gas.get("dipole"))) * _BOHR * _DEBYE,
            "quadrupole": _quadrupole(gas.get("quadrupole")),
            "energy": (energy - float(atom_energies_A.sum())) * KCAL_PER_MOL,
        },
        charges_A=gas.get("charges"),
        shares_A=(gas.get("energies") - atom_energies_A) * KCAL_PER_MOL,
        orders_AA=orders_AA,
    )
    known = [value for name, value in found.molecule.items() if name not in ("lumo", "gap")]
    finite = all(np.isfinite(values).all() for values in (known, found.charges_A, found.shares_A, found.orders_AA))
    return found if finite else "a result is not a finite number"


def _calculator(
    numbers_A: np.ndarray, positions_A3: np.ndarray, charge: int, unpaired: int | None, accuracy: float
) -> Any:
    from tblite.interface import Calculator

    calculator = Calculator(METHOD, numbers_A, positions_A3 / _BOHR, charge, unpaired)
    calculator.set("verbosity", 0)
    calculator.set("accuracy", accuracy)
    return calculator


def _frontier_orbitals(gas: Any, unpaired: int) -> dict[str, float] | str:
    """HOMO, LUMO and gap in eV; the HOMO is the last orbital that an electron of the majority spin is in."""
    energies = np.asarray(gas.get("orbital-energies")).reshape(-1) * _ELECTRONVOLT
    electrons = round(float(np.sum(gas.get("orbital-occupations"))))
    if electrons < 1:
        return "it has no valence electrons"
    if electrons < unpaired or (electrons - unpaired) % 2:
        return f"{electrons} valence electrons can't have {unpaired} unpaired ones"
    occupied = (electrons + unpaired) // 2
    if occupied > len(energies):
        return f"{electrons} valence electrons do not fit into {len(energies)} orbitals"
    homo = float(energies[occupied - 1])
    lumo = float(energies[occupied]) if occupied < len(energies) else float("nan")
    return {"homo": homo, "lumo": lumo, "gap": lumo - homo}


def _quadrupole(packed: Float[np.ndarray, "6"]) -> float:
    """Size of a traceless tensor that is packed as xx, xy, yy, xz, yz, zz in atomic units; see `QuantumValues`."""
    xx, xy, yy, xz, yz, zz = packed.tolist()
    squares = xx**2 + yy**2 + zz**2 + 2 * (xy**2 + xz**2 + yz**2)
    return float(np.sqrt(2 / 3 * squares)) * _BOHR**2 * _DEBYE


@cache
def isolated_atom_energy(number: int) -> float:
    """Energy of a neutral atom by the same method, hartree, with as few unpaired electrons as its number allows.

    GFN2-xTB has no exchange energy that would favour another spin, so that one rule does for all elements.
    """
    calculator = _calculator(np.array([number]), np.zeros((1, 3)), 0, None, 1.0)
    return float(calculator.singlepoint().get("energy"))


def _own_frame(
    numbers_A: Int[np.ndarray, "atoms"], positions_A3: Float[np.ndarray, "atoms 3"]
) -> Float[np.ndarray, "atoms 3"]:
    """The conformer about its centre of nuclear charge, along its principal axes.

    The surface term of ALPB is summed over a grid of fixed orientation, which moves free energies by about 0.01
    kcal/mol as a molecule turns. In its own frame every orientation gives the same. That an axis may point either way
    does no harm: the grid has the symmetry of an octahedron.
    """
    weights_A = numbers_A / numbers_A.sum()
    centred_A3 = positions_A3.astype(np.float64) - weights_A @ positions_A3.astype(np.float64)
    _, axes_33 = np.linalg.eigh(centred_A3.T @ (weights_A[:, None] * centred_A3))
    axes_33[:, 0] *= np.sign(np.linalg.det(axes_33))  # a rotation, not a mirror image
    turned_A3: np.ndarray = centred_A3 @ axes_33
    return turned_A3


# Quantum-chemical values of many conformers in one small file, so that hours of calculation are done once.
#
# The file is an .npz that names its source, the .npz of conformers that `dnd.conformers.formats` reads, and the row of
# each molecule in it. Atoms are those of `Chem.MolFromSmiles(smiles)` with the source's own SMILES, in its order,
# hydrogens added to the atom they're bound to; bonds are pairs of such atoms (i < j), ascending by i, then j. A CRC of
# each SMILES guards against a source that has changed.
#
# Arrays: `rows` int32, `smiles_crc` uint32, `num_atoms` and `num_bonds` uint16 (B,); `molecules` float32 (B, 9) in the
# order of `quantum.QUANTITIES`; `atoms` int16 (flat, 2) in the order of `quantum.ATOM_QUANTITIES` and `bonds` int16
# (flat), in steps of `ATOM_STEPS` and `BOND_STEP`; `failed_rows` int32, `failed_reasons` ASCII bytes; `about`, JSON:
# source, its number of molecules, method, accuracy, version of tblite, atom order, names, units and steps.

ATOM_STEPS = (0.0002, 0.02)
"""What 1 stands for in `atoms`: e and kcal/mol; a fifth of what the calculation's own accuracy leaves open."""
BOND_STEP = 0.0002
_KIND = "dnd quantum labels 1"
_WHOLE = ("rows", "smiles_crc", "num_atoms", "num_bonds", "atoms", "bonds", "failed_rows")


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
        arrays = read_arrays(path)
        try:
            about = json.loads(str(arrays.pop("about", "{}")))
        except (ValueError, RecursionError) as error:
            raise CorruptFileError(f"{path} contains no quantum labels", found=str(error)) from error
        if not isinstance(about, dict) or about.get("kind") != _KIND or not isinstance(about.get("source"), str):
            raise InputError(f"{path} contains no quantum labels", found=sorted(arrays), expected=_KIND)
        reasons = arrays.pop("failed_reasons", np.empty(0, dtype="S1"))
        if not _fit(arrays) or reasons.shape != arrays["failed_rows"].shape or reasons.dtype.kind != "S":
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
    """Whether all arrays are there, hold numbers of the right type, and agree in length."""
    if any(name not in arrays for name in (*_WHOLE, "molecules")):
        return False
    kinds = {name: arrays[name].dtype.kind for name in (*_WHOLE, "molecules")}
    if kinds.pop("molecules") != "f" or any(kind not in "iu" for kind in kinds.values()):
        return False
    rows = (arrays["rows"].size,)
    shapes = {
        "rows": rows,
        "smiles_crc": rows,
        "num_atoms": rows,
        "num_bonds": rows,
        "molecules": (*rows, len(QUANTITIES)),
        "atoms": (int(arrays["num_atoms"].sum(dtype=np.int64)), len(ATOM_QUANTITIES)),
        "bonds": (int(arrays["num_bonds"].sum(dtype=np.int64)),),
        "failed_rows": (arrays["failed_rows"].size,),
    }
    return all(arrays[name].shape == shape for name, shape in shapes.items())
