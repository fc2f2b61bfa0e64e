"""RDKit's 2D descriptors, all or some, at several times the rate of RDKit's own functions and with their values.

`Descriptors.CalcMolDescriptors` asks 217 functions one after the other: most begin with the same distances, charges,
logP contributions or substructures, and many are loops in Python. Here the descriptors form families; a family takes
what it needs from a `_Subject`, which computes each shared quantity once, when it is first needed. A descriptor
without a family, and every descriptor of a molecule that the families do not cover (explicit hydrogens; dative,
zero-order and other rare bonds), is RDKit's function itself. So a newer RDKit with more descriptors loses speed only.

Over 500 lines because the families share the subject, and a reader compares them with RDKit's functions side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem
from rdkit.Chem import QED, Descriptors, MolSurf, rdFingerprintGenerator, rdMolDescriptors, rdPartialCharges
from rdkit.Chem.EState import EState_VSA
from rdkit.rdBase import BlockLogs

from dnd.chemistry.descriptor_parts import (
    DISCONNECTED,
    MOST_CLASSES,
    Answers,
    Paths,
    QuerySet,
    balaban_j,
    bertz_complexity,
    characteristic_coefficients,
    electrotopological_states,
    entropy_bits,
    path_sums,
    recursive_coefficients,
    ring_count,
    rings_of,
    rotatable_bonds,
    two_bond_paths,
)
from dnd.chemistry.parse import refuse_dense
from dnd.common.errors import InputError

DESCRIPTOR_NAMES: tuple[str, ...] = tuple(name for name, _ in Descriptors.descList)
"""Names of RDKit's 2D descriptors, in its order."""

MOST_ATOMS_BY_EIGENVALUES = 64
"""Largest molecule whose characteristic polynomial is found from eigenvalues.

RDKit's recursion is exact up to some 72 atoms. Beyond, rounding decides its `Ipc` and `AvgIpc` (at 80 to 107 atoms they
are wrong by a fifth up to a factor of 4), so that only the same recursion has the same values.
"""
MOST_ATOMS_BY_RECURSION = 150
"""Largest molecule for which the recursion is followed; it takes seconds above, for nothing but rounding errors.

Beyond, `Ipc` and `AvgIpc` come from eigenvalues again: what they are defined to be, which RDKit's are not.
"""

_RDKIT: dict[str, Callable[[Chem.Mol], float]] = dict(Descriptors.descList)
_TABLE = Chem.GetPeriodicTable()
_ELEMENTS = range(119)
_OUTER = np.array([_TABLE.GetNOuterElecs(z) for z in _ELEMENTS])
_WEIGHT = np.array([_TABLE.GetAtomicWeight(z) for z in _ELEMENTS])
_SHELL = np.array([1 + sum(z > last for last in (2, 10, 18, 36, 54, 86)) for z in _ELEMENTS])
_ORDERS = (1.0, 1.5, 2.0, 3.0)
_HYBRIDISATION = {Chem.HybridizationType.SP: 1, Chem.HybridizationType.SP2: 2, Chem.HybridizationType.SP3: 3}
_qed: Any = QED.qed
_qed_properties: Any = QED.QEDproperties
_DATIVE = Chem.MolFromSmarts("*->*")
_UNDEFINED = (ValueError, RuntimeError, ArithmeticError, LookupError, TypeError)
"""What RDKit's functions raise for a molecule on which a descriptor is not defined."""


