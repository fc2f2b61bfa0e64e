r"""One GFN2-xTB calculation of one conformer: what electrons do in it, as numbers with units.

GFN2-xTB is semi-empirical quantum chemistry (Bannwarth, Ehlert, Grimme, JCTC 2019, 15, 1652) and ALPB its implicit
solvent (Ehlert, Stahn, Spicher, Grimme, JCTC 2021, 17, 4250); `tblite` (extra `quantum`) computes both. A free energy
of solvation is the energy in the solvent minus the energy without, at the given geometry.

The graph decides what an atom's numbers are: where it leaves hydrogens out, their charge and their share of the energy
are added to the atom they're bound to. So charges sum to the total charge and shares to the energy in either case.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from dnd.common.errors import ConfigError

if TYPE_CHECKING:
    from rdkit import Chem

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
            nuclear charge, debye angstrom. It's the same in every orientation, and of a linear molecule it's the size
            of the textbook's one number.
        energy: against the isolated neutral atoms of the same method, kcal/mol; negative = bound.
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
    from rdkit import Chem  # here, so that the names and units above can be read without it

    full = Chem.AddHs(mol)
    atoms = list(full.GetAtoms())
    if len(positions_A3) != len(atoms):
        return f"the conformer has {len(positions_A3)} of {len(atoms)} atoms"
    if not np.isfinite(positions_A3).all():
        return "a coordinate is not a finite number"
    numbers_A = np.array([atom.GetAtomicNum() for atom in atoms], dtype=np.int64)
    if not len(atoms) or numbers_A.min() < 1 or numbers_A.max() > _HEAVIEST:
        return f"GFN2-xTB has no parameters for atomic number {numbers_A.max(initial=0)}"
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
