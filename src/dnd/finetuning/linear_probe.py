"""A head that fits its student before the student is finetuned.

A new head is random, and its first gradients pull a pretrained student away from what it knows. So the head is trained
alone first, on representations that are computed once, and the whole network after that.

Source: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution" (ICLR 2022).
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from dnd.common.seeds import torch_generator
from dnd.finetuning.network import run_over
from dnd.finetuning.objective import SupervisedObjective

BATCH = 256
LEARNING_RATE = 1e-3
EVERY = 25  # steps between looks at the validation part


def probe_head(objective: SupervisedObjective, steps: int, seed: int) -> None:
    """Train the head on the frozen student, and leave it as it was best on the validation part.

    Args:
        objective: its network is changed in place.
        steps: of AdamW.
        seed: of the batches.
    """
    network, partition = objective.network.eval(), objective.partition
    train_BD, valid_BD = _embedded(objective, partition.train), _embedded(objective, partition.valid)
    train_BC, valid_BC = (objective.scaled_NC[torch.from_numpy(rows)] for rows in (partition.train, partition.valid))
    optimizer = torch.optim.AdamW(network.head.parameters(), lr=LEARNING_RATE)
    generator = torch_generator(seed, "linear probe")
    best, best_state = float("inf"), copy.deepcopy(network.head.state_dict())
    for step in range(steps):
        places = torch.randint(len(train_BD), (min(BATCH, len(train_BD)),), generator=generator)
        optimizer.zero_grad()
        objective.loss_of(network.head(train_BD[places]), train_BC[places]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % EVERY == 0:
            with torch.no_grad():
                loss = float(objective.loss_of(network.head(valid_BD), valid_BC))
            if loss < best:
                best, best_state = loss, copy.deepcopy(network.head.state_dict())
    network.head.load_state_dict(best_state)
    network.head.zero_grad(set_to_none=True)


def _embedded(objective: SupervisedObjective, rows: np.ndarray) -> Tensor:
    network = objective.network
    return torch.from_numpy(run_over(network.embed, network.student, objective.source, rows)).float()
