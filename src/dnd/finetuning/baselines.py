"""Classical baselines, printed beside every finetuned model: the training mean and random forests.

An untuned forest beats published deep models on several of these data sets, so a result without it says little.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from dnd.common.log import LOGGER
from dnd.predictor.targets import ClassGroup, Target, TaskKind, from_learned_scale, groups_of, on_learned_scale

MEAN = "mean"
TREES = 100  # of 200 the second hundred was a quarter of a whole `fast` finetuning of 2,000 molecules
FEATURE_SHARE = 0.33  # of the features tried per split in regression; classification uses the square root
LIMIT_FOREST_MOLECULES = 10_000  # training molecules; a larger part is thinned at random, and the result says so
_PILOT_ROWS, _GROWTH = 100, 1.2  # under a time limit: cost of a forest ~ molecules to the power of 1.2
LIMIT_FOREST_WORK = 6_000  # trees over all targets; more targets get smaller forests, and the result says so


@dataclass(frozen=True)
class Features:
    """What the forests look at.

    Attributes:
        sets: name of a feature set → a row per molecule that has features.
        place_B: the row of each molecule; -1 where it has none, and then it is neither learned from nor predicted.
    """

    sets: Mapping[str, Float[np.ndarray, "known features"]]
    place_B: Int[np.ndarray, "molecules"]


@dataclass(frozen=True)
class Baseline:
    """Predictions of one baseline for every molecule.

    Attributes:
        predictions_BC: values, or probabilities of class 1.
        settings: what was fitted, for `metrics.json`.
    """

    predictions_BC: Float[np.ndarray, "molecules targets"]
    settings: dict[str, object]


def baselines(
    features: Features,
    targets: Sequence[Target],
    targets_BC: Float[np.ndarray, "molecules targets"],
    train: np.ndarray,
    *,
    budget_s: float = math.inf,
) -> dict[str, Baseline]:
    """Fit the training mean and one random forest per feature set, and predict all molecules that have features.

    A target with a transform is learned on the same scale as the model learns it.

    Args:
        features: features of the molecules.
        targets: targets of the columns.
        targets_BC: labels; NaN = missing.
        train: rows that the model learned from.
        budget_s: time in seconds; a forest that does not fit into it by a pilot is left out.
    """
    labels_BC, groups = on_learned_scale(targets, targets_BC), groups_of(targets)
    found = {MEAN: Baseline(from_learned_scale(targets, mean_prediction(labels_BC, train)), {})}
    known = np.flatnonzero(features.place_B >= 0)
    order = np.argsort(features.place_B[known])
    learned = features.place_B[train[features.place_B[train] >= 0]]
    for name, values_SF in features.sets.items():
        kinds = [target.kind for target in targets]
        if math.isfinite(budget_s):
            cost_s = _forest_seconds(values_SF, labels_BC[known[order]], learned, kinds, groups)
            budget_s -= cost_s
            if budget_s < 0:
                LOGGER.info(f"plan: left out the baseline of a random forest on {name} (time limit)")
                continue
        LOGGER.info(f"baseline: random forest on {name}")
        own = fit_forests(values_SF, labels_BC[known[order]], learned, kinds, groups=groups)
        predictions_BC = np.full(labels_BC.shape, np.nan)
        predictions_BC[known[order]] = from_learned_scale(targets, own.predictions_BC)
        found[f"random_forest_{name}"] = Baseline(predictions_BC, own.settings)
    return found


def _forest_seconds(
    features_BF: np.ndarray,
    targets_BC: np.ndarray,
    train: np.ndarray,
    kinds: Sequence[TaskKind],
    groups: Sequence[ClassGroup],
) -> float:
    """What the forests of a feature set will take, from those of few molecules."""
    few, started = train[:_PILOT_ROWS], time.monotonic()
    fit_forests(features_BF, targets_BC, few, kinds, groups=groups)
    spent, count = time.monotonic() - started, min(len(train), LIMIT_FOREST_MOLECULES)
    return spent * float(max(1.0, (count / max(1, len(few))) ** _GROWTH))


def fit_forests(
    features_BF: Float[np.ndarray, "molecules features"],
    targets_BC: Float[np.ndarray, "molecules targets"],
    train: np.ndarray,
    kinds: TaskKind | Sequence[TaskKind],
    seed: int = 0,
    groups: Sequence[ClassGroup] = (),
) -> Baseline:
    """One random forest per target on its labelled training molecules; a target with one class gets that class.

    Args:
        features_BF: features of all molecules.
        targets_BC: labels; NaN = missing.
        train: rows of the training part.
        kinds: one for all targets, or one for each.
        seed: random seed of the forests.
        groups: columns that are the classes of one target; they share a forest.
    """
    num_targets = targets_BC.shape[1]
    each = [kinds] * num_targets if isinstance(kinds, str) else kinds
    trees = max(20, min(TREES, LIMIT_FOREST_WORK // num_targets))
    if len(train) > LIMIT_FOREST_MOLECULES:
        train = np.random.default_rng(seed).choice(train, LIMIT_FOREST_MOLECULES, replace=False)
    predictions_BC = mean_prediction(targets_BC, train)
    for column, (kind, target_B) in enumerate(zip(each, targets_BC.T, strict=True)):
        known = train[~np.isnan(target_B[train])]
        if kind == "multiclass" or len(np.unique(target_B[known])) < 2:
            continue
        if kind == "regression":
            forest = RandomForestRegressor(trees, max_features=FEATURE_SHARE, n_jobs=1, random_state=seed)
            predictions_BC[:, column] = forest.fit(features_BF[known], target_B[known]).predict(features_BF)
        else:
            classifier = RandomForestClassifier(trees, n_jobs=1, random_state=seed)
            classifier.fit(features_BF[known], target_B[known])
            predictions_BC[:, column] = classifier.predict_proba(features_BF)[:, 1]
    for group in groups:
        labels_BK = targets_BC[:, group.span]
        known = train[~np.isnan(labels_BK[train]).any(axis=1)]
        classifier = RandomForestClassifier(trees, n_jobs=1, random_state=seed)
        classifier.fit(features_BF[known], labels_BK[known].argmax(axis=1))
        predictions_BC[:, group.span] = 0.0
        predictions_BC[:, group.first + classifier.classes_] = classifier.predict_proba(features_BF)
    return Baseline(predictions_BC, {"trees": trees, "training_molecules": len(train), "seed": seed})


def mean_prediction(targets_BC: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The training mean of each target (the share of class 1), 0 where a target has no training label."""
    known_BC = ~np.isnan(targets_BC[train])
    total_C = np.where(known_BC, targets_BC[train], 0.0).sum(axis=0)
    mean_C = total_C / np.maximum(known_BC.sum(axis=0), 1)
    return np.tile(mean_C, (len(targets_BC), 1))
