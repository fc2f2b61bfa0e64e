"""One student of a predictor: built, trained, and what it predicts."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from dnd.chemistry.splits import Split
from dnd.common.seeds import derive_seed, set_threads
from dnd.finetuning.classes import with_groups
from dnd.finetuning.dataset import LabelledMolecules
from dnd.finetuning.linear_probe import probe_head
from dnd.finetuning.losses import DEFAULT_LOSS
from dnd.finetuning.network import PropertyNetwork, run_over
from dnd.finetuning.objective import SupervisedObjective
from dnd.finetuning.predictor_folder import Member
from dnd.finetuning.settings import FinetuneConfig
from dnd.finetuning.tasks import Tasks, fit_targets
from dnd.finetuning.transforms import TransformName
from dnd.store.schema import HydrogenSetting
from dnd.student.build import build_student, load_encoder
from dnd.student.contract import Student
from dnd.student.shipped import RANDOM, encoder_folder
from dnd.training.device import choose_bf16, choose_device
from dnd.training.loop import train
from dnd.training.settings import TrainResult

Array = Float[np.ndarray, "molecules targets"]
_REHEARSED_STEPS, _REHEARSED_ROWS = 4, 200


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before training starts.

    Attributes:
        config: the settings.
        encoder: an ENCODER folder, or `random`.
        molecules: the data.
        tasks: kinds of the targets.
        hydrogens: as the student sees molecules.
        parts: one partition, or one per fold.
        record: of the run, for `run.json`.
        transforms: of the targets; empty = none.
    """

    config: FinetuneConfig
    encoder: str
    molecules: LabelledMolecules
    tasks: Tasks
    hydrogens: HydrogenSetting
    parts: list[Split]
    record: dict[str, Any]
    transforms: tuple[TransformName, ...] = ()

    def settings_of(self, seed: int, fold: int) -> dict[str, Any]:
        """By which a resumed run knows a member."""
        return {**self.record, "member_seed": seed, "fold": fold}


@dataclass(frozen=True)
class MemberResult:
    """One trained member.

    Attributes:
        member: the network.
        fold: which partition it was trained on.
        partition: that partition.
        predictions_NC: for all molecules, raw units or probabilities.
        halves_VC: for those of `partition.valid`, each half at the epoch that the other prefers, see `half_choice.py`.
        training: how the loop ended.
    """

    member: Member
    fold: int
    partition: Split
    predictions_NC: Array
    halves_VC: Float[np.ndarray, "valid targets"]
    training: TrainResult


def initial_student(config: FinetuneConfig, encoder: str, seed: int) -> Student:
    """The pretrained student, or a random one whose weights are a function of `seed`."""
    if encoder != RANDOM:
        return load_encoder(encoder_folder(encoder), **config.regularization.given())[0]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(derive_seed(seed, "student"))
        return build_student(config.student.with_training_settings(**config.regularization.given()))


def objective_of(plan: Plan, seed: int, partition: Split) -> SupervisedObjective:
    """A network with a new head, and the loss on a partition."""
    config, molecules = plan.config, plan.molecules
    student = initial_student(config, plan.encoder, seed)
    network = PropertyNetwork(student, config.pooling, config.head, len(molecules.names), seed)
    targets = fit_targets(
        molecules.targets_NC[partition.train],
        molecules.names,
        config.units,
        plan.tasks.kinds,
        standardise=config.targets == "standardised",
        transforms=plan.transforms,
    )
    loop, balanced = replace(config.loop, seed=seed), plan.tasks.balanced
    return SupervisedObjective(
        network,
        molecules.store,
        molecules.targets_NC,
        with_groups(targets, molecules.groups),
        partition,
        balanced,
        loop,
        config.layer_decay,
        class_weights=config.class_weights == "balanced",
        value_loss=config.loss or DEFAULT_LOSS,
    )


def train_member(
    plan: Plan,
    fold: int,
    seed: int,
    partition: Split,
    folder: Path,
    *,
    resume: bool,
    weight: float,
    quiet: bool,
    unfinished: bool = False,
    wanted: np.ndarray | None = None,
    held: bool = False,
) -> MemberResult | None:
    """Train one member; None when the loop's time was up, unless `unfinished` networks are taken as they are.

    Predictions are made for the molecules of `wanted`, for all when None. `held`: the caller has locked `folder`.
    """
    objective = objective_of(plan, seed, partition)
    if plan.config.probe_steps and plan.encoder != RANDOM:
        set_threads(plan.config.loop.threads)
        probe_head(objective, plan.config.probe_steps, seed)
    result = train(
        objective,
        objective.loop,
        folder,
        resume=resume,
        settings=plan.settings_of(seed, fold),
        title=f"finetune, fold {fold + 1}, seed {seed}" if len(plan.parts) > 1 else f"finetune, seed {seed}",
        quiet=quiet,
        held=held,
    )
    if not result.finished and not (unfinished and result.best):
        return None
    objective.to("cpu")
    network = objective.network
    member = Member(network, tuple(objective.targets), seed, weight, network.student.config, plan.config.head)
    halves_VC = objective.choice.predictions_VC.numpy()
    return MemberResult(member, fold, partition, objective.predict(wanted), halves_VC, result)


def seconds_per_epoch(plan: Plan, partition: Split) -> float:
    """What an epoch with its evaluation will take, from a few steps on a network that is thrown away."""
    set_threads(plan.config.loop.threads)
    objective = objective_of(plan, 0, partition).to(choose_device(plan.config.loop.device))
    device = next(objective.parameters()).device
    bf16 = choose_bf16(plan.config.loop.precision, device, objective.bf16_devices)
    batches = objective.plan_epoch(0)
    few = batches[: _REHEARSED_STEPS + 1]
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        started = time.monotonic()
        for number, rows in enumerate(few):
            if number == 1:
                started = time.monotonic()  # the first step warms up
            objective(objective.load_batch(rows, 0).to(device), number).loss.backward()
        step = (time.monotonic() - started) / max(1, len(few) - 1)
        judged = np.concatenate([partition.valid, partition.test])
        sample = judged[:: math.ceil(len(judged) / _REHEARSED_ROWS)]
        network = objective.network.eval()
        started = time.monotonic()
        run_over(network, network.student, objective.source, sample)
        evaluation = (time.monotonic() - started) * len(judged) / len(sample)
    return step * len(batches) * 1.1 + evaluation
