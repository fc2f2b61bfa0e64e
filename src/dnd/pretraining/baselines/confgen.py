"""ConfGen: learn to generate conformers from the 2D graph; a plain stand-in for the generative baseline.

How it differs from the cited one. 3DInfomax's baseline is GeoMol-like: it predicts local neighbourhoods and torsions,
assembles them, generates 10 conformers and matches them to the references by optimal transport on bond, angle and
torsion terms. Here noise and atom states give coordinates by a few equivariant message steps, at most 5 conformers are
generated, and the cost of a pair is the mean error of the interatomic distances, so mirror images cost nothing. The
matching is the exact optimal transport for uniform weights. With one reference per molecule, all generated conformers
are drawn to it, and the objective teaches no diversity.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dnd.common.compute import torch_generator
from dnd.graphs.batch import MoleculeBatch, molecule_index, ordered_pairs
from dnd.models.students.encoders import build_student
from dnd.pretraining.objective import PretrainingObjective, initial_weights, require_conformers
from dnd.pretraining.settings import PretrainConfig
from dnd.store.reader import Store
from dnd.training.settings import StepLoss

NUM_STEPS = 3


@dataclass(frozen=True)
class ReferenceBatch(MoleculeBatch):
    """A batch with several conformers per molecule.

    Attributes:
        references_VN3: `(V, N, 3)` positions of the graph's atoms, angstrom; a molecule with fewer conformers repeats.
    """

    references_VN3: Float[Tensor, "references atoms 3"]


class ConformerDecoder(nn.Module):
    r"""Noise and atom states → coordinates, by equivariant message steps on the complete graph.

    .. math:: x_i \leftarrow x_i + \frac{1}{N} \sum_{j \neq i} \frac{x_i - x_j}{1 + d_{ij}}\,
              \phi([h_i, h_j, d_{ij}])

    The step is that of EGNN (Satorras et al., ICML 2021) without its feature update: the student's states do the
    chemistry, and what they lack shows in the loss.

    Args:
        width: width of the student.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width + 1, width), nn.SiLU(), nn.Linear(width, 1)) for _ in range(NUM_STEPS)
        )

    def forward(
        self,
        atoms_ND: Float[Tensor, "atoms dim"],
        noise_JN3: Float[Tensor, "generated atoms 3"],
        offsets: Int[Tensor, "offsets"],
    ) -> Float[Tensor, "generated atoms 3"]:
        """G conformers of every molecule, angstrom up to rotation, reflection and translation."""
        source_E, target_E = ordered_pairs(offsets)
        size_N1 = offsets.diff()[molecule_index(offsets, len(atoms_ND))][:, None]
        states_E = torch.cat([atoms_ND[target_E], atoms_ND[source_E]], dim=1).expand(len(noise_JN3), -1, -1)
        x_JN3 = noise_JN3 * size_N1.sqrt()  # a molecule's extent grows with its atoms
        for step in self.steps:
            offset_JE3 = x_JN3[:, target_E] - x_JN3[:, source_E]
            distance_JE1 = safe_norm(offset_JE3)[..., None]
            push_JE3 = offset_JE3 / (1 + distance_JE1) * step(torch.cat([states_E, distance_JE1], dim=-1)).float()
            x_JN3 = x_JN3 + torch.zeros_like(x_JN3).index_add(1, target_E, push_JE3) / size_N1
        return x_JN3


def safe_norm(vectors: Float[Tensor, "*items 3"]) -> Float[Tensor, "*items"]:
    """Length with a finite gradient at 0."""
    return (vectors.square().sum(dim=-1) + 1e-12).sqrt()


def distance_cost(
    generated_JN3: Float[Tensor, "generated atoms 3"],
    references_VN3: Float[Tensor, "references atoms 3"],
    offsets: Int[Tensor, "offsets"],
) -> Float[Tensor, "molecules generated references"]:
    r"""Mean over pairs of :math:`|\hat d_{ij} - d_{ij}|`, angstrom, of each generated and reference conformer."""
    source_E, target_E = ordered_pairs(offsets)
    pair_molecule_E = molecule_index(offsets, len(references_VN3[0]))[source_E]
    generated_JE = safe_norm(generated_JN3[:, source_E] - generated_JN3[:, target_E])
    references_VE = safe_norm(references_VN3[:, source_E] - references_VN3[:, target_E])
    error_EJV = (generated_JE.T[:, :, None] - references_VE.T[:, None, :]).abs()
    total_BJV = error_EJV.new_zeros(len(offsets) - 1, *error_EJV.shape[1:]).index_add(0, pair_molecule_E, error_EJV)
    size_B = offsets.diff()
    return total_BJV / (size_B * (size_B - 1)).clamp(min=1)[:, None, None]


def transport_loss(cost_BJV: Float[Tensor, "molecules generated references"]) -> Float[Tensor, ""]:
    """Mean cost of the cheapest matching in which every reference is used equally often, up to one.

    For uniform weights an optimal transport plan is a one-to-one assignment, found here by trying all of them, so G is
    at most 5. References are repeated up to G.

    Args:
        cost_BJV: cost of each generated and each reference conformer, V at most J.
    """
    generated, references = cost_BJV.shape[1:]
    columns = [index % references for index in range(generated)]
    orders = torch.tensor(list(permutations(columns)), device=cost_BJV.device)
    cost_BXJ = cost_BJV[:, torch.arange(generated, device=cost_BJV.device), orders]
    cheapest_B = cost_BXJ.mean(dim=2).min(dim=1).values
    return cheapest_B.mean()


class ConfGenObjective(PretrainingObjective):
    """Generated against reference conformers by optimal transport; see the head of this file.

    Args:
        store: molecules with one or more conformers.
        config: settings of the run.

    Raises:
        InputError: the store has no conformers.
    """

    def __init__(self, store: Store, config: PretrainConfig) -> None:
        super().__init__(store, config.loop, config.holdout_fraction)
        require_conformers(store)
        counts = store.num_conformers_of(np.arange(len(store)))
        self.num_references = min(config.num_references, int(counts.max()))
        self.num_generated = config.num_generated
        with initial_weights(config.loop.seed):
            self.student = build_student(config.student)
            self.decoder = ConformerDecoder(self.student.width)

    def load_batch(self, rows: np.ndarray, epoch: int) -> MoleculeBatch:
        """The molecules with their first conformers."""
        batches = [self.store.read(rows, conformer=number) for number in range(self.num_references)]
        conformers = [batch.conformers for batch in batches]
        positions = [entry.positions_A3[entry.graph_atoms_N] for entry in conformers if entry is not None]
        first = batches[0]
        return ReferenceBatch(first.graph, None, first.targets_BC, first.rows_B, torch.stack(positions))

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        """Transport cost in angstrom per pair; `parts` has that of the raw noise, which needs no learning."""
        assert isinstance(batch, ReferenceBatch)
        offsets, references_VN3 = batch.graph.atom_offsets, batch.references_VN3
        shape = (self.num_generated, references_VN3.shape[1], 3)
        noise_JN3 = torch.randn(shape, generator=torch_generator(seed, "conformer noise")).to(references_VN3)
        generated_JN3 = self.decoder(self.student(batch.graph).atoms_ND, noise_JN3, offsets)
        loss = transport_loss(distance_cost(generated_JN3, references_VN3, offsets))
        size_N1 = batch.graph.atoms_per_molecule_B[batch.graph.batch_N][:, None]
        raw = transport_loss(distance_cost(noise_JN3 * size_N1.sqrt(), references_VN3, offsets))
        return StepLoss(loss, {"loss_of_noise": raw.detach()}, torch.tensor(float(batch.num_molecules)))
