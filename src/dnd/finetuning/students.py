"""The students of a predictor: what they start from, how many there are, how each is trained and stopped."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dnd.chemistry.splits import Split
from dnd.common.compute import choose_bf16, choose_device, derive_seed, set_threads, torch_generator
from dnd.common.config import from_dict, nearest
from dnd.common.errors import ConfigError
from dnd.common.log import LOGGER
from dnd.common.model_folder import read_model
from dnd.finetuning.labelled_data import LabelledMolecules
from dnd.finetuning.objective import DEFAULT_LOSS, HalfChoice, SupervisedObjective
from dnd.finetuning.prepared_labels import with_groups
from dnd.finetuning.settings import Clock, FinetuneConfig
from dnd.finetuning.tasks import Tasks, fit_targets, scale_labels
from dnd.models.students.base import OPTIONAL_SETTINGS, PRESETS, Student, StudentConfig, start_norms_anew
from dnd.models.students.encoders import (
    DEFAULT_ENCODER,
    RANDOM,
    build_student,
    encoder_folder,
    load_encoder,
    shipped_encoders,
)
from dnd.predictor.ensemble import PropertyNetwork, run_over, to_raw_units
from dnd.predictor.metrics import Repeats
from dnd.predictor.model_folder import Member
from dnd.predictor.targets import TransformName
from dnd.store.schema import HydrogenSetting
from dnd.training.loop import train
from dnd.training.settings import TrainResult

# A head that fits its student before the student is finetuned.
#
# A new head is random, and its first gradients pull a pretrained student away from what it knows. So the head is
# trained alone first, on representations that are computed once, and the whole network after that.
#
# Source: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution" (ICLR 2022).


BATCH = 256
LEARNING_RATE = 1e-3
PROBE_EVERY = 25  # steps between looks at the validation part; there is one after the last step, too


@dataclass(frozen=True)
class Probe:
    """How the training of a head ended.

    Attributes:
        steps: after which the head is as it was left.
        loss: on the validation part then.
        halves_VC: outputs for the validation part, each half at the steps that the other prefers.
    """

    steps: int
    loss: float
    halves_VC: Float[np.ndarray, "valid targets"]


def probe_head(objective: SupervisedObjective, steps: int, seed: int, *, keep_last: bool = False) -> Probe:
    """Train the head on the frozen student, and leave it as it was best on the validation part.

    Args:
        objective: its network is changed in place.
        steps: number of steps of AdamW.
        seed: random seed of the batches.
        keep_last: leave the head as it is after all steps instead.
    """
    network, partition = objective.network.eval(), objective.partition
    train_BD, valid_BD = _embedded(objective, partition.train), _embedded(objective, partition.valid)
    optimizer = torch.optim.AdamW(network.head.parameters(), lr=LEARNING_RATE)
    generator = torch_generator(seed, "linear probe")
    best, best_step, best_state = float("inf"), 0, copy.deepcopy(network.head.state_dict())
    halves_seed = derive_seed(seed, "halves")
    choice = HalfChoice(len(partition.valid), len(objective.targets), halves_seed, objective.identities)
    for step in range(steps):
        places = torch.randint(len(train_BD), (min(BATCH, len(train_BD)),), generator=generator)
        optimizer.zero_grad()
        objective.loss_of(network.head(train_BD[places]), partition.train[places.numpy()]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % PROBE_EVERY == 0 or step + 1 == steps:
            with torch.no_grad():
                outputs_VC = network.head(valid_BD)
                loss = float(objective.loss_of(outputs_VC, partition.valid))
            choice.note(outputs_VC.numpy(), partial(_score, objective, outputs_VC, partition.valid))
            if loss < best or keep_last:
                best, best_step, best_state = loss, step + 1, copy.deepcopy(network.head.state_dict())
    network.head.load_state_dict(best_state)
    network.head.zero_grad(set_to_none=True)
    return Probe(best_step, best, choice.predictions_VC.numpy())


def _score(objective: SupervisedObjective, outputs_VC: Tensor, rows: np.ndarray, half: np.ndarray) -> float:
    """Minus the loss of half of the molecules `rows`."""
    return objective.minus_loss(outputs_VC[torch.from_numpy(half)], rows[half])


def _embedded(objective: SupervisedObjective, rows: np.ndarray) -> Tensor:
    network = objective.network
    return torch.from_numpy(run_over(network.embed, network.student, objective.source, rows)).float()


# What finetuning starts from: `--encoder`, and `--student`, the architecture of random weights.


def encoder_choice(encoder: str | Path | None, words: Sequence[str]) -> str:
    """The encoder that was named; else random weights where `words` describe a student, and what ships where not.

    Args:
        encoder: `random`, a shipped encoder or a folder; None where nothing was said.
        words: settings, `key=value`.

    Raises:
        ConfigError: an encoder, which brings its own student, and settings of another.
    """
    described = [word for word in words if word.startswith("student.")]
    if encoder is None:
        return RANDOM if described else DEFAULT_ENCODER
    if described and str(encoder) != RANDOM:
        raise ConfigError(
            f"{described[0]} is for --encoder random",
            found=f"encoder {encoder}",
            next_step="An encoder brings its own student",
        )
    return str(encoder)


def student_settings(choice: str | None, encoder: str) -> list[str]:
    """`--student` as `student.key=value` words, so that later words can change single settings.

    Args:
        choice: a preset, the name of a student, or an encoder, by name or folder, whose architecture is to be copied.
        encoder: `random`, else a folder that brings its own student.

    Raises:
        ConfigError: no such student, or an encoder that brings its own.
    """
    if choice is None:
        return []
    if encoder != RANDOM:
        raise ConfigError("--student is for --encoder random", found=encoder, next_step="An encoder brings its own")
    if choice in PRESETS:
        config = PRESETS[choice]
    elif choice in OPTIONAL_SETTINGS:
        config = StudentConfig(choice)
    elif Path(choice).is_dir() or choice in shipped_encoders():
        config = from_dict(StudentConfig, read_model(encoder_folder(choice), kind="encoder").config["student"])
    else:
        raise ConfigError(f"unknown student {choice!r}", next_step=nearest(choice, {*PRESETS, *OPTIONAL_SETTINGS}))
    return [f"student.{key}={value}" for key, value in asdict(config).items() if value is not None]


# One student of a predictor: built, trained, and what it predicts.


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
        record: record of the run, for `run.json`.
        transforms: transforms of the targets; empty = none.
        repeats: what the repeated measurements of each target say, before any rows are merged.
    """

    config: FinetuneConfig
    encoder: str
    molecules: LabelledMolecules
    tasks: Tasks
    hydrogens: HydrogenSetting
    parts: list[Split]
    record: dict[str, Any]
    transforms: tuple[TransformName, ...] = ()
    repeats: tuple[Repeats, ...] = ()

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
        predictions_BC: predictions for all molecules, raw units or probabilities.
        halves_VC: predictions for `partition.valid`, each half at the epoch that the other prefers.
        training: how the loop ended.
        best_epoch: epochs (of a head alone, steps) after which the network is as it is here.
    """

    member: Member
    fold: int
    partition: Split
    predictions_BC: Array
    halves_VC: Float[np.ndarray, "valid targets"]
    training: TrainResult
    best_epoch: int = 0


def initial_student(config: FinetuneConfig, encoder: str, seed: int) -> Student:
    """The pretrained student, or a random one whose weights are a function of `seed`."""
    if encoder != RANDOM:
        folder, given = encoder_folder(encoder), config.regularization.given()
        return load_encoder(folder, as_pretrained=False, **given)[0]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(derive_seed(seed, "student"))
        return build_student(config.student.with_training_settings(**config.regularization.given()))


def student_to_train(config: FinetuneConfig, encoder: str, seed: int) -> Student:
    """`initial_student`, with new batch norms where the settings want them."""
    student = initial_student(config, encoder, seed)
    if config.batch_norm == "fresh":
        start_norms_anew(student)
    return student


def objective_of(plan: Plan, seed: int, partition: Split) -> SupervisedObjective:
    """A network with a new head, and the loss on a partition."""
    config, molecules = plan.config, plan.molecules
    student = student_to_train(config, plan.encoder, seed)
    network = PropertyNetwork(student, config.pooling, config.head, len(molecules.names), seed)
    targets = fit_targets(
        scale_labels(molecules.targets_BC, partition.train, partition.valid),
        molecules.names,
        config.units,
        plan.tasks.kinds,
        standardise=config.targets == "standardised",
        transforms=plan.transforms,
        weight_B=molecules.weights_of(np.concatenate([partition.train, partition.valid])),
    )
    loop, balanced = replace(config.loop, seed=seed), plan.tasks.balanced
    return SupervisedObjective(
        network,
        molecules.store,
        molecules.targets_BC,
        with_groups(targets, molecules.groups, molecules.class_names),
        partition,
        balanced,
        loop,
        config.layer_decay,
        class_weights=config.class_weights == "balanced",
        value_loss=config.loss or DEFAULT_LOSS,
        select_by_loss=config.select_by == "loss" or plan.tasks.judged_one_by_one,
        identities=[molecules.identities[row] for row in partition.valid],
        sides_BC=molecules.sides_BC,
        weight_B=molecules.weight_B,
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
        held=held,
    )
    if not result.finished and not (unfinished and result.best):
        return None
    objective.to("cpu")
    network = objective.network
    member = Member(network, tuple(objective.targets), seed, weight, network.student.config, plan.config.head)
    halves_VC = objective.choice.predictions_VC.numpy()
    epoch = math.ceil(result.best_step / max(1, len(objective.plan_epoch(0))))
    return MemberResult(member, fold, partition, objective.predict(wanted), halves_VC, result, epoch)


def train_frozen(
    plan: Plan, fold: int, seed: int, partition: Split, wanted: np.ndarray, *, keep_last: bool = False
) -> MemberResult:
    """A head on the student as it was pretrained; see `train_member` and `probe_head`."""
    started = time.monotonic()
    set_threads(plan.config.loop.threads)
    objective = objective_of(plan, seed, partition)
    probe = probe_head(objective, plan.config.probe_steps, seed, keep_last=keep_last)
    network, seen = objective.network, {"valid_loss": probe.loss}
    member = Member(network, tuple(objective.targets), seed, 1.0, network.student.config, plan.config.head)
    halves_VC = to_raw_units(probe.halves_VC, objective.targets)
    result = TrainResult(plan.config.probe_steps, probe.steps, seen, seen, True, time.monotonic() - started)
    return MemberResult(member, fold, partition, objective.predict(wanted), halves_VC, result, probe.steps)


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


# How many students of a blend are trained and for how long: what was asked for, less what does not fit.
#
# Two things limit it: the time limit, against what an epoch was measured to take; and, for large tables, the number of
# molecules that go through the students in all.


FEWEST_EPOCHS = 8  # a student trained for fewer is not worth its time
TRAININGS = 2  # of each student, one out of fold and one on all molecules
_USED = 0.75  # of the time that is left; judging and writing take the rest
_MARGIN = 1.3  # a student is stopped, as it is, when it takes so much longer than planned


@dataclass(frozen=True)
class StudentPlan:
    """The students of one partition.

    Attributes:
        count: number of students; may be 0.
        epochs: number of epochs of each student.
        limit_s: seconds after which each training is stopped; None = never.
        is_cut: whether one that was stopped is used as it is.
    """

    count: int
    epochs: int
    limit_s: float | None
    is_cut: bool


def plan_students(
    plan: Plan, partition: Split, clock: Clock, share: float, before: Mapping[str, int] | None = None
) -> StudentPlan:
    """Students that fit into the time; fewer epochs first, then fewer students, then none. Each cut is logged.

    Args:
        plan: what was asked for.
        partition: that of the first of them.
        clock: counts down the time limit.
        share: share of the remaining time that this partition may have.
        before: `count` and `epochs` of the run that is resumed, whose students go on as they were planned.
    """
    config = plan.config
    asked = config.ensemble if config.blend.students else 0
    if not asked:
        return StudentPlan(0, config.loop.epochs, None, False)
    count, epochs = asked, config.loop.epochs
    molecules = TRAININGS * (len(partition.train) + len(partition.valid))
    if molecules * epochs * count > config.blend.passes:
        epochs = max(1, min(epochs, max(FEWEST_EPOCHS, config.blend.passes // (molecules * count))))
        count = max(1, min(count, config.blend.passes // (molecules * epochs)))
        instead = f"instead of {asked} of {config.loop.epochs}"
        LOGGER.info(f"plan: {count} students of {epochs} epochs {instead} ({molecules // TRAININGS} molecules)")
    if not clock.is_limited:
        return StudentPlan(count, epochs, config.loop.stop_after_s, False)
    budget = clock.share(_USED * share)
    if before is not None:
        count, epochs = before["count"], before["epochs"]
        return StudentPlan(count, epochs, _MARGIN * budget / (TRAININGS * max(1, count)), True)
    if budget == 0:
        LOGGER.info("plan: no students: the time limit is over")
        return StudentPlan(0, epochs, None, False)
    epoch_s = TRAININGS * seconds_per_epoch(plan, partition)
    budget = clock.share(_USED * share)
    fewest = min(epochs, FEWEST_EPOCHS)
    affordable = budget / max(epoch_s, 1e-6)
    wanted = count, epochs
    while count and affordable / count < min(epochs, 2 * FEWEST_EPOCHS if count > 1 else fewest):
        count -= 1
    if not count:
        LOGGER.info(f"plan: no students: {fewest} epochs of {epoch_s:.1f} s do not fit into the time limit")
        return StudentPlan(0, epochs, None, False)
    epochs = min(epochs, math.floor(affordable / count))
    if (count, epochs) != wanted:
        LOGGER.info(f"plan: {count} students of {epochs} epochs instead of {wanted[0]} of {wanted[1]} (time limit)")
    return StudentPlan(count, epochs, _MARGIN * budget / (TRAININGS * count), True)
