"""Molecules with and without conformers in one batch: what asks for a conformer sees the part that has one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dnd.graphs.batch import MoleculeBatch, _Packed
from dnd.models.students.base import StudentOutput
from dnd.store.reader import Store


@dataclass(frozen=True)
class SolidPart(_Packed):
    """The molecules of a batch that have a conformer.

    Attributes:
        molecules: they alone, in the order of the batch, S of them.
        molecule_B: which molecules of the batch they are.
        atom_N: which atoms of the batch are theirs.
    """

    molecules: MoleculeBatch
    molecule_B: Bool[Tensor, "molecules"]
    atom_N: Bool[Tensor, "atoms"]

    @property
    def atom_places(self) -> Int[Tensor, "solid_atoms"]:
        """Place in the batch of each of their atoms."""
        return self.atom_N.nonzero()[:, 0]

    def select(self, output: StudentOutput) -> StudentOutput:
        """Their share of what a student says of the batch."""
        return StudentOutput(
            output.atoms_ND[self.atom_N],
            None if output.virtual_BD is None else output.virtual_BD[self.molecule_B],
            [
                (atoms_ND[self.atom_N], None if virtual_BD is None else virtual_BD[self.molecule_B])
                for atoms_ND, virtual_BD in output.layers
            ],
        )

    def without_conformers(self) -> SolidPart:
        """The same without the geometries, once nobody needs them any more."""
        return replace(self, molecules=replace(self.molecules, conformers=None))


def solid_part(store: Store, batch: MoleculeBatch) -> SolidPart | None:
    """The part of a batch that has conformers; None where that is the whole, or where the store has none at all."""
    if batch.conformers is not None:
        return None
    rows = batch.rows_B.numpy()
    has_B = store.places_with_conformers(rows) >= 0
    if not has_B.any() and not store.some_conformers:
        return None
    molecule_B = torch.from_numpy(has_B)
    return SolidPart(store.read(rows[np.flatnonzero(has_B)]), molecule_B, molecule_B[batch.graph.batch_N])


def with_conformers(store: Store, rows: np.ndarray) -> np.ndarray:
    """Those of `rows` whose molecules have a conformer."""
    return rows if store.has_conformers else rows[store.places_with_conformers(rows) >= 0]
