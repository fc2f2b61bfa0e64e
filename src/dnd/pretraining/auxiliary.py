"""More than one teacher: what else a student can learn of a molecule, each quantity by a head that is dropped later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.common.compute import numpy_generator
from dnd.common.config import look_up
from dnd.conformers.quantum import ATOM_QUANTITIES, QUANTITIES
from dnd.graphs.batch import ConformerBatch, MoleculeBatch, atom_pairs
from dnd.models.students.base import Student, StudentOutput
from dnd.pretraining.distill_losses import SolidPart, with_conformers
from dnd.pretraining.heads import AuxiliaryLoss, BondHead, LabelTerm, ProjectionHead, Standardiser, masked_squares
from dnd.pretraining.objective import require_conformers
from dnd.store.reader import Store
from dnd.store.schema import FINGERPRINT_PLACES

# Pair distances as classes: for each pair of atoms of a molecule, in which bin its distance lies.
#
# Bins rather than a regression: a flexible chain has several likely distances, and their mean is none of them.


BIN_EDGES = tuple(1.25 + 0.5 * step for step in range(22))
"""Upper edges of all bins but the last, angstrom: 1.25, 1.75, … 11.75."""

PAIR_WIDTH = 64
_STATISTICS_MOLECULES = 2000  # 300 pairs each are enough for 23 frequencies


class PairDistances(nn.Module):
    r"""Cross-entropy of the distance bin of every pair of graph atoms.

    .. math:: p_{ij} = \operatorname{softmax} W_2 \operatorname{relu} W_1 [u_i + u_j, u_i \odot u_j],
              \quad u = W_0 h

    which is symmetric in i and j, and costs P·(2·64)·(64 + K) multiplications: a hundredth of the student.

    Args:
        student: gives the width.
        store: molecules with conformers.
        rows: training rows, which alone decide the frequencies of the bins.
    """

    from_conformers = True
    log_frequency_K: Tensor

    def __init__(self, student: Student, store: Store, rows: np.ndarray) -> None:
        super().__init__()
        self.project = nn.Linear(student.width, PAIR_WIDTH)
        bins = len(BIN_EDGES) + 1
        self.network = nn.Sequential(nn.Linear(2 * PAIR_WIDTH, PAIR_WIDTH), nn.ReLU(), nn.Linear(PAIR_WIDTH, bins))
        batch = store.read(np.sort(rows[:: max(1, len(rows) // _STATISTICS_MOLECULES)]))
        counts_K = torch.bincount(self.read(store, batch)[2], minlength=bins).float() + 1.0
        self.register_buffer("log_frequency_K", (counts_K / counts_K.sum()).log())

    def read(self, store: Store, batch: MoleculeBatch, solid: SolidPart | None = None) -> Int[Tensor, "3 pairs"]:
        """Both atoms of every pair and the bin of their distance; on the CPU, beside the training."""
        molecules = batch if solid is None else solid.molecules
        if molecules.conformers is None:
            return torch.empty(3, 0, dtype=torch.int64)
        positions_N3 = molecules.conformers.positions_A3[molecules.conformers.graph_atoms_N]
        pairs_2P = atom_pairs(molecules.graph.atom_offsets)
        distance_P = (positions_N3[pairs_2P[0]] - positions_N3[pairs_2P[1]]).norm(dim=1)
        in_batch_2P = pairs_2P if solid is None else solid.atom_places[pairs_2P]
        return torch.cat([in_batch_2P, torch.bucketize(distance_P, torch.tensor(BIN_EDGES))[None]])

    def is_known(self, pairs_3P: Int[Tensor, "3 pairs"]) -> bool:
        """Whether there is any pair."""
        return pairs_3P.shape[1] > 0

    def forward(self, output: StudentOutput, batch: MoleculeBatch, pairs_3P: Int[Tensor, "3 pairs"]) -> AuxiliaryLoss:
        """Mean cross-entropy over pairs, and that of the training frequencies; their ratio gives McFadden's R²."""
        first_P, second_P, target_P = pairs_3P
        state_ND = self.project(output.atoms_ND)
        first_PD, second_PD = state_ND[first_P], state_ND[second_P]
        logits_PK = self.network(torch.cat([first_PD + second_PD, first_PD * second_PD], dim=1)).float()
        number = max(len(target_P), 1)
        loss = F.cross_entropy(logits_PK, target_P, reduction="sum") / number
        constant = -self.log_frequency_K[target_P].sum() / number
        return AuxiliaryLoss(loss, constant, torch.tensor(len(target_P)))

    def record(self, store: Store) -> list[dict[str, Any]]:
        """Frequency of every bin among the training pairs."""
        uppers: list[float | None] = [*BIN_EDGES, None]
        return [
            {"name": "distance", "below": upper, "frequency": frequency}
            for upper, frequency in zip(uppers, self.log_frequency_K.exp().tolist(), strict=True)
        ]