class _Subject:
    """One molecule and what several of its descriptors need; N atoms, U bonds.

    Args:
        mol: sanitised molecule.
    """

    def __init__(self, mol: Chem.Mol) -> None:
        self.mol = mol
        self.num_atoms: int = mol.GetNumAtoms()

    @cached_property
    def atoms(self) -> list[Chem.Atom]:
        return list(map(self.mol.GetAtomWithIdx, range(self.num_atoms)))

    @cached_property
    def atomic_numbers(self) -> list[int]:
        return list(map(Chem.Atom.GetAtomicNum, self.atoms))

    @cached_property
    def hydrogens(self) -> list[int]:
        return list(map(Chem.Atom.GetTotalNumHs, self.atoms))

    @cached_property
    def charges(self) -> list[int]:
        return list(map(Chem.Atom.GetFormalCharge, self.atoms))

    @cached_property
    def isotopes(self) -> list[int]:
        return list(map(Chem.Atom.GetIsotope, self.atoms))

    @cached_property
    def valences(self) -> list[int]:
        return list(map(Chem.Atom.GetTotalValence, self.atoms))

    @cached_property
    def aromatic(self) -> list[bool]:
        return list(map(Chem.Atom.GetIsAromatic, self.atoms))

    @cached_property
    def orders_NN(self) -> Float[np.ndarray, "atoms atoms"]:
        orders: Float[np.ndarray, "atoms atoms"] = Chem.GetAdjacencyMatrix(self.mol, useBO=True)
        return orders

    @cached_property
    def directed_2E(self) -> Int[np.ndarray, "2 directed_bonds"]:
        """Ends of each bond in both directions, sorted by the atom it leaves."""
        return np.array(np.nonzero(self.orders_NN))

    @cached_property
    def bonds_2U(self) -> Int[np.ndarray, "2 bonds"]:
        bonds: Int[np.ndarray, "2 bonds"] = self.directed_2E[:, self.directed_2E[0] < self.directed_2E[1]]
        return bonds

    @cached_property
    def orders_U(self) -> Float[np.ndarray, " bonds"]:
        orders: Float[np.ndarray, " bonds"] = self.orders_NN[self.bonds_2U[0], self.bonds_2U[1]]
        return orders

    @cached_property
    def degree_N(self) -> Int[np.ndarray, " atoms"]:
        return np.bincount(self.directed_2E[0], minlength=self.num_atoms)

    @cached_property
    def degrees(self) -> list[int]:
        degrees: list[int] = self.degree_N.tolist()
        return degrees

    @cached_property
    def plain(self) -> bool:
        """Whether the families cover the molecule: no hydrogen as an atom, all bonds of order 1, 1.5, 2 or 3."""
        if self.num_atoms == 0 or 1 in self.atomic_numbers or self.bonds_2U.shape[1] != self.mol.GetNumBonds():
            return False
        return set(self.orders_U.tolist()) <= set(_ORDERS) and not self.mol.HasSubstructMatch(_DATIVE)

    @cached_property
    def rings(self) -> tuple[tuple[int, ...], ...]:
        found: tuple[tuple[int, ...], ...] = self.mol.GetRingInfo().AtomRings()
        return found

    @cached_property
    def rings_N(self) -> Int[np.ndarray, " atoms"]:
        inside = np.fromiter(chain.from_iterable(self.rings), dtype=np.int64)
        return np.bincount(inside, minlength=self.num_atoms)

    @cached_property
    def simple_rings(self) -> bool:
        """Whether every ring of up to six atoms is a smallest ring: none has under five, no two share two bonds."""
        sets = [set(ring) for ring in self.rings]
        return all(len(ring) >= 5 for ring in sets) and all(
            len(ring & other) <= 2 for place, ring in enumerate(sets) for other in sets[:place]
        )

    @cached_property
    def benzene_rings(self) -> list[tuple[int, ...]]:
        """Rings of six aromatic carbons, each atom with its neighbours beside it."""
        z, aromatic = self.atomic_numbers, self.aromatic
        return [ring for ring in self.rings if len(ring) == 6 and all(z[atom] == 6 and aromatic[atom] for atom in ring)]

    @cached_property
    def paths(self) -> Paths:
        small = any(len(ring) <= 4 for ring in self.rings)
        return two_bond_paths((self.orders_NN > 0).astype(float), self.directed_2E, self.bonds_2U, small_rings=small)

    @cached_property
    def distances_NN(self) -> Float[np.ndarray, "atoms atoms"]:
        distances: Float[np.ndarray, "atoms atoms"] = Chem.GetDistanceMatrix(self.mol)
        return distances

    @cached_property
    def order_distances_NN(self) -> Float[np.ndarray, "atoms atoms"]:
        """Distances along bonds of length 1/order."""
        distances: Float[np.ndarray, "atoms atoms"] = Chem.GetDistanceMatrix(
            self.mol, useBO=True, useAtomWts=False, force=True, prefix="Balaban"
        )
        return distances

    @cached_property
    def surfaces_N(self) -> Float[np.ndarray, " atoms"]:
        """Labute's surface area of each atom, square angstrom."""
        return np.array(rdMolDescriptors._CalcLabuteASAContribs(self.mol, True)[0])

    @cached_property
    def crippen_N2(self) -> Float[np.ndarray, "atoms 2"]:
        """Contributions of each atom to Crippen's logP and molar refractivity, its hydrogens not included."""
        environments = _crippen_environments(self)
        known = [_CRIPPEN.get(environment) for environment in environments]
        if None in known:
            computed = rdMolDescriptors._CalcCrippenContribs(self.mol)
            if len(_CRIPPEN) > MOST_CLASSES:
                _CRIPPEN.clear()
            _CRIPPEN.update(zip(environments, computed, strict=True))
            known = list(computed)
        return np.array(known).reshape(-1, 2)

    @cached_property
    def charges_known(self) -> bool:
        """Whether Gasteiger's method has parameters for every atom; leaves charges on the atoms in either case."""
        try:
            rdPartialCharges.ComputeGasteigerCharges(self.mol, throwOnParamFailure=True)
        except ValueError:
            rdPartialCharges.ComputeGasteigerCharges(self.mol)
            return False
        return True

    @cached_property
    def partial_charges(self) -> list[float]:
        """Gasteiger charges, elementary charges; not finite where the method lacks parameters."""
        _ = self.charges_known
        return [atom.GetDoubleProp("_GasteigerCharge") for atom in self.atoms]

    @cached_property
    def states_N(self) -> Float[np.ndarray, " atoms"]:
        """Electrotopological states."""
        z_N = np.array(self.atomic_numbers)
        valence_N = _OUTER[z_N] - np.array(self.hydrogens)
        degree_N = self.degree_N
        intrinsic_N = np.zeros(self.num_atoms)
        bound = degree_N > 0
        shell_N = _SHELL[z_N]
        intrinsic_N[bound] = ((4.0 / (shell_N * shell_N) * valence_N + 1) / degree_N)[bound]
        return electrotopological_states(intrinsic_N, self.distances_NN)

    @cached_property
    def path_sums(self) -> list[Float[np.ndarray, "3"]]:
        """Sums over paths of 2, 3 and 4 bonds with the weights of `Chi?n` and `Chi?v`, and with ones."""
        z_N = np.array(self.atomic_numbers)
        electrons_N = (_OUTER[z_N] - np.array(self.hydrogens)).astype(float)
        inner_N = np.where(z_N > 10, z_N - _OUTER[z_N] - 1, 1)
        deltas_2N = np.stack([electrons_N, np.where(z_N > 1, electrons_N / inner_N, 0.0)])
        weights_3N = np.ones((3, self.num_atoms))
        weights_3N[:2] = np.where(deltas_2N != 0, 1.0 / np.sqrt(deltas_2N), 0.0)
        return path_sums(weights_3N, self.paths)

    @cached_property
    def answers(self) -> Answers:
        """Answers to all substructure queries of `fr_*` and `qed`."""
        columns = (self.atomic_numbers, self.aromatic, self.charges, self.hydrogens, self.valences, self.isotopes)
        classes = list(zip(*columns, self.degrees, self.rings_N.tolist(), strict=True))
        begin, other = self.bonds_2U.tolist()
        one = self.distances_NN[0].max() < DISCONNECTED
        fragments = 1 if one else len(Chem.GetMolFrags(self.mol))
        rings = rings_of(self.rings, self.num_atoms, len(begin), fragments)
        return _queries()[0].ask(classes, zip(begin, other, self.orders_U.tolist(), strict=True), rings)

    @cached_property
    def rotatable_bonds(self) -> int:
        ring_bonds = {pair for ring in self.rings for pair in zip(ring, (*ring[1:], ring[0]), strict=True)}
        begin, other = self.directed_2E.tolist()
        orders = self.orders_NN[self.directed_2E[0], self.directed_2E[1]].tolist()
        bonds = [
            (one, two, order, (one, two) in ring_bonds or (two, one) in ring_bonds)
            for one, two, order in zip(begin, other, orders, strict=True)
        ]
        return rotatable_bonds(self.atomic_numbers, self.aromatic, self.hydrogens, bonds)

    @cached_property
    def log_p_and_refractivity(self) -> tuple[float, float]:
        """Crippen's logP and molar refractivity, with the hydrogens' share."""
        log_p, refractivity = self.crippen_N2.sum(axis=0).tolist()
        for place, (z, count) in enumerate(zip(self.atomic_numbers, self.hydrogens, strict=True)):
            if count:
                share = _CARBON_HYDROGEN if z == 6 else _hydrogen_share(self, place)
                log_p, refractivity = log_p + count * share[0], refractivity + count * share[1]
        return log_p, refractivity


