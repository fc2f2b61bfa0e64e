"""The students of a blend: judged out of fold, kept only where the first of them helps, then trained on all molecules.

Student k learns from all folds but fold k, which stops its training early and which it predicts. Training goes on
beyond the first student only if that one lowers the error of the blend on its fold. The students that the model keeps
are trained anew on all development molecules, for the mean of the best epochs, with no part held out.

A fold that stops a student's training would flatter that student's predictions for it, and with them its weight and
the calibration: of its two halves each is predicted at the epoch that the other prefers (cross-fitted early stopping).

Of few labels a pretrained body is better left as it is, more often than not: there the first student is made twice, as
a head on the frozen body and with all of it trained, and the others are of the kind that errs less on the fold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dnd.chemistry.splits import Split
from dnd.common.log import LOGGER
from dnd.finetuning.blend_weights import blend_loss, lowers_error
from dnd.finetuning.classical import ClassicalFits, Workbench
from dnd.finetuning.fold_data import development
from dnd.finetuning.students import PROBE_EVERY, MemberResult, Plan, StudentPlan, train_frozen, train_member
from dnd.models.students.encoders import RANDOM
from dnd.predictor.targets import Target, from_learned_scale, on_learned_scale

Array = Float[np.ndarray, "molecules targets"]
FEW_LABELS = 1000
"""Below, a head on the frozen body is tried first."""


@dataclass(frozen=True)
class BlendStudents:
    """The students of one partition.

    Attributes:
        rehearsals: by fold, those that predict it.
        finals: those that the model keeps, trained on all development molecules.
        left_out: why there are none; empty where there are, or where none were asked for.
    """

    rehearsals: list[MemberResult] = field(default_factory=list)
    finals: list[MemberResult] = field(default_factory=list)
    left_out: str = ""

    def predictions(self, bench: Workbench, partition: Split) -> Array:
        """Of a fold by the students that did not learn from it, half by half; of the test part by all final ones."""
        found_BC = np.full(bench.targets_BC.shape, np.nan)
        for fold in range(min(len(self.rehearsals), bench.num_folds)):
            held_out = bench.rows[bench.folds == fold]
            own = self.rehearsals[fold :: bench.num_folds]
            found_BC[held_out] = _mean_of(bench.targets, [result.halves_VC for result in own])
        finals = [result.predictions_BC[partition.test] for result in self.finals]
        found_BC[partition.test] = _mean_of(bench.targets, finals)
        return found_BC


@dataclass(frozen=True)
class _School:
    """What the students of a partition share.

    Attributes:
        plan: plan of the finetuning, with this partition's epochs.
        number: index of the partition.
        bench: folds and labels.
        partition: training, validation and test part.
        folders: folders of the students that are trained.
        resume: continue interrupted trainings.
        unfinished: whether one that was stopped is used as it is.
        scale_C: deviation of the labels of each target on the learned scale, 1 for classes.
    """

    plan: Plan
    number: int
    bench: Workbench
    partition: Split
    folders: Sequence[Path]
    resume: bool

    unfinished: bool
    scale_C: Float[np.ndarray, "targets"]

    def of(self, student: int) -> Plan:
        """The settings of a student: every second one may have another architecture."""
        second = self.plan.config.blend.second
        if student % 2 == 0 or second is None:
            return self.plan
        return replace(self.plan, config=replace(self.plan.config, student=second))

    def seed(self, student: int) -> int:
        """Of a student."""
        return self.plan.config.loop.seed + student

    def rehearse(self, student: int, *, frozen: bool) -> MemberResult | None:
        """A student on all folds but its own; None when the loop's time was up."""
        split = without_fold(self.bench, self.partition, student)
        wanted = np.concatenate([split.valid, split.test])
        if frozen:
            return train_frozen(self.of(student), self.number, self.seed(student), split, wanted)
        return train_member(
            self.of(student), self.number, self.seed(student), split, self.folders[student],
            resume=self.resume, weight=1.0, unfinished=self.unfinished, wanted=wanted,
        )  # fmt: skip

    def finish(self, student: int, rehearsals: Sequence[MemberResult], *, frozen: bool) -> MemberResult | None:
        """A student on all development molecules, for as long as was best out of fold on average.

        The one evaluation, at the end, is of molecules that were learned from: nothing is chosen by it. With a time
        limit there is one after each epoch, so that there is a network whenever the time is up; the rehearsal takes
        the place of one that has not come so far.
        """
        rows = development(self.partition)
        split, own = Split(rows, rows, self.bench.known(self.partition.test)), self.of(student)
        loop, length = own.config.loop, max(1, round(float(np.mean([one.best_epoch for one in rehearsals]))))
        if frozen:
            steps = PROBE_EVERY * math.ceil(length / PROBE_EVERY)
            own = replace(own, config=replace(own.config, probe_steps=steps))
            return train_frozen(own, self.number, self.seed(student), split, split.test, keep_last=True)
        every = 1 if self.unfinished else length
        loop = replace(loop, epochs=length, evaluate_every=every, patience=None)
        folder = self.folders[student].with_name(f"{self.folders[student].name}-final")
        final = train_member(
            replace(own, config=replace(own.config, loop=loop)), self.number, self.seed(student), split, folder,
            resume=self.resume, weight=1.0, unfinished=self.unfinished, wanted=split.test,
        )  # fmt: skip
        return rehearsals[student] if final is None and self.unfinished else final

    def error(self, result: MemberResult) -> float:
        """On the fold that it did not learn from."""
        labels_VC, halves_VC = (
            self.learned(self.bench.judged_BC[result.partition.valid]),
            self.learned(result.halves_VC),
        )
        return blend_loss(halves_VC, labels_VC, self.plan.tasks.kinds, self.scale_C)

    def learned(self, values_BC: Array) -> Array:
        """Values on the scale on which the targets are learned and judged."""
        return on_learned_scale(self.bench.targets, values_BC)