# More than one teacher: what else a student can learn of a molecule, each quantity by a head that is dropped later.
#
# From the store's further columns: RDKit's descriptors, count fingerprints, Gasteiger charges and solvent-accessible
# surface; quantum chemistry of a molecule, its atoms and its bonds. From its conformers: pair distances and principal
# radii. From its targets: labels, where present.


# Training molecules whose statistics stand for all of them.
STATISTICS_MOLECULES = 20_000
_READ_AT_ONCE = 4096


@dataclass(frozen=True)
class Family:
    """A kind of target.

    Attributes:
        items: what has values: molecules, graph atoms, or bonds of the graph, each once.
        read: store and batch → raw values, NaN = missing.
        pooled: one deviation for all columns; see `Standardiser`.
        from_conformers: whether it needs the batch's conformers.
        of_conformers: whether only molecules with conformers can have values.
    """

    items: Literal["molecules", "atoms", "bonds"]
    read: Callable[[Store, MoleculeBatch], Float[np.ndarray, "items columns"]]
    pooled: bool = False
    from_conformers: bool = False
    of_conformers: bool = False


def _descriptors(store: Store, batch: MoleculeBatch) -> np.ndarray:
    values, _ = store.read_auxiliary("descriptors", batch.rows_B.numpy())
    return values.reshape(batch.num_molecules, -1).astype(np.float32)


def _counts(column: str, store: Store, batch: MoleculeBatch) -> np.ndarray:
    """log(1 + count): a second ring says more than a ninth carbon of a chain, and counts stay counts."""
    places, offsets = store.read_auxiliary(column, batch.rows_B.numpy())
    molecule = np.repeat(np.arange(batch.num_molecules), np.diff(offsets))
    size = batch.num_molecules * FINGERPRINT_PLACES
    counts = np.bincount(molecule * FINGERPRINT_PLACES + places.astype(np.int64), minlength=size)
    values = np.log1p(counts.reshape(-1, FINGERPRINT_PLACES)).astype(np.float32)
    values[np.diff(offsets) == 0] = np.nan  # no molecule has no feature at all: these are not known
    return values


def _fingerprints(store: Store, batch: MoleculeBatch) -> np.ndarray:
    return _counts("fingerprints", store, batch)


def _avalon(store: Store, batch: MoleculeBatch) -> np.ndarray:
    return _counts("avalon", store, batch)


def _charges(store: Store, batch: MoleculeBatch) -> np.ndarray:
    values, _ = store.read_auxiliary("charges", batch.rows_B.numpy())
    return values[:, None].astype(np.float32)


def _surface(store: Store, batch: MoleculeBatch) -> np.ndarray:
    values, _ = store.read_auxiliary("surface", batch.rows_B.numpy())
    return values[:, None].astype(np.float32)


_WATER, _OCTANOL, _HEXANE, _ENERGY = (
    list(QUANTITIES).index(name) for name in ("solvation_water", "solvation_octanol", "solvation_hexane", "energy")
)
QUANTUM_TARGETS: dict[str, str] = {
    "solvation_water": "kcal/mol",
    "octanol_minus_water": "kcal/mol",
    "hexane_minus_octanol": "kcal/mol",
    "homo": "eV",
    "lumo": "eV",
    "gap": "eV",
    "dipole": "debye",
    "quadrupole": "debye angstrom",
    "energy_per_graph_atom": "kcal/mol",
}
"""What the term `quantum` teaches and its units, in order."""


