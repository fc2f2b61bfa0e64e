"""The recipes `best` and `fast`: finetuned students and classical models, stacked with weights fitted out of fold."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dnd.chemistry.splits import Split
from dnd.common.errors import ConfigError
from dnd.common.log import LOGGER, PROGRESS
from dnd.finetuning.baselines import Features
from dnd.finetuning.blend_students import BlendStudents, train_students, without_fold
from dnd.finetuning.blend_weights import fit_weights
from dnd.finetuning.classical import ClassicalFits, Workbench, fit_classical, within_bytes
from dnd.finetuning.fold_data import (
    development,
    feature_layout,
    frozen_encoder,
    rows_with_features,
    similarity_to_training,
    workbench,
)
from dnd.finetuning.kept_work import KeptFeatures, KeptWork
from dnd.finetuning.outcome import Fitted, training_summary
from dnd.finetuning.students import MemberResult, Plan, plan_students
from dnd.finetuning.time_limit import Clock
from dnd.models.students.encoders import RANDOM
from dnd.predictor.classical.features import COUNTS, DESCRIPTORS, features_of
from dnd.predictor.ensemble import STUDENTS, Blend, ClassicalMember, FrozenEncoder, weighted_spread
from dnd.predictor.network import run_over
from dnd.predictor.targets import Target, from_learned_scale, normalised, on_learned_scale

# The recipes `best` and `fast`: finetuned students and classical models, blended with weights fitted out of fold.
#
# Development molecules (training and validation part) are dealt into scaffold folds. A classical member is fitted once
# per fold on the others, which gives its predictions out of fold, and once on all; so is a student, see
# `blend_students.py`. The weights of all members are fitted on the molecules that every member predicted out of fold.
# The test part is looked at when everything is settled.
#


Array = Float[np.ndarray, "molecules targets"]

LIMIT_BYTES = 12_000_000  # of all classical arrays in a MODEL folder
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
    encoder = frozen_encoder(plan)
    if encoder is None:
        LOGGER.info("features of the classical members: descriptors and counts (no encoder, so no representation)")
    has_features_B = rows_with_features(plan, clock)
    every = np.flatnonzero(has_features_B)
    LOGGER.log(PROGRESS, f"computing features of {len(every)} molecules")
    embedding = encoder.embed(plan.molecules.store, every) if encoder else None
    smiles, layout = [plan.molecules.smiles[row] for row in every], feature_layout(plan, encoder)
    kept = KeptWork(out)
    cache = KeptFeatures(kept, layout.sets)
    features = features_of(smiles, embedding, layout, jobs=config.jobs, cache=cache)
    cache.keep()
    x_BF, place_B = features.x_BF, np.full(len(has_features_B), -1)
    place_B[every] = np.arange(len(every))
    for place, reason in features.refused.items():
        left = "predicted by the students alone" if config.blend.students else "left out"
        LOGGER.info(f"row {plan.molecules.rows_B[every[place]]} is {left}: {reason}")
        place_B[every[place]] = -1
    parts: list[_Part] = []
    first = 0
    for number, partition in enumerate(plan.parts):
        share = 1 / (len(plan.parts) - number)
        bench = workbench(plan, partition, x_BF, place_B, encoder)
        if plan.molecules.sides_BC is not None:
            from dnd.finetuning.censored import with_limits_filled  # few tables have limits

            bench = with_limits_filled(bench, plan.molecules.sides_BC)
        budget = clock.share(share * (_CLASSICAL_SHARE if config.blend.students else _ALONE))
        fits = fit_classical(bench, config.blend.classical, budget, kept)
        students = plan_students(plan, without_fold(bench, partition, 0), clock, share)
        folders = [out / f"member-{first + student}" for student in range(students.count)]
        first += students.count
        scale_C = _deviations(bench)
        trained = train_students(plan, bench, partition, number, fits, students, folders, scale_C, resume=resume)
        if trained is None:
            return None
        parts.append(_combine(plan, bench, partition, fits, trained, scale_C))
    return replace(_assemble(plan, parts, encoder, x_BF, place_B), deadline=time.monotonic() + clock.left())


def _combine(
    plan: Plan, bench: Workbench, partition: Split, fits: ClassicalFits, students: BlendStudents, scale_C: np.ndarray
) -> _Part:
    """Weights from the predictions out of fold; then the forests are cut to size, and predict the test part."""
    values = {STUDENTS: students.predictions(bench, partition)} if students.finals else {}
    values |= {name: values_BC.copy() for name, values_BC in fits.out_of_fold.items()}
    if students.left_out:
        fits.dropped.append(students.left_out)
    labels_BC = on_learned_scale(bench.targets, bench.judged_BC[bench.rows])
    out_of_fold_MBC = np.stack([on_learned_scale(bench.targets, member[bench.rows]) for member in values.values()])
    weights_MC = fit_weights(out_of_fold_MBC, labels_BC, plan.tasks.kinds, scale_C, plan.config.metric)
    used = [name for name, weights_C in zip(values, weights_MC, strict=True) if weights_C.any() and name != STUDENTS]
    kept, left_out = within_bytes([fits.models[name] for name in used], LIMIT_BYTES // len(plan.parts))
    models = {**fits.models, **dict(zip(used, kept, strict=True))}
    if left_out:
        fits.dropped.append(f"{left_out} trees, so that the model stays small")
    judged = bench.known(partition.test)
    for name in models:
        values[name][judged] = bench.predict(models[name], judged)
    similarity_B = similarity_to_training(plan.molecules.smiles, bench, judged)
    return _Part(partition, students, replace(fits, models=models), weights_MC, bench.targets, values, similarity_B)


def _deviations(bench: Workbench) -> Float[np.ndarray, "targets"]:
    """Of the labels of each target on the learned scale; 1 for classes."""
    labels_BC = on_learned_scale(bench.targets, bench.targets_BC[bench.rows])
    return np.array([_deviation(target, labels_BC[:, c]) for c, target in enumerate(bench.targets)])


def _deviation(target: Target, labels_B: np.ndarray) -> float:
    """Of the labels on the scale on which errors are judged; 1 for classes."""
    return target.std if target.transform.name == "none" else float(np.nanstd(labels_B))


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
    learned = np.unique(np.concatenate([development(part.partition) for part in parts]))
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
        lessons=[development(part.partition) for part in parts],
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
    trainings = [*part.students.rehearsals, *part.students.finals]
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
