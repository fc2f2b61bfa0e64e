"""GraphCL (You et al., NeurIPS 2020): two copies of a graph, each with some atoms dropped, should look alike."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from dnd.common.randomness import torch_generator
from dnd.graphs.batch import GraphBatch, MoleculeBatch
from dnd.models.students.encoders import build_student
from dnd.pretraining.baselines.infomax3d import contrastive_step
from dnd.pretraining.heads import ProjectionHead
from dnd.pretraining.objective import PretrainingObjective, initial_weights
from dnd.pretraining.settings import PretrainConfig
from dnd.store.reader import Store
from dnd.training.objective import StepLoss

DROPPED_SHARE = 0.2
TEMPERATURE = 0.1


def drop_atoms(graph: GraphBatch, share: float, generator: torch.Generator) -> GraphBatch:
    """Every molecule without a random `share` of its atoms, rounded down, and without their bonds.

    Args:
        graph: B molecules on any device.
        share: share of the atoms of each molecule, 0 to below 1, so at least one stays.
        generator: on the CPU, so that a device does not change the draw.
    """
    batch_N, size_B = graph.batch_N, graph.atoms_per_molecule_B
    chance_N = torch.rand(len(batch_N), generator=generator).to(batch_N.device)
    order_N = (batch_N + chance_N.double()).argsort()  # by molecule, random within it
    rank_N = torch.arange(len(batch_N), device=batch_N.device) - graph.atom_offsets[batch_N]
    kept_N = torch.empty_like(batch_N, dtype=torch.bool)
    kept_N[order_N] = rank_N >= (size_B * share).long()[batch_N]
    return subgraph(graph, kept_N)


def subgraph(graph: GraphBatch, kept_N: Bool[Tensor, "atoms"]) -> GraphBatch:
    """The atoms with `kept_N` and the bonds between them, renumbered; every molecule stays, in the same order."""
    number_N = kept_N.cumsum(0) - 1
    kept_E = kept_N[graph.edge_index_2E].all(dim=0)
    return GraphBatch(
        graph.node_features_NF[kept_N],
        number_N[graph.edge_index_2E[:, kept_E]],
        graph.edge_features_EF[kept_E],
        _offsets(graph.batch_N[kept_N], graph.num_molecules),
        _offsets(graph.edge_batch_E[kept_E], graph.num_molecules),
    )


def _offsets(molecule_X: Tensor, num_molecules: int) -> Tensor:
    counts_B = torch.bincount(molecule_X, minlength=num_molecules)
    return torch.cat([counts_B.new_zeros(1), counts_B.cumsum(0)])


class GraphCLObjective(PretrainingObjective):
    """GraphCL with atom dropping, as the QM9 table of 3DInfomax runs it.

    Source: You et al., "Graph Contrastive Learning with Augmentations"; 20 % of the atoms of both copies, τ = 0.1 and
    the NT-Xent of `contrastive.py` as in the public code of 3DInfomax.

    Args:
        store: molecules; no conformers are read.
        config: settings of the run.
    """

    def __init__(self, store: Store, config: PretrainConfig) -> None:
        super().__init__(store, config.loop, config.holdout_fraction, contrastive=True)
        self.require_pairs()
        with initial_weights(config.loop.seed):
            self.student = build_student(config.student)
            self.head = ProjectionHead(self.student, config.out_width, config.readout)

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        """NT-Xent of two copies whose dropped atoms follow from `seed`."""
        views = []
        for copy in range(2):
            graph = drop_atoms(batch.graph, DROPPED_SHARE, torch_generator(seed, "dropped atoms", copy))
            views.append(self.head(self.student(graph), graph).float())
        return contrastive_step(views[0], views[1], TEMPERATURE, gather=self.training)