_CRIPPEN: dict[int, tuple[float, float]] = {}
"""Crippen's contributions by `_crippen_environments`, as RDKit found them in the molecules so far."""


def _crippen_environments(subject: _Subject) -> list[int]:
    """A number for each atom that holds all that the 110 queries of Crippen's types ask of it and its surroundings.

    They ask for element, aromaticity, charge, hydrogens and neighbours of the atom; for order, element, aromaticity and
    charge of its neighbours; of an oxygen's neighbours for as much as of the atom itself. The number is a hash of 64
    bits.
    """
    columns = [subject.atomic_numbers, subject.aromatic, subject.charges, subject.hydrogens, subject.degrees]
    z_N, aromatic_N, charge_N, hydrogens_N, degree_N = np.array(columns, np.int64).view(np.uint64)
    kind_N = (z_N * 2 + aromatic_N) * 64 + charge_N % 64
    leaves, enters = subject.directed_2E
    order_E = (2 * subject.orders_NN[leaves, enters]).astype(np.uint64)
    near_N = _mixed((kind_N * 64 + hydrogens_N) * 64 + degree_N)
    np.add.at(near_N, leaves, _mixed(kind_N[enters] * 8 + order_E))
    far_N = near_N.copy()
    np.add.at(far_N, leaves, _mixed(near_N[enters] * 8 + order_E))
    environments: list[int] = np.where(z_N == 8, far_N, near_N).tolist()
    return environments


