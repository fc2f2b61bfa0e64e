"""Numbers of bonds from the representations of their two atoms.

A file of its own, since it is the one head that reads neither atoms nor molecules.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dnd.graphs.batch import GraphBatch
from dnd.graphs.molecular_graph import BOND_FEATURE_SIZES
from dnd.models.students.base import Student, StudentOutput
from dnd.models.students.layers import FeatureEmbedding

BOND_WIDTH = 64


class BondHead(nn.Module):
    r""":math:`y_{ij} = W_2 \operatorname{relu} W_1 [u_i + u_j, u_i \odot u_j, e_{ij}], \quad u = W_0 h`

    with an embedding e of the bond's features. It's the same for (i, j) and (j, i), and each bond counts once.

    Args:
        student: gives the width.
        out_width: F.
    """

    def __init__(self, student: Student, out_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(student.width, BOND_WIDTH)
        self.embedding = FeatureEmbedding(BOND_FEATURE_SIZES, BOND_WIDTH)
        self.network = nn.Sequential(nn.Linear(3 * BOND_WIDTH, BOND_WIDTH), nn.ReLU(), nn.Linear(BOND_WIDTH, out_width))

    def forward(self, output: StudentOutput, graph: GraphBatch) -> Float[Tensor, "bonds out"]:
        """One row per bond, in the order of the graph."""
        first_U, second_U = bonds_once(graph)
        state_ND = self.project(output.atoms_ND)
        first_UD, second_UD = state_ND[first_U], state_ND[second_U]
        bond_UD = self.embedding(graph.edge_features_EF[::2]).to(state_ND.dtype)
        found: Tensor = self.network(torch.cat([first_UD + second_UD, first_UD * second_UD, bond_UD], dim=1))
        return found


def bonds_once(graph: GraphBatch) -> Int[Tensor, "2 bonds"]:
    """Both atoms of every bond, in packed numbering; a bond is two consecutive edges, the first of which counts."""
    return graph.edge_index_2E[:, ::2]
