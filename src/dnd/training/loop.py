"""The one training loop: step, log, evaluate, save, stop on request, and resume to the same bits."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dnd.common.compute import choose_bf16, choose_device, derive_seed, set_threads
from dnd.common.errors import InputError, Interrupted, NonFiniteError
from dnd.common.files import check_free_space, folder_lock, write_json
from dnd.common.log import LOGGER
from dnd.common.model_folder import load_strictly
from dnd.common.runs import count_changes, record_change, require_same_run, run_id, write_run_record
from dnd.graphs.batch import MoleculeBatch
from dnd.training.distributed import World
from dnd.training.logs import Checkpoint, Checkpoints, RunLog, load_optimizer, tensors_on_cpu
from dnd.training.settings import LoopConfig, Objective, TrainResult, learning_rate

__all__ = ["Interrupted", "LoopConfig", "TrainResult", "train"]

# How a run is asked to stop before its end: SIGINT, SIGTERM, a time limit; noticed between two steps.

# No signal that is handled has this number, and every one of them is larger: over ranks the largest reason wins.
OUT_OF_TIME = 1


class StopRequests:
    """Collects requests to stop while it is entered; the previous handlers are restored afterwards.

    Args:
        limit_s: seconds after which the run is out of time; None = never.
        started: time of `time.monotonic()` from which they count; None = now.
    """

    def __init__(self, limit_s: float | None, started: float | None = None) -> None:
        self._limit_s, self._started = limit_s, time.monotonic() if started is None else started
        self._signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():  # no other thread may handle signals
            # one that was not installed from Python, as where Python is embedded in R, could not be restored: it stays
            numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not None]
            self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def reason(self) -> int:
        """0 to continue, the number of a signal, or `OUT_OF_TIME`."""
        if self._signal == 0 and self._limit_s is not None and time.monotonic() - self._started > self._limit_s:
            return OUT_OF_TIME
        return self._signal

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number


# Where a run is: everything about it that is not a tensor.


@dataclass
class Position:
    """Where a run is.

    Attributes:
        step: steps, those of skipped batches included.
        epoch: epochs completed.
        index: batches of this epoch already taken; never a whole epoch, whose end is evaluated before it is saved.
        best_step: step of the best evaluation so far.
        best: that evaluation.
        last: the last evaluation.
        stale: evaluations since the best.
        done: whether the run is complete.
        ranks: processes that the run went on with last.
        cuts: number of times the learning rate was cut by the plateau schedule.
        skipped: batches left out because a loss or gradient was not finite.
        changes: changes of the settings that `run.json` records and that this position is of.
    """

    step: int = 0
    epoch: int = 0
    index: int = 0
    best_step: int | None = None
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    stale: int = 0
    done: bool = False
    ranks: int = 1
    skipped: int = 0
    cuts: int = 0
    changes: int = 0

    def to_state(self) -> dict[str, Any]:
        """As plain values; JSON has no NaN and no infinity, so such metrics (one class only) become text."""
        return {**vars(self), "best": _encoded(self.best), "last": _encoded(self.last)}

    def adapt(self, epochs: int, changes: int) -> None:
        """Go on under other settings: this epoch's batches may be others, so it begins again, and the end may move."""
        self.index, self.done, self.changes = 0, self.epoch >= epochs, changes

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Position:
        """The inverse of `to_state`."""
        return cls(**{**state, "best": _decoded(state["best"]), "last": _decoded(state["last"])})

    def update_best(self, key: str, *, maximum: bool) -> bool:
        """Compare the last evaluation with the best so far; whether it is better.

        Args:
            key: the metric that decides; a first value that is not NaN beats NaN.
            maximum: whether larger is better.
        """
        value, best = self.last[key], self.best.get(key, math.nan)
        better = value > best if maximum else value < best
        if better or self.best_step is None or (math.isnan(best) and not math.isnan(value)):
            self.best, self.best_step, self.stale = self.last, self.step, 0
            return True
        self.stale += 1
        return False


def _encoded(metrics: Mapping[str, float]) -> dict[str, float | str]:
    return {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}


