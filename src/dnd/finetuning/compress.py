r"""`dnd compress`: a blend teaches one student its predictions on molecules without labels.

Denoising and distillation once more: the student that learned from a 3D teacher what no label says now learns from the
blend what its labels said. The blend's predictions are as many as there are molecules, so the student meets far more of
chemical space than the labelled molecules are, and one network takes the place of all members, their descriptors and
their fingerprints.

.. math:: L = \frac{1}{BC} \sum_{b, c} \ell\big(f_c(b), \bar y_c(b)\big)

with the blend's mean :math:`\bar y` on the scale in which each target is learned and Huber's loss, or for classes with
the blend's calibrated probabilities and the cross-entropy. Sources: Bucila, Caruana and Niculescu-Mizil, "Model
Compression" (KDD 2006), which teaches a network an ensemble's predictions on unlabelled data; Hinton, Vinyals and Dean,
"Distilling the Knowledge in a Neural Network" (2015), for probabilities as targets.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from dnd.chemistry.splits import Split
from dnd.common.compute import numpy_generator, set_threads
from dnd.common.config import load_config, to_dict
from dnd.common.errors import ConfigError, InputError, NonFiniteError
from dnd.common.files import MANIFEST, folder_lock, read_json, sha256_file
from dnd.common.log import LOGGER, RESULT
from dnd.common.model_folder import FORMAT_VERSION, ModelFolder, read_model
from dnd.common.runs import already_finished, begin_or_go_on, drop_scaffolding
from dnd.finetuning.compressed_model import (
    DRUGLIKE,
    Compressed,
    Unlabelled,
    read_test_part,
    read_unlabelled,
    taught_values,
    write_compressed,
)
from dnd.finetuning.finetune import FinetuneSummary
from dnd.finetuning.objective import SupervisedObjective, ValueLoss
from dnd.finetuning.settings import FinetuneConfig
from dnd.finetuning.students import initial_student
from dnd.models.students.base import Pooling, StudentConfig
from dnd.models.students.encoders import DEFAULT_ENCODER, RANDOM, encoder_folder
from dnd.predictor.ensemble import PropertyNetwork, run_over
from dnd.predictor.model_folder import KIND, Member
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import Target
from dnd.store.schema import HydrogenSetting
from dnd.training.distributed import num_ranks
from dnd.training.loop import train
from dnd.training.settings import LoopConfig

RECIPE = "small"
_STUDENT, _PIECES = "member-0", ".work/predictions"  # which `drop_scaffolding` removes
_FEWEST_HELD_OUT, _MOST_HELD_OUT = 20, 2_000
_MOST_REPEATS = 10


@dataclass(frozen=True)
class CompressConfig:
    """Settings of `dnd compress`.

    Attributes:
        loop: epochs, rates, batch size, seed of the training.
        student: architecture with `--encoder random`; a pretrained encoder brings its own.
        encoder: starting point of the student.
        pooling: see `FinetuneConfig`.
        layer_decay: learning rate multiplier per layer; 1 = one rate for all.
        loss: loss for values.
        most_rows: largest number of rows read from a table; larger tables are subsampled at random.
        held_out: share of the molecules that the student does not learn from; they say how far it is from the model
            and how wide its intervals are.
        known_share: share of an epoch for molecules with a label, if some are among the tables; each is taken
            ten times at most.
        jobs: processes for parsing and descriptors; 0 = one per processor.
    """

    loop: LoopConfig = field(default_factory=LoopConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    encoder: str = DEFAULT_ENCODER
    pooling: Pooling = "mean"
    layer_decay: float = 0.85
    loss: ValueLoss = "huber"
    most_rows: int = 100_000
    held_out: float = 0.05
    known_share: float = 0.25
    jobs: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that can't work before any work starts."""
        if not 0 < self.held_out <= 0.5 or not 0 <= self.known_share < 1:
            found = (self.held_out, self.known_share)
            raise ConfigError(
                "held_out must be above 0 and at most 0.5, known_share at least 0 and below 1", found=found
            )
        if not 0 < self.layer_decay <= 1 or self.most_rows < 100:
            found = (self.layer_decay, self.most_rows)
            raise ConfigError("layer_decay must be above 0 and at most 1, most_rows at least 100", found=found)


