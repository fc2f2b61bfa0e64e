"""From trained members to the finished MODEL folder: predictions, metrics, calibration, domain, tables, card."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from dnd.chemistry.splits import Split
from dnd.common.log import LOGGER, RESULT
from dnd.finetuning.data_checks import audit_duplicates
from dnd.finetuning.evaluation import (
    Baseline,
    Features,
    baselines,
    comparison_table,
    label_counts,
    model_card,
    part_metrics,
    predictions_table,
)
from dnd.finetuning.labelled_data import LabelledMolecules
from dnd.finetuning.prepared_labels import counts_of, describe_targets
from dnd.finetuning.splits import DEVELOPMENT_PARTS, PARTS, TRAINING_PART, over_folds
from dnd.finetuning.students import MemberResult, Plan
from dnd.finetuning.verdict import Judged, judge_beside_baselines
from dnd.models.students.encoders import MOST_MOLECULES, WHOLE, RepresentationLimits
from dnd.predictor.applicability_domain import fit_domain, write_domain
from dnd.predictor.ensemble import Blend, run_over
from dnd.predictor.metrics import RAW_METRICS, metric_names, with_prediction
from dnd.predictor.model_folder import KNOWN, Member, known_molecules, predictor_config, write_predictor
from dnd.predictor.targets import Target, TaskKind, Transform, weighted_mean
from dnd.predictor.uncertainty.calibration import Calibration, sentences, write_calibration
from dnd.predictor.uncertainty.fitting import calibrate
from dnd.training.settings import TrainResult

# What a MODEL folder says of itself: how sure it is and where it may be used.


def write_trust(
    folder: Path,
    embed: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    molecules: LabelledMolecules,
    calibration: Calibration,
    kinds: Sequence[TaskKind],
    source: str,
    transforms: Sequence[Transform],
) -> list[str]:
    """Write calibration and domain into a MODEL folder that is not sealed yet.

    Args:
        folder: the MODEL folder.
        embed: representations of given molecules, which measure distance.
        rows: molecules that were trained on.
        molecules: the data.
        calibration: see `calibrate`.
        kinds: tasks of the targets.
        source: what the calibration was learned from, in words.
        transforms: transforms of the targets.

    Returns:
        What was learned, in words.
    """
    lines = sentences(calibration, molecules.names, kinds, source, transforms)
    write_calibration(folder, calibration, lines)
    domain = fit_domain([molecules.smiles[row] for row in rows], lambda places: embed(rows[places]))
    if domain is not None:
        write_domain(folder, domain)
    return lines


# From trained members to the finished MODEL folder: predictions, metrics, baselines, tables, card.


Array = Float[np.ndarray, "molecules targets"]


@dataclass(frozen=True)
class Fitted:
    """Result of a training, before it is evaluated.

    Attributes:
        members: the networks; with a blend there may be none.
        targets: names, units and kinds.
        folds: pairs of a partition and the predictions for all molecules, NaN where there are none. Those of a blend
            for its own training molecules are out of fold.
        training: for each network how its training went, for `metrics.json`.
        domain_rows: molecules that the domain is fitted on.
        embed: representation of given molecules, in which the domain measures distances.
        blend: the classical part; None = networks only.
        fit_rows: per partition the molecules that the calibration is fitted on; None = its validation part, or with
            folds its test part.
        judged_BC: labels that the calibration is fitted to; None = all but limits.
        held_out_BC: predictions that the calibration of one partition is fitted to: those of its validation part are
            each of the epoch that the other half of the part prefers. None = those of `folds`.
        features: features of the molecules for the baselines, if they are computed already.
        alone: per member of a blend its own predictions for each partition.
        deadline: value of `time.monotonic` by which the baselines must be fitted.
        about: further entries of `metrics.json`.
        spread_BC: how far the members disagree about each molecule, as the model will report it for a new one; None if
            there is one member or several partitions.
        similarity_B: similarity of the molecules of a blend to the nearest one that their prediction was learned from;
            None if the intervals do not depend on it.
    """

    members: tuple[Member, ...]
    targets: tuple[Target, ...]
    folds: list[tuple[Split, Array]]
    training: list[dict[str, Any]]
    domain_rows: np.ndarray
    embed: Callable[[np.ndarray], np.ndarray]
    blend: Blend | None = None
    fit_rows: list[np.ndarray] | None = None
    judged_BC: Array | None = None
    held_out_BC: Array | None = None
    features: Features | None = None
    alone: Mapping[str, list[Array]] = field(default_factory=dict)
    deadline: float = math.inf
    about: Mapping[str, Any] = field(default_factory=dict)
    spread_BC: Array | None = None
    similarity_B: Float[np.ndarray, "molecules"] | None = None

    @property
    def learned(self) -> Sequence[str]:
        """The parts that the model learned from."""
        return DEVELOPMENT_PARTS if self.fit_rows else TRAINING_PART

    @classmethod
    def of(cls, results: Sequence[MemberResult], molecules: LabelledMolecules) -> Fitted:
        """Networks alone; their predictions are averaged."""
        network = results[0].member.network

        def embed(rows: np.ndarray) -> np.ndarray:
            return run_over(network.embed, network.student, molecules.store, rows)

        folds = _folds(results)
        return cls(
            members=tuple(result.member for result in results),
            targets=results[0].member.targets,
            folds=folds,
            training=[training_summary(result) for result in results],
            domain_rows=np.unique(np.concatenate([part.train for part, _ in folds])),
            embed=embed,
            held_out_BC=_held_out(results, folds[0][1]) if len(folds) == 1 else None,
            spread_BC=_spread(results) if len(folds) == 1 else None,
        )


def write_outcome(folder: Path, plan: Plan, fitted: Fitted) -> dict[str, Any]:
    """Judge what was fitted beside the baselines, write and seal the MODEL folder; returns `metrics.json`."""
    molecules, tasks, config = plan.molecules, plan.tasks, plan.config
    transforms = [target.transform for target in fitted.targets]
    folds, calibration = calibrate(
        fitted.folds,
        molecules.exact_BC if fitted.judged_BC is None else fitted.judged_BC,
        tasks.kinds,
        fitted.fit_rows,
        groups=molecules.groups,
        transforms=transforms,
        spread_BC=fitted.spread_BC,
        identities=molecules.identities,
        similarity_B=fitted.similarity_B,
        held_out_BC=fitted.held_out_BC,
        weight_B=molecules.weight_B,
    )
    metrics = _metrics(plan, fitted, folds)
    beside = _baselines(plan, fitted, folds) if config.baselines else {}
    predicted = {name: [one.predictions_BC for one in own] for name, own in beside.items()}
    metrics["baselines"] = {
        name: {"settings": own[0].settings, **_judge(_of_folds(folds, predicted[name]), molecules, fitted)}
        for name, own in beside.items()
    }
    judged = Judged(fitted.targets, molecules.exact_BC, molecules.identities, folds, predicted, fitted.learned)
    found = judge_beside_baselines(judged, per_target=tasks.judged_one_by_one)
    metrics["verdicts"] = [one.as_dict() for one in found]
    alone = replace(judged, baselines=fitted.alone)
    metrics["leaderboard"] = [one.ranked() for one in judge_beside_baselines(alone, per_target=tasks.judged_one_by_one)]
    metrics["label_counts"] = label_counts(molecules, tasks.kinds, transforms, plan.parts)
    for line in [*comparison_table(metrics), *(one.sentence() for one in found)]:
        LOGGER.log(RESULT, line)
    halves = "the validation part, each half predicted at the epoch that the other half prefers"
    sources = halves if len(folds) == 1 else "the test parts of the folds"
    source = "the training and validation parts, predicted out of fold" if fitted.fit_rows else sources
    for line in write_trust(
        folder, fitted.embed, fitted.domain_rows, molecules, calibration, tasks.kinds, source, transforms
    ):
        LOGGER.log(RESULT, line)
    saved = predictor_config(fitted.members, fitted.targets, plan.hydrogens, plan.record, fitted.blend)
    write_predictor(
        folder,
        fitted.members,
        saved,
        blend=fitted.blend,
        limits=_representation_limits(fitted, molecules),
        card=model_card(saved, metrics),
        metrics=metrics,
        splits=_splits([partition for partition, _ in folds], molecules.rows_B, config.split),
        tables={
            "test_predictions.csv": predictions_table(folds, molecules),
            "rejects.csv": molecules.rejects_csv(),
            KNOWN: known_molecules([molecules.identities[row] for row in np.flatnonzero(molecules.learned_B)]),
            **({"molecules.csv": molecules.origins_csv()} if molecules.origins else {}),
        },
    )
    return metrics


def _representation_limits(fitted: Fitted, molecules: LabelledMolecules) -> RepresentationLimits | None:
    """Where the representations that `Predictor.embed` gives of the learned molecules lie; None without any."""
    rows, networks = fitted.domain_rows, [member.network for member in fitted.members]
    rows = rows[:: max(1, -(-len(rows) // MOST_MOLECULES))]
    if not len(rows) or not (networks or (fitted.blend and fitted.blend.encoder)):
        return None
    parts = [run_over(network.embed, network.student, molecules.store, rows) for network in networks]
    whole_BD = np.concatenate(parts or [fitted.embed(rows)], axis=1)
    return RepresentationLimits.of_values({WHOLE: torch.from_numpy(whole_BD)})


def _metrics(plan: Plan, fitted: Fitted, folds: Sequence[tuple[Split, Array]]) -> dict[str, Any]:
    """`metrics.json` without the baselines: the data, how training went, and each part judged."""
    molecules, tasks = plan.molecules, plan.tasks
    return {
        "task": tasks.name,
        "task_reason": tasks.reason,
        "per_target": tasks.judged_one_by_one,
        "metric": metric_names(tasks.kinds)[0],
        "metrics": list(metric_names(tasks.kinds)),
        "targets": describe_targets(fitted.targets, molecules.groups),
        "files": list(molecules.files),
        "split": plan.config.split,
        "counts": counts_of(molecules),
        "notes": list(molecules.notes),
        "row_offsets": molecules.row_offsets(),
        "replicates": [one.as_dict() for one in plan.repeats],
        **audit_duplicates([part for part, _ in folds], molecules.identities, molecules.rows_B),
        "members": fitted.training,
        "baselines": {},
        **({"search": plan.record["search"]} if "search" in plan.record else {}),
        **fitted.about,
        **_judge(folds, molecules, fitted),
        "alone": {name: _judge(_of_folds(folds, values), molecules, fitted) for name, values in fitted.alone.items()},
    }


def _of_folds(folds: Sequence[tuple[Split, Array]], predictions: Sequence[Array]) -> list[tuple[Split, Array]]:
    """Other predictions for the same partitions."""
    return [(part, own) for (part, _), own in zip(folds, predictions, strict=True)]


def _spread(results: Sequence[MemberResult]) -> Array | None:
    """Deviation between networks; as `Predictor` has it."""
    if len(results) < 2:
        return None
    return np.asarray(np.std([result.predictions_BC for result in results], axis=0, ddof=1))


def _folds(results: Sequence[MemberResult]) -> list[tuple[Split, Array]]:
    """Per fold its partition and the mean prediction of the members trained on it."""
    found = []
    for fold in range(results[-1].fold + 1):
        own = [result for result in results if result.fold == fold]
        found.append((own[0].partition, _mean(own, [result.predictions_BC for result in own])))
    return found


def _held_out(results: Sequence[MemberResult], predictions_BC: Array) -> Array:
    """The predictions of the members of one partition, with the halves of its validation part in place of its own."""
    found_BC = predictions_BC.copy()
    found_BC[results[0].partition.valid] = _mean(results, [result.halves_VC for result in results])
    return found_BC


def _mean(results: Sequence[MemberResult], values: Sequence[Array]) -> Array:
    targets = results[0].member.targets
    return weighted_mean(targets, np.full((len(results), len(targets)), 1 / len(results)), values)


def _judge(folds: Iterable[tuple[Split, Array]], molecules: LabelledMolecules, fitted: Fitted) -> dict[str, Any]:
    judged = [
        part_metrics(part, with_prediction(molecules.exact_BC, values), values, fitted.targets, molecules.weight_B)
        for part, values in folds
    ]
    names = metric_names([target.kind for target in fitted.targets])
    mapped = any(target.transform.name != "none" for target in fitted.targets)
    parts = over_folds(judged, [*names, *(RAW_METRICS if mapped else ())], fitted.learned)
    return {"parts": parts, "folds": judged} if len(judged) > 1 else {"parts": parts}


def _baselines(plan: Plan, fitted: Fitted, folds: Sequence[tuple[Split, Array]]) -> dict[str, list[Baseline]]:
    """Each outside baseline, fitted for each partition on what the model learned from there.

    A blend learns from the validation part too, out of fold; what a forest says of molecules that it was fitted on is
    no prediction and is left out.
    """
    features = fitted.features or _features(plan.molecules, plan.config.jobs)
    fits = []
    for number, (part, _) in enumerate(folds):
        rows = fitted.fit_rows[number] if fitted.fit_rows else part.train
        budget_s = (fitted.deadline - time.monotonic()) / (len(folds) - number)
        fits.append(baselines(features, fitted.targets, plan.molecules.targets_BC, rows, budget_s=budget_s))
        if fitted.fit_rows:
            for one in fits[-1].values():
                one.predictions_BC[rows] = np.nan
    return {name: [fit[name] for fit in fits] for name in fits[0] if all(name in fit for fit in fits)}


def _features(molecules: LabelledMolecules, jobs: int) -> Features:
    """What the forests look at beside students alone, which compute no features themselves."""
    from dnd.predictor.classical.features import COUNTS, DESCRIPTORS, Layout, features_of

    layout = Layout(sets=(COUNTS, DESCRIPTORS))
    found = features_of(molecules.smiles, None, layout, jobs=jobs)
    place_B = np.arange(len(molecules.smiles))
    place_B[list(found.refused)] = -1
    return Features({name: found.x_BF[:, layout.columns(name)] for name in layout.sets}, place_B)


def training_summary(result: MemberResult) -> dict[str, Any]:
    """How the training of a network went, for `metrics.json`."""
    return training_facts(result.member, result.training, result.fold)


def training_facts(member: Member, training: TrainResult, fold: int = 0) -> dict[str, Any]:
    """`training_summary` of a network and how its loop ended."""
    return {
        "seed": member.seed,
        "fold": fold,
        "steps": training.steps,
        "best_step": training.best_step,
        "best_epoch": training.best,
        "last_epoch": training.last,
        "seconds": round(training.seconds, 1),
        "scale": [target.scale() for target in member.targets],
    }


def _splits(found: Sequence[Split], rows_B: np.ndarray, name: str) -> dict[str, Any]:
    """Row numbers of the input from 0; a k-fold split has a list of them."""
    named = [{part: [int(row) for row in rows_B[getattr(one, part)]] for part in PARTS} for one in found]
    return {"split": name, **named[0]} if len(named) == 1 else {"split": name, "folds": named}
