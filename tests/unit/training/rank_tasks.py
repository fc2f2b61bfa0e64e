"""What the ranks of a distributed run do in the tests."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from dnd.common.log import told
from dnd.graphs.batch import MoleculeBatch
from dnd.training.distributed import World
from dnd.training.loop import LoopConfig, train
from dnd.training.settings import StepLoss
from nursery import end_like_the_command
from toy import ToyObjective

BATCHES = [list(range(8)), list(range(7)), [3, 40], [5], [40, 41, 42], [1, 40]]
"""Even, odd, one row of each pair without a label, one row for two ranks, no label at all, labels on one rank only."""


class Masked(ToyObjective):
    """Mean over the labels there are, as finetuning has it; rows from 40 to 47 have none. No dropout."""

    def __init__(self, pause_s: float = 0.0, rows: int = 33) -> None:
        super().__init__(rows=rows)
        self.network[2] = nn.Identity()
        self.pause_s = pause_s
        self.poison_step: int | None = None
        self.read: list[list[int]] = []

    def load_batch(self, rows: np.ndarray, epoch: int) -> MoleculeBatch:
        if rows[0] < self.rows:  # not those of the evaluation
            self.read.append(rows.tolist())
        return super().load_batch(rows, epoch)

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        time.sleep(self.pause_s if self.training else 0.0)
        labelled = (batch.rows_B < 40) | (batch.rows_B > 47)
        error = self.network(batch.graph.node_features_NF / 1000)[:, 0] - batch.targets_BC[:, 0]
        loss = torch.where(labelled, error, 0.0).square().sum() / labelled.sum().clamp(min=1)
        self.steps_seen += self.training
        if self.steps_seen == self.poison_step:
            loss = loss * float("nan")
        return StepLoss(loss, weight=labelled.sum())


class Dropping(Masked):
    """With dropout, so that a step's seed matters."""

    def __init__(self, pause_s: float = 0.0) -> None:
        super().__init__(pause_s)
        self.network[2] = nn.Dropout(0.2)


def gradients(out: str) -> None:
    """Write the gradient of each of `BATCHES`."""
    world = World.join(torch.device("cpu"))
    objective = Masked()
    parallel = world.wrap(objective)
    found = {}
    for number, rows in enumerate(BATCHES):
        objective.zero_grad()
        batch = objective.load_batch(world.share(np.array(rows)), 0)
        world.weigh(parallel(batch, 0), borrowed=world.rank >= len(rows)).backward()
        for name, parameter in objective.named_parameters():
            found[f"{number}.{name}"] = parameter.grad.clone()
    save_file(found, f"{out}-{world.rank}.safetensors")


def rank_run(
    folder: str, kind: str = "Masked", pause_s: float = 0.0, poison: int | None = None, **changes: Any
) -> None:
    """Train; each rank leaves `rank-<n>.json` with what it has read, the result and a digest of its weights."""
    objective = {"Masked": Masked, "Dropping": Dropping}[kind](pause_s)
    objective.poison_step = poison
    plain = {"epochs": 2, "checkpoint_every": 1, "log_every": 1, "warmup_epochs": 1, "learning_rate": 0.3}
    config = LoopConfig(**{**plain, "device": "cpu", "threads": 1, **changes})
    with told(logging.INFO):
        result = train(objective, config, Path(folder), resume=True, settings={"kind": kind})
    world = World.join(torch.device("cpu"))
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in objective.state_dict().values())).hexdigest()
    record = {"read": objective.read, "steps": result.steps, "best": result.best, "weights": digest}
    Path(folder, f"rank-{world.rank}.json").write_text(json.dumps(record))


def run(task: str, arguments: dict[str, Any]) -> NoReturn:
    end_like_the_command(lambda: globals()[task](**arguments))