def quantum_targets(
    values_BC: Float[np.ndarray, "molecules quantities"], graph_atoms_B: Int[np.ndarray, "molecules"]
) -> Float[np.ndarray, "molecules quantities"]:
    """Values of a calculation as the term `quantum` teaches them: from the order of `QUANTITIES` to `QUANTUM_TARGETS`.

    Solvation in octanol and hexane become differences, the energy becomes one per graph atom; the others stay.
    Solvation follows one axis in all three solvents, and energy the number of atoms. Taught as they are, the small
    differences that decide a partition drown: 2,519 molecules, 12 epochs, R² held out of octanol minus water 0.86,
    taught as such 0.94; of the energy per atom 0.49 and 0.93; no other value gets worse.
    """
    targets_BC = np.array(values_BC, dtype=np.float64)
    targets_BC[:, _OCTANOL] -= values_BC[:, _WATER]
    targets_BC[:, _HEXANE] -= values_BC[:, _OCTANOL]
    targets_BC[:, _ENERGY] /= graph_atoms_B
    return targets_BC


def _quantum(store: Store, batch: MoleculeBatch) -> np.ndarray:
    values, _ = store.read_auxiliary("quantum", batch.rows_B.numpy())
    values_BC = values.reshape(batch.num_molecules, -1).astype(np.float64)
    return quantum_targets(values_BC, np.diff(batch.graph.atom_offsets.numpy())).astype(np.float32)


def _quantum_atoms(store: Store, batch: MoleculeBatch) -> np.ndarray:
    values, _ = store.read_auxiliary("quantum_atoms", batch.rows_B.numpy())
    return values.reshape(len(batch.graph.node_features_NF), -1).astype(np.float32)


def _quantum_bonds(store: Store, batch: MoleculeBatch) -> np.ndarray:
    values, _ = store.read_auxiliary("quantum_bonds", batch.rows_B.numpy())
    return values[:, None].astype(np.float32)


def _radii(store: Store, batch: MoleculeBatch) -> np.ndarray:
    assert batch.conformers is not None
    return principal_radii(batch.conformers)


FAMILIES: dict[str, Family] = {
    "descriptors": Family("molecules", _descriptors),
    # Squared error on log counts with one scale for all places: it has an R² like the other families; per-place scales
    # would make the rarest environment the loudest, a Poisson loss has unbounded gradients, and bits drop the counts.
    "fingerprints": Family("molecules", _fingerprints, pooled=True),
    "avalon": Family("molecules", _avalon, pooled=True),
    "charges": Family("atoms", _charges),
    "surface": Family("atoms", _surface, of_conformers=True),
    "radii": Family("molecules", _radii, from_conformers=True, of_conformers=True),
    "quantum": Family("molecules", _quantum, of_conformers=True),
    "quantum_atoms": Family("atoms", _quantum_atoms, of_conformers=True),
    "quantum_bonds": Family("bonds", _quantum_bonds, of_conformers=True),
}


def principal_radii(conformers: ConformerBatch) -> Float[np.ndarray, "molecules 3"]:
    r"""Extent of each molecule along its principal axes, largest first, angstrom.

    .. math:: \sqrt{\lambda_k\Bigl(\sum_a Z_a (r_a - c)(r_a - c)^T / \sum_a Z_a\Bigr)}

    with the centre c weighted the same. Atomic numbers stand for masses. The principal moments of inertia are sums of
    two of the squares, so nothing is lost; radii are chosen because they are of one scale for all sizes.

    Args:
        conformers: all atoms count, hydrogens too.
    """
    weight_A1 = conformers.atomic_numbers_A.numpy().astype(np.float64)[:, None]
    positions_A3 = conformers.positions_A3.numpy().astype(np.float64)
    offsets = conformers.atom_offsets.numpy()
    total_B1 = np.add.reduceat(weight_A1, offsets[:-1])
    centre_B3 = np.add.reduceat(weight_A1 * positions_A3, offsets[:-1]) / total_B1
    away_A3 = positions_A3 - np.repeat(centre_B3, np.diff(offsets), axis=0)
    products_A33 = weight_A1[:, :, None] * away_A3[:, :, None] * away_A3[:, None, :]
    moments_B33 = np.add.reduceat(products_A33, offsets[:-1]) / total_B1[:, :, None]
    squares_B3 = np.linalg.eigvalsh(moments_B33)[:, ::-1]
    radii_B3: np.ndarray = np.sqrt(squares_B3.clip(min=0.0)).astype(np.float32)
    return radii_B3


