"""The recipes `best` and `fast`: finetuned students and classical models, stacked with weights fitted out of fold.

Over 500 lines: the folds, the students that are judged on them and the final fit are one procedure."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dnd.chemistry.splits import Split
from dnd.common.errors import ConfigError
from dnd.common.log import LOGGER, PROGRESS, Progress
from dnd.finetuning.blend_weights import blend_loss, fit_weights, lowers_error
from dnd.finetuning.classical import (
    ClassicalFits,
    FoldData,
    KeptFeatures,
    KeptWork,
    fit_classical,
    with_smaller_forests,
)
from dnd.finetuning.evaluation import Features
from dnd.finetuning.fold_data import (
    development,
    every_development_row,
    feature_layout,
    fold_data,
    frozen_encoder,
    judged_labels,
    rows_with_features,
    similarity_to_training,
)
from dnd.finetuning.outcome import Fitted, training_summary
from dnd.finetuning.settings import Clock
from dnd.finetuning.students import (
    PROBE_EVERY,
    MemberResult,
    Plan,
    StudentPlan,
    plan_students,
    train_frozen,
    train_member,
)
from dnd.models.students.encoders import RANDOM, load_learned_labels
from dnd.predictor.classical.features import COUNTS, DESCRIPTORS, features_of
from dnd.predictor.ensemble import STUDENTS, Blend, ClassicalMember, FrozenEncoder, run_over, weighted_spread
from dnd.predictor.targets import Target, from_learned_scale, normalised, on_learned_scale

# The students of a blend: judged out of fold, kept only where the first of them helps, then trained on all molecules.
#
# Student k learns from all folds but fold k, which stops its training early and which it predicts. Training goes on
# beyond the first student only if that one lowers the error of the blend on its fold. If the students then have a
# weight in the blend, they are trained anew on all development molecules, for the mean of the best epochs, with no part
# held out.
#
# A fold that stops a student's training would flatter that student's predictions for it, and with them its weight and
# the calibration: of its two halves each is predicted at the epoch that the other prefers (cross-fitted early
# stopping).
#
# Of few labels a pretrained body is better left as it is, more often than not: there the first student is made twice,
# as a head on the frozen body and with all of it trained, and the others are of the kind that errs less on the fold.

Array = Float[np.ndarray, "molecules targets"]
FEW_LABELS = 1000
"""Below, a head on the frozen body is tried first."""


@dataclass(frozen=True)
class BlendStudents:
    """The students of one partition.

    Attributes:
        out_of_fold: for each fold the students that predict it.
        finals: those that the model keeps, trained on all development molecules.
        left_out: why there are none; empty where there are, or where none were asked for.
    """

    out_of_fold: list[MemberResult] = field(default_factory=list)
    finals: list[MemberResult] = field(default_factory=list)
    left_out: str = ""

    def predictions(self, data: FoldData, partition: Split) -> Array:
        """Of a fold by the students that did not learn from it, half by half; of the test part by all final ones."""
        found_BC = _predicted_out_of_fold(self.out_of_fold, data)
        finals = [result.predictions_BC[partition.test] for result in self.finals]
        found_BC[partition.test] = _mean_of(data.targets, finals)
        return found_BC


@dataclass(frozen=True)
class _StudentFits:
    """What the students of a partition share.

    Attributes:
        plan: plan of the finetuning, with this partition's epochs.
        number: index of the partition.
        data: folds and labels.
        partition: training, validation and test part.
        folders: folders of the students that are trained.
        resume: continue interrupted trainings.
        unfinished: whether one that was stopped is used as it is.
        scale_C: deviation of the labels of each target on the learned scale, 1 for classes.
    """

    plan: Plan
    number: int
    data: FoldData
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

    def fit_out_of_fold(self, student: int, *, frozen: bool) -> MemberResult | None:
        """A student on all folds but its own; None when the loop's time was up."""
        split = without_fold(self.data, self.partition, student)
        wanted = np.concatenate([split.valid, split.test])
        if frozen:
            return train_frozen(self.of(student), self.number, self.seed(student), split, wanted)
        return train_member(
            self.of(student), self.number, self.seed(student), split, self.folders[student],
            resume=self.resume, weight=1.0, unfinished=self.unfinished, wanted=wanted,
        )  # fmt: skip

    def fit_final(self, student: int, out_of_fold: Sequence[MemberResult], *, frozen: bool) -> MemberResult | None:
        """A student on all development molecules, for as long as was best out of fold on average.

        The one evaluation, at the end, is of molecules that were learned from: nothing is chosen by it. With a time
        limit there is one after each epoch, so that there is a network whenever the time is up; if it has none, the
        student that was fitted out of fold takes its place.
        """
        rows = development(self.partition)
        split, own = Split(rows, rows, self.data.known(self.partition.test)), self.of(student)
        loop, length = own.config.loop, max(1, round(float(np.mean([one.best_epoch for one in out_of_fold]))))
        if frozen:
            steps = PROBE_EVERY * math.ceil(length / PROBE_EVERY)
            own = replace(own, config=replace(own.config, probe_steps=min(steps, own.config.probe_steps)))
            return train_frozen(own, self.number, self.seed(student), split, split.test, keep_last=True)
        every = 1 if self.unfinished else length
        loop = replace(loop, epochs=length, evaluate_every=every, patience=None)
        folder = self.folders[student].with_name(f"{self.folders[student].name}-final")
        final = train_member(
            replace(own, config=replace(own.config, loop=loop)), self.number, self.seed(student), split, folder,
            resume=self.resume, weight=1.0, unfinished=self.unfinished, wanted=split.test,
        )  # fmt: skip
        return out_of_fold[student] if final is None and self.unfinished else final

    def error(self, result: MemberResult) -> float:
        """On the fold that it did not learn from."""
        labels_VC, halves_VC = (
            self.learned(self.data.judged_BC[result.partition.valid]),
            self.learned(result.halves_VC),
        )
        weight_V = self.data.weights_of(result.partition.valid)
        return blend_loss(halves_VC, labels_VC, self.plan.tasks.kinds, self.scale_C, weight_V)

    def learned(self, values_BC: Array) -> Array:
        """Values on the scale on which the targets are learned and judged."""
        return on_learned_scale(self.data.targets, values_BC)


