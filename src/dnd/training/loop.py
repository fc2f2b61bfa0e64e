"""The one training loop: step, log, evaluate, save, stop, and resume to the same bits.

A step's randomness is a pure function of (seed, step, rank) and an epoch's order of (seed, epoch), so a checkpoint
holds weights, optimizer and a position, no generator; a resumed run on one CPU ends bit-identical to a run that was
never interrupted.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnd.common.errors import ConfigError, DndError, InputError
from dnd.common.files import check_free_space, folder_lock
from dnd.common.run_record import require_same_run, write_run_record
from dnd.common.seeds import derive_seed, set_threads
from dnd.graphs.batch import MoleculeBatch
from dnd.training.checkpoint import Checkpoints, load_optimizer
from dnd.training.distributed import World
from dnd.training.guard import clip_gradient, require_finite
from dnd.training.logs import RunLog
from dnd.training.objective import Objective
from dnd.training.schedule import stepwise_warmup_cosine, warmup_cosine
from dnd.training.settings import LoopConfig, TrainResult

__all__ = ["Interrupted", "LoopConfig", "TrainResult", "choose_device", "train"]


class Interrupted(DndError):
    """A signal asked the run to stop; its state is saved.

    Attributes:
        exit_code: 128 + the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; the state is saved, --resume goes on from it")
        self.exit_code = 128 + number


@dataclass
class _Position:
    """Everything about a run that is not a tensor."""

    step: int = 0
    epoch: int = 0
    index: int = 0  # batches of this epoch already taken
    best_step: int | None = None
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    stale: int = 0  # evaluations since the best
    done: bool = False