def _mixed(values: np.ndarray) -> np.ndarray:
    """Numbers of 64 bits that look random, the same for the same value (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed: np.ndarray = (values ^ (values >> 30)) * _ODD_1
    mixed = (mixed ^ (mixed >> 27)) * _ODD_2
    mixed ^= mixed >> 31
    return mixed


_ODD_1, _ODD_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

# Crippen's contributions of a hydrogen to logP and molar refractivity: types H1 to H4 and HS of Wildman and Crippen,
# J. Chem. Inf. Comput. Sci. 39, 868 (1999), Table 1.
_CARBON_HYDROGEN = (0.123, 1.057)
_ALCOHOL_HYDROGEN = (-0.2677, 1.395)
_AMINE_HYDROGEN = (0.2142, 0.9627)
_ACID_HYDROGEN = (0.298, 1.805)
_OTHER_HYDROGEN = (0.1125, 1.112)


def _hydrogen_share(subject: _Subject, place: int) -> tuple[float, float]:
    """Crippen's contribution of a hydrogen on an atom that is not carbon, first type that fits."""
    z, aromatic = subject.atomic_numbers, subject.aromatic
    if z[place] == 7:
        return _AMINE_HYDROGEN
    if z[place] != 8:
        return _ALCOHOL_HYDROGEN
    if aromatic[place]:
        return _OTHER_HYDROGEN
    neighbours = np.flatnonzero(subject.orders_NN[place] == 1.0).tolist()
    for other in neighbours:
        carbon = z[other] == 6 and (aromatic[other] or subject.degree_N[other] + subject.hydrogens[other] == 4)
        if carbon or z[other] not in (6, 7, 8, 16):
            return _ALCOHOL_HYDROGEN
    if subject.hydrogens[place] > 1:  # water and its ions: the neighbour is the other hydrogen
        return _ALCOHOL_HYDROGEN
    if any(z[other] == 7 for other in neighbours):
        return _AMINE_HYDROGEN
    for other in neighbours:
        if z[other] != 6:
            return _OTHER_HYDROGEN if aromatic[other] else _ACID_HYDROGEN
        double = np.flatnonzero(subject.orders_NN[other] == 2.0).tolist()
        if any(z[third] in (6, 7) or (z[third] in (8, 16) and not aromatic[third]) for third in double):
            return _ACID_HYDROGEN
    return _OTHER_HYDROGEN


@cache
def _queries() -> tuple[QuerySet, dict[str, int], range, range]:
    """The queries of all `fr_*` descriptors and of `qed`; places of the first by name, of acceptors and alerts."""
    named = {name: _fragment_query(name) for name in DESCRIPTOR_NAMES if name.startswith("fr_")}
    fragments = {name: query for name, query in named.items() if query is not None}
    first = len(fragments)
    acceptors = range(first, first + len(QED.Acceptors))
    alerts = range(acceptors.stop, acceptors.stop + len(QED.StructuralAlerts))
    queries = [*fragments.values(), *QED.Acceptors, *QED.StructuralAlerts]
    return QuerySet(queries), {name: place for place, name in enumerate(fragments)}, acceptors, alerts


def _fragment_query(name: str) -> Chem.Mol | None:
    """The query that RDKit's function counts; None where it is made in another way than in the versions known."""
    defaults = getattr(_RDKIT[name], "__defaults__", None) or ()
    found = [value for value in defaults if isinstance(value, Chem.Mol)]
    return found[0] if len(found) == 1 else None


def _fragment_count(subject: _Subject, source: int, name: str) -> int:
    """Matches of a `fr_*` query that may have some; the two slowest are read from the rings, where these are simple."""
    if name in _FROM_RINGS and subject.simple_rings:
        return _FROM_RINGS[name](subject)
    return subject.answers.count(source, subject.mol)


def _benzene_rings(subject: _Subject) -> int:
    """Aromatic rings of six carbons: `c1ccccc1`."""
    return len(subject.benzene_rings)