def train_students(
    plan: Plan,
    data: FoldData,
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
        data: data of the partition.
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
    student_fits = _StudentFits(own, number, data, partition, folders, resume, students.is_cut, scale_C)
    first = student_fits.fit_out_of_fold(0, frozen=False)
    if first is None and students.is_cut:
        return BlendStudents(left_out="students: the first one had no epoch within the time limit")
    if first is None:
        return None
    frozen, first = _better_kind(student_fits, first)
    verdict = _does_not_help(student_fits, first, fits)
    if verdict:
        return BlendStudents(left_out=verdict)
    out_of_fold = [first]
    for student in range(1, students.count):
        result = student_fits.fit_out_of_fold(student, frozen=frozen)
        if result is None and students.is_cut:
            break
        if result is None:
            return None
        out_of_fold.append(result)
    members = {STUDENTS: _predicted_out_of_fold(out_of_fold, data), **fits.out_of_fold}
    if not _weights(plan, data, members, scale_C)[0].any():
        reason = "students: no weight beside the other members"
        LOGGER.info(f"{reason}; none is trained on all molecules")
        return BlendStudents(left_out=reason)
    finals = []
    for student in range(len(out_of_fold)):
        result = student_fits.fit_final(student, out_of_fold, frozen=frozen)
        if result is None:
            return None
        finals.append(result)
    length = f"{finals[0].best_epoch} {'steps of the head' if frozen else 'epochs'}"
    LOGGER.info(f"students: {len(finals)} trained on all {len(development(partition))} molecules for {length}")
    return BlendStudents(out_of_fold, finals)


def _predicted_out_of_fold(out_of_fold: Sequence[MemberResult], data: FoldData) -> Array:
    """Of a fold by the students that did not learn from it, half by half; NaN elsewhere."""
    found_BC = np.full(data.targets_BC.shape, np.nan)
    for fold in range(min(len(out_of_fold), data.num_folds)):
        own = out_of_fold[fold :: data.num_folds]
        found_BC[data.rows[data.folds == fold]] = _mean_of(data.targets, [result.halves_VC for result in own])
    return found_BC


def _weights(
    plan: Plan, data: FoldData, members: Mapping[str, Array], scale_C: np.ndarray
) -> Float[np.ndarray, "members targets"]:
    """Weights of the members by their predictions for the development molecules, which are out of fold."""
    labels_BC = on_learned_scale(data.targets, data.judged_BC[data.rows])
    out_of_fold_MBC = np.stack([on_learned_scale(data.targets, own[data.rows]) for own in members.values()])
    weight_B = data.weights_of(data.rows)
    return fit_weights(out_of_fold_MBC, labels_BC, plan.tasks.kinds, scale_C, plan.config.metric, weight_B)


def _mean_of(targets: Sequence[Target], predictions: Sequence[Array]) -> Array:
    """The mean on the learned scale; NaN where there is no molecule."""
    scaled = [on_learned_scale(targets, values_BC) for values_BC in predictions]
    return from_learned_scale(targets, np.mean(scaled, axis=0))


def without_fold(data: FoldData, partition: Split, student: int) -> Split:
    """Student k learns from all but fold k; rows without features are in no fold and train every student.

    Unless they are copies of a molecule of fold k: then the student would know what it is judged by.
    """
    held_out = data.rows[data.folds == student % data.num_folds]
    others = np.setdiff1d(development(partition), held_out)
    is_copy_B = np.isin(data.identity_B[others], data.identity_B[held_out])
    return Split(others[~is_copy_B], held_out, data.known(partition.test))


def _better_kind(student_fits: _StudentFits, whole: MemberResult) -> tuple[bool, MemberResult]:
    """Whether a head on the frozen body errs less than the student that was trained as a whole, and the better one."""
    plan = student_fits.plan
    labels = int((~np.isnan(student_fits.data.targets_BC[development(student_fits.partition)])).any(axis=1).sum())
    if labels >= FEW_LABELS or plan.encoder == RANDOM or not plan.config.probe_steps:
        return False, whole
    head = student_fits.fit_out_of_fold(0, frozen=True)
    assert head is not None, "a head alone has no time limit"
    errors = student_fits.error(head), student_fits.error(whole)
    frozen = errors[0] <= errors[1]
    kept = "the body stays frozen" if frozen else "the body is trained too"
    LOGGER.info(
        f"students: {kept}; error out of fold {errors[0]:.3f} with the head alone, {errors[1]:.3f} with all of it"
    )
    return frozen, head if frozen else whole


def _does_not_help(student_fits: _StudentFits, first: MemberResult, fits: ClassicalFits) -> str:
    """Why no further student is trained; empty where the first one lowers the error of the blend on its fold."""
    rows = first.partition.valid
    others = [student_fits.learned(values_BC[rows]) for values_BC in fits.out_of_fold.values()]
    if not others:
        return ""
    labels_VC, kinds = student_fits.learned(student_fits.data.judged_BC[rows]), student_fits.plan.tasks.kinds
    own_VC, seed = student_fits.learned(first.halves_VC), student_fits.plan.config.split_seed
    weight_V = student_fits.data.weights_of(rows)
    helps, with_it, without = lowers_error(
        own_VC, np.stack(others), labels_VC, kinds, student_fits.scale_C, seed, weight_V
    )
    numbers = f"error of the blend out of fold {with_it:.4f} with the first one, {without:.4f} without"
    LOGGER.info(f"students: {numbers}" + ("" if helps else "; no further ones are trained"))
    return "" if helps else f"students: {numbers}"


# The recipes `best` and `fast`: finetuned students and classical models, blended with weights fitted out of fold.
#
# Development molecules (training and validation part) are dealt into scaffold folds. A classical member is fitted once
# per fold on the others, which gives its predictions out of fold, and once on all; so is a student, see above. The
# weights of all members are fitted on the molecules that every member predicted out of fold.
# The test part is looked at when everything is settled.
#


FOREST_BYTES = 12_000_000  # of all forests in a MODEL folder
_LEAST_WEIGHT = 0.5
_CLASSICAL_SHARE, _ALONE = 0.45, 0.8  # of what is left of a time limit, with and without students to come


@dataclass(frozen=True)
class _Part:
    """What one partition gave.

    Attributes:
        partition: it.
        students: its students.
        fits: its classical members, their forests cut to what a MODEL folder may hold.
        weights_MC: weights of the students together, if there are any, then of the classical members.
        targets: scale of the classical members.
        values: per member predictions for all molecules, out of fold for development molecules.
        similarity_B: similarity of each molecule to the nearest molecule that its prediction was learned from.
    """

    partition: Split
    students: BlendStudents
    fits: ClassicalFits
    weights_MC: Float[np.ndarray, "members targets"]
    targets: tuple[Target, ...]
    values: dict[str, Array]
    similarity_B: Float[np.ndarray, "molecules"]

    def blended(self) -> Array:
        """The weighted mean, on the learned scale, of the members that predict a molecule.

        NaN where those have less than half of the weight.
        With fewer students than folds, some development molecules have classical predictions only. What the others say
        of them is what the calibration learns from, rather than nothing.
        """
        total_BC, weight_BC = np.zeros((2, *next(iter(self.values.values())).shape))
        for weights_C, raw_BC in zip(self.weights_MC, self.values.values(), strict=True):
            values_BC = on_learned_scale(self.targets, raw_BC)
            known_BC = np.isfinite(values_BC)
            total_BC += np.where(known_BC, weights_C * values_BC, 0.0)
            weight_BC += np.where(known_BC, weights_C, 0.0)
        enough_BC = weight_BC >= _LEAST_WEIGHT
        mean_BC = np.where(enough_BC, total_BC / np.where(enough_BC, weight_BC, 1.0), np.nan)
        return from_learned_scale(self.targets, mean_BC)


def fit_blend(plan: Plan, out: Path, clock: Clock, *, resume: bool) -> Fitted | None:
    """Fit every member of every partition; None when `loop.stop_after_s` ended a student.

    Args:
        plan: what is settled.
        out: the MODEL folder; a student trains in `member-<number>`.
        clock: counts down the time limit.
        resume: continue an interrupted run, with the features and classical members that it kept.
    """
    config = plan.config
    if config.blend.second is not None and plan.encoder != RANDOM:
        raise ConfigError("blend.second is for --encoder random", found=plan.encoder, next_step="Leave it out")
    encoder, test_learned = frozen_encoder(plan)
    if encoder is None:
        LOGGER.info("features of the classical members: descriptors and counts (no encoder, so no representation)")
    kept = KeptWork(out)
    has_features_B = rows_with_features(plan, clock, kept)
    every = np.flatnonzero(has_features_B)
    LOGGER.log(PROGRESS, f"computing features of {len(every)} molecules")
    embedding = encoder.embed(plan.molecules.store, every) if encoder else None
    smiles, layout = [plan.molecules.smiles[row] for row in every], feature_layout(plan, encoder)
    cache = KeptFeatures(kept, layout.sets)
    progress = Progress("features", unit="molecule", total=len(smiles))
    features = features_of(smiles, embedding, layout, jobs=config.jobs, cache=cache, say_progress=progress.reach)
    progress.close(say=False)
    cache.keep()
    x_BF, place_B = features.x_BF, np.full(len(has_features_B), -1)
    place_B[every] = np.arange(len(every))
    for place, reason in features.refused.items():
        left = "predicted by the students alone" if config.blend.students else "left out"
        row = plan.molecules.place_of(int(plan.molecules.rows_B[every[place]]))
        LOGGER.info(f"row {row} is {left}: {reason}")
        place_B[every[place]] = -1
    parts: list[_Part] = []
    learned = None if plan.encoder == RANDOM else load_learned_labels(plan.encoder)
    judged_BC = judged_labels(
        plan.molecules.exact_BC, plan.tasks.kinds, plan.molecules.identities, every_development_row(plan.parts), learned
    )
    first = 0
    for number, partition in enumerate(plan.parts):
        share = 1 / (len(plan.parts) - number)
        data = fold_data(plan, partition, x_BF, place_B, judged_BC, encoder)
        if plan.molecules.sides_BC is not None:
            from dnd.finetuning.objective import with_limits_filled  # few tables have limits

            data = with_limits_filled(data, plan.molecules.sides_BC)
        budget = clock.share(share * (_CLASSICAL_SHARE if config.blend.students else _ALONE))
        fits = fit_classical(data, config.blend.classical, budget, kept)
        before = kept.get(f"students-{number}")
        first_part = without_fold(data, partition, 0)
        students = plan_students(plan, first_part, clock, share, None if before is None else before[1])
        if clock.is_limited and before is None:
            kept.put(f"students-{number}", {}, {"count": students.count, "epochs": students.epochs})
        folders = [out / f"member-{first + student}" for student in range(students.count)]
        first += students.count
        scale_C = _deviations(data)
        trained = train_students(plan, data, partition, number, fits, students, folders, scale_C, resume=resume)
        if trained is None:
            return None
        parts.append(_combine(plan, data, partition, fits, trained, scale_C))
    fitted = _assemble(plan, parts, encoder, x_BF, place_B)
    about = {**fitted.about, **({"test_molecules_learned_by_encoder": test_learned} if test_learned else {})}
    return replace(fitted, about=about, judged_BC=judged_BC, deadline=time.monotonic() + clock.left())


def _combine(
    plan: Plan, data: FoldData, partition: Split, fits: ClassicalFits, students: BlendStudents, scale_C: np.ndarray
) -> _Part:
    """Weights from the predictions out of fold; then the forests are cut to size, and predict the test part."""
    values = {STUDENTS: students.predictions(data, partition)} if students.finals else {}
    values |= {name: values_BC.copy() for name, values_BC in fits.out_of_fold.items()}
    if students.left_out:
        fits.dropped.append(students.left_out)
    weights_MC = _weights(plan, data, values, scale_C)
    used = [name for name, weights_C in zip(values, weights_MC, strict=True) if weights_C.any() and name != STUDENTS]
    kept, left_out = with_smaller_forests([fits.models[name] for name in used], FOREST_BYTES // len(plan.parts))
    models = {**fits.models, **dict(zip(used, kept, strict=True))}
    if left_out:
        fits.dropped.append(f"{left_out} trees, so that the model stays small")
    judged = data.known(partition.test)
    for name in models:
        values[name][judged] = data.predict(models[name], judged)
    similarity_B = similarity_to_training(plan.molecules.smiles, data, judged)
    return _Part(partition, students, replace(fits, models=models), weights_MC, data.targets, values, similarity_B)


def _deviations(data: FoldData) -> Float[np.ndarray, "targets"]:
    """Of the labels of each target on the learned scale; 1 for classes."""
    labels_BC = on_learned_scale(data.targets, data.targets_BC[data.rows])
    return np.array([_deviation(target, labels_BC[:, c]) for c, target in enumerate(data.targets)])


def _deviation(target: Target, labels_B: np.ndarray) -> float:
    """Of the labels on the scale on which errors are judged; 1 for classes."""
    if target.transform.name == "none" or np.isnan(labels_B).all():
        return target.std
    return float(np.nanstd(labels_B))


def _assemble(
    plan: Plan,
    parts: Sequence[_Part],
    encoder: FrozenEncoder | None,
    x_BF: np.ndarray,
    place_B: np.ndarray,
) -> Fitted:
    """Members of all partitions as one predictor, each partition with the same share."""
    classical: list[ClassicalMember] = []
    networks: list[MemberResult] = []
    network_weights: list[tuple[float, ...]] = []
    for part in parts:
        of_member = dict(zip(part.values, part.weights_MC / len(parts), strict=True))
        shared_C = of_member.get(STUDENTS, np.zeros(len(part.targets)))
        if shared_C.any():
            finals = part.students.finals
            networks += finals
            network_weights += [tuple(shared_C / len(finals))] * len(finals)
        classical += [
            ClassicalMember(name, models, part.targets, tuple(of_member[name]))
            for name, models in part.fits.models.items()
            if of_member[name].any()
        ]
    blend = Blend(tuple(classical), tuple(network_weights), encoder, feature_layout(plan, encoder).sets)
    members = tuple(
        replace(result.member, weight=float(np.mean(weights)))
        for result, weights in zip(networks, network_weights, strict=True)
    )
    learned = every_development_row([part.partition for part in parts])
    groups = plan.molecules.groups
    for line in _lines(parts):
        LOGGER.info(line)

    def embed(rows: np.ndarray) -> np.ndarray:
        if members:
            network = members[0].network
            return run_over(network.embed, network.student, plan.molecules.store, rows)
        return blend.representation(x_BF[place_B[rows]])

    return Fitted(
        members=members,
        targets=parts[0].targets,
        folds=[(part.partition, normalised(part.blended(), groups)) for part in parts],
        training=[training_summary(result) for result in networks],
        domain_rows=learned[place_B[learned] >= 0],
        embed=embed,
        blend=blend,
        fit_rows=[development(part.partition) for part in parts],
        features=_features(blend, x_BF, place_B),
        alone=_alone(plan, parts),
        about={"blend": [_about(part) for part in parts]},
        spread_BC=weighted_spread(np.stack(list(parts[0].values.values())), parts[0].weights_MC)
        if len(parts) == 1
        else None,
        similarity_B=parts[0].similarity_B if len(parts) == 1 else None,
    )


def _alone(plan: Plan, parts: Sequence[_Part]) -> dict[str, list[Array]]:
    """Every member alone, for the table of members: no baselines, as the blend is made of them.

    Students judge themselves on the folds that they predict, which may be fewer than the others'.
    """
    names = [name for name in parts[0].values if all(name in part.values for part in parts)]
    return {name: [normalised(part.values[name], plan.molecules.groups) for part in parts] for name in names}


def _features(blend: Blend, x_BF: np.ndarray, place_B: np.ndarray) -> Features:
    """Counts and descriptors, computed already, for the forests that the blend is compared with."""
    return Features({name: x_BF[:, blend.layout.columns(name)] for name in (COUNTS, DESCRIPTORS)}, place_B)


def _about(part: _Part) -> dict[str, Any]:
    """A partition's members for `metrics.json`: weight of each target, seconds, and what was left out."""
    trainings = [*part.students.out_of_fold, *part.students.finals]
    seconds = {**part.fits.seconds, STUDENTS: sum(result.training.seconds for result in trainings)}
    return {
        "folds": part.fits.folds,
        "students": len(part.students.finals),
        "left_out": part.fits.dropped,
        "members": {
            name: {"weights": [round(float(w), 6) for w in weights_C], "seconds": round(seconds[name], 1)}
            for name, weights_C in zip(part.values, part.weights_MC, strict=True)
        },
    }


def _lines(parts: Sequence[_Part]) -> list[str]:
    """Mean weight of each member over targets and partitions, and what was left out."""
    names = dict.fromkeys(name for part in parts for name in part.values)
    weight = dict.fromkeys(names, 0.0)
    for part in parts:
        for name, weights_C in zip(part.values, part.weights_MC, strict=True):
            weight[name] += float(weights_C.mean()) / len(parts)
    shares = ", ".join(f"{name} {value:.2f}" for name, value in weight.items())
    left_out = dict.fromkeys(line for part in parts for line in part.fits.dropped)
    return [f"blend, weights fitted out of fold: {shares}", *(f"plan: left out {line}" for line in left_out)]