def _decoded(metrics: Mapping[str, float | str]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


# The next batch is read while this one is trained on.


def prefetched(
    objective: Objective, world: World, plan: Sequence[np.ndarray], epoch: int
) -> Iterator[tuple[np.ndarray, MoleculeBatch]]:
    """The rows of each batch of `plan` and this rank's share of it, read in a second thread, in order.

    Args:
        objective: reads the batches.
        world: whose share is read.
        plan: row numbers of the global batches.
        epoch: see `Objective.load_batch`.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="dnd-read") as reader:
        upcoming = reader.submit(objective.load_batch, world.share(plan[0]), epoch)
        for number, rows in enumerate(plan):
            batch = upcoming.result()
            if number + 1 < len(plan):
                upcoming = reader.submit(objective.load_batch, world.share(plan[number + 1]), epoch)
            yield rows, batch


# Nothing non-finite reaches the weights: loss and gradient are checked before the optimizer moves.


def clip_gradient(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scale all gradients together so that their norm is at most `limit`; returns the norm before."""
    own = [parameter for parameter in parameters if parameter.grad is not None]
    norm = get_total_norm([parameter.grad for parameter in own if parameter.grad is not None])
    if limit is not None:
        clip_grads_with_norm_(own, limit, norm)
    return norm


def nonfinite_error(
    loss: float, gradient_norm: float, *, step: int, molecules: list[str], folder: Path | None
) -> NonFiniteError:
    """Record a batch that would ruin the run, and say so.

    Args:
        loss: loss of the global batch.
        gradient_norm: over all parameters.
        step: steps before.
        molecules: a line for each of the batch.
        folder: gets `nonfinite-step-<step>.json` with them; None on the ranks that write nothing.

    Returns:
        The error to raise, or to show where such batches may be skipped.
    """
    name = f"nonfinite-step-{step}.json"
    if folder is not None:
        record = {"step": step, "loss": str(loss), "gradient_norm": str(gradient_norm), "molecules": molecules}
        write_json(folder / name, record)
    return NonFiniteError(
        f"step {step} was not taken",
        found=f"loss {loss}, gradient norm {gradient_norm}",
        next_step=f"{name} in the run folder lists its {len(molecules)} molecules; the last checkpoint is intact; "
        "--skip-nonfinite N skips up to N such batches",
    )


class Buffers:
    """Running statistics of normalisations, which a forward pass changes before its loss is known.

    Args:
        module: whose buffers are remembered.
    """

    def __init__(self, module: nn.Module) -> None:
        self._before = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]

    def restore(self) -> None:
        """Put back what they were."""
        for buffer, before in self._before:
            buffer.copy_(before)


# The one training loop: step, log, evaluate, save, stop, and resume to the same bits.
#
# A step's randomness is a pure function of (seed, step, rank) and an epoch's order of (seed, epoch), so a checkpoint
# holds weights, optimizer and a position, no generator; a resumed run on one CPU ends bit-identical to a run that was
# never interrupted.


def train(
    objective: Objective,
    config: LoopConfig,
    folder: Path,
    *,
    resume: bool,
    settings: dict[str, Any],
    title: str = "train",
    held: bool = False,
    started: float | None = None,
) -> TrainResult:
    """Train `objective` and leave it with its best (or last) weights, in evaluation mode.

    Args:
        objective: modules, data and loss.
        config: the loop's settings.
        folder: run folder; gets `run.json`, `metrics.jsonl` and `checkpoints/`.
        resume: continue from the newest intact checkpoint; without it a folder that contains a run is an error.
        settings: the stage's whole resolved configuration and the digests of its inputs; a resumed run must have the
            same.
        title: names the stage in messages.
        held: the caller holds the folder's lock.
        started: time of `time.monotonic()` from which `config.stop_after_s` counts; None = now.

    Raises:
        InputError: the folder holds another run, or is in use.
        NonFiniteError: a loss or gradient was not finite; nothing was updated.
        StorageError: the disk is full; everything sealed before is intact.
        Interrupted: SIGINT or SIGTERM; the state is saved.
        DndError: another rank of a distributed run ended.
    """
    set_threads(config.threads)
    device = choose_device(config.device)
    world = World.join(device)
    with world.lost_peers(), folder_lock(folder) if world.is_main and not held else contextlib.nullcontext():
        return _Run(objective.to(device), config, folder, world, device).train(resume, settings, title, started)