def _para_hydroxylation_sites(subject: _Subject) -> int:
    """Aromatic CH between two others, opposite to a carbon with an oxygen or a substituted nitrogen."""
    z, hydrogens, sites = subject.atomic_numbers, subject.hydrogens, set()
    for ring in subject.benzene_rings:
        for place, atom in enumerate(ring):
            beside = (atom, ring[place - 1], ring[place - 5])
            if all(hydrogens[other] == 1 for other in beside):
                for other in np.flatnonzero(subject.orders_NN[ring[place - 3]]).tolist():
                    if z[other] == 8 or (z[other] == 7 and _nitrogen_substituent(subject, other)):
                        sites.add(atom)
    return len(sites)


def _nitrogen_substituent(subject: _Subject, place: int) -> bool:
    """Whether a nitrogen has three bonds, or two neighbours that are carbon or have one hydrogen."""
    if subject.degrees[place] + subject.hydrogens[place] == 3:
        return True
    neighbours = np.flatnonzero(subject.orders_NN[place]).tolist()
    return sum(subject.atomic_numbers[other] == 6 or subject.hydrogens[other] == 1 for other in neighbours) >= 2


_FROM_RINGS = {"fr_benzene": _benzene_rings, "fr_para_hydroxylation": _para_hydroxylation_sites}


def _estate_indices(subject: _Subject) -> list[float]:
    states_N = subject.states_N
    sizes_N = np.abs(states_N)
    return [sizes_N.max(), states_N.max(), sizes_N.min(), states_N.min()]


def _drug_likeness(subject: _Subject) -> list[float]:
    """Quantitative estimate of drug-likeness; Bickerton et al., Nature Chemistry 4, 90 (2012)."""
    mol, (_, _, acceptors, alerts), answers = subject.mol, _queries(), subject.answers
    properties = _qed_properties(
        MW=rdMolDescriptors._CalcMolWt(mol),
        ALOGP=subject.log_p_and_refractivity[0],
        HBA=sum(answers.count(place, mol) for place in answers.possible if place in acceptors),
        HBD=rdMolDescriptors.CalcNumHBD(mol),
        PSA=rdMolDescriptors.CalcTPSA(mol),
        ROTB=subject.rotatable_bonds,
        AROM=_rings_without_aliphatic_atoms(subject),
        ALERTS=sum(answers.matches(place, mol) for place in answers.possible if place in alerts),
    )
    return [_qed(mol, qedProperties=properties)]


def _rings_without_aliphatic_atoms(subject: _Subject) -> int:
    """Rings left when aliphatic ring atoms with a single bond to an atom that is not aromatic are deleted."""
    aromatic, rings = subject.aromatic, subject.rings_N.tolist()
    kept, bonds = [True] * subject.num_atoms, list(zip(*subject.bonds_2U.tolist(), strict=True))
    for (one, other), order in zip(bonds, subject.orders_U.tolist(), strict=True):
        if order < 2.0:
            if rings[one] and not aromatic[one] and not aromatic[other]:
                kept[one] = False
            if rings[other] and not aromatic[other] and not aromatic[one]:
                kept[other] = False
    return ring_count(kept, bonds)


def _spacial_score(subject: _Subject) -> list[float]:
    """Spacial score per heavy atom; Krzyzanowski et al., J. Med. Chem. 66, 12739 (2023)."""
    mol, double_2U = subject.mol, subject.bonds_2U[:, subject.orders_U == 2.0]
    stereo: set[int] = set()
    if _may_have_stereo_bonds(subject, double_2U.T.tolist()):
        mol = Chem.Mol(mol)
        Chem.FindPotentialStereoBonds(mol)
        for begin, other in double_2U.T.tolist():
            if mol.GetBondBetweenAtoms(begin, other).GetStereo() != Chem.BondStereo.STEREONONE:
                stereo.update((begin, other))
    for centre in Chem.FindPotentialStereo(mol):
        if centre.type == Chem.StereoType.Atom_Tetrahedral:
            stereo.add(centre.centeredOn)
    total = 0
    columns = (subject.rings_N.tolist(), subject.aromatic, subject.degrees, _hybridisations(subject))
    for place, (rings, aromatic, degree, kind) in enumerate(zip(*columns, strict=True)):
        total += kind * (2 if place in stereo else 1) * (2 if rings and not aromatic else 1) * degree**2
    return [total / subject.mol.GetNumHeavyAtoms()]


def _may_have_stereo_bonds(subject: _Subject, double_bonds: list[list[int]]) -> bool:
    """Whether a double bond has neighbours on both sides and is in no ring, or in one large enough for both forms."""
    degrees, rings = subject.degrees, subject.rings_N.tolist()
    small = all(len(ring) < 8 for ring in subject.rings)
    return any(
        degrees[one] > 1
        and degrees[other] > 1
        and not (small and rings[one] == rings[other] == 1 and _share(subject, one, other))
        for one, other in double_bonds
    )


def _share(subject: _Subject, one: int, other: int) -> bool:
    return any(one in ring and other in ring for ring in subject.rings)


