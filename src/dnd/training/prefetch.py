"""The next batch is read while this one is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dnd.graphs.batch import MoleculeBatch
from dnd.training.distributed import World
from dnd.training.objective import Objective


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
