"""`torchrun` and the no-op case.

Every rank takes its share of each global batch, and a rank's loss is weighted by its share of the batch's denominator.
So the gradient is that of one process with the whole batch, whatever the number of ranks, and no molecule is lost or
doubled at the end of an epoch. Batch-norm statistics are per rank; contrastive losses see the rank's negatives only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dnd.training.objective import StepLoss


@dataclass(frozen=True)
class World:
    """This process's place among the ranks."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    @classmethod
    def join(cls, device: torch.device) -> World:
        """Join the process group that `torchrun` announced, or be alone."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), size)

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module`, averaging gradients over ranks where there are several."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=True)

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This rank's rows of a global batch; a rank that would have none borrows one, at weight 0."""
        own = rows[self.rank :: self.size]
        return own if len(own) else rows[:1]

    def weigh(self, result: StepLoss, *, borrowed: bool) -> Tensor:
        r"""The loss to differentiate: :math:`L_r w_r R / \sum_r w_r`, whose mean over R ranks is the global loss."""
        if self.size == 1:
            return result.loss
        weight = torch.zeros_like(result.loss) if borrowed else result.weight.to(result.loss)
        total = weight.detach().clone()
        dist.all_reduce(total)
        return result.loss * weight.detach() * (self.size / total)

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a scalar over ranks."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.size
        return value

    def wait(self) -> None:
        """Block until every rank is here."""
        if self.size > 1:
            dist.barrier()