def _hybridisations(subject: _Subject) -> list[int]:
    """1, 2 and 3 for sp, sp2 and sp3, else 4; of a carbon with four bonds and no charge, the neighbours less one."""
    columns = (subject.atomic_numbers, subject.charges, subject.valences, subject.degrees, subject.hydrogens)
    return [
        degree + hydrogens - 1
        if z == 6 and charge == 0 and valence == 4 and degree + hydrogens > 1
        else _HYBRIDISATION.get(subject.atoms[place].GetHybridization(), 4)
        for place, (z, charge, valence, degree, hydrogens) in enumerate(zip(*columns, strict=True))
    ]


def _electrons(subject: _Subject) -> list[float]:
    outer = _OUTER[subject.atomic_numbers].sum() - sum(subject.charges) + sum(subject.hydrogens)
    return [outer, sum(map(Chem.Atom.GetNumRadicalElectrons, subject.atoms))]


def _extreme_charges(subject: _Subject) -> list[float]:
    lowest, highest = 500.0, -500.0  # as in RDKit, whose results with NaN depend on the order of the atoms
    for charge in subject.partial_charges:
        lowest, highest = min(charge, lowest), max(charge, highest)
    low, high = abs(lowest), abs(highest)
    return [highest, lowest, max(low, high), min(low, high)]


def _burden_eigenvalues(subject: _Subject) -> list[float]:
    """Highest and lowest eigenvalues of Burden matrices with masses, charges, logP and refractivity on the diagonal.

    Off the diagonal stand order^(-1/2) for bonds and 0.001 elsewhere; Pearlman and Smith, JCICS 39, 28 (1999).
    """
    places = np.arange(subject.num_atoms)
    diagonals_4N = np.empty((4, subject.num_atoms))
    diagonals_4N[0] = (
        [atom.GetMass() for atom in subject.atoms] if any(subject.isotopes) else _WEIGHT[subject.atomic_numbers]
    )
    diagonals_4N[1] = subject.partial_charges
    diagonals_4N[2:] = subject.crippen_N2.T
    if not subject.charges_known or not np.isfinite(diagonals_4N).all():
        return [math.nan] * 8
    orders_NN = subject.orders_NN
    burden_4NN = np.empty((4, subject.num_atoms, subject.num_atoms))
    burden_4NN[:] = np.where(orders_NN > 0, 1.0 / np.sqrt(orders_NN), 0.001)
    burden_4NN[:, places, places] = diagonals_4N
    eigenvalues_4N = np.linalg.eigvalsh(burden_4NN)
    return eigenvalues_4N[:, [-1, 0]].ravel().tolist()


def _characteristic_information(subject: _Subject) -> list[float]:
    """Information content of the characteristic polynomial, mean and total; Bonchev and Trinajstic (1977), Eq. 6, 7."""
    adjacency_NN = (subject.orders_NN > 0).astype(float)
    if MOST_ATOMS_BY_EIGENVALUES < subject.num_atoms <= MOST_ATOMS_BY_RECURSION:
        coefficients = recursive_coefficients(adjacency_NN)
    else:
        coefficients = characteristic_coefficients(np.linalg.eigvalsh(adjacency_NN))
    mean = entropy_bits(coefficients)
    return [mean, float(coefficients.sum()) * mean]


def _balaban(subject: _Subject) -> list[float]:
    return [balaban_j(subject.order_distances_NN, subject.bonds_2U)]


def _bertz(subject: _Subject) -> list[float]:
    return [bertz_complexity(subject.atomic_numbers, subject.order_distances_NN, subject.orders_NN, subject.paths)]


def _degree_connectivity(subject: _Subject) -> list[float]:
    """Chi0 and Chi1 of Randic, from degrees alone."""
    degree_N = subject.degree_N.astype(float)
    inverse_N = 1.0 / np.sqrt(degree_N[degree_N > 0])
    products_U = degree_N[subject.bonds_2U[0]] * degree_N[subject.bonds_2U[1]]
    return [float(inverse_N.sum()), float((1.0 / np.sqrt(products_U)).sum())]


def _path_connectivity(subject: _Subject) -> list[float]:
    """Chi2n, Chi2v, Chi3n, Chi3v, Chi4n and Chi4v of Kier and Hall."""
    return [float(value) for sums in subject.path_sums for value in sums[:2]]


