"""The recipes `best` and `fast`: finetuned students and classical models, stacked with weights fitted out of fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from dnd.chemistry.splits import Split
from dnd.common.errors import ConfigError
from dnd.finetuning.baselines import MEAN, mean_prediction
from dnd.finetuning.classical import ClassicalFits, Workbench, fit_classical, within_bytes
from dnd.finetuning.fold_data import development, feature_layout, frozen_encoder, rows_with_features, workbench
from dnd.finetuning.outcome import Fitted, training_summary
from dnd.finetuning.students import MemberResult, Plan, StudentPlan, plan_students, train_member
from dnd.finetuning.time_limit import Clock
from dnd.models.students.encoders import RANDOM
from dnd.predictor.classical.features import features_of
from dnd.predictor.ensemble import STUDENTS, Blend, ClassicalMember, FrozenEncoder, weighted_spread
from dnd.predictor.metrics import TaskKind, normalised
from dnd.predictor.network import run_over
from dnd.predictor.targets import Target

# How much each member of a blend counts: weights that are not negative and sum to 1, fitted out of fold.
#
# .. math:: w^* = \arg\min_{w \in \Delta} \frac1n \sum_i \ell\Big(y_i, \sum_m w_m \hat y_{mi}\Big)
#           + \frac{\lambda}{n} \lVert w - w_0 \rVert^2
#
# Source: stacking with weights that are not negative (Breiman, Machine Learning 24 (1996) 49), with a pull to w₀ that
# few molecules don't overcome: to equal shares for all targets of a kind together, and from there for each target. Each
# prediction must come from a member that never saw the molecule.
#
# Legend: M members, N molecules, C targets.


PULL = 10.0  # λ, in units of the variance of the labels
FEWEST_LABELS = 20  # a target with fewer takes the weights of all targets together
NEGLIGIBLE = 0.01  # smaller shares are dropped, so that their members need not be kept
_EDGE = 1e-6


def fit_weights(
    predictions_MNC: Float[np.ndarray, "members molecules targets"],
    targets_NC: Float[np.ndarray, "molecules targets"],
    kinds: Sequence[TaskKind],
    scale_C: Float[np.ndarray, "targets"],
) -> Float[np.ndarray, "members targets"]:
    """Weights of every member for every target.

    Args:
        predictions_MNC: out of fold; NaN where a member has none.
        targets_NC: labels; NaN = missing.
        kinds: of the targets.
        scale_C: deviation of the labels of each target, 1 for classes.
    """
    members, _, targets = predictions_MNC.shape
    equal_M = np.full(members, 1 / members)
    weights_MC = np.tile(equal_M[:, None], targets)
    usable_NC = np.isfinite(predictions_MNC).all(axis=0) & ~np.isnan(targets_NC)
    for kind in dict.fromkeys(kinds):
        own = [column for column, other in enumerate(kinds) if other == kind]
        pairs = [
            (predictions_MNC[:, usable_NC[:, c], c] / scale_C[c], targets_NC[usable_NC[:, c], c] / scale_C[c])
            for c in own
        ]
        shared_M = _fit(np.hstack([p for p, _ in pairs]), np.concatenate([y for _, y in pairs]), kind, equal_M)
        for column, (predictions_MN, labels_N) in zip(own, pairs, strict=True):
            alone = len(own) == 1 or len(labels_N) < FEWEST_LABELS
            weights_MC[:, column] = shared_M if alone else _fit(predictions_MN, labels_N, kind, shared_M)
    return _without_small(weights_MC)


def _fit(predictions_MN: np.ndarray, labels_N: np.ndarray, kind: TaskKind, prior_M: np.ndarray) -> np.ndarray:
    count = len(labels_N)
    if count == 0 or len(prior_M) == 1:
        return prior_M
    classes = kind == "classification"
    pull = PULL * float(np.var(labels_N)) / count

    def loss(weights_M: np.ndarray) -> tuple[float, np.ndarray]:
        blended_N = weights_M @ predictions_MN
        if classes:
            inside_N = blended_N.clip(_EDGE, 1 - _EDGE)
            value = -np.mean(labels_N * np.log(inside_N) + (1 - labels_N) * np.log1p(-inside_N))
            slope_N = (inside_N - labels_N) / (inside_N * (1 - inside_N))
        else:
            value = np.mean((blended_N - labels_N) ** 2)
            slope_N = 2 * (blended_N - labels_N)
        away_M = weights_M - prior_M
        gradient_M = predictions_MN @ slope_N / count + 2 * pull * away_M
        return float(value + pull * (away_M @ away_M)), gradient_M

    result = minimize(
        loss,
        prior_M,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * len(prior_M),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones_like(w)},
    )
    weights_M = result.x.clip(0.0) if np.isfinite(result.x).all() else prior_M
    return np.asarray(weights_M / weights_M.sum())


def _without_small(weights_MC: np.ndarray) -> np.ndarray:
    kept_MC = np.where(weights_MC < NEGLIGIBLE, 0.0, weights_MC)
    return np.asarray(kept_MC / kept_MC.sum(axis=0))


# The recipes `best` and `fast`: finetuned students and classical models, blended with weights fitted out of fold.
#
# Development molecules (training and validation part) are dealt into scaffold folds. A classical member is fitted once
# per fold on the others, which gives its predictions out of fold, and once on all. Student k learns from all folds but
# fold k, which stops its training early and which it predicts; the students of a partition together are an ensemble.
# The weights of all members are fitted on the molecules that every member predicted out of fold. The test part is
# looked at when everything is settled.
#
# A fold that stops a student's training would flatter that student's predictions for it, and with them its weight and
# the calibration: of its two halves each is predicted at the epoch that the other prefers (`half_choice.py`).
#
# Legend: N molecules, C targets, M members.


Array = Float[np.ndarray, "molecules targets"]

LIMIT_BYTES = 12_000_000  # of all classical arrays in a MODEL folder
_LEAST_WEIGHT = 0.5
_CLASSICAL_SHARE, _ALONE = 0.45, 0.8  # of what is left of a time limit, with and without students to come


@dataclass(frozen=True)
class _Part:
    """What one partition gave.

    Attributes:
        partition: it.
        results: its students.
        fits: its classical members, their forests cut to what a MODEL folder may hold.
        weights_MC: of the students together, if there are any, then of the classical members.
        targets: scale of the classical members.
        values: per member predictions for all molecules, out of fold for development molecules.
    """

    partition: Split
    results: list[MemberResult]
    fits: ClassicalFits
    weights_MC: Float[np.ndarray, "members targets"]
    targets: tuple[Target, ...]
    values: dict[str, Array]

    def blended(self) -> Array:
        """The weighted mean of the members that predict a molecule; NaN where those have less than half of the weight.

        With fewer students than folds, some development molecules have classical predictions only. What the others say
        of them is what the calibration learns from, rather than nothing.
        """
        total_NC, weight_NC = np.zeros((2, *next(iter(self.values.values())).shape))
        for weights_C, values_NC in zip(self.weights_MC, self.values.values(), strict=True):
            known_NC = np.isfinite(values_NC)
            total_NC += np.where(known_NC, weights_C * values_NC, 0.0)
            weight_NC += np.where(known_NC, weights_C, 0.0)
        enough_NC = weight_NC >= _LEAST_WEIGHT
        return np.where(enough_NC, total_NC / np.where(enough_NC, weight_NC, 1.0), np.nan)


def fit_blend(
    plan: Plan, out: Path, clock: Clock, *, resume: bool, quiet: bool, say: Callable[[str], None]
) -> Fitted | None:
    """Fit every member of every partition; None when `loop.stop_after_s` ended a student.

    Args:
        plan: what is settled.
        out: the MODEL folder; a student trains in `member-<number>`.
        clock: counts down the time limit.
        resume: students go on where they stopped; classical members are fitted anew, to the same arrays.
        quiet: no progress of the students' training.
        say: receives one line at a time.
    """
    config = plan.config
    if config.blend.second is not None and plan.encoder != RANDOM:
        raise ConfigError("blend.second is for --encoder random", found=plan.encoder, next_step="Leave it out")
    encoder = frozen_encoder(plan)
    if encoder is None:
        say("features of the classical members: descriptors and counts (no encoder, so no representation)")
    has_features_N = rows_with_features(plan, clock, say)
    every = np.flatnonzero(has_features_N)
    say(f"computing features of {len(every)} molecules")
    embedding = encoder.embed(plan.molecules.store, every) if encoder else None
    smiles, layout = [plan.molecules.smiles[row] for row in every], feature_layout(plan, encoder)
    features = features_of(smiles, embedding, layout, jobs=config.jobs)
    x_NF, place_N = features.x_NF, np.full(len(has_features_N), -1)
    place_N[every] = np.arange(len(every))
    for place, reason in features.refused.items():
        say(f"row {plan.molecules.rows_N[every[place]]} is left to the students: {reason}")
        place_N[every[place]] = -1
    parts: list[_Part] = []
    for number, partition in enumerate(plan.parts):
        share = 1 / (len(plan.parts) - number)
        bench = workbench(plan, partition, x_NF, place_N, encoder)
        budget = clock.share(share * (_CLASSICAL_SHARE if config.blend.students else _ALONE))
        fits = fit_classical(bench, config.blend.classical, budget, say)
        students = plan_students(plan, _split_of(bench, partition, 0), clock, share, say)
        first = sum(len(part.results) for part in parts)
        folders = [out / f"member-{first + student}" for student in range(students.count)]
        results = _train_students(plan, bench, partition, number, students, folders, resume, quiet)
        if results is None:
            return None
        parts.append(_combine(plan, bench, partition, fits, results))
    return _assemble(plan, parts, encoder, x_NF, place_N, say)


def _split_of(bench: Workbench, partition: Split, student: int) -> Split:
    """Student k learns from all but fold k; molecules without features are in no fold and train every student."""
    held_out = bench.rows[bench.folds == student % bench.num_folds]
    return Split(np.setdiff1d(development(partition), held_out), held_out, bench.known(partition.test))


def _train_students(
    plan: Plan,
    bench: Workbench,
    partition: Split,
    number: int,
    students: StudentPlan,
    folders: Sequence[Path],
    resume: bool,
    quiet: bool,
) -> list[MemberResult] | None:
    loop = replace(plan.config.loop, epochs=students.epochs, stop_after_s=students.limit_s)
    own = replace(plan, config=replace(plan.config, loop=loop))
    second, results = plan.config.blend.second, []
    for student, folder in enumerate(folders):
        split = _split_of(bench, partition, student)
        result = train_member(
            own if student % 2 == 0 or second is None else replace(own, config=replace(own.config, student=second)),
            number,
            plan.config.loop.seed + student,
            split,
            folder,
            resume=resume,
            weight=1.0,
            quiet=quiet,
            unfinished=students.is_cut,
            wanted=np.concatenate([split.valid, split.test]),
        )
        if result is None:
            return None
        results.append(result)
    return results


def _combine(plan: Plan, bench: Workbench, partition: Split, fits: ClassicalFits, results: list[MemberResult]) -> _Part:
    """Weights from the predictions out of fold; then the forests are cut to size, and predict the test part."""
    values = {STUDENTS: _of_students(bench, partition, results)} if results else {}
    values |= {name: values_NC.copy() for name, values_NC in fits.out_of_fold.items()}
    scale_C = np.array(
        [_deviation(target, plan.molecules.targets_NC[bench.rows, c]) for c, target in enumerate(bench.targets)]
    )
    out_of_fold_MNC = np.stack([member[bench.rows] for member in values.values()])
    weights_MC = fit_weights(out_of_fold_MNC, bench.targets_NC[bench.rows], plan.tasks.kinds, scale_C)
    used = [name for name, weights_C in zip(values, weights_MC, strict=True) if weights_C.any() and name != STUDENTS]
    kept, left_out = within_bytes([fits.models[name] for name in used], LIMIT_BYTES // len(plan.parts))
    models = {**fits.models, **dict(zip(used, kept, strict=True))}
    if left_out:
        fits.dropped.append(f"{left_out} trees, so that the model stays small")
    judged = bench.known(partition.test)
    for name in models:
        values[name][judged] = bench.predict(models[name], judged)
    return _Part(partition, results, replace(fits, models=models), weights_MC, bench.targets, values)


def _deviation(target: Target, labels_N: np.ndarray) -> float:
    """In the target's unit, also where something else is learned; 1 for classes."""
    return target.std if target.transform.name == "none" else float(np.nanstd(labels_N))


