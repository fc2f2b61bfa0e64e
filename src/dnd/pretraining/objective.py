"""What all pretraining objectives share: which molecules train, which are held out, and in which order they come."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dnd.common.compute import derive_seed, numpy_generator
from dnd.common.errors import ConfigError, InputError
from dnd.common.ragged import RaggedCounts
from dnd.graphs.batch import MoleculeBatch
from dnd.models.students.base import Student
from dnd.store.batches import DEFAULT_POOL, EpochPlan, TrainingRows, cut_by_budget
from dnd.store.reader import Store
from dnd.training.distributed import num_ranks
from dnd.training.settings import LoopConfig, Objective

# Training molecules of the evaluation that stands beside the held-out one.
MAX_TRAIN_SAMPLE = 2000


class StoreObjective(Objective):
    """An objective over a store. The seed decides which molecules are held out: see `TrainingRows`.

    Args:
        store: the molecules.
        loop: batch size and seed.
        holdout_fraction: share that is held out.

    Attributes:
        train_rows: rows that train.
        holdout_rows: rows that never train, ascending.
    """

    def __init__(self, store: Store, loop: LoopConfig, holdout_fraction: float) -> None:
        super().__init__()
        self.store, self.loop = store, loop
        self.train_rows = TrainingRows(len(store), holdout_fraction, loop.seed, codes=store.molecule_codes)
        self.holdout_rows = self.train_rows.held_out

    def plan_epoch(self, epoch: int) -> Sequence[np.ndarray]:
        """Batches of the training rows, of conformers of similar size: a teacher pays for padding."""
        return self.plan(epoch, self.store.conformer_atom_counts)

    def plan(self, epoch: int, sizes: RaggedCounts, *, pool: int = DEFAULT_POOL, drop_last: bool = False) -> EpochPlan:
        """Batches of the training rows; a budget of tokens, where set, replaces the batch size.

        Args:
            epoch: number of the epoch.
            sizes: atoms of every row.
            pool: see `EpochPlan`.
            drop_last: see `EpochPlan`.
        """
        loop = self.loop
        return EpochPlan(
            self.train_rows,
            sizes,
            batch_size=None if loop.max_tokens else min(loop.batch_size, max(1, len(self.train_rows))),
            max_tokens=loop.max_tokens,
            seed=loop.seed,
            epoch=epoch,
            drop_last=drop_last,
            pool=pool,
        )

    def evaluation_rows(self, rows: np.ndarray, sizes: RaggedCounts, *, even: bool = False) -> list[np.ndarray]:
        """`rows` in batches for an evaluation, sorted by size and no larger than those of the training.

        Args:
            rows: row numbers of the store.
            sizes: atoms of every row.
            even: make all batches about equally long, instead of full ones and a rest.
        """
        if not len(rows):
            return []
        by_size, batch_size = rows[np.argsort(sizes[rows], kind="stable")], self.loop.batch_size
        if self.loop.max_tokens:
            return cut_by_budget(by_size, sizes[by_size], self.loop.max_tokens)
        if even:
            return np.array_split(by_size, -(-len(rows) // batch_size))
        return np.split(by_size, range(batch_size, len(rows), batch_size))

    def load_batch(self, rows: np.ndarray, epoch: int) -> MoleculeBatch:
        """The molecules with their first conformer."""
        return self.store.read(rows)

    def describe(self, rows: np.ndarray) -> list[str]:
        """SMILES and source row of each molecule."""
        return self.store.describe(rows)


class PretrainingObjective(StoreObjective):
    """An objective that trains a student.

    Args:
        store: the molecules.
        loop: batch size and seed.
        holdout_fraction: share that is held out.
        contrastive: the other molecules of a batch are negatives, so batches mix sizes (or size, the easiest tell,
            would never be learnt), are all full, and none has a single molecule.

    Attributes:
        student: the part that is kept, set by the objectives.
        train_sample: training rows that each evaluation scores beside the held-out ones.
    """

    best_metric = "valid_loss"
    student: Student

    def __init__(self, store: Store, loop: LoopConfig, holdout_fraction: float, *, contrastive: bool = False) -> None:
        if len(store) < 2:
            raise InputError(f"{store.path or 'the store'} is too small to hold out molecules", found=len(store))
        super().__init__(store, loop, holdout_fraction)
        self.contrastive = contrastive
        sample = numpy_generator(loop.seed, "train sample").permutation(self.train_rows.sample())
        self.train_sample = np.sort(sample[: min(len(self.holdout_rows), MAX_TRAIN_SAMPLE)])

    def plan_epoch(self, epoch: int) -> Sequence[np.ndarray]:
        """Batches of the training rows, sorted by size only for a budget of tokens.

        The students pack their batches, so mixed sizes cost nothing, and a batch of one size is a biased sample of the
        molecules.
        """
        pool = DEFAULT_POOL if self.loop.max_tokens else 1
        return self.plan(epoch, self.store.atom_counts, pool=pool, drop_last=self.contrastive)

    def require_pairs(self) -> None:
        """Refuse what leaves a contrastive loss without negatives.

        Raises:
            InputError: there are fewer than two training or two held-out molecules.
            ConfigError: a batch has fewer molecules than there are processes.
        """
        if min(len(self.train_rows), len(self.holdout_rows)) < 2:
            raise InputError(
                "a contrastive loss needs two training and two held-out molecules",
                found=f"{len(self.train_rows)} and {len(self.holdout_rows)}",
                next_step="Use more molecules or raise holdout_fraction",
            )
        batch_size = min(self.loop.batch_size, len(self.train_rows))
        if batch_size < num_ranks():  # a molecule of two ranks would be its own negative
            raise ConfigError(
                "a contrastive batch needs a molecule for each process",
                found=f"{batch_size} molecules, {num_ranks()} processes",
                next_step="Raise loop.batch_size or start fewer processes",
            )

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss and its parts for held-out molecules and as many training molecules, with a fixed seed."""
        metrics: dict[str, float] = {}
        for part, rows in (("valid", self.holdout_rows), ("train", self.train_sample)):
            means, seed = RunningMean(), derive_seed(self.loop.seed, f"evaluate {part}")
            for number, batch in enumerate(self.evaluation_batches(rows)):
                if self.contrastive and batch.num_molecules < 2:
                    continue
                step = self(batch, derive_seed(seed, "batch", number))
                for name, value in {"loss": step.loss, **step.parts}.items():
                    means.add(name, value, int(step.weight))
            metrics |= means.values(f"{part}_")
        return metrics

    def evaluation_batches(self, rows: np.ndarray) -> Iterator[MoleculeBatch]:
        """`rows` in batches on the objective's device, always the same; by size unless molecules are negatives."""
        device = next(self.parameters()).device
        if self.contrastive:
            ordered, size = numpy_generator(self.loop.seed, "evaluation order").permutation(rows), self.loop.batch_size
            parts = np.split(ordered, range(size, len(ordered), size))
        else:
            parts = self.evaluation_rows(rows, self.store.atom_counts)
        for part in parts:
            yield self.load_batch(part, 0).to(device)


@contextlib.contextmanager
def initial_weights(seed: int, purpose: str = "initial weights") -> Iterator[None]:
    """Modules built inside get weights that depend on `seed` and `purpose` alone; torch's generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, purpose))
        yield


class RunningMean:
    """Means of several numbers over batches of unequal weight."""

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}
        self._weights: dict[str, int] = {}

    def add(self, name: str, mean: Tensor | float, weight: int) -> None:
        """Take in the mean of a batch with `weight` terms; a batch without any counts for nothing."""
        if weight > 0:
            self._totals[name] = self._totals.get(name, 0.0) + float(mean) * weight
            self._weights[name] = self._weights.get(name, 0) + weight

    def values(self, prefix: str = "") -> dict[str, float]:
        """The means so far, by prefixed name."""
        return {f"{prefix}{name}": total / self._weights[name] for name, total in self._totals.items()}


def require_conformers(store: Store) -> None:
    """Refuse a store without conformers.

    Raises:
        InputError: some molecule has none.
    """
    if not store.has_conformers:
        raise InputError(
            f"{store.path or 'the store'} has molecules without conformers",
            next_step="Make it with `dnd prepare --conformers file` or `--conformers etkdg`",
        )