class _Run:
    """One call of `train`: the state that its steps share."""

    def __init__(
        self, objective: Objective, config: LoopConfig, folder: Path, world: World, device: torch.device
    ) -> None:
        self.objective, self.config, self.folder, self.world, self.device = objective, config, folder, world, device
        self.bf16 = choose_bf16(config.precision, device, objective.bf16_devices)
        groups = objective.parameter_groups(config.weight_decay)
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=(config.betas[0], config.betas[1]), fused=True
        )
        self.position = Position()
        self.best: dict[str, Tensor] | None = None
        self.pending: list[dict[str, Any]] = []
        self.changes: list[str] = []
        self.adapted = False
        self.saved_at = self.started = time.monotonic()

    def train(self, resume: bool, settings: dict[str, Any], title: str, started: float | None) -> TrainResult:
        config = self.config
        self._restore(resume, settings)
        position = self.position
        self.parallel = self.world.wrap(self.objective)
        self.steps_per_epoch = len(self.objective.plan_epoch(0))
        self.log = RunLog(
            self.folder if self.world.is_main else None,
            total_steps=self.steps_per_epoch * config.epochs,
            first_step=position.step,
            title=title,
        )
        try:
            with StopRequests(config.stop_after_s, started) as self.requests:
                if self.adapted:
                    self._judge_anew()
                    if position.done:
                        self._evaluate()
                while not position.done and not self._epoch():
                    pass
        finally:
            self.log.close()
        self._load_best()
        self.objective.eval()
        best_step = position.best_step if position.best_step is not None else position.step
        seconds = time.monotonic() - self.started
        if position.skipped and self.world.is_main:
            LOGGER.warning(
                f"note: {position.skipped} batches were skipped; nonfinite-step-*.json in {self.folder} name them"
            )
        best = position.best or position.last
        return TrainResult(position.step, best_step, best, position.last, position.done, seconds, position.skipped)

    def _restore(self, resume: bool, settings: dict[str, Any]) -> None:
        """Go on from the newest checkpoint, or begin; rank 0 reads and the others get what it read."""
        found = self._read_checkpoint(resume, settings) if self.world.is_main else None
        recorded = count_changes(self.folder) if found else 0
        received = self.world.from_main(
            {"state": found.state if found else {}, "changes": self.changes, "recorded": recorded}
        )
        if not received["state"]:
            self.position.ranks = self.world.size
            return
        self.position, self.changes = Position.from_state(received["state"]), received["changes"]
        changes = received["recorded"] + bool(self.changes)
        self.adapted = changes != self.position.changes  # also after a kill before the first checkpoint after a change
        weights = self.world.tensors_from_main(found.weights if found else {})
        if self.adapted:  # what the run chose under other settings says nothing now, and may be of other molecules
            weights = {**weights, **self.objective.of_the_run()}
        load_strictly(self.objective, weights, "the checkpoint")
        load_optimizer(self.optimizer, self.world.tensors_from_main(found.moments if found else {}))
        if found is not None:
            self.best = weights if self.position.best_step == self.position.step else found.best
            if self.position.ranks != self.world.size:
                LOGGER.warning(
                    f"note: {self.folder} ran on {self.position.ranks} ranks, now on {self.world.size}: the same "
                    "batches, but other dropout and noise, so not the same bits as without the change"
                )
        self.position.ranks = self.world.size
        if self.adapted:
            self.position.adapt(self.config.epochs, changes)
        if self.changes and self.world.is_main:  # recorded once the weights are known to fit
            record_change(self.folder, settings, self.changes)
            LOGGER.warning(f"note: {self.folder} continues with other settings: {'; '.join(self.changes)}")

    def _read_checkpoint(self, resume: bool, settings: dict[str, Any]) -> Checkpoint | None:
        exist = Checkpoints(self.folder, "").exist()
        if exist and not resume:
            raise InputError(
                f"{self.folder} already contains a run",
                next_step="Add --resume to continue it, or choose another folder",
            )
        if not exist:
            check_free_space(self.folder, 12 * sum(p.numel() * 4 for p in self.objective.parameters()))
            self.checkpoints = Checkpoints(self.folder, write_run_record(self.folder, settings))
            return None
        self.changes = require_same_run(self.folder, settings, allow_change=self.config.allow_change)
        self.checkpoints = Checkpoints(self.folder, run_id(self.folder))
        found, damage = self.checkpoints.newest()
        for line in damage:
            LOGGER.warning(f"warning: {line}")
        self.checkpoints.drop_after(found.state["step"])
        return found

    def _epoch(self) -> bool:
        """Take the rest of an epoch; whether the run must stop before its end."""
        position, config = self.position, self.config
        plan = self.objective.plan_epoch(position.epoch)
        if not plan:
            raise InputError("there is nothing to train on", found="0 batches")
        self.objective.train()
        for rows, batch in prefetched(self.objective, self.world, plan[position.index :], position.epoch):
            self._step(rows, batch, len(plan))
            if position.index == len(plan):
                break  # the end of an epoch is evaluated before it may be saved
            if self._pause():
                return True
        position.epoch, position.index = position.epoch + 1, 0
        last = position.epoch >= config.epochs  # a run under a time limit may be resumed with fewer
        if last or position.epoch % config.evaluate_every == 0:
            self._evaluate()
        position.done = last or (config.patience is not None and position.stale >= config.patience)
        return self._pause()

    def _step(self, rows: np.ndarray, batch: MoleculeBatch, steps_in_epoch: int) -> None:
        position, config = self.position, self.config
        seed = derive_seed(config.seed, "step", position.step, self.world.rank)
        torch.manual_seed(seed)
        rate = learning_rate(
            config,
            epoch=position.epoch + position.index / steps_in_epoch,
            step=position.step,
            steps_per_epoch=self.steps_per_epoch,
            cuts=position.cuts,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["multiplier"]
        self.optimizer.zero_grad(set_to_none=True)
        buffers = Buffers(self.objective) if config.skip_nonfinite else None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            result = self.parallel(batch.to(self.device), seed)
        loss = self.world.weigh(result, borrowed=self.world.rank >= len(rows))
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_gradient(self.objective.parameters(), config.clip_norm)
        value = float(self.world.mean(loss.detach()))
        record = {"step": position.step + 1, "epoch": position.epoch, "loss": value, "learning_rate": rate}
        if math.isfinite(value) and math.isfinite(float(norm)):
            self.optimizer.step()
            self.pending.append({**record, **result.parts})
        else:
            self._skip(rows, value, float(norm), buffers)
            self.pending.append({**record, "skipped": True})
        position.step, position.index = position.step + 1, position.index + 1
        if position.step % config.log_every == 0:
            self._write_pending()

    def _skip(self, rows: np.ndarray, loss: float, norm: float, buffers: Buffers | None) -> None:
        """Leave a batch out, as if it had not been seen.

        Raises:
            NonFiniteError: no further one may be left out.
        """
        self._write_pending()
        folder = self.folder if self.world.is_main else None
        molecules = self.objective.describe(rows)
        error = nonfinite_error(loss, norm, step=self.position.step, molecules=molecules, folder=folder)
        if self.position.skipped >= self.config.skip_nonfinite or buffers is None:
            raise error
        buffers.restore()
        self.position.skipped += 1
        if self.world.is_main:
            count = f"{self.position.skipped} of at most {self.config.skip_nonfinite}"
            LOGGER.warning(
                f"warning: a batch is skipped ({count}): {error.what}, {error.found}; {', '.join(molecules[:3])} …"
            )

    def _evaluate(self) -> None:
        """Evaluate on rank 0; every rank then knows the result and so agrees on when to stop."""
        self._write_pending()
        position = self.position
        if self.world.is_main:
            position.last = self._metrics()
            self.log.evaluation({"step": position.step, "epoch": position.epoch, **position.last})
            key = self.objective.best_metric
            if key is not None and position.update_best(key, maximum=self.objective.best_is_max):
                self.best = tensors_on_cpu(self.objective.state_dict())
            elif position.stale and position.stale % (self.config.plateau_patience + 1) == 0:
                position.cuts += 1
        self._agree()

    def _judge_anew(self) -> None:
        """Evaluate the best weights again: under changed settings their old numbers may mean something else."""
        position, key = self.position, self.objective.best_metric
        if key is None:  # the last weights are kept from now on
            position.best_step, position.best, self.best = None, {}, None
        elif self.world.is_main and self.best is not None:
            now, before = tensors_on_cpu(self.objective.state_dict()), position.best
            self.objective.load_state_dict({**self.best, **self.objective.of_the_run()})
            position.best = self._metrics()
            self.objective.load_state_dict({**now, **self.objective.of_the_run()})
            if position.best[key] != before.get(key):
                position.stale = 0
        self._agree()

    def _metrics(self) -> dict[str, float]:
        """The evaluation of the weights as they are."""
        self.objective.eval()
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            metrics = {name: float(value) for name, value in self.objective.evaluate().items()}
        self.objective.train()
        return metrics

    def _agree(self) -> None:
        """Take over rank 0's position."""
        vars(self.position).update(vars(Position.from_state(self.world.from_main(self.position.to_state()))))

    def _load_best(self) -> None:
        position = self.position
        if position.best_step is not None and position.best_step != position.step:
            best = self.world.tensors_from_main(self.best or {})
            self.objective.load_state_dict({**best, **self.objective.of_the_run()})

    def _write_pending(self) -> None:
        plain = [
            {key: float(value) if isinstance(value, Tensor) else value for key, value in record.items()}
            for record in self.pending
        ]
        self.log.steps(plain)
        self.pending.clear()

    def _pause(self) -> bool:
        """Between two steps: save if it is time to, stop if that was asked for.

        Raises:
            Interrupted: a signal came; the state is saved.
        """
        every, position = self.config.checkpoint_every, self.position
        reason = self.world.largest(self.requests.reason())
        due = every is not None and position.step % every == 0
        if reason or due or position.done or time.monotonic() - self.saved_at > self.config.checkpoint_seconds:
            self._save()
        if reason > OUT_OF_TIME:
            raise Interrupted(reason)
        return reason == OUT_OF_TIME

    def _save(self) -> None:
        self._write_pending()
        if self.world.is_main:
            self.log.flush()
            self.checkpoints.save(self.objective, self.optimizer, self.position.to_state(), self.best)
        self.saved_at = time.monotonic()