def _of_students(bench: Workbench, partition: Split, results: Sequence[MemberResult]) -> Array:
    """Of a fold by the students that did not learn from it, half by half; of the test part by all."""
    found_NC = np.full(bench.targets_NC.shape, np.nan)
    for fold in range(min(len(results), bench.num_folds)):
        held_out = bench.rows[bench.folds == fold]
        own = results[fold :: bench.num_folds]
        found_NC[held_out] = np.mean([result.halves_VC for result in own], axis=0)
    found_NC[partition.test] = np.mean([result.predictions_NC[partition.test] for result in results], axis=0)
    return found_NC


def _assemble(
    plan: Plan,
    parts: Sequence[_Part],
    encoder: FrozenEncoder | None,
    x_NF: np.ndarray,
    place_N: np.ndarray,
    say: Callable[[str], None],
) -> Fitted:
    """Members of all partitions as one predictor, each partition with the same share."""
    classical: list[ClassicalMember] = []
    networks: list[MemberResult] = []
    network_weights: list[tuple[float, ...]] = []
    for part in parts:
        of_member = dict(zip(part.values, part.weights_MC / len(parts), strict=True))
        shared_C = of_member.get(STUDENTS, np.zeros(len(part.targets)))
        if shared_C.any():
            networks += part.results
            network_weights += [tuple(shared_C / len(part.results))] * len(part.results)
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
        say(line)

    def embed(rows: np.ndarray) -> np.ndarray:
        if members:
            network = members[0].network
            return run_over(network.embed, network.student, plan.molecules.store, rows)
        return blend.representation(x_NF[place_N[rows]])

    return Fitted(
        members=members,
        targets=parts[0].targets,
        folds=[(part.partition, normalised(part.blended(), groups)) for part in parts],
        training=[training_summary(result) for result in networks],
        domain_rows=learned[place_N[learned] >= 0],
        embed=embed,
        blend=blend,
        lessons=[development(part.partition) for part in parts],
        beside=_beside(plan, parts),
        about={"blend": [_about(part) for part in parts]},
        spread_NC=weighted_spread(np.stack(list(parts[0].values.values())), parts[0].weights_MC)
        if len(parts) == 1
        else None,
    )


def _beside(plan: Plan, parts: Sequence[_Part]) -> dict[str, list[Array]]:
    """The mean and every member alone: the classical ones are the baselines of the blend.

    Students judge themselves on the folds that they predict, which may be fewer than the others'.
    """
    found = {MEAN: [mean_prediction(plan.molecules.targets_NC, development(part.partition)) for part in parts]}
    names = [name for name in parts[0].values if all(name in part.values for part in parts)]
    for name in names:
        found[name] = [normalised(part.values[name], plan.molecules.groups) for part in parts]
    return found


def _about(part: _Part) -> dict[str, Any]:
    """A partition's members for `metrics.json`: weight of each target, seconds, and what was left out."""
    seconds = {**part.fits.seconds, STUDENTS: sum(result.training.seconds for result in part.results)}
    return {
        "folds": part.fits.folds,
        "students": len(part.results),
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
