"""Readouts that only pretraining uses: pooled vectors and a small network, dropped when the encoder is saved."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dnd.graphs.batch import GraphBatch, mean_per_molecule, molecule_index
from dnd.student.contract import Student, StudentOutput
from dnd.student.pooling import pool

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
    values_ND: Float[Tensor, "items dim"], offsets: Int[Tensor, "offsets"]
) -> Float[Tensor, "molecules 3*dim"]:
    """[min | max | mean] over the items of each molecule; every molecule has at least one."""
    index_ND = molecule_index(offsets, len(values_ND))[:, None].expand_as(values_ND)
    empty_BD = values_ND.new_zeros(len(offsets) - 1, values_ND.shape[1])
    smallest_BD = empty_BD.scatter_reduce(0, index_ND, values_ND, "amin", include_self=False)
    largest_BD = empty_BD.scatter_reduce(0, index_ND, values_ND, "amax", include_self=False)
    return torch.cat([smallest_BD, largest_BD, mean_per_molecule(values_ND, offsets)], dim=1)
