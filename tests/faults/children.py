"""What the children of the nursery do: small trainings, some of which end before their time."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
from crash_points import CrashPoints
from torch import nn

from dnd.common.model_folder import write_model
from dnd.graphs.batch import MoleculeBatch
from dnd.training.loop import LoopConfig, TrainResult, train
from dnd.training.settings import StepLoss
from nursery import end_like_the_command
from toy import ToyObjective

EPOCHS, STEPS_PER_EPOCH = 3, 4


class Toy(ToyObjective):
    """The toy with a pause in each step, so that a signal finds it at work, and with any width."""

    def __init__(self, pause_s: float = 0.0, width: int = 16, rows: int = 8 * STEPS_PER_EPOCH) -> None:
        super().__init__(rows=rows)
        self.pause_s = pause_s
        if width != 16:
            with torch.random.fork_rng():
                torch.manual_seed(1)
                self.network = nn.Sequential(
                    nn.Linear(9, width), nn.ReLU(), nn.Linear(width, width), nn.Dropout(0.2), nn.Linear(width, 1)
                )

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        time.sleep(self.pause_s)
        return super().forward(batch, seed)


def config(**changes: Any) -> LoopConfig:
    """A rate so high that the best weights are not the last."""
    plain = {"epochs": EPOCHS, "batch_size": 8, "checkpoint_every": 1, "warmup_epochs": 1, "learning_rate": 0.3}
    return LoopConfig(**{**plain, "device": "cpu", "threads": 1, "log_every": 1, **changes})


def training(
    folder: Path | str, *, objective: ToyObjective | None = None, resume: bool = True, rows: int = 32, **changes: Any
) -> TrainResult:
    """One call of the training loop; the settings recorded are those that decide the result."""
    loop = config(**changes)
    settings = {"seed": loop.seed, "epochs": loop.epochs, "batch_size": loop.batch_size, "rows": rows}
    return train(objective or Toy(rows=rows), loop, Path(folder), resume=resume, settings=settings)


def toy_run(folder: str, pause_s: float = 0.0, width: int = 16, rows: int = 32, **changes: Any) -> None:
    training(folder, objective=Toy(pause_s, width, rows), rows=rows, **changes)


def crashing_run(folder: str, at: int, **changes: Any) -> None:
    """Die before the system call number `at` of those that change the disk."""
    with CrashPoints(at, "abort"):
        training(folder, **changes)


def crashing_model(folder: str, at: int) -> None:
    with CrashPoints(at, "abort"):
        model(Path(folder))


def model(folder: Path, value: float = 1.0) -> None:
    """Write a small model folder."""
    tensors = {"model": {"weight": torch.arange(300.0).reshape(3, 100) * value}}
    write_model(folder, kind="encoder", config={"width": 100}, tensors=tensors, card="# A model\n")


def limited_run(folder: str, limit_bytes: int) -> None:
    """No file may grow beyond `limit_bytes`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    training(folder)


def run(task: str, arguments: dict[str, Any]) -> NoReturn:
    end_like_the_command(lambda: globals()[task](**arguments))
