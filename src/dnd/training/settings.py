"""Settings of a training run and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dnd.common.errors import ConfigError


@dataclass(frozen=True)
class LoopConfig:
    """Settings of a training run.

    Attributes:
        epochs: passes over the training molecules.
        batch_size: molecules per step, over all ranks.
        max_tokens: if set, fills batches up to this many padded atoms instead of `batch_size` molecules.
        learning_rate: peak rate.
        min_learning_rate: rate at the end of the cosine.
        warmup_epochs: linear warm-up, in epochs, may be fractional.
        schedule: `cosine` by fractional epoch; `stepwise_cosine` as the denoising reference has it; `constant`;
            `plateau`, which cuts the rate where evaluations stop getting better.
        plateau_factor: of the rate at each cut, for `plateau`, down to `min_learning_rate`.
        plateau_patience: evaluations without a better one that a rate is kept for, for `plateau`.
        weight_decay: of AdamW, on matrices only.
        betas: of AdamW.
        clip_norm: largest gradient norm; none = no clipping.
        precision: `fp32`, `bf16` for autocast, or `auto` for bf16 where that is faster (`precision.py`).
        seed: of everything random.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        patience: stops after this many evaluations without a better one; none = never.
        checkpoint_every: steps between checkpoints, beside `checkpoint_seconds`; none = by time only.
        checkpoint_seconds: seconds between checkpoints.
        stop_after_s: stop with a checkpoint after this many seconds of this call; resume to go on.
        threads: OpenMP threads; none = 1 unless OMP_NUM_THREADS or DND_THREADS says otherwise.
        device: `cpu`, `cuda`, or `auto` for CUDA where there is one.
        log_every: steps between writes of the step log; each step is in it all the same.
        skip_nonfinite: so many batches with a loss or gradient that is not finite are left out, each named and
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
            raise ConfigError("betas are two numbers", found=self.betas)


@dataclass
class TrainResult:
    """How a run ended.

    Attributes:
        steps: steps since the beginning, those of skipped batches included.
        best_step: step whose weights the objective now holds.
        best: its evaluation.
        last: the last evaluation.
        finished: False when `stop_after_s` ended it early.
        seconds: of this call.
        skipped: batches left out since the beginning because a loss or gradient was not finite.
    """

    steps: int
    best_step: int
    best: dict[str, float]
    last: dict[str, float]
    finished: bool
    seconds: float
    skipped: int = 0
