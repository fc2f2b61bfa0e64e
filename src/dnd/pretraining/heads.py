"""Readouts and heads that only pretraining uses, dropped when the encoder is saved."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dnd.common.config import nearest
from dnd.common.errors import InputError
from dnd.graphs.batch import GraphBatch, MoleculeBatch, mean_per_molecule, molecule_index
from dnd.models.students.base import Student, StudentOutput
from dnd.models.students.layers import pool
from dnd.store.reader import Store

# Readouts that only pretraining uses: pooled vectors and a small network, dropped when the encoder is saved.


Readout = Literal["mean", "virtual_node", "min_max_mean"]


class ProjectionHead(nn.Module):
    """Pooled student representations → two-layer network → `out_width` numbers per molecule.

    Args:
        student: whose width it takes.
        out_width: numbers per molecule.
        readout: `mean`, `virtual_node`, or `min_max_mean` as the PNA of 3DInfomax has it.
    """

    def __init__(self, student: Student, out_width: int, readout: Readout = "mean") -> None:
        super().__init__()
        self.readout = readout
        width = student.width * (3 if readout == "min_max_mean" else 1)
        self.network = nn.Sequential(nn.Linear(width, student.width), nn.ReLU(), nn.Linear(student.width, out_width))

    def forward(self, output: StudentOutput, graph: GraphBatch) -> Float[Tensor, "molecules out"]:
        """One vector per molecule."""
        if self.readout == "min_max_mean":
            pooled_BD = min_max_mean_per_molecule(output.atoms_ND, graph.atom_offsets)
        else:
            pooled_BD = pool(output, graph, self.readout)
        projected: Tensor = self.network(pooled_BD)
        return projected


def min_max_mean_per_molecule(
    values_XD: Float[Tensor, "items dim"], offsets: Int[Tensor, "offsets"]
) -> Float[Tensor, "molecules 3*dim"]:
    """[min | max | mean] over the items of each molecule; every molecule has at least one."""
    index_XD = molecule_index(offsets, len(values_XD))[:, None].expand_as(values_XD)
    empty_BD = values_XD.new_zeros(len(offsets) - 1, values_XD.shape[1])
    smallest_BD = empty_BD.scatter_reduce(0, index_XD, values_XD, "amin", include_self=False)
    largest_BD = empty_BD.scatter_reduce(0, index_XD, values_XD, "amax", include_self=False)
    return torch.cat([smallest_BD, largest_BD, mean_per_molecule(values_XD, offsets)], dim=1)


# Learning a column of the store's targets: the task term of CCMD, and the whole of ProPred.


class LabelHead(nn.Module):
    """Pooled representation → one label, in units of its standard deviation over the training rows.

    Args:
        student: gives the width.
        store: holds the labels.
        column: name of the target column.
        rows: training rows, which alone decide mean and deviation.
        holdout_rows: must hold a label too, or nothing could be evaluated.
        readout: how atoms are pooled.

    Attributes:
        mean: mean of the training labels, in the column's unit.
        deviation: standard deviation of the training labels, in the column's unit.

    Raises:
        InputError: no such column, fewer than two different training labels in it, or no held-out one.
    """

    def __init__(
        self,
        student: Student,
        store: Store,
        column: str,
        rows: np.ndarray,
        holdout_rows: np.ndarray,
        readout: Readout = "mean",
    ) -> None:
        super().__init__()
        if column not in store.target_columns:
            raise InputError(
                f"{store.path or 'the store'} has no target column {column!r}",
                found=", ".join(store.target_columns) or "none",
                next_step=nearest(column, store.target_columns) if store.target_columns else "Add --target-columns",
            )
        self.index = store.target_columns.index(column)
        labels = store.targets_of(rows)[:, self.index].astype(np.float64)
        labels = labels[np.isfinite(labels)]
        self.mean, self.deviation = (float(labels.mean()), float(labels.std())) if len(labels) else (0.0, 0.0)
        if self.deviation == 0.0:
            raise InputError(f"target column {column!r} has nothing to learn", found=f"{len(labels)} labels, all equal")
        if not np.isfinite(store.targets_of(holdout_rows)[:, self.index]).any():
            raise InputError(
                f"no held-out molecule has a label in {column!r}",
                next_step="Raise holdout_fraction or change loop.seed",
            )
        self.head = ProjectionHead(student, 1, readout)

    def forward(self, output: StudentOutput, batch: MoleculeBatch) -> tuple[Float[Tensor, ""], Float[Tensor, ""], int]:
        """Mean absolute error, that of predicting the training mean (both in deviations), and the number of labels."""
        target_B = (batch.targets_BC[:, self.index] - self.mean) / self.deviation
        known_B = target_B.isfinite()
        predicted_B = self.head(output, batch.graph)[:, 0].float()
        error = masked_l1(predicted_B, target_B)
        constant = masked_l1(torch.zeros_like(predicted_B), target_B)
        return error, constant, int(known_B.sum())


def masked_l1(predicted_B: Float[Tensor, "molecules"], target_B: Float[Tensor, "molecules"]) -> Float[Tensor, ""]:
    """Mean absolute error over the labels that are there; 0 with gradient 0 where there is none."""
    known_B = target_B.isfinite()
    error_B = (predicted_B - torch.where(known_B, target_B, predicted_B.detach())).abs()
    return error_B.sum() / known_B.sum().clamp(min=1)