def _shape(subject: _Subject) -> list[float]:
    """Kappa2, Kappa3 and Phi; Hall and Kier, Reviews in Computational Chemistry 2, 367 (1991), Eq. 60 to 62."""
    mol, alpha = subject.mol, rdMolDescriptors.CalcHallKierAlpha(subject.mol)
    heavy = mol.GetNumHeavyAtoms()
    two, three = (round(float(sums[2])) + alpha for sums in subject.path_sums[:2])
    kappa2 = (heavy + alpha - 1) * (heavy + alpha - 2) ** 2 / two**2 if two else 0.0
    less = 1 if heavy % 2 else 2
    kappa3 = (heavy + alpha - less) * (heavy + alpha - 3) ** 2 / three**2 if three else 0.0
    return [kappa2, kappa3, rdMolDescriptors.CalcKappa1(mol) * kappa2 / heavy if heavy else 0.0]


def _binned(
    keys_N: Sequence[float] | np.ndarray, bins: Sequence[float], amounts_N: Float[np.ndarray, " atoms"]
) -> list[float]:
    """Amounts of the atoms summed by the bin in which the key of each lies; a key on a border lies above it."""
    places = np.searchsorted(np.asarray(bins), np.asarray(keys_N), side="right")
    sums: list[float] = np.bincount(places, amounts_N, minlength=len(bins) + 1).tolist()
    return sums


def _charge_surfaces(subject: _Subject) -> list[float]:
    return _binned(subject.partial_charges, MolSurf.chgBins, subject.surfaces_N)


def _refractivity_surfaces(subject: _Subject) -> list[float]:
    return _binned(subject.crippen_N2[:, 1], MolSurf.mrBins, subject.surfaces_N)


def _log_p_surfaces(subject: _Subject) -> list[float]:
    return _binned(subject.crippen_N2[:, 0], MolSurf.logpBins, subject.surfaces_N)


def _state_surfaces(subject: _Subject) -> list[float]:
    return _binned(subject.states_N, EState_VSA.estateBins, subject.surfaces_N)


def _surface_states(subject: _Subject) -> list[float]:
    return _binned(subject.surfaces_N, EState_VSA.vsaBins, subject.states_N)


def _log_p(subject: _Subject) -> list[float]:
    return list(subject.log_p_and_refractivity)


def _rotatable(subject: _Subject) -> list[float]:
    return [subject.rotatable_bonds]


_Family = Callable[[_Subject], Sequence[float]]


def _numbered(prefix: str, bins: Sequence[float]) -> tuple[str, ...]:
    return tuple(f"{prefix}{place + 1}" for place in range(len(bins) + 1))


_FAMILIES: dict[tuple[str, ...], _Family] = {
    ("MaxAbsEStateIndex", "MaxEStateIndex", "MinAbsEStateIndex", "MinEStateIndex"): _estate_indices,
    ("qed",): _drug_likeness,
    ("SPS",): _spacial_score,
    ("NumValenceElectrons", "NumRadicalElectrons"): _electrons,
    ("MaxPartialCharge", "MinPartialCharge", "MaxAbsPartialCharge", "MinAbsPartialCharge"): _extreme_charges,
    tuple(f"BCUT2D_{kind}" for kind in ("MWHI", "MWLOW", "CHGHI", "CHGLO", "LOGPHI", "LOGPLOW", "MRHI", "MRLOW")): (
        _burden_eigenvalues
    ),
    ("AvgIpc", "Ipc"): _characteristic_information,
    ("BalabanJ",): _balaban,
    ("BertzCT",): _bertz,
    ("Chi0", "Chi1"): _degree_connectivity,
    ("Chi2n", "Chi2v", "Chi3n", "Chi3v", "Chi4n", "Chi4v"): _path_connectivity,
    ("Kappa2", "Kappa3", "Phi"): _shape,
    _numbered("PEOE_VSA", MolSurf.chgBins): _charge_surfaces,
    _numbered("SMR_VSA", MolSurf.mrBins): _refractivity_surfaces,
    _numbered("SlogP_VSA", MolSurf.logpBins): _log_p_surfaces,
    _numbered("EState_VSA", EState_VSA.estateBins): _state_surfaces,
    _numbered("VSA_EState", EState_VSA.vsaBins): _surface_states,
    ("MolLogP", "MolMR"): _log_p,
    ("NumRotatableBonds",): _rotatable,
}

_DIRECT: dict[str, Callable[[Chem.Mol], float]] = {
    name: getattr(rdMolDescriptors, function)
    for name, function in {
        "MolWt": "_CalcMolWt",
        "ExactMolWt": "CalcExactMolWt",
        "TPSA": "CalcTPSA",
        "LabuteASA": "CalcLabuteASA",
        "RingCount": "CalcNumRings",
        "NOCount": "CalcNumLipinskiHBA",
        "NHOHCount": "CalcNumLipinskiHBD",
        "NumHDonors": "CalcNumHBD",
        "NumHAcceptors": "CalcNumHBA",
    }.items()
}
"""RDKit's compiled functions behind some of its Python ones."""