class AuxiliaryTerm(nn.Module):
    """One family of numbers, from the representations of their items, in units of their training deviation.

    Args:
        name: name of the family.
        student: gives the width.
        store: holds the values.
        rows: training rows, which alone decide the scale.
    """

    def __init__(self, name: str, student: Student, store: Store, rows: np.ndarray) -> None:
        super().__init__()
        self.name, self.family = name, look_up(FAMILIES, name, "auxiliary term")
        self.from_conformers = self.family.from_conformers
        chunks = [rows[first : first + _READ_AT_ONCE] for first in range(0, len(rows), _READ_AT_ONCE)]
        values_XF = np.concatenate([self.family.read(store, store.read(chunk)) for chunk in chunks])
        self.scale = Standardiser(values_XF, f"the auxiliary term {name}", pooled=self.family.pooled)
        width = self.scale.width
        self.head: nn.Module
        if self.family.items == "atoms":
            self.head = nn.Sequential(
                nn.Linear(student.width, student.width), nn.ReLU(), nn.Linear(student.width, width)
            )
        else:
            self.head = BondHead(student, width) if self.family.items == "bonds" else ProjectionHead(student, width)

    def read(
        self, store: Store, batch: MoleculeBatch, solid: SolidPart | None = None
    ) -> Float[Tensor, "items columns"]:
        """Raw values of a batch on the CPU; NaN = missing."""
        if not self.from_conformers or solid is None:
            return torch.from_numpy(self.family.read(store, batch))
        values_BF = np.full((batch.num_molecules, int(self.scale.kept_S.max()) + 1), np.nan, dtype=np.float32)
        if solid.molecules.num_molecules:
            found = self.family.read(store, solid.molecules)
            values_BF[solid.molecule_B.numpy()] = found[:, : values_BF.shape[1]]
        return torch.from_numpy(values_BF)

    def is_known(self, values_XF: Float[Tensor, "items columns"]) -> bool:
        """Whether any value is there in a column that is learned."""
        return bool(self.scale(values_XF).isfinite().any())

    def forward(
        self, output: StudentOutput, batch: MoleculeBatch, values_XF: Float[Tensor, "items columns"]
    ) -> AuxiliaryLoss:
        """Mean squared error over the known entries, and that of the training mean."""
        target_XS = self.scale(values_XF)
        of_atoms = self.family.items == "atoms"
        predicted = self.head(output.atoms_ND) if of_atoms else self.head(output, batch.graph)
        return masked_squares(predicted.float(), target_XS)

    def record(self, store: Store) -> list[dict[str, Any]]:
        """The scale of every kept column."""
        given = {
            "descriptors": store.manifest.get("descriptor_names"),
            "quantum": [f"{name}, {unit}" for name, unit in QUANTUM_TARGETS.items()],
            "quantum_atoms": [f"{name}, {unit}" for name, unit in ATOM_QUANTITIES.items()],
            "quantum_bonds": ["Wiberg bond order"],
        }.get(self.name)
        places = int(self.scale.kept_S.max()) + 1
        return self.scale.record(given or [f"{self.name}-{place}" for place in range(places)])


Auxiliary = AuxiliaryTerm | PairDistances | LabelTerm


def build_auxiliary(
    names: list[str], student: Student, store: Store, train_rows: np.ndarray, seed: int, label_rows: np.ndarray
) -> dict[str, Auxiliary]:
    """The auxiliary terms by name.

    Args:
        names: names of the terms.
        student: gives the width.
        store: holds the values.
        train_rows: training rows; at most 20,000 of them decide the scales.
        seed: draws these.
        label_rows: every training row, as few labels are known.

    Raises:
        InputError: the store lacks what a term needs, or it never varies.
    """
    order = numpy_generator(seed, "auxiliary statistics").permutation(train_rows)

    def build(name: str) -> Auxiliary:
        if name == "labels":
            return LabelTerm(student, store, label_rows)
        solid = name == "distances" or look_up(FAMILIES, name, "auxiliary term").of_conformers
        if solid and not store.some_conformers:
            require_conformers(store)
        known = with_conformers(store, order) if solid else order
        rows = np.sort(known[:STATISTICS_MOLECULES])
        return PairDistances(student, store, rows) if name == "distances" else AuxiliaryTerm(name, student, store, rows)

    return {name: build(name) for name in names}
