"""What a stage hands to the training loop: its modules, its data and its loss.

Four objectives plug into the one loop: denoising, distillation, contrastive and supervised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnd.graphs.batch import MoleculeBatch


@dataclass
class Terms:
    """A loss of several means, each over its own items (atoms, molecules, the labels of a target).

    Attributes:
        losses_X: the means, differentiable, multiplied by their factors in the loss.
        weights_X: number of items of each mean, or the sum of their weights; if it is 0, the loss must be 0, not NaN.
        averaged: the loss is the mean of the terms that have a weight; else the sum of all.
    """

    losses_X: Float[Tensor, "terms"]
    weights_X: Float[Tensor, "terms"]
    averaged: bool = False

    @property
    def loss(self) -> Float[Tensor, ""]:
        """The sum or the mean."""
        return self.combined(self.weights_X)

    def combined(self, weights_X: Float[Tensor, "terms"]) -> Float[Tensor, ""]:
        """The sum or the mean, where the weights say which terms there are."""
        total: Tensor = self.losses_X.sum()
        return total / (weights_X > 0).sum().clamp(min=1) if self.averaged else total


@dataclass
class StepLoss:
    """Loss of one batch.

    Attributes:
        loss: scalar, differentiable, a mean over something.
        parts: further numbers for the log, such as the separate terms; detached scalars.
        weight: scalar, number of items of the mean (atoms, molecules, labels); if it is 0,
            `loss` must be 0, not NaN. Ranks of a distributed run weigh their losses with it, so that together they
            have the loss of one process with the whole batch. One process does not use it.
        terms: set if `loss` consists of several means; these are then weighted one by one and `weight` is not used.
    """

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    weight: Tensor = field(default_factory=lambda: torch.ones(()))
    terms: Terms | None = None


class Objective(nn.Module, ABC):
    """A loss over batches of molecules with everything that is trained as submodules.

    Frozen networks must not be submodules: checkpoints contain exactly the content of `state_dict`. `forward` must draw
        all
    its randomness from `seed` or from torch's global generator, which the loop seeds before each step, so that a
    resumed run repeats the interrupted one bit for bit.

    Attributes:
        best_metric: key of `evaluate()` that selects the weights kept at the end; None keeps the last.
        best_is_max: whether larger is better.
        bf16_devices: kinds of device on which its networks are faster in bfloat16, for `precision=auto`.
    """

    best_metric: str | None = None
    best_is_max: bool = False
    bf16_devices: Collection[str] = ()

    @abstractmethod
    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        """Loss of `batch`; `seed` is a pure function of (run seed, step, rank)."""

    @abstractmethod
    def plan_epoch(self, epoch: int) -> Sequence[np.ndarray]:
        """Row numbers of each batch of `epoch`, a pure function of (seed, epoch); see `store.batches.plan_batches`."""

    @abstractmethod
    def load_batch(self, rows: np.ndarray, epoch: int) -> MoleculeBatch:
        """Read one batch from the source."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Held-out metrics, the same for the same weights (fixed noise, no dropout); called in evaluation mode."""

    def of_the_run(self) -> dict[str, Tensor]:
        """State that belongs to the run and not to an epoch: it is kept when the best weights are restored."""
        return {}

    def describe(self, rows: np.ndarray) -> list[str]:
        """One line per molecule, for the message about a non-finite loss."""
        return [f"row {row}" for row in rows]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, object]]:
        """Groups for AdamW: `params`, `weight_decay`, `multiplier` of the learning rate.

        The default gives one rate to all and no decay to biases, norms and other one-dimensional parameters.
        """
        named = [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]
        decayed = [parameter for _, parameter in named if parameter.ndim > 1]
        plain = [parameter for _, parameter in named if parameter.ndim <= 1]
        groups: list[dict[str, object]] = [
            {"params": decayed, "weight_decay": weight_decay, "multiplier": 1.0},
            {"params": plain, "weight_decay": 0.0, "multiplier": 1.0},
        ]
        return [group for group in groups if group["params"]]
