"""A toy objective over real batch types, small enough that a whole training takes a tenth of a second."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from dnd.common.compute import numpy_generator
from dnd.graphs.batch import GraphBatch, MoleculeBatch
from dnd.training.settings import Objective, StepLoss


class ToyObjective(Objective):
    """Regress a fixed function of the row number with dropout; everything a real objective has, without chemistry."""

    best_metric = "valid_loss"

    def __init__(self, rows: int = 64, batch_size: int = 8, seed: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.poison_at: int | None = None
        self.steps_seen = 0

    def features(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((1000 * np.sin(np.outer(rows + 1, np.arange(1, 10)))).astype(np.int64))

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        prediction = self.network(batch.graph.node_features_NF / 1000)
        error = prediction[:, 0] - batch.targets_BC[:, 0]
        self.steps_seen += 1
        loss = (error**2).mean()
        if self.poison_at == self.steps_seen:
            loss = loss * float("nan")
        return StepLoss(loss, {"absolute": error.detach().abs().mean()}, weight=torch.tensor(float(len(error))))

    def plan_epoch(self, epoch: int) -> Sequence[np.ndarray]:
        order = numpy_generator(self.seed, "order", epoch).permutation(self.rows)
        return [order[start : start + self.batch_size] for start in range(0, self.rows, self.batch_size)]

    def load_batch(self, rows: np.ndarray, epoch: int) -> MoleculeBatch:
        offsets = torch.arange(len(rows) + 1)
        empty = torch.zeros(2, 0, dtype=torch.int64)
        graph = GraphBatch(self.features(rows), empty, torch.zeros(0, 3, dtype=torch.int64), offsets, offsets * 0)
        targets = torch.from_numpy(np.cos(rows).astype(np.float32))[:, None]
        return MoleculeBatch(graph, None, targets, torch.from_numpy(rows))

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        batch = self.load_batch(np.arange(100, 130), 0)
        return {"valid_loss": float(self.forward(batch, 0).loss)}
