"""Store → ENCODER folder by 3DInfomax: 2D and 3D vectors of one molecule attract, those of others repel."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from dnd.common.config import to_dict
from dnd.common.errors import ConfigError
from dnd.distillation.contrastive import contrastive_step
from dnd.distillation.encoder_folder import PretrainSummary, finished_before, seal_encoder
from dnd.distillation.net3d import Net3D
from dnd.distillation.pretraining import PretrainingObjective, initial_weights, require_conformers
from dnd.distillation.readout import ProjectionHead, Readout
from dnd.distillation.targets import naming_molecules
from dnd.graphs.batch import ConformerBatch, MoleculeBatch, mean_per_molecule
from dnd.store.reader import Store
from dnd.student.build import build_student
from dnd.student.config import StudentConfig
from dnd.teacher.build import build_teacher
from dnd.teacher.config import TeacherConfig
from dnd.training.loop import train
from dnd.training.objective import StepLoss
from dnd.training.settings import LoopConfig


@dataclass(frozen=True)
class ContrastConfig:
    """Settings of `contrast`.

    Attributes:
        temperature: τ; 0.1 in the published files, 0.01 in D&D's text.
        encoder_3d: `net3d` as published, or `teacher` for the equivariant transformer from scratch.
        out_width: width of the compared vectors.
        readout: from the student's atoms to a molecule.
        conformers: `first`, or `each` to go through a molecule's conformers from epoch to epoch.
        hidden_3d: hidden width of Net3D.
        momentum_3d: of Net3D's batch norms.
        holdout_fraction: share of the molecules that is held out.
        teacher: architecture of the 3D encoder with `encoder_3d="teacher"`.
        student: the student.
        loop: the training loop.
    """

    temperature: float = 0.1
    encoder_3d: Literal["net3d", "teacher"] = "net3d"
    out_width: int = 256
    readout: Readout = "mean"
    conformers: Literal["first", "each"] = "first"
    hidden_3d: int = 20
    momentum_3d: float = 0.93
    holdout_fraction: float = 0.02
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        """Refuse settings that can't work before any work starts."""
        if not self.temperature > 0 or not 0 < self.holdout_fraction < 1:
            raise ConfigError("temperature and holdout_fraction must be positive, the latter below 1")
        if self.loop.batch_size < 2 or self.loop.max_tokens is not None:
            raise ConfigError("a contrastive loss needs batches of a fixed batch_size, at least 2")


class TeacherEncoder(nn.Module):
    """The equivariant transformer from scratch as 3D encoder: mean over atoms, then two layers."""

    def __init__(self, config: TeacherConfig, out_width: int) -> None:
        super().__init__()
        self.teacher = build_teacher(config)
        self.head = nn.Sequential(nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, out_width))

    def forward(self, conformers: ConformerBatch) -> Float[Tensor, "molecules dim"]:
        """One vector per conformer."""
        scalars_AD = self.teacher(conformers).scalars_AD
        vectors: Tensor = self.head(mean_per_molecule(scalars_AD, conformers.atom_offsets))
        return vectors


class ContrastiveObjective(PretrainingObjective):
    """3DInfomax over a store: student and 3D encoder learn together, both from scratch.

    The last short batch of an epoch is left out, since its few negatives and its batch-norm statistics would count as
    much as a full batch. Under `torchrun` the molecules of all ranks are negatives.

    Args:
        store: molecules with conformers.
        config: settings of the run.
    """

    def __init__(self, store: Store, config: ContrastConfig) -> None:
        super().__init__(store, config.loop, config.holdout_fraction, contrastive=True)
        require_conformers(store)
        self.require_pairs()
        self.config = config
        with initial_weights(config.loop.seed):
            self.student = build_student(config.student)
            self.head = ProjectionHead(self.student, config.out_width, config.readout)
            self.encoder_3d = (
                Net3D(config.hidden_3d, config.out_width, config.momentum_3d)
                if config.encoder_3d == "net3d"
                else TeacherEncoder(config.teacher, config.out_width)
            )

    def load_batch(self, rows: np.ndarray, epoch: int) -> MoleculeBatch:
        """The molecules with their first conformer, or the epoch's."""
        return self.store.read(rows, conformer=epoch if self.config.conformers == "each" else 0)

    def views(self, batch: MoleculeBatch) -> tuple[Float[Tensor, "molecules dim"], Float[Tensor, "molecules dim"]]:
        """The 2D and the 3D vector of every molecule, float32."""
        assert batch.conformers is not None
        with naming_molecules(self.store, batch.rows_B.cpu().numpy()):
            view_3d_BD = self.encoder_3d(batch.conformers)
        return self.head(self.student(batch.graph), batch.graph).float(), view_3d_BD.float()

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        """NT-Xent with 2D anchors; `parts` has how often the own conformer is the nearest."""
        return contrastive_step(*self.views(batch), self.config.temperature, gather=self.training)


def contrast(
    store: Store | Path | str,
    out: Path | str,
    config: ContrastConfig | None = None,
    *,
    resume: bool = False,
    quiet: bool = False,
) -> PretrainSummary:
    """Pretrain a student by 3DInfomax; the 3D encoder and both heads are dropped at the end.

    Args:
        store: a store with conformers, or its folder.
        out: the ENCODER folder.
        config: settings; the defaults of `ContrastConfig` when None.
        resume: go on where an interrupted run of the same settings stopped.
        quiet: show nothing.

    Raises:
        InputError: the store has no conformers or too few molecules, or `out` holds something else.

    Example:
        >>> contrast("qm9-store", "encoder")  # doctest: +SKIP
    """
    config, out = config or ContrastConfig(), Path(out)
    if (summary := finished_before(out, resume=resume)) is not None:
        return summary
    store = store if isinstance(store, Store) else Store.open(store)
    objective = ContrastiveObjective(store, config)
    settings = {"store": store.fingerprint, "settings": to_dict(config)}
    result = train(objective, config.loop, out, resume=resume, settings=settings, title="contrast", quiet=quiet)
    description = {"stage": "contrast", "settings": to_dict(config)}
    card = [
        f"A 2D student pretrained by 3DInfomax (NT-Xent, τ = {config.temperature:g}, 3D encoder `{config.encoder_3d}`, "
        "dropped). It reads a molecular graph and needs no conformer.",
        "",
        *(f"- {name.replace('_', ' ')}: {value:.4g}" for name, value in result.best.items()),
    ]
    return seal_encoder(out, objective.student, objective, result, description, card)