class CompressionObjective(SupervisedObjective):
    """A student that learns what a model says; the loss on molecules that are held out chooses its epoch."""

    def evaluate(self) -> dict[str, float]:
        """Loss of the held-out molecules; the metrics of labels would say nothing of predictions."""
        rows = self.partition.valid
        outputs_VC = run_over(self.network, self.network.student, self.source, rows)
        if not np.isfinite(outputs_VC).all():
            raise NonFiniteError("predictions of the student are not finite", next_step="Lower loop.learning_rate")
        return {"valid_loss": float(self.loss_of(torch.from_numpy(outputs_VC), rows))}


def compress(
    model: Path | str,
    out: Path | str,
    molecules: Sequence[str | Path] = (DRUGLIKE,),
    config: CompressConfig | None = None,
    *,
    smiles_column: str | None = None,
    resume: bool = False,
) -> FinetuneSummary:
    """Make one student of a model of several members, and write it as a MODEL folder.

    Args:
        model: MODEL folder of `dnd finetune`.
        out: the MODEL folder of the student.
        molecules: tables of molecules, or `druglike` for those that ship; no label of them is read. The table that the
            model was made of belongs among them: the student should be best where the labels are, and its applicability
            domain is measured there.
        config: the settings; those of the recipe `compress-small` when None.
        smiles_column: SMILES column of the tables.
        resume: continue an interrupted run.

    Raises:
        InputError: the model is one network already, or the molecules are too few.
        ConfigError: settings that are at odds, such as several ranks.

    Example:
        >>> compress("esol-model", "esol-small", ["druglike", "esol.csv"])  # doctest: +SKIP
    """
    config, out = config or load_config(CompressConfig, RECIPE, stage="compress"), Path(out)
    already_finished(out, kind=KIND, format_version=FORMAT_VERSION, resume=resume)
    if num_ranks() > 1:
        raise ConfigError("a model is compressed in one process", next_step="Leave torchrun out")
    set_threads(config.loop.threads)
    saved = read_model(model, kind=KIND)
    teacher = Predictor.of(saved, device=config.loop.device, jobs=config.jobs)
    _require_several(teacher, saved)
    with folder_lock(out):
        return _compress(saved, teacher, out, molecules, config, smiles_column, resume)


def _require_several(teacher: Predictor, saved: ModelFolder) -> None:
    blend = teacher.parts.blend
    if len(teacher.parts.members) + len(blend.classical if blend else ()) < 2:
        raise InputError(
            f"{saved.path} has a single member, so no student would be faster",
            expected="a model of several, such as those of --recipe best and fast",
        )


def _compress(
    saved: ModelFolder,
    teacher: Predictor,
    out: Path,
    tables: Sequence[str | Path],
    config: CompressConfig,
    smiles_column: str | None,
    resume: bool,
) -> FinetuneSummary:
    """`compress` in a folder that is ours alone."""
    hydrogens = _hydrogens(config.encoder)
    test = read_test_part(saved, teacher, hydrogens, config.jobs)
    unlabelled = read_unlabelled(
        tables, teacher, hydrogens, set(test.identities),
        smiles_column=smiles_column, most=config.most_rows, seed=config.loop.seed, jobs=config.jobs,
    )  # fmt: skip
    _require_enough(len(unlabelled.smiles) - int(unlabelled.known_B.sum()), config)  # before there is a run to resume
    settings = _record(saved, unlabelled, config)
    begin_or_go_on(out, settings, resume=resume)
    if (out / MANIFEST).is_file():
        LOGGER.log(RESULT, f"{out} is finished already")
        return FinetuneSummary(out, read_json(out / "metrics.json"), True)
    values_BC = taught_values(teacher, unlabelled.smiles, out / _PIECES)
    part = _parts(unlabelled, values_BC, config)
    objective = _objective(teacher.targets, unlabelled, values_BC, part, config)
    words = f"{len(np.unique(part.train))} molecules, {int(unlabelled.known_B.sum())} of them with a label of the model"
    LOGGER.info(f"teaching the student {words}; {len(part.valid)} are held out")
    result = train(
        objective, config.loop, out / _STUDENT,
        resume=resume, settings=settings, title=f"compress, seed {config.loop.seed}",
    )  # fmt: skip
    if not result.finished:
        LOGGER.log(RESULT, "stopped after loop.stop_after_s; the same command with --resume continues")
        return FinetuneSummary(out, {}, False)
    objective.to("cpu")
    network = objective.network
    member = Member(network, tuple(objective.targets), config.loop.seed, 1.0, network.student.config, "mlp")
    metrics = write_compressed(
        out, Compressed(saved, teacher, member, result, unlabelled, part, values_BC, test, hydrogens, settings)
    )
    drop_scaffolding(out)
    return FinetuneSummary(out, metrics, True)


