"""Pair distances as classes: for each pair of atoms of a molecule, in which bin its distance lies.

Bins rather than a regression: a flexible chain has several likely distances, and their mean is none of them. Legend: N
graph atoms, P unordered pairs, K bins, H width of a pair.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.distillation.masked import AuxiliaryLoss
from dnd.distillation.net3d import ordered_pairs
from dnd.distillation.pretraining import require_conformers
from dnd.graphs.batch import MoleculeBatch
from dnd.store.reader import Store
from dnd.student.contract import Student, StudentOutput

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

    log_frequency_K: Tensor

    def __init__(self, student: Student, store: Store, rows: np.ndarray) -> None:
        super().__init__()
        require_conformers(store)
        self.project = nn.Linear(student.width, PAIR_WIDTH)
        bins = len(BIN_EDGES) + 1
        self.network = nn.Sequential(nn.Linear(2 * PAIR_WIDTH, PAIR_WIDTH), nn.ReLU(), nn.Linear(PAIR_WIDTH, bins))
        batch = store.read(np.sort(rows[:: max(1, len(rows) // _STATISTICS_MOLECULES)]))
        counts_K = torch.bincount(self.read(store, batch)[2], minlength=bins).float() + 1.0
        self.register_buffer("log_frequency_K", (counts_K / counts_K.sum()).log())

    def read(self, store: Store, batch: MoleculeBatch) -> Int[Tensor, "3 pairs"]:
        """Both atoms of every pair and the bin of their distance; on the CPU, beside the training."""
        assert batch.conformers is not None
        positions_N3 = batch.conformers.positions_A3[batch.conformers.graph_atoms_N]
        pairs_2P = atom_pairs(batch.graph.atom_offsets)
        distance_P = (positions_N3[pairs_2P[0]] - positions_N3[pairs_2P[1]]).norm(dim=1)
        return torch.cat([pairs_2P, torch.bucketize(distance_P, torch.tensor(BIN_EDGES))[None]])

    def forward(self, output: StudentOutput, batch: MoleculeBatch, pairs_3P: Int[Tensor, "3 pairs"]) -> AuxiliaryLoss:
        """Mean cross-entropy over pairs, and that of the training frequencies; their ratio gives McFadden's R²."""
        first_P, second_P, target_P = pairs_3P
        state_NH = self.project(output.atoms_ND)
        first_PH, second_PH = state_NH[first_P], state_NH[second_P]
        logits_PK = self.network(torch.cat([first_PH + second_PH, first_PH * second_PH], dim=1)).float()
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


def atom_pairs(offsets: Int[Tensor, "boundaries"]) -> Int[Tensor, "2 pairs"]:
    """Every unordered pair of different atoms of one molecule, in packed numbering."""
    source_E, target_E = ordered_pairs(offsets)
    once_E = source_E < target_E
    return torch.stack([source_E[once_E], target_E[once_E]])
