"""ProPred and DisPred: pretraining on a property of the molecule, or on the distance of every pair of atoms."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dnd.common.errors import ConfigError
from dnd.graphs.batch import GraphBatch, MoleculeBatch, padding_index
from dnd.models.students.encoders import build_student
from dnd.pretraining.baselines.infomax3d import ordered_pairs
from dnd.pretraining.heads import LabelHead
from dnd.pretraining.objective import PretrainingObjective, initial_weights, require_conformers
from dnd.pretraining.settings import PretrainConfig
from dnd.store.reader import Store
from dnd.training.objective import StepLoss

# ProPred: supervised pretraining on a property that many molecules have, as the QM9 table of 3DInfomax runs it.


class ProPredObjective(PretrainingObjective):
    """L1 on one target column, in standard deviations of the training labels.

    Source: the baseline of that name in Stärk et al., 3DInfomax (ICML 2022). Theirs is the Gibbs free energy that
    comes with GEOM-Drugs; ours is the column `target` of the store, such as `u0_atom` or `g4mp2_atomization`.

    Args:
        store: molecules with the labels.
        config: settings of the run.

    Raises:
        ConfigError: `target` is not set.
        InputError: the store has no such column, or nothing to learn in it.
    """

    def __init__(self, store: Store, config: PretrainConfig) -> None:
        super().__init__(store, config.loop, config.holdout_fraction)
        if config.target is None:
            raise ConfigError("propred needs a column to learn", next_step="Set target=NAME, a column of the store")
        with initial_weights(config.loop.seed):
            self.student = build_student(config.student)
            self.head = LabelHead(
                self.student, store, config.target, self.train_rows.sample(), self.holdout_rows, config.readout
            )

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        """Mean absolute error; `parts` has that of predicting the training mean, and the error in the column's unit."""
        error, constant, count = self.head(self.student(batch.graph), batch)
        parts = {"loss_of_the_mean": constant, "mae": error.detach() * self.head.deviation}
        return StepLoss(error, parts, torch.tensor(float(count)))


# DisPred: predict the distance of every pair of atoms from the 2D graph.


NUM_HEADS = 2


class DistanceHead(nn.Module):
    r"""One transformer layer over the atoms of a molecule, then a symmetric function of two atom states.

    .. math:: \hat d_{ij} = \operatorname{softplus}\bigl(f([h_i, h_j]) + f([h_j, h_i])\bigr)

    Source: the baseline "distance prediction" of Stärk et al., 3DInfomax (ICML 2022): a transformer layer with two
    heads, then an MLP on concatenated atom states, made symmetric.

    Args:
        width: width of the student, even.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(width, NUM_HEADS, 2 * width, dropout=0.0, batch_first=True)
        self.network = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(
        self, atoms_ND: Float[Tensor, "atoms dim"], graph: GraphBatch, pairs_2P: Int[Tensor, "2 pairs"]
    ) -> Float[Tensor, "pairs"]:
        """Distance in angstrom of every pair in `pairs_2P`, numbered over the batch."""
        index_Bn, real_Bn = padding_index(graph.atom_offsets)
        attended_BnD = self.attention(atoms_ND[index_Bn], src_key_padding_mask=~real_Bn)
        states_ND = attended_BnD[real_Bn]
        first_PD, second_PD = states_ND[pairs_2P[0]], states_ND[pairs_2P[1]]
        both = self.network(torch.cat([first_PD, second_PD], 1)) + self.network(torch.cat([second_PD, first_PD], 1))
        return nn.functional.softplus(both[:, 0].float())


def distance_loss(predicted_P: Float[Tensor, "pairs"], distance_P: Float[Tensor, "pairs"]) -> Float[Tensor, ""]:
    r""":math:`\frac{1}{P} \sum_p |\hat d_p - d_p|`, the mean absolute error in angstrom; 0 where there is no pair."""
    return (predicted_P - distance_P).abs().sum() / max(len(predicted_P), 1)


class DisPredObjective(PretrainingObjective):
    """L1 on the distances of all pairs of graph atoms of each molecule.

    Args:
        store: molecules with conformers.
        config: settings of the run.

    Raises:
        InputError: the store has no conformers.
    """

    def __init__(self, store: Store, config: PretrainConfig) -> None:
        super().__init__(store, config.loop, config.holdout_fraction)
        require_conformers(store)
        with initial_weights(config.loop.seed):
            self.student = build_student(config.student)
            self.head = DistanceHead(self.student.width)

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        """Mean absolute error in angstrom; `parts` has that of one constant distance, the batch's median."""
        assert batch.conformers is not None
        source_E, target_E = ordered_pairs(batch.graph.atom_offsets)
        once_E = source_E < target_E
        pairs_2P = torch.stack([source_E[once_E], target_E[once_E]])
        positions_N3 = batch.conformers.positions_A3[batch.conformers.graph_atoms_N]
        distance_P = (positions_N3[pairs_2P[0]] - positions_N3[pairs_2P[1]]).norm(dim=1)
        predicted_P = self.head(self.student(batch.graph).atoms_ND, batch.graph, pairs_2P)
        loss = distance_loss(predicted_P, distance_P)
        constant = distance_P.median() if len(distance_P) else distance_P.new_zeros(())
        parts = {"loss_of_the_median": distance_loss(constant.expand_as(distance_P), distance_P)}
        return StepLoss(loss, parts, torch.tensor(float(len(distance_P))))
