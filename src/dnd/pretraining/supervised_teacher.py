"""A teacher that learns a label from conformers: the teacher of CCMD.

D&D's teacher never sees a label; CCMD's is trained on the property itself with 3D input and a token per molecule, and
then frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnd.common.config import look_up, to_dict
from dnd.common.errors import ConfigError, InputError
from dnd.common.model_folder import write_model
from dnd.common.runs import drop_scaffolding
from dnd.graphs.batch import MoleculeBatch
from dnd.models.teachers.base import TeacherConfig
from dnd.models.teachers.teachers import KIND, build_teacher
from dnd.pretraining.denoise import DenoiseSummary, taught_before
from dnd.pretraining.objective import StoreObjective, initial_weights
from dnd.pretraining.settings import require_holdout_fraction
from dnd.pretraining.teacher_outputs import naming_molecules
from dnd.store.reader import Store
from dnd.training.distributed import is_main_rank, run_lock
from dnd.training.loop import train
from dnd.training.settings import LoopConfig, StepLoss


@dataclass(frozen=True)
class SuperviseConfig:
    """Settings of a supervised teacher.

    Attributes:
        target: column of the store that it learns.
        teacher: architecture; it gets a molecule token.
        loop: training.
        holdout_fraction: share of the molecules that is held out, the same ones as in a distillation with the same
            fraction and seed.
    """

    target: str = "gap"
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    holdout_fraction: float = 0.02

    def __post_init__(self) -> None:
        if self.teacher.name != "et":
            raise ConfigError("a molecule token belongs to the equivariant transformer", found=self.teacher.name)
        require_holdout_fraction(self.holdout_fraction)
        object.__setattr__(self, "teacher", replace(self.teacher, molecule_token=True))


class SupervisedTeacherObjective(StoreObjective):
    r"""Predict a standardised label from the molecule token of a clean conformer.

    .. math:: L = \frac{1}{B} \sum_b \lvert W_2\, \mathrm{SiLU}(W_1 t_b + b_1) + b_2 - y_b \rvert

    Source: CCMD (arXiv 2211.16712), whose teacher is supervised with DFT coordinates.

    Args:
        store: molecules with conformers and labels; missing labels have no part in the loss.
        config: settings.

    Raises:
        InputError: no such column, or fewer than two different training labels or no held-out one in it.
    """

    best_metric = "held_out_loss"

    def __init__(self, store: Store, config: SuperviseConfig) -> None:
        super().__init__(store, config.loop, config.holdout_fraction)
        self.config = config
        width = config.teacher.width
        with initial_weights(config.loop.seed, "teacher"):
            self.teacher = build_teacher(config.teacher)
            self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        columns = {name: place for place, name in enumerate(store.target_columns)}
        self.column = look_up(columns, config.target, "target column")
        labels = self._labels(self.train_rows.sample())
        if len(np.unique(labels)) < 2 or not len(self._labels(self.holdout_rows)):
            raise InputError(
                f"target column {config.target!r} has too few labels, or no two that differ",
                found=f"{len(labels)} training and {len(self._labels(self.holdout_rows))} held-out ones",
            )
        self.mean, self.deviation = float(labels.mean()), float(labels.std())

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        """Mean absolute error over the labels that are there, in label deviations."""
        error, count = self._error(batch)
        return StepLoss(error, weight=torch.tensor(float(count), device=error.device))

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Held-out error in label deviations and in the label's unit, and the deviation itself."""
        device = next(self.parameters()).device
        total, count = 0.0, 0
        for part in self.evaluation_rows(self.holdout_rows, self.store.conformer_atom_counts, even=True):
            error, known = self._error(self.load_batch(part, 0).to(device))
            total, count = total + float(error) * known, count + known
        loss = total / count
        return {
            "held_out_loss": loss,
            "held_out_mae": loss * self.deviation,
            "label_mean": self.mean,
            "label_deviation": self.deviation,
        }

    def _labels(self, rows: np.ndarray) -> Float[np.ndarray, "labels"]:
        labels_B = self.store.targets_of(rows)[:, self.column].astype(np.float64)
        known: np.ndarray = labels_B[np.isfinite(labels_B)]
        return known

    def _error(self, batch: MoleculeBatch) -> tuple[Float[Tensor, ""], int]:
        assert batch.conformers is not None
        with naming_molecules(self.store, batch.rows_B.cpu().numpy()):
            token_BD = self.teacher(batch.conformers, collect_layers=True).tokens[-1]
        target_B = (batch.targets_BC[:, self.column] - self.mean) / self.deviation
        known_B = target_B.isfinite()
        predicted_B = self.head(token_BD)[:, 0]
        error_B = (predicted_B - torch.where(known_B, target_B, predicted_B.detach())).abs()
        count = int(known_B.sum())
        return error_B.sum() / max(1, count), count


def supervise(
    store: Store | Path | str,
    out: Path | str,
    config: SuperviseConfig | None = None,
    *,
    resume: bool = False,
) -> DenoiseSummary:
    """Train a teacher on a label of a store and write a TEACHER folder, which distillation reads like any other.

    Args:
        store: a store with conformers and the label, or its folder.
        out: the TEACHER folder.
        config: settings.
        resume: continue an interrupted run with the same settings.

    Raises:
        InputError: the store lacks conformers or labels, or `out` holds something else.
    """
    config, out = config or SuperviseConfig(), Path(out)
    if (summary := taught_before(out, resume=resume)) is not None:
        return summary
    store = store if isinstance(store, Store) else Store.open(store)
    if not store.has_conformers:
        raise InputError(f"{store.path or 'the store'} has molecules without a conformer")
    with run_lock(out):
        return taught_before(out, resume=resume) or _supervise(store, out, config, resume)


def _supervise(store: Store, out: Path, config: SuperviseConfig, resume: bool) -> DenoiseSummary:
    """`supervise` in a folder that is ours alone."""
    objective = SupervisedTeacherObjective(store, config)
    settings = {"store": store.fingerprint, "settings": to_dict(config)}
    result = train(objective, config.loop, out, resume=resume, settings=settings, title="supervise", held=True)
    if not result.finished or not is_main_rank():
        return DenoiseSummary(out, result.best if result.finished else {}, result.finished)
    description = {
        "hydrogens": store.hydrogens,
        "store": store.fingerprint,
        "molecules": len(store),
        "metrics": result.best,
        "settings": to_dict(config),
        "teacher": to_dict(config.teacher),
    }
    card = (
        f"# Teacher\n\nAn equivariant transformer with a molecule token, width {config.teacher.width}, trained on the "
        f"label `{config.target}` (CCMD).\n\n- held-out MAE: {result.best['held_out_mae']:.4g}, "
        f"{result.best['held_out_loss']:.4g} label deviations\n"
    )
    tensors = {"model": objective.teacher.state_dict(), "label_head": objective.head.state_dict()}
    write_model(out, kind=KIND, config=description, tensors=tensors, card=card)
    drop_scaffolding(out)
    return DenoiseSummary(out, result.best, True)