def train_students(
    plan: Plan,
    bench: Workbench,
    partition: Split,
    number: int,
    fits: ClassicalFits,
    students: StudentPlan,
    folders: Sequence[Path],
    scale_C: Float[np.ndarray, "targets"],
    *,
    resume: bool,
) -> BlendStudents | None:
    """Train the students of a partition; None when `loop.stop_after_s` ended one.

    Args:
        plan: what is settled.
        bench: data of the partition.
        partition: its parts.
        number: index of the partition.
        fits: the classical members, whose predictions out of fold the first student has to better.
        students: how many and for how long.
        folders: one for each.
        scale_C: deviation of the labels of each target, 1 for classes.
        resume: continue an interrupted student.
    """
    if not students.count:
        return BlendStudents()
    loop = replace(plan.config.loop, epochs=students.epochs, stop_after_s=students.limit_s)
    own = replace(plan, config=replace(plan.config, loop=loop))
    school = _School(own, number, bench, partition, folders, resume, students.is_cut, scale_C)
    first = school.rehearse(0, frozen=False)
    if first is None:
        return None
    frozen, first = _better_kind(school, first)
    verdict = _does_not_help(school, first, fits)
    if verdict:
        return BlendStudents(left_out=verdict)
    rehearsals = [first]
    for student in range(1, students.count):
        result = school.rehearse(student, frozen=frozen)
        if result is None:
            return None
        rehearsals.append(result)
    finals = []
    for student in range(students.count):
        result = school.finish(student, rehearsals, frozen=frozen)
        if result is None:
            return None
        finals.append(result)
    length = f"{finals[0].best_epoch} {'steps of the head' if frozen else 'epochs'}"
    LOGGER.info(f"students: {len(finals)} trained on all {len(development(partition))} molecules for {length}")
    return BlendStudents(rehearsals, finals)


def _mean_of(targets: Sequence[Target], predictions: Sequence[Array]) -> Array:
    """The mean on the learned scale; NaN where there is no molecule."""
    scaled = [on_learned_scale(targets, values_BC) for values_BC in predictions]
    return from_learned_scale(targets, np.mean(scaled, axis=0))


def without_fold(bench: Workbench, partition: Split, student: int) -> Split:
    """Student k learns from all but fold k; molecules without features are in no fold and train every student."""
    held_out = bench.rows[bench.folds == student % bench.num_folds]
    return Split(np.setdiff1d(development(partition), held_out), held_out, bench.known(partition.test))


def _better_kind(school: _School, whole: MemberResult) -> tuple[bool, MemberResult]:
    """Whether a head on the frozen body errs less than the student that was trained as a whole, and the better one."""
    plan = school.plan
    labels = int((~np.isnan(school.bench.targets_BC[development(school.partition)])).any(axis=1).sum())
    if labels >= FEW_LABELS or plan.encoder == RANDOM or not plan.config.probe_steps:
        return False, whole
    head = school.rehearse(0, frozen=True)
    assert head is not None, "a head alone has no time limit"
    errors = school.error(head), school.error(whole)
    frozen = errors[0] <= errors[1]
    kept = "the body stays frozen" if frozen else "the body is trained too"
    LOGGER.info(
        f"students: {kept}; error out of fold {errors[0]:.3f} with the head alone, {errors[1]:.3f} with all of it"
    )
    return frozen, head if frozen else whole


def _does_not_help(school: _School, first: MemberResult, fits: ClassicalFits) -> str:
    """Why no further student is trained; empty where the first one lowers the error of the blend on its fold."""
    rows = first.partition.valid
    others = [school.learned(values_BC[rows]) for values_BC in fits.out_of_fold.values()]
    if not others:
        return ""
    labels_VC, kinds = school.learned(school.bench.judged_BC[rows]), school.plan.tasks.kinds
    own_VC, seed = school.learned(first.halves_VC), school.plan.config.split_seed
    helps, with_it, without = lowers_error(own_VC, np.stack(others), labels_VC, kinds, school.scale_C, seed)
    numbers = f"error of the blend out of fold {with_it:.4f} with the first one, {without:.4f} without"
    LOGGER.info(f"students: {numbers}" + ("" if helps else "; no further ones are trained"))
    return "" if helps else f"students: {numbers}"
