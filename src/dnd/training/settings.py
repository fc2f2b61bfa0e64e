"""What a training run is given: its settings, its learning rate by step, and the objective's contract."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnd.common.compute import require_device_name
from dnd.common.errors import ConfigError
from dnd.graphs.batch import MoleculeBatch

# What a stage hands to the training loop: its modules, its data and its loss.
#
# Four objectives plug into the one loop: denoising, distillation, contrastive and supervised.


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
    all its randomness from `seed` or from torch's global generator, which the loop seeds before each step, so that a
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
        """State that belongs to the run and not to an epoch: it is kept when the best weights are restored.

        When a run goes on under other settings it begins anew, with what it is in a new objective.
        """
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


# Settings of a training run and how it ended.


@dataclass(frozen=True)
class LoopConfig:
    """Settings of a training run.

    Attributes:
        epochs: passes over the training molecules.
        batch_size: molecules per step, over all ranks.
        max_tokens: if set, fills batches up to this many padded atoms instead of `batch_size` molecules.
        learning_rate: peak learning rate.
        min_learning_rate: learning rate at the end of the schedule `cosine`, and the lowest of `plateau`.
        warmup_epochs: length of the linear warm-up in epochs, may be fractional; `constant` has none.
        schedule: `cosine` by fractional epoch; `stepwise_cosine` as in the denoising reference; `constant`;
            `plateau`, which cuts the rate when evaluations stop improving.
        plateau_factor: factor of the learning rate at each cut, for `plateau`, down to `min_learning_rate`.
        plateau_patience: number of evaluations without improvement that are tolerated before a cut, for `plateau`.
        weight_decay: weight decay of AdamW, on matrices only.
        betas: betas of AdamW.
        clip_norm: largest gradient norm; none = no clipping.
        precision: `fp32`, `bf16` for autocast, or `auto` for bf16 where that is faster (`choose_bf16`).
        seed: random seed of the run.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        patience: stops after this many evaluations without a better one; none = never.
        checkpoint_every: steps between checkpoints, beside `checkpoint_seconds`; none = by time only.
        checkpoint_seconds: seconds between checkpoints.
        stop_after_s: stop with a checkpoint when the call has taken this many seconds and made at least one step; the
            run can be resumed.
        threads: OpenMP threads; none = 1 unless OMP_NUM_THREADS or DND_THREADS says otherwise.
        device: `cpu`, `cuda`, or `auto` for CUDA where there is one.
        log_every: steps between writes of the step log; each step is in it all the same.
        skip_nonfinite: number of batches with a non-finite loss or gradient that may be skipped, each named and
            recorded; the next one stops the run. A batch left out uses up its step number.
        allow_change: a run may be resumed under other settings, data or versions; the change is recorded in `run.json`
            and the epoch under way begins again.
    """

    epochs: int = 10
    batch_size: int = 128
    max_tokens: int | None = None
    learning_rate: float = 5e-4
    min_learning_rate: float = 1e-6
    warmup_epochs: float = 0.5
    schedule: Literal["cosine", "stepwise_cosine", "constant", "plateau"] = "cosine"
    plateau_factor: float = 0.5
    plateau_patience: int = 25
    weight_decay: float = 0.05
    betas: tuple[float, ...] = (0.9, 0.999)
    clip_norm: float | None = 5.0
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    seed: int = 1
    evaluate_every: int = 1
    patience: int | None = None
    checkpoint_every: int | None = None
    checkpoint_seconds: float = 120.0
    stop_after_s: float | None = None
    threads: int | None = None
    device: str = "auto"
    log_every: int = 10
    skip_nonfinite: int = 0
    allow_change: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that can't work before any work starts."""
        for name in ("epochs", "batch_size", "evaluate_every", "log_every"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("max_tokens", "patience", "checkpoint_every", "threads"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1, or none")
        for name in ("learning_rate", "min_learning_rate", "warmup_epochs", "weight_decay"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "at least 0, finite")
        for name in ("plateau_patience", "checkpoint_seconds"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        limit = self.stop_after_s
        _require(limit is None or limit >= 0, "stop_after_s", limit, "at least 0, or none")
        _require(self.skip_nonfinite >= 0, "skip_nonfinite", self.skip_nonfinite, "at least 0")
        _require(0 < self.plateau_factor < 1, "plateau_factor", self.plateau_factor, "above 0, below 1")
        _require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", self.clip_norm, "above 0, or none")
        require_device_name(self.device)
        in_range = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _require(in_range, "betas", self.betas, "two numbers from 0 to below 1")
        falls = self.schedule not in ("cosine", "plateau") or self.min_learning_rate <= self.learning_rate
        expected = f"at most loop.learning_rate, {self.learning_rate:g}"
        _require(falls, "min_learning_rate", self.min_learning_rate, expected)


def _require(holds: bool, name: str, found: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"loop.{name} is out of range", found=found, expected=expected)


@dataclass
class TrainResult:
    """How a run ended.

    Attributes:
        steps: steps since the beginning, those of skipped batches included.
        best_step: step whose weights the objective now holds.
        best: its evaluation.
        last: the last evaluation.
        finished: False when `stop_after_s` ended it early.
        seconds: duration of this call.
        skipped: batches left out since the beginning because a loss or gradient was not finite.
    """

    steps: int
    best_step: int
    best: dict[str, float]
    last: dict[str, float]
    finished: bool
    seconds: float
    skipped: int = 0


# Learning rate as a pure function of the position in the run.


def warmup_cosine(position: float, *, peak: float, floor: float, warmup: float, total: float) -> float:
    r"""Linear warm-up from 0, then a half cosine from `peak` to `floor`, by fractional epoch `e`.

    .. math:: \eta(e) = \eta_{peak}\, e / w \ (e < w), \qquad
              \eta(e) = f + (\eta_{peak} - f)\, \tfrac12 (1 + \cos \pi \tfrac{e - w}{T - w})

    Source: the public MAE finetuning recipe (He et al. 2022), whose six numbers D&D's Table 5(c) repeats.

    Args:
        position: fractional epoch, 0 to `total`.
        peak: highest rate.
        floor: rate at the end.
        warmup: epochs of linear growth.
        total: epochs in all.
    """
    if position < warmup:
        return peak * position / warmup
    share = min(1.0, (position - warmup) / max(total - warmup, 1e-12))
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * share))


def stepwise_warmup_cosine(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    r"""The denoising reference's schedule: a warm-up written over a running cosine that ends at 0.

    .. math:: \eta_t = \eta_{peak} \tfrac{t + 1}{w} \ (t < w), \qquad
              \eta_t = \eta_{peak} \frac{1 + \cos(\pi t / T)}{1 + \cos(\pi (w - 1) / T)}

    Source: public code of Zaidi et al. (ICLR 2023), which D&D's Table 5(a) follows.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    start = 1 + math.cos(math.pi * max(warmup_steps - 1, 0) / total_steps)
    return peak * (1 + math.cos(math.pi * min(step, total_steps) / total_steps)) / start


def warmup_plateau(epoch: float, cuts: int, *, peak: float, floor: float, factor: float, warmup: float) -> float:
    r"""Linear warm-up from 0, then a rate that falls by a factor with each plateau.

    .. math:: \eta = \min(1, e / w) \max(f, \eta_{peak}\, q^{c})

    Source: 3DInfomax's finetuning on QM9, :math:`q = 0.5` after 25 evaluations without a better one.

    Args:
        epoch: e, fractional.
        cuts: c, plateaus so far.
        peak: highest rate.
        floor: f, the lowest after the warm-up.
        factor: q.
        warmup: w, epochs of linear growth.
    """
    return (min(1.0, epoch / warmup) if warmup > 0 else 1.0) * max(floor, peak * factor**cuts)


def learning_rate(config: LoopConfig, *, epoch: float, step: int, steps_per_epoch: int, cuts: int = 0) -> float:
    """The rate of a step, by the schedule that `config` names.

    Args:
        config: the loop's settings.
        epoch: fractional epoch at the step.
        step: steps before, those of skipped batches included.
        steps_per_epoch: number of steps in the first epoch, which the stepwise schedule uses.
        cuts: plateaus so far, for `plateau`.
    """
    if config.schedule == "plateau":
        return warmup_plateau(
            epoch,
            cuts,
            peak=config.learning_rate,
            floor=config.min_learning_rate,
            factor=config.plateau_factor,
            warmup=config.warmup_epochs,
        )
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "stepwise_cosine":
        return stepwise_warmup_cosine(
            step,
            peak=config.learning_rate,
            warmup_steps=max(1, round(config.warmup_epochs * steps_per_epoch)),
            total_steps=config.epochs * steps_per_epoch,
        )
    return warmup_cosine(
        epoch,
        peak=config.learning_rate,
        floor=config.min_learning_rate,
        warmup=config.warmup_epochs,
        total=config.epochs,
    )
