"""Settings of a training run, its learning rate as a function of the step, and how it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dnd.common.errors import ConfigError

# Settings of a training run and how it ended.


@dataclass(frozen=True)
class LoopConfig:
    """Settings of a training run.

    Attributes:
        epochs: passes over the training molecules.
        batch_size: molecules per step, over all ranks.
        max_tokens: if set, fills batches up to this many padded atoms instead of `batch_size` molecules.
        learning_rate: peak learning rate.
        min_learning_rate: learning rate at the end of the cosine.
        warmup_epochs: linear warm-up, in epochs, may be fractional.
        schedule: `cosine` by fractional epoch; `stepwise_cosine` as in the denoising reference; `constant`;
            `plateau`, which cuts the rate when evaluations stop improving.
        plateau_factor: factor of the learning rate at each cut, for `plateau`, down to `min_learning_rate`.
        plateau_patience: number of evaluations without improvement that are tolerated before a cut, for `plateau`.
        weight_decay: weight decay of AdamW, on matrices only.
        betas: betas of AdamW.
        clip_norm: largest gradient norm; none = no clipping.
        precision: `fp32`, `bf16` for autocast, or `auto` for bf16 where that is faster (`precision.py`).
        seed: random seed of the run.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        patience: stops after this many evaluations without a better one; none = never.
        checkpoint_every: steps between checkpoints, beside `checkpoint_seconds`; none = by time only.
        checkpoint_seconds: seconds between checkpoints.
        stop_after_s: stop with a checkpoint after this many seconds of this call; the run can be resumed.
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
        if self.epochs < 1 or self.batch_size < 1 or self.evaluate_every < 1:
            raise ConfigError("epochs, batch_size and evaluate_every must be at least 1")
        if self.skip_nonfinite < 0:
            raise ConfigError("skip_nonfinite must be at least 0", found=self.skip_nonfinite)
        if not 0 < self.plateau_factor < 1 or self.plateau_patience < 0:
            raise ConfigError(
                "a plateau cuts the rate by a factor between 0 and 1",
                found=f"plateau_factor {self.plateau_factor}, plateau_patience {self.plateau_patience}",
            )
        if len(self.betas) != 2:
            raise ConfigError("betas must be two numbers", found=self.betas)


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
        step: optimizer steps taken before.
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
