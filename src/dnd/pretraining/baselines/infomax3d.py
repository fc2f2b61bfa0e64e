"""3DInfomax: 2D and 3D vectors attract within a molecule and repel between molecules. Store → ENCODER folder."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.common.config import to_dict
from dnd.common.errors import ConfigError, ShapeError
from dnd.graphs.batch import ConformerBatch, MoleculeBatch, mean_per_molecule, ordered_pairs
from dnd.models.students.base import PackedBatchNorm, StudentConfig
from dnd.models.students.encoders import build_student
from dnd.models.teachers.base import TeacherConfig
from dnd.models.teachers.teachers import build_teacher
from dnd.pretraining.encoder_folder import PretrainSummary, finished_before, seal_encoder
from dnd.pretraining.heads import ProjectionHead, Readout, min_max_mean_per_molecule
from dnd.pretraining.objective import PretrainingObjective, initial_weights, require_conformers
from dnd.pretraining.settings import require_holdout_fraction
from dnd.pretraining.teacher_outputs import naming_molecules
from dnd.store.reader import Store
from dnd.training.distributed import gather_rows, run_lock
from dnd.training.loop import train
from dnd.training.settings import LoopConfig, StepLoss

# NT-Xent as 3DInfomax and its GraphCL baseline use it, over the molecules of all ranks.


def ntxent_loss(
    anchors_BD: Float[Tensor, "molecules dim"], positives_BD: Float[Tensor, "positives dim2"], temperature: float
) -> Float[Tensor, ""]:
    r"""One-directional NT-Xent whose denominator leaves the positive out, by log-sum-exp.

    .. math:: L = -\frac{1}{B} \sum_i \log \frac{\exp(c_{ii} / \tau)}{\sum_{j \neq i} \exp(c_{ij} / \tau)}
              = \frac{1}{B} \sum_i \Bigl[ \operatorname{logsumexp}_{j \neq i} \frac{c_{ij}}{\tau} -
              \frac{c_{ii}}{\tau} \Bigr]

    .. math:: c_{ij} = \frac{a_i \cdot p_j}{\lVert a_i \rVert \lVert p_j \rVert + 10^{-8}}

    Source: Stärk et al., "3D Infomax improves GNNs for Molecular Property Prediction" (ICML 2022), public code. Two
    facts of that code are kept: the 2D vectors are the only anchors, and the positive is not in the denominator, so
    the loss may be negative. The code exponentiates first, which overflows at :math:`\tau = 0.01` as soon as a cosine
    exceeds 0.887; this form does not.

    Args:
        anchors_BD: 2D vectors, one per molecule.
        positives_BD: vectors of the other view of the same molecules, same order.
        temperature: τ, 0.1 in every file of that repository, 0.01 in D&D's text.

    Raises:
        ShapeError: the two differ in shape, or there are fewer than two molecules, so there is no negative.
        ConfigError: the temperature is not positive.
    """
    if anchors_BD.shape != positives_BD.shape or len(anchors_BD) < 2:
        raise ShapeError(
            "a contrastive loss needs two views of at least two molecules",
            found=(tuple(anchors_BD.shape), tuple(positives_BD.shape)),
        )
    if not temperature > 0:
        raise ConfigError("the temperature must be positive", found=temperature)
    norm_BB = anchors_BD.norm(dim=1)[:, None] * positives_BD.norm(dim=1)[None, :]
    scaled_BB = anchors_BD @ positives_BD.T / (norm_BB + 1e-8) / temperature
    own = torch.eye(len(anchors_BD), dtype=torch.bool, device=anchors_BD.device)
    negatives_B = scaled_BB.masked_fill(own, -torch.inf).logsumexp(dim=1)
    loss: Tensor = (negatives_B - scaled_BB.diagonal()).mean()
    return loss


def contrastive_accuracy(
    anchors_BD: Float[Tensor, "molecules dim"], positives_BD: Float[Tensor, "molecules dim"]
) -> Float[Tensor, ""]:
    """Share of anchors whose own positive is the most similar one; 1/B by chance."""
    similarity_BB = F.normalize(anchors_BD, dim=1) @ F.normalize(positives_BD, dim=1).T
    own_B = torch.arange(len(anchors_BD), device=anchors_BD.device)
    hits_B = similarity_BB.argmax(dim=1).eq(own_B).float()
    return hits_B.mean()


def contrastive_step(
    anchors_BD: Float[Tensor, "molecules dim"],
    positives_BD: Float[Tensor, "molecules dim"],
    temperature: float,
    *,
    gather: bool,
) -> StepLoss:
    """NT-Xent of a batch, and how often the own positive is the most similar one.

    Args:
        anchors_BD: vectors of one view, one per molecule of this rank.
        positives_BD: vectors of the other view of the same molecules.
        temperature: τ.
        gather: with the molecules of all ranks, which all must call this; False in an evaluation, which one rank does.

    Raises:
        ShapeError, ConfigError: see `ntxent_loss`.
    """
    if gather:
        anchors_BD, positives_BD = gather_rows(anchors_BD), gather_rows(positives_BD)
    loss = ntxent_loss(anchors_BD, positives_BD, temperature)
    accuracy = contrastive_accuracy(anchors_BD.detach(), positives_BD.detach())
    return StepLoss(loss, {"accuracy": accuracy}, torch.tensor(float(len(anchors_BD))))


# Net3D, the 3D encoder of 3DInfomax: a complete graph of distances, no atom types, trained from scratch.
#
# Pairs are ordered, and no atom is paired with itself.


NUM_FREQUENCIES = 4


class Net3D(nn.Module):
    r"""Distances to one vector per conformer.

    All atoms start from one learnt vector; a pair starts from its encoded distance. One message layer:

    .. math:: m_{ij} = \mathrm{BN}(\mathrm{SiLU}(W_m [h_i, h_j, e_{ij}])), \quad
              \bar m_j = \operatorname{mean}_{i \neq j} \sigma(w \cdot m_{ij}) m_{ij}, \quad
              h_j' = \mathrm{BN}(W_u (\bar m_j + h_j)) + h_j

    and the output is a linear map of [min | max | mean] over the atoms.

    Source: Stärk et al., 3DInfomax (ICML 2022), public code with its QM9 settings; equal to recordings of it. Differs
    from usual message networks in that each activation comes before its batch norm, and that the encoded distance is
    activated once more after the norm. With one layer, the reference's update of the pair states has no effect and is
    left out.

    Args:
        hidden: H, 20.
        width: width of the output, 256.
        momentum: momentum of the batch norms; 0.93 makes the statistics follow the newest batch.
    """

    def __init__(self, hidden: int = 20, width: int = 256, momentum: float = 0.93) -> None:
        super().__init__()
        self.width = width
        self.node_embedding = nn.Parameter(torch.randn(hidden))
        self.edge_linear = nn.Linear(2 * NUM_FREQUENCIES + 1, hidden)
        self.edge_norm = PackedBatchNorm(hidden, momentum=momentum)
        self.message_linear = nn.Linear(3 * hidden, hidden)
        self.message_norm = PackedBatchNorm(hidden, momentum=momentum)
        self.gate = nn.Linear(hidden, 1)
        self.update_linear = nn.Linear(hidden, hidden)
        self.update_norm = PackedBatchNorm(hidden, momentum=momentum)
        self.output = nn.Linear(3 * hidden, width)

    def forward(self, conformers: ConformerBatch) -> Float[Tensor, "molecules dim"]:
        """One vector per conformer, invariant to rotation, translation, reflection and the order of the atoms."""
        pooled: Tensor = self.output(min_max_mean_per_molecule(self.atom_states(conformers), conformers.atom_offsets))
        return pooled

    def atom_states(self, conformers: ConformerBatch) -> Float[Tensor, "conformer_atoms hidden"]:
        """State of every atom after the message layer. A lone atom has no pair and receives the zero message."""
        source_E, target_E = ordered_pairs(conformers.atom_offsets)
        offset_E3 = conformers.positions_A3[source_E] - conformers.positions_A3[target_E]
        edge_ED = self.pair_states(offset_E3.norm(dim=1, keepdim=True))
        h_AD = self.node_embedding.expand(len(conformers.positions_A3), -1)
        message_ED = F.silu(self.message_linear(torch.cat([h_AD[source_E], h_AD[target_E], edge_ED], dim=1)))
        message_ED = self.message_norm(message_ED)
        message_ED = message_ED * torch.sigmoid(self.gate(message_ED))
        neighbours_A = (conformers.atom_offsets.diff() - 1)[conformers.batch_A].clamp(min=1)
        total_AD = torch.zeros_like(h_AD, dtype=message_ED.dtype).index_add(0, target_E, message_ED)
        mean_AD = total_AD / neighbours_A[:, None].to(total_AD.dtype)
        updated_AD: Tensor = self.update_norm(self.update_linear(mean_AD + h_AD)) + h_AD
        return updated_AD

    def pair_states(self, distance_E1: Float[Tensor, "pairs 1"]) -> Float[Tensor, "pairs hidden"]:
        """Encoded distances after linear map, SiLU, batch norm and SiLU again."""
        hidden_ED = F.silu(self.edge_linear(fourier_encoding(distance_E1)))
        return F.silu(self.edge_norm(hidden_ED))


def fourier_encoding(distance_E1: Float[Tensor, "pairs 1"]) -> Float[Tensor, "pairs codes"]:
    r""":math:`[\sin(d / 2^k) \mid \cos(d / 2^k) \mid d]`, k = 0..3, for distances in angstrom: 9 numbers."""
    scale_R = 2.0 ** torch.arange(NUM_FREQUENCIES, device=distance_E1.device, dtype=distance_E1.dtype)
    angle_ER = distance_E1 / scale_R
    return torch.cat([angle_ER.sin(), angle_ER.cos(), distance_E1], dim=1)


# Store → ENCODER folder by 3DInfomax: 2D and 3D vectors attract within a molecule and repel between molecules.


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
        momentum_3d: momentum of Net3D's batch norms.
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
        require_holdout_fraction(self.holdout_fraction)
        for name, holds, expected in (
            ("temperature", 0 < self.temperature < math.inf, "above 0, finite"),
            ("out_width", self.out_width >= 1, "at least 1"),
            ("hidden_3d", self.hidden_3d >= 1, "at least 1"),
            ("momentum_3d", 0 < self.momentum_3d <= 1, "above 0, at most 1"),
        ):
            if not holds:
                raise ConfigError(f"{name} is out of range", found=getattr(self, name), expected=expected)
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
) -> PretrainSummary:
    """Pretrain a student by 3DInfomax; the 3D encoder and both heads are dropped at the end.

    Args:
        store: a store with conformers, or its folder.
        out: the ENCODER folder.
        config: settings; the defaults of `ContrastConfig` when None.
        resume: continue an interrupted run with the same settings.

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
    with run_lock(out):
        return finished_before(out, resume=resume) or _contrast(objective, out, config, resume)


def _contrast(objective: ContrastiveObjective, out: Path, config: ContrastConfig, resume: bool) -> PretrainSummary:
    """`contrast` in a folder that is ours alone."""
    settings = {"store": objective.store.fingerprint, "settings": to_dict(config)}
    result = train(objective, config.loop, out, resume=resume, settings=settings, title="contrast", held=True)
    description = {"stage": "contrast", "settings": to_dict(config)}
    card = [
        f"A 2D student pretrained by 3DInfomax (NT-Xent, τ = {config.temperature:g}, 3D encoder `{config.encoder_3d}`, "
        "dropped). It reads a molecular graph and needs no conformer.",
        "",
        *(f"- {name.replace('_', ' ')}: {value:.4g}" for name, value in result.best.items()),
    ]
    return seal_encoder(out, objective.student, objective, result, description, card)
