"""`torchrun` and the no-op case.

Every rank takes its share of each global batch, and a rank's loss is weighted by its share of the batch's denominator.
So the gradient is that of one process with the whole batch, whatever the number of ranks, and no molecule is lost or
doubled at the end of an epoch. Contrastive losses gather the vectors of all ranks. Dropout and batch norm go by rank.

Rank 0 alone reads and writes the run folder; the others get what it read. A rank that dies closes its connections, so
the others end with a message instead of waiting for ever.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dnd.common.errors import DndError
from dnd.common.files import folder_lock
from dnd.training.settings import StepLoss, Terms

# The others wait in a collective while rank 0 evaluates or saves, which may take longer than the default allows.
_PATIENCE = timedelta(hours=2)
_LOST_PEER = ("gloo", "nccl", "connection", "timed out", "broken pipe")


@dataclass(frozen=True)
class World:
    """This process's place among the ranks.

    Attributes:
        rank: 0 writes files and prints.
        size: number of ranks.
        device: where tensors must lie that ranks exchange.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

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
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
        return cls(dist.get_rank(), size, device)

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
        r"""The loss to differentiate: :math:`L_r w_r R / \sum_r w_r`, whose mean over R ranks is the global loss.

        A loss of several means is weighed mean by mean. Where no rank has a term (all labels of the global batch are
        missing) it is 0 with gradient 0.
        """
        if self.size == 1:
            return result.loss
        terms = result.terms or Terms(result.loss[None], result.weight[None])
        weights_X = torch.zeros_like(terms.losses_X) if borrowed else terms.weights_X.detach().to(terms.losses_X)
        total_X = weights_X.clone()
        dist.all_reduce(total_X)
        losses_X = terms.losses_X * weights_X * (self.size / total_X.clamp(min=torch.finfo(total_X.dtype).tiny))
        return replace(terms, losses_X=losses_X).combined(total_X)

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a scalar over ranks."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.size
        return value

    def largest(self, value: int) -> int:
        """The largest of the ranks' values: what one rank was asked to do, all do after the same step."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared)

    def from_main(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Rank 0's plain values; the argument of the other ranks is ignored."""
        if self.size == 1:
            return dict(value)
        received: dict[str, Any] = json.loads(self._bytes_from_main(json.dumps(value).encode()))
        return received

    def tensors_from_main(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rank 0's tensors, on the CPU; the argument of the other ranks is ignored."""
        if self.size == 1:
            return dict(tensors)
        return dict(load(self._bytes_from_main(save(dict(tensors)) if self.is_main else b"")))

    def _bytes_from_main(self, data: bytes) -> bytes:
        length = torch.tensor(len(data), device=self.device)
        dist.broadcast(length, 0)
        if self.is_main:
            content = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(self.device)
        else:
            content = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        dist.broadcast(content, 0)
        return bytes(content.cpu().numpy().tobytes())

    def wait(self) -> None:
        """Block until every rank is here."""
        if self.size > 1:
            dist.barrier()

    @contextlib.contextmanager
    def lost_peers(self) -> Iterator[None]:
        """Turn the failure of an exchange with another rank into one line.

        Raises:
            DndError: another rank ended or can't be reached.
        """
        try:
            yield
        except RuntimeError as error:
            text = str(error)
            if self.size == 1 or not any(word in text.lower() for word in _LOST_PEER):
                raise
            raise DndError(
                "another rank of this run ended or does not answer",
                found=text.strip().splitlines()[0],
                next_step="What it printed says why; start all ranks again with --resume",
            ) from error


def gather_rows(rows_BD: Float[Tensor, "rows dim"]) -> Float[Tensor, "all_rows dim"]:
    r"""The rows of all ranks in the order of the ranks; alone, `rows_BD` itself.

    For a loss in which every row meets every other, and which each rank computes of all rows. Only a rank's own rows
    carry a gradient, R times, so that the mean over R ranks is the gradient of that loss:

    .. math:: \frac{1}{R} \sum_r R\, \frac{\partial L}{\partial x_r} \frac{\partial x_r}{\partial \theta}
              = \frac{\mathrm{d} L}{\mathrm{d} \theta}

    Args:
        rows_BD: rows of this rank; ranks may have different numbers of rows. All ranks must call this together.
    """
    if not dist.is_initialized():
        return rows_BD
    size, own_BD = dist.get_world_size(), rows_BD.detach()
    counts = [torch.empty(1, dtype=torch.int64, device=rows_BD.device) for _ in range(size)]
    dist.all_gather(counts, torch.tensor([len(own_BD)], device=rows_BD.device))
    padded_BD = own_BD.new_zeros(int(max(counts)), own_BD.shape[1])
    padded_BD[: len(own_BD)] = own_BD
    found = [torch.empty_like(padded_BD) for _ in range(size)]
    dist.all_gather(found, padded_BD)
    rows = [every_BD[: int(count)] for every_BD, count in zip(found, counts, strict=True)]
    rows[dist.get_rank()] = own_BD + size * (rows_BD - own_BD)
    return torch.cat(rows)


def is_main_rank() -> bool:
    """Whether this process is the one that writes results; the others only help to train."""
    return num_ranks() == 1 or int(os.environ.get("RANK", "0")) == 0


def run_lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    """The lock of the folder that a verb writes, which rank 0 holds for all ranks, from its checks to its seal.

    Raises:
        InputError, StorageError: see `folder_lock`.
    """
    return folder_lock(folder) if is_main_rank() else contextlib.nullcontext()


def num_ranks() -> int:
    """How many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))