def _hydrogens(encoder: str) -> HydrogenSetting:
    if encoder == RANDOM:
        return "heavy_both"
    trained: HydrogenSetting = read_model(encoder_folder(encoder), kind="encoder").config["hydrogens"]
    return trained


def _record(saved: ModelFolder, unlabelled: Unlabelled, config: CompressConfig) -> dict[str, Any]:
    """By which a resumed run knows its own."""
    digest = hashlib.sha256("\n".join(unlabelled.smiles).encode()).hexdigest()
    own = config.encoder
    return {
        "encoder": own,
        "encoder_sha256": None if own == RANDOM else sha256_file(encoder_folder(own) / "model.safetensors"),
        "teacher": saved.manifest["digest"],
        "molecules_digest": digest,
        "settings": to_dict(config),
    }


def _parts(unlabelled: Unlabelled, values_BC: Float[np.ndarray, "molecules targets"], config: CompressConfig) -> Split:
    """What the student learns from, molecules with a label repeated, and what is held out, which has none."""
    said_B = np.isfinite(values_BC).all(axis=1)
    others, known = (np.flatnonzero(said_B & own) for own in (~unlabelled.known_B, unlabelled.known_B))
    order = numpy_generator(config.loop.seed, "held out").permutation(others)
    wanted = _require_enough(len(others), config)
    held_out, rest = np.sort(order[:wanted]), np.sort(order[wanted:])
    fair = config.known_share / (1 - config.known_share) * len(rest)
    repeats = min(_MOST_REPEATS, math.ceil(fair / len(known))) if len(known) and fair else 1
    return Split(np.concatenate([rest, np.repeat(known, max(1, repeats))]), held_out, np.empty(0, np.int64))


def _require_enough(others: int, config: CompressConfig) -> int:
    """How many of the molecules without a label are held out.

    Raises:
        InputError: none would be left to learn from.
    """
    wanted = min(_MOST_HELD_OUT, max(_FEWEST_HELD_OUT, round(config.held_out * others)))
    if others <= wanted:
        raise InputError(
            "too few molecules without a label to hold some out",
            found=others,
            expected=f"more than {wanted}",
            next_step=f"Add a table with --molecules, or --molecules {DRUGLIKE}",
        )
    return wanted


def _objective(
    targets: Sequence[Target],
    unlabelled: Unlabelled,
    values_BC: Float[np.ndarray, "molecules targets"],
    part: Split,
    config: CompressConfig,
) -> CompressionObjective:
    start = FinetuneConfig(student=config.student)
    student = initial_student(start, config.encoder, config.loop.seed)
    network = PropertyNetwork(student, config.pooling, "mlp", len(targets), config.loop.seed)
    kinds = {target.kind for target in targets}
    groups = {target.group for target in targets if target.group}
    return CompressionObjective(
        network,
        unlabelled.store,
        values_BC,
        _scaled(targets, values_BC[part.train]),
        part,
        len(kinds) > 1 or len(groups) > 1,
        config.loop,
        config.layer_decay,
        value_loss=config.loss,
        select_by_loss=True,
    )


def _scaled(targets: Sequence[Target], values_BC: Float[np.ndarray, "molecules targets"]) -> list[Target]:
    """The targets with the scale of what the model says of the molecules that teach, mapped as it maps labels."""
    found = []
    for target, values_B in zip(targets, values_BC.T, strict=True):
        if target.kind == "regression":
            mapped_B = target.transform.forward(values_B)
            deviation = float(mapped_B.std())
            target = replace(target, mean=float(mapped_B.mean()), std=deviation if deviation > 0 else 1.0)
        found.append(target)
    return found
