"""ProPred: supervised pretraining on a property that many molecules have, as the QM9 table of 3DInfomax runs it."""

from __future__ import annotations

import torch

from dnd.common.errors import ConfigError
from dnd.distillation.label_head import LabelHead
from dnd.distillation.pretrain_settings import PretrainConfig
from dnd.distillation.pretraining import PretrainingObjective, initial_weights
from dnd.graphs.batch import MoleculeBatch
from dnd.store.reader import Store
from dnd.student.build import build_student
from dnd.training.objective import StepLoss


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