_MORGAN = {f"FpDensityMorgan{radius}": rdFingerprintGenerator.GetMorganGenerator(radius) for radius in (1, 2, 3)}


def _fingerprint_density(generator: Any, mol: Chem.Mol) -> float:
    """Different atom environments per heavy atom."""
    heavy: int = mol.GetNumHeavyAtoms()
    return len(generator.GetSparseCountFingerprint(mol).GetNonzeroElements()) / heavy if heavy else 0.0


class DescriptorCalculator:
    """Computes the descriptors of some names, sharing what they have in common.

    Args:
        names: names among `DESCRIPTOR_NAMES`, each once; all by default.

    Raises:
        InputError: a name is not one of RDKit's descriptors, or occurs twice.

    Example:
        >>> DescriptorCalculator(["MolWt", "NumHDonors"])(Chem.MolFromSmiles("CCO")).round(2).tolist()
        [46.07, 1.0]
    """

    def __init__(self, names: Sequence[str] = DESCRIPTOR_NAMES) -> None:
        unknown = [name for name in names if name not in _RDKIT]
        if unknown or len(set(names)) != len(names):
            raise InputError(
                "descriptor names can't be used",
                found=f"unknown {unknown}" if unknown else "a name that occurs twice",
                expected="different names of RDKit's 2D descriptors",
                next_step="`dnd.chemistry.descriptors.DESCRIPTOR_NAMES` lists them.",
            )
        self.names = tuple(names)
        place_of = {name: place for place, name in enumerate(names)}
        self._families: list[tuple[_Family, list[int], list[int]]] = []  # where its values lie, and where they go
        for members, family in _FAMILIES.items():
            sources = [source for source, name in enumerate(members) if name in place_of]
            if sources:
                self._families.append((family, sources, [place_of.pop(members[source]) for source in sources]))
        fragments = _queries()[1] if any(name.startswith("fr_") for name in place_of) else {}
        self._fragments = {fragments[name]: (place_of.pop(name), name) for name in fragments if name in place_of}
        self._singles = [(self._single(name), place) for name, place in place_of.items()]

    @staticmethod
    def _single(name: str) -> Callable[[Chem.Mol], float]:
        generator = _MORGAN.get(name)
        if generator is not None:
            return lambda mol: _fingerprint_density(generator, mol)
        return _DIRECT.get(name, _RDKIT[name])

    def __call__(self, mol: Chem.Mol) -> Float[np.ndarray, " descriptors"]:
        """Descriptors of one molecule in the order of the names; NaN where RDKit's function raises.

        Args:
            mol: sanitised molecule; RDKit caches charges and ring data on it.

        Raises:
            TooDenseError: explicit hydrogens or rare bonds leave the molecule to RDKit's own functions, and it is so
                densely bound that some of these would not end.
        """
        values_D: Float[np.ndarray, " descriptors"] = self.of_all([mol])[0]
        return values_D

    def of_all(self, molecules: Sequence[Chem.Mol]) -> Float[np.ndarray, "molecules descriptors"]:
        """Descriptors of some molecules, see `__call__`, at about twice its rate for a hundred of them.

        Each family runs on all molecules before the next: its code, RDKit's and the queries' then stay in the
        processor's caches, which all 217 descriptors together do not fit.

        Raises:
            TooDenseError: as in `__call__`, for any of them.
        """
        subjects = [_Subject(mol) for mol in molecules]
        plain = [row for row, subject in enumerate(subjects) if subject.plain]
        others = sorted(set(range(len(subjects))).difference(plain))
        for row in others:
            refuse_dense(molecules[row], "RDKit's descriptors")
        values_BD = np.full((len(molecules), len(self.names)), math.nan)
        with BlockLogs(), np.errstate(all="ignore"):
            for row in others:
                values_BD[row] = [_or_nan(_RDKIT[name], molecules[row]) for name in self.names]
            for family, sources, places in self._families:
                for row in plain:
                    try:
                        found = family(subjects[row])
                    except _UNDEFINED:
                        continue
                    values_BD[row, places] = [found[source] for source in sources]
            if self._fragments:
                values_BD[np.ix_(plain, [place for place, _ in self._fragments.values()])] = 0.0
                for row in plain:
                    for source in subjects[row].answers.possible & self._fragments.keys():  # nine of ten have no match
                        place, name = self._fragments[source]
                        values_BD[row, place] = _fragment_count(subjects[row], source, name)
            for function, place in self._singles:
                values_BD[plain, place] = [_or_nan(function, molecules[row]) for row in plain]
        return values_BD


def _or_nan(function: Callable[[Chem.Mol], float], mol: Chem.Mol) -> float:
    try:
        return function(mol)
    except _UNDEFINED:
        return math.nan
