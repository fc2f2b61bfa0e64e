"""What share of a training step the data pipeline costs: planning, reading from the store, and packing a batch.

The loop reads the next batch in a second thread while it trains on this one, so what is measured here is also hidden
where there is a second core.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from dnd.bench.measure import Table, Variant, measure
from dnd.bench.molecules import SEED, qm9_store
from dnd.common.randomness import set_threads
from dnd.graphs.batch import MoleculeBatch
from dnd.models.students.base import preset
from dnd.models.teachers.base import TeacherConfig
from dnd.pretraining.denoise import DenoiseConfig, DenoisingObjective
from dnd.pretraining.distill_objective import DistillationObjective
from dnd.pretraining.settings import DistillConfig
from dnd.training.objective import Objective
from dnd.training.settings import LoopConfig

LOOP = LoopConfig(batch_size=64)
STEPS = 2  # of each repetition
_STEP = "training step"


def bench_pipeline(molecules: int, repetitions: int) -> Iterator[Table]:
    """One table per network: its training step, and the pipeline's share of it.

    Args:
        molecules: in the store.
        repetitions: number of repetitions of every variant.
    """
    set_threads()
    with tempfile.TemporaryDirectory() as name:
        store = qm9_store(Path(name) / "store", molecules)
        wide = TeacherConfig(width=128, num_layers=2)  # its outputs are cached: only its width matters
        denoising = DenoisingObjective(store, DenoiseConfig(teacher=TeacherConfig(width=128, num_layers=6), loop=LOOP))
        yield _pipeline("teacher 128x6, denoising", denoising, repetitions)
        teacher = DenoisingObjective(store, DenoiseConfig(teacher=wide, loop=LOOP)).teacher
        for student in ("tokengt-small", "gine-small"):
            config = DistillConfig(student=preset(student), loop=LOOP, cache="memory")
            distillation = DistillationObjective(store, teacher, config)
            yield _pipeline(f"{student}, distillation, cached teacher", distillation, repetitions)


def _pipeline(title: str, objective: Objective, repetitions: int) -> Table:
    plan = list(objective.plan_epoch(0))[:STEPS]
    batches = [objective.load_batch(rows, 0) for rows in plan]
    objective.train()
    variants = [
        Variant(_STEP, _steps(objective, batches), len(plan)),
        Variant("read and pack the batch", lambda: [objective.load_batch(rows, 0) for rows in plan], len(plan)),
        Variant("plan the epoch, per step", _planner(objective), len(objective.plan_epoch(0))),
    ]
    notes = (f"{np.mean([len(rows) for rows in plan]):.0f} molecules of QM9 per step",)
    return Table(title, "step", _STEP, measure(variants, repetitions), share=True, notes=notes)


def _steps(objective: Objective, batches: Sequence[MoleculeBatch]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-4)

    def work() -> None:
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            objective(batch, SEED).loss.backward()
            optimizer.step()

    return work


def _planner(objective: Objective) -> Callable[[], object]:
    epochs = iter(range(1, 1_000_000))
    return lambda: objective.plan_epoch(next(epochs))