def train(
    objective: Objective,
    config: LoopConfig,
    folder: Path,
    *,
    resume: bool,
    settings: dict[str, Any],
    title: str = "train",
    quiet: bool = False,
) -> TrainResult:
    """Train `objective` and leave it with its best (or last) weights, in evaluation mode.

    Args:
        objective: modules, data and loss.
        config: the loop's settings.
        folder: run folder; gets `run.json`, `metrics.jsonl` and `checkpoints/`.
        resume: go on from the newest intact checkpoint; without it a folder that holds a run is refused.
        settings: the stage's whole resolved configuration and the digests of its inputs; a resumed run must have the
            same.
        title: names the stage in messages.
        quiet: show nothing.

    Raises:
        InputError: the folder holds another run, or is in use.
        NonFiniteError: a loss or gradient was not finite; nothing was updated.
        StorageError: the disk is full; everything sealed before is intact.
        Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    set_threads(config.threads)
    device = choose_device(config.device)
    world = World.join(device)
    with folder_lock(folder) if world.is_main else contextlib.nullcontext():
        return _Run(objective.to(device), config, folder, world, device).train(resume, settings, title, quiet)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but torch sees no CUDA device", next_step="Use device=cpu")
    return torch.device(name)


class _Run:
    """One call of `train`: the state that its steps share."""

    def __init__(
        self, objective: Objective, config: LoopConfig, folder: Path, world: World, device: torch.device
    ) -> None:
        self.objective, self.config, self.folder, self.world, self.device = objective, config, folder, world, device
        self.parallel = world.wrap(objective)
        groups = objective.parameter_groups(config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.betas[0], config.betas[1]))
        self.checkpoints = Checkpoints(folder)
        self.position = _Position()
        self.signal: int | None = None
        self.pending: list[dict[str, Any]] = []
        self.saved_at = self.started = time.monotonic()

    def train(self, resume: bool, settings: dict[str, Any], title: str, quiet: bool) -> TrainResult:
        config, position = self.config, self._restore(resume, settings)
        self.steps_per_epoch = len(self.objective.plan_epoch(0))
        total = self.steps_per_epoch * config.epochs
        self.log = RunLog(self.folder, total_steps=total, first_step=position.step, title=title, quiet=quiet)
        handlers = {number: signal.signal(number, self._on_signal) for number in _signals()}
        try:
            while not position.done and not self._out_of_time():
                self._epoch()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self.log.close()
        if position.best_step is not None and position.best_step != position.step:
            self.objective.load_state_dict(self.checkpoints.best(position.best_step))
        self.objective.eval()
        self.world.wait()
        best_step = position.best_step if position.best_step is not None else position.step
        seconds = time.monotonic() - self.started
        return TrainResult(
            position.step, best_step, position.best or position.last, position.last, position.done, seconds
        )

    def _restore(self, resume: bool, settings: dict[str, Any]) -> _Position:
        if not self.checkpoints.exist():
            if self.world.is_main:
                check_free_space(self.folder, 12 * sum(p.numel() * 4 for p in self.objective.parameters()))
                write_run_record(self.folder, settings)
            return self.position
        if not resume:
            raise InputError(f"{self.folder} holds a run", next_step="Add --resume to go on, or choose another folder")
        require_same_run(self.folder, settings)
        newest = self.checkpoints.newest()
        assert newest is not None
        state, weights, moments, damage = newest
        for line in damage:
            print(f"warning: {line}")
        self.objective.load_state_dict(weights)
        load_optimizer(self.optimizer, moments)
        self.position = _Position(**state)
        return self.position

    def _epoch(self) -> None:
        position, config = self.position, self.config
        plan = self.objective.plan_epoch(position.epoch)
        if not plan:
            raise InputError("there is nothing to train on", found="0 batches")
        self.objective.train()
        for rows, batch in self._prefetched(plan[position.index :], position.epoch):
            self._step(rows, batch, len(plan))
            if position.index == len(plan):
                break  # the end of an epoch is evaluated before it may be saved
            self._maybe_save()
            if self._out_of_time():
                self._save()
                return
        position.epoch, position.index = position.epoch + 1, 0
        last = position.epoch == config.epochs
        if last or position.epoch % config.evaluate_every == 0:
            self._evaluate()
        position.done = last or (config.patience is not None and position.stale >= config.patience)
        if position.done or self._out_of_time():
            self._save()
        else:
            self._maybe_save()

    def _step(self, rows: np.ndarray, batch: MoleculeBatch, steps_in_epoch: int) -> None:
        position, config = self.position, self.config
        seed = derive_seed(config.seed, "step", position.step, self.world.rank)
        torch.manual_seed(seed)
        rate = self._learning_rate(position.epoch + position.index / steps_in_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["multiplier"]
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            result = self.parallel(batch.to(self.device), seed)
        loss = self.world.weigh(result, borrowed=self.world.rank >= len(rows))
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_gradient(self.objective.parameters(), config.clip_norm)
        value = float(self.world.mean(loss.detach()))
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            molecules = self.objective.describe(rows)
            require_finite(value, float(norm), step=position.step, molecules=molecules, folder=self.folder)
        self.optimizer.step()
        self.pending.append(
            {"step": position.step + 1, "epoch": position.epoch, "loss": value, "learning_rate": rate, **result.parts}
        )
        position.step, position.index = position.step + 1, position.index + 1
        if position.step % config.log_every == 0:
            self._write_pending()
        if self.signal is not None:
            self._save()
            raise Interrupted(self.signal)

    def _learning_rate(self, epoch: float) -> float:
        config = self.config
        if config.schedule == "constant":
            return config.learning_rate
        if config.schedule == "stepwise_cosine":
            per_epoch = self.steps_per_epoch
            warmup = max(1, round(config.warmup_epochs * per_epoch))
            total = config.epochs * per_epoch
            return stepwise_warmup_cosine(
                self.position.step, peak=config.learning_rate, warmup_steps=warmup, total_steps=total
            )
        return warmup_cosine(
            epoch,
            peak=config.learning_rate,
            floor=config.min_learning_rate,
            warmup=config.warmup_epochs,
            total=config.epochs,
        )

    def _evaluate(self) -> None:
        position = self.position
        self._write_pending()
        if self.world.is_main:
            self.objective.eval()
            with (
                torch.no_grad(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"),
            ):
                position.last = self.objective.evaluate()
            self.objective.train()
            self.log.evaluation({"step": position.step, "epoch": position.epoch, **position.last})
            self._keep_if_best()
        self.world.wait()

    def _keep_if_best(self) -> None:
        position, key = self.position, self.objective.best_metric
        if key is None:
            return
        value, best = position.last[key], position.best.get(key, math.nan)
        better = value > best if self.objective.best_is_max else value < best
        position.stale += 1
        if better or (math.isnan(best) and not math.isnan(value)) or position.best_step is None:
            position.best, position.best_step, position.stale = position.last, position.step, 0
            self.checkpoints.save_best(self.objective, position.step)

    def _prefetched(self, plan: Sequence[np.ndarray], epoch: int) -> Iterator[tuple[np.ndarray, MoleculeBatch]]:
        """Read the next batch while this one is trained on; the order does not depend on it."""
        shares = [self.world.share(rows) for rows in plan]
        with ThreadPoolExecutor(1, thread_name_prefix="dnd-read") as reader:
            upcoming = reader.submit(self.objective.load_batch, shares[0], epoch)
            for number, rows in enumerate(plan):
                batch = upcoming.result()
                if number + 1 < len(plan):
                    upcoming = reader.submit(self.objective.load_batch, shares[number + 1], epoch)
                yield rows, batch

    def _write_pending(self) -> None:
        plain = [
            {key: float(value) if isinstance(value, Tensor) else value for key, value in record.items()}
            for record in self.pending
        ]
        if self.world.is_main:
            self.log.steps(plain)
        self.pending.clear()

    def _maybe_save(self) -> None:
        every = self.config.checkpoint_every
        due = every is not None and self.position.step % every == 0
        if due or time.monotonic() - self.saved_at > self.config.checkpoint_seconds:
            self._save()

    def _save(self) -> None:
        self._write_pending()
        if self.world.is_main:
            self.log.flush()
            self.checkpoints.save(self.objective, self.optimizer, vars(self.position))
        self.saved_at = time.monotonic()

    def _out_of_time(self) -> bool:
        limit = self.config.stop_after_s
        return limit is not None and time.monotonic() - self.started > limit

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = number


def _signals() -> tuple[int, ...]:
    """Signals that save and stop; only the main thread may handle any."""
    if threading.current_thread() is not threading.main_thread():
        return ()
    return (signal.SIGINT, signal.SIGTERM)
