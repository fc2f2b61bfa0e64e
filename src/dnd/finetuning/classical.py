"""The classical members of a blend: which features each sees, how it is fitted, out of fold and on all molecules.

Over 500 lines because what a stopped run keeps follows every step of the fitting."""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Float, Float32, Int64
from safetensors import SafetensorError
from safetensors.numpy import load, save
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from dnd.chemistry.splits import rows_of_molecules
from dnd.common.compute import derive_seed
from dnd.common.config import look_up
from dnd.common.errors import CorruptFileError
from dnd.common.files import read_plain_file, write_bytes
from dnd.common.log import LOGGER, Progress
from dnd.common.runs import read_record, write_record
from dnd.predictor.classical.array_models import (
    Kernel,
    Linear,
    Scaling,
    Trees,
    constant,
    fit_kernel,
    from_forest,
    from_lightgbm,
    mean_of,
)
from dnd.predictor.classical.features import COUNT_SETS, COUNTS, DESCRIPTORS, EMBEDDING, FURTHER, Features, Layout
from dnd.predictor.ensemble import ArrayModel, models_to_store, stored_models
from dnd.predictor.targets import Target, Weights, weighted_count

# Work that a stopped finetuning does not do again: features by molecule, and what classical members have learned.
#
# It lies in `.work` of the MODEL folder, whose lock the run holds. Each piece is a file of arrays, written atomically,
# and a record with its SHA-256, written after it; a piece that is damaged is made again. Arrays come back bit for bit,
# so a run that was resumed ends with the numbers of one that was not. Pieces go when the model is sealed.

FOLDER = ".work"  # which `common.runs.drop_scaffolding` removes when the model is sealed
KEEP_FROM_S = 1.0
"""Seconds of work below which a piece is not worth its file."""
KEEP_EVERY_S = 30.0
_LIMIT_BYTES = 16 * 2**30

Arrays = Mapping[str, np.ndarray]


class KeptWork:
    """Pieces of work by name.

    Args:
        folder: the MODEL folder; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder / FOLDER

    def get(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The arrays of a piece and what was said about it; None where it is not there, or not as it was written."""
        if self._folder is None or not (self._folder / f"{name}.json").is_file():
            return None
        try:
            record = read_record(self._folder / f"{name}.json")
            data = read_plain_file(self._folder / f"{name}.safetensors", _LIMIT_BYTES)
            if hashlib.sha256(data).hexdigest() != record["sha256"]:
                return None
            return load(data), record["about"]
        except (CorruptFileError, KeyError, SafetensorError):
            return None

    def put(self, name: str, arrays: Arrays, about: Mapping[str, Any], seconds: float = math.inf) -> None:
        """Keep a piece of work if the seconds it took are worth a file.

        Args:
            name: fit for a file.
            arrays: arrays of any shape, also empty ones.
            about: plain values.
            seconds: that it took; infinite = it can't be made again as it was.
        """
        if self._folder is None or seconds < KEEP_FROM_S:
            return
        data = save({key: np.ascontiguousarray(values) for key, values in arrays.items()})
        write_bytes(self._folder / f"{name}.safetensors", data)
        record = {"sha256": hashlib.sha256(data).hexdigest(), "about": dict(about)}
        write_record(self._folder / f"{name}.json", record)


class KeptFeatures:
    """Features by molecule, see `features_of`; what is computed is kept twice a minute.

    Args:
        work: where the pieces lie.
        sets: the feature sets, in order; pieces of others are left alone.
    """

    def __init__(self, work: KeptWork, sets: Sequence[str]) -> None:
        self._work, self._sets = work, list(sets)
        self._known: dict[
            str, tuple[np.ndarray, np.ndarray, str]
        ] = {}  # SMILES → places and bits that are not 0, reason
        self._pieces, self._width = 0, 0
        while (found := work.get(self._name())) is not None and found[1]["sets"] == self._sets:
            self._take(*found)
            self._pieces += 1
        self._new: list[str] = []
        self._since = time.monotonic()

    def get(self, smiles: Sequence[str]) -> Features | None:
        """The features of these molecules, where all are kept."""
        if not all(text in self._known for text in smiles):
            return None
        bits_BF = np.zeros((len(smiles), self._width), np.uint32)
        refused = {}
        for row, text in enumerate(smiles):
            places, bits, reason = self._known[text]
            bits_BF[row, places] = bits
            refused.update({row: reason} if reason else {})
        return Features(bits_BF.view(np.float32), refused)

    def put(self, smiles: Sequence[str], part: Features) -> None:
        """Keep the features of these molecules."""
        bits_BF = np.ascontiguousarray(part.x_BF).view(np.uint32)  # as bits, so that -0.0 is no 0
        self._width = bits_BF.shape[1]
        for row, text in enumerate(smiles):
            places = np.flatnonzero(bits_BF[row]).astype(np.int32)
            self._known[text] = (places, bits_BF[row, places], part.refused.get(row, ""))
        self._new += smiles
        if time.monotonic() - self._since >= KEEP_EVERY_S:
            self.keep()

    def keep(self) -> None:
        """Write what is new."""
        if not self._new:
            return
        new = list(dict.fromkeys(self._new))
        places, bits, reasons = zip(*(self._known[text] for text in new), strict=True)
        arrays = {
            "counts": np.array([len(own) for own in places]),
            "places": np.concatenate(places),
            "bits": np.concatenate(bits),
        }
        refused = {text: reason for text, reason in zip(new, reasons, strict=True) if reason}
        about = {"sets": self._sets, "smiles": new, "width": self._width, "refused": refused}
        self._work.put(self._name(), arrays, about, time.monotonic() - self._since)
        self._pieces, self._new, self._since = self._pieces + 1, [], time.monotonic()

    def _name(self) -> str:
        return f"features-{self._pieces:04d}"

    def _take(self, arrays: Arrays, about: Mapping[str, Any]) -> None:
        ends = np.cumsum(arrays["counts"])[:-1]
        self._width = int(about["width"])
        rows = zip(about["smiles"], np.split(arrays["places"], ends), np.split(arrays["bits"], ends), strict=True)
        for text, places, bits in rows:
            self._known[text] = (places, bits, about["refused"].get(text, ""))


# The classical members of a blend: which features each looks at and how it is fitted, on one target at a time.
#
# Forests are scikit-learn's, boosting LightGBM's; only arrays of them are kept (`array_models.py`). The settings are
# ordinary ones and are not searched over: the blend weighs the members out of fold, so one that is bad on some data
# gets little weight there. What each looks at was compared out of fold (docs/results/features.md): further
# fingerprints help boosting, not the forests.


LIMIT_KERNEL_MOLECULES = 50_000  # of 9,000 the fits of all folds took 28 s; the time grows with the molecules
LIMIT_KERNEL_TARGETS = 6
LIMIT_BOOSTED_TARGETS = 30
LIMIT_FOREST_WORK = 3_000  # trees of a forest over all targets, but `SMALLEST_FOREST` for each at least
SMALLEST_FOREST = 10
LIMIT_BOOSTING_WORK = 10  # fits of the boosting over all targets, but one for each at least
_COMMON_COUNTS = 512
_RIDGE = (1.0, 10.0, 100.0, 1e3, 1e4)
_LOGISTIC = (1e-3, 1e-2, 1e-1)
_HELD_OUT = 0.2
ROUNDS = 200
_BINS = 63  # LightGBM's 255 take half as long again; errors out of fold were level (docs/results/features/settings.csv)
EVERY_SET = (EMBEDDING, DESCRIPTORS, COUNTS, *FURTHER)


@dataclass(frozen=True)
class FitOptions:
    """What all fits have in common.

    Attributes:
        threads: that a forest may use.
        trees: largest number of trees in a forest.
        balanced: both labels weigh the same, however rare one is; the Gaussian process knows no such weights.
        boosting_seeds: fits of the boosting that are averaged, at most.
    """

    threads: int = 1
    trees: int = 100
    balanced: bool = False
    boosting_seeds: int = 1


@dataclass(frozen=True)
class Training:
    """What a fit gets.

    Attributes:
        x_BF: features of the training molecules, all sets side by side.
        y_B: labels: scaled values, or 0 and 1.
        layout: which columns are which set.
        classes: whether the labels are 0 and 1.
        num_targets: number of targets of the whole table; many targets get smaller models.
        seed: random seed of this fit.
        options: threads, trees and weights of labels.
        identity_B: a number for each molecule; its rows are held out together. None = all rows are different ones.
        weight_B: weight of each label; None = 1. Members without chance in them, ridge regression and the Gaussian
            process, learn from a label of weight 2 what they learn from two rows.
    """

    x_BF: Float32[np.ndarray, "molecules features"]
    y_B: Float[np.ndarray, "molecules"]
    layout: Layout
    classes: bool
    num_targets: int
    seed: int
    options: FitOptions = FitOptions()
    identity_B: Int64[np.ndarray, "molecules"] | None = None
    weight_B: Weights = None

    @property
    def class_weight(self) -> dict[str, str]:
        """The setting of scikit-learn's classifiers; where labels have weights, `row_weights` has it in them."""
        return {"class_weight": "balanced"} if self.options.balanced and self.classes and self.weight_B is None else {}

    @property
    def row_weights(self) -> Weights:
        """`weight_B`, times the weight of the label's class where classes are to weigh the same."""
        if self.weight_B is None or not (self.options.balanced and self.classes):
            return self.weight_B
        total_K = np.bincount(self.y_B.astype(np.int64), self.weight_B, minlength=2)
        return np.asarray(self.weight_B * (total_K.sum() / (2 * total_K))[self.y_B.astype(np.int64)])


def fit_member(name: str, training: Training) -> ArrayModel:
    """Fit the classical member `name` on one target; a target with one label value becomes a constant."""
    fit = look_up(MEMBERS, name, "classical member")
    if len(training.y_B) == 0 or np.ptp(training.y_B) == 0:
        return constant(float(training.y_B[0]) if len(training.y_B) else 0.5 if training.classes else 0.0)
    return fit(training)


def trees_of(options: FitOptions, targets: int) -> int:
    """Number of trees of a forest for each of `num_targets` targets."""
    return min(options.trees, max(SMALLEST_FOREST, LIMIT_FOREST_WORK // targets))


def seeds_of(options: FitOptions, targets: int) -> int:
    """Number of boosting fits that are averaged for each of `num_targets` targets."""
    return max(1, min(options.boosting_seeds, LIMIT_BOOSTING_WORK // targets))


def is_forest(name: str) -> bool:
    """Whether a member is a mean over trees, of which fewer do nearly as well."""
    return name.startswith("forest")


def suits(name: str, molecules: int, targets: int) -> bool:
    """Whether a member can be fitted on this number of molecules and targets in reasonable time."""
    if name == "gaussian_process":
        return molecules <= LIMIT_KERNEL_MOLECULES and targets <= LIMIT_KERNEL_TARGETS
    return name != "boosting" or targets <= LIMIT_BOOSTED_TARGETS


def forest_on(sets: tuple[str, ...], kind: str) -> Callable[[Training], Trees]:
    """The fit of a forest, `random` or of `extra`mely randomised trees, that looks at some feature sets."""
    classes: dict[tuple[str, bool], Any] = {
        ("random", False): RandomForestRegressor,
        ("random", True): RandomForestClassifier,
        ("extra", False): ExtraTreesRegressor,
        ("extra", True): ExtraTreesClassifier,
    }

    def fit(training: Training) -> Trees:
        columns = _informative(training, sets)
        forest = classes[kind, training.classes](
            trees_of(training.options, training.num_targets),
            max_features="sqrt" if training.classes else 0.3,
            min_samples_leaf=1 + len(training.y_B) // 10_000,
            n_jobs=training.options.threads,
            random_state=training.seed % 2**32,
            **training.class_weight,
        )
        forest.fit(training.x_BF[:, columns], training.y_B, sample_weight=training.row_weights)
        return from_forest(forest, columns, classes=training.classes)

    return fit


def boosting(training: Training, changes: Mapping[str, Any] = {}, rounds: int = ROUNDS) -> Trees:
    """Gradient boosting by LightGBM (Ke et al., NeurIPS 2017), the mean over seeds.

    Of classes the mean is that of their log-odds. The loss is squared even where the absolute error is asked for: the
    absolute loss had the larger absolute error out of fold (docs/results/features.md).

    Args:
        training: what a fit gets.
        changes: changes of LightGBM's parameters.
        rounds: trees of each seed.
    """
    import lightgbm  # a slow import that no prediction needs

    columns = _informative(training, EVERY_SET, most=_COMMON_COUNTS)
    settings = {
        "objective": "binary" if training.classes else "regression",
        "learning_rate": 0.06,
        "num_leaves": 16,
        "lambda_l2": 1.0,
        "max_bin": _BINS,
        "min_data_in_leaf": min(20, max(2, len(training.y_B) // 20)),
        "feature_fraction": 0.3,
        "is_unbalance": bool(training.class_weight),
        "num_threads": 1,  # OpenMP threads on busy cores wait for each other, see `set_threads`
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
        **changes,
    }
    x_BS = np.ascontiguousarray(training.x_BF[:, columns])
    seeds = seeds_of(training.options, training.num_targets)
    fitted = []
    for number in range(seeds):
        own = {**settings, "seed": derive_seed(training.seed, "boosting", number) % 2**31}
        table = lightgbm.Dataset(x_BS, training.y_B, weight=training.row_weights, params=own)
        booster = lightgbm.train(own, table, num_boost_round=rounds)
        fitted.append(from_lightgbm(booster.model_to_string(), columns))
    return mean_of(fitted)


def _linear(training: Training) -> Linear:
    columns = _informative(training, (EMBEDDING, DESCRIPTORS, COUNTS), most=_COMMON_COUNTS)
    scaling = Scaling.fit(training.x_BF[:, columns], training.weight_B)
    scaling = Scaling(columns[scaling.columns_S], scaling.mean_S, scaling.std_S)
    if not len(scaling.columns_S):  # molecules that are all alike, such as rows of a single one
        return constant(float(np.average(training.y_B, weights=training.row_weights)))
    z_BS, y_B = scaling.apply(training.x_BF).astype(np.float64), training.y_B
    groups = rows_of_molecules(range(len(y_B)) if training.identity_B is None else training.identity_B.tolist())
    order = np.random.default_rng(training.seed).permutation(len(groups))
    cut = max(1, int(_HELD_OUT * len(groups)))
    held_out, kept = (np.array([row for place in own for row in groups[place]]) for own in (order[:cut], order[cut:]))
    grid: tuple[float, ...] = _LOGISTIC if training.classes else _RIDGE
    logistic, row_weights = partial(_logistic, class_weight=training.class_weight), training.row_weights
    solve, loss = (logistic, _log_loss) if training.classes else (_ridge, _squared_error)
    if len(groups) < 2 or (training.classes and min(len(np.unique(y_B[rows])) for rows in (held_out, kept)) < 2):
        grid = grid[1:2]
    if len(grid) > 1:
        of_held_out, of_kept = (None if row_weights is None else row_weights[rows] for rows in (held_out, kept))
        losses = [
            loss(y_B[held_out], *solve(z_BS[kept], y_B[kept], strength, of_kept), z_BS[held_out], of_held_out)
            for strength in grid
        ]
        grid = (grid[int(np.argmin(losses))],)
    weights_S, intercept = solve(z_BS, y_B, grid[0], row_weights)
    return Linear(scaling, weights_S, intercept, "logit" if training.classes else "identity")


def _ridge(z_BS: np.ndarray, y_B: np.ndarray, strength: float, weight_B: Weights) -> tuple[np.ndarray, float]:
    """Weights that minimise the squared error plus `strength` times their square, by the smaller of both systems."""
    mean_S, mean = np.average(z_BS, axis=0, weights=weight_B), float(np.average(y_B, weights=weight_B))
    centred_BS, rest_B = z_BS - mean_S, y_B - mean
    if weight_B is not None:  # the weighted squared error is the plain one of rows times the roots of their weights
        centred_BS, rest_B = np.sqrt(weight_B)[:, None] * centred_BS, np.sqrt(weight_B) * rest_B
    if len(y_B) < z_BS.shape[1]:
        gram = centred_BS @ centred_BS.T + strength * np.eye(len(y_B))
        weights_S = centred_BS.T @ np.linalg.solve(gram, rest_B)
    else:
        gram = centred_BS.T @ centred_BS + strength * np.eye(z_BS.shape[1])
        weights_S = np.linalg.solve(gram, centred_BS.T @ rest_B)
    return weights_S, mean - float(mean_S @ weights_S)


def _logistic(
    z_BS: np.ndarray, y_B: np.ndarray, strength: float, weight_B: Weights, *, class_weight: Mapping[str, str]
) -> tuple[np.ndarray, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred steps are near enough for a member of a blend
        model = LogisticRegression(C=strength, max_iter=100, tol=1e-3, **class_weight).fit(z_BS, y_B, weight_B)
    return model.coef_[0], float(model.intercept_[0])


def _squared_error(
    y_B: np.ndarray, weights_S: np.ndarray, intercept: float, z_BS: np.ndarray, weight_B: Weights
) -> float:
    return float(np.average((z_BS @ weights_S + intercept - y_B) ** 2, weights=weight_B))


def _log_loss(y_B: np.ndarray, weights_S: np.ndarray, intercept: float, z_BS: np.ndarray, weight_B: Weights) -> float:
    outputs_B = z_BS @ weights_S + intercept
    return float(np.average(np.logaddexp(0, outputs_B) - y_B * outputs_B, weights=weight_B))


def _gaussian_process(training: Training) -> Kernel:
    others = np.concatenate([training.layout.seen(EMBEDDING), training.layout.seen(DESCRIPTORS)])
    counts = training.layout.columns(COUNTS)
    seed = derive_seed(training.seed, "kernel")
    return fit_kernel(
        training.x_BF, training.y_B, counts, others,
        classes=training.classes, seed=seed, weight_B=training.weight_B,
    )  # fmt: skip


def _informative(training: Training, sets: tuple[str, ...], most: int = 1024) -> np.ndarray:
    """Columns of the feature sets that there are; of counts the `most` frequent of a set that three molecules have."""
    found = [training.layout.seen(name) for name in sets]
    for place, name in enumerate(sets):
        if name in COUNT_SETS:
            have = weighted_count(training.x_BF[:, found[place]] > 0, training.weight_B)
            frequent = np.argsort(-have, kind="stable")[:most]
            found[place] = np.sort(found[place][frequent[have[frequent] >= min(3, len(training.y_B))]])
    columns = np.concatenate(found)
    return columns if len(columns) else training.layout.columns(COUNTS)


# In the order in which a time limit keeps them.
MEMBERS: Mapping[str, Callable[[Training], ArrayModel]] = {
    "ridge": _linear,
    "forest_descriptors": forest_on((EMBEDDING, DESCRIPTORS), "extra"),
    "gaussian_process": _gaussian_process,
    "boosting": boosting,
    "forest_counts": forest_on((COUNTS,), "random"),
    "forest": forest_on((EMBEDDING, DESCRIPTORS, COUNTS), "extra"),
}


# Classical members on one partition: predictions out of fold, and the same models fitted on all development molecules.
#
# Development molecules are those of the training and the validation part; no test label is looked at.


Array = Float[np.ndarray, "molecules targets"]
FEWEST_FOLDS, FEWEST_TREES = 2, 30  # a forest of fewer trees is a weak member
_FINAL_COST = 1.3  # a fit on all folds against one on all but one
_PILOT_ROWS, _PILOT_TARGETS = 400, 4
_GROWTH, _GROWTH_OF = 1.2, {"boosting": 0.8}
"""Power of the number of molecules that the time of a fit grows with; boosting looks at bins, whose number is fixed."""


@dataclass(frozen=True)
class FoldData:
    """What the fits of a partition share.

    Attributes:
        x_BF: features of all molecules; rows that have none are never asked for.
        place_B: row of `x_BF` of each molecule, -1 where there is none.
        targets_BC: labels in raw units that members are fitted to; NaN = missing.
        judged_BC: labels that members are judged by, see `judged_labels`.
        targets: scale and kind, from the development molecules.
        layout: columns of `x_BF`.
        rows: development molecules with features.
        folds: the fold of each of `rows`.
        num_folds: number of folds.
        seed: random seed of the fits.
        options: settings of the fits.
        identity_B: a number for each molecule, the same for all its rows.
        weight_B: weights of all molecules, see `LabelledMolecules`.
    """

    x_BF: Float32[np.ndarray, "known features"]
    place_B: Int64[np.ndarray, "molecules"]
    targets_BC: Array
    judged_BC: Array
    targets: tuple[Target, ...]
    layout: Layout
    rows: Int64[np.ndarray, "rows"]
    folds: Int64[np.ndarray, "rows"]
    num_folds: int
    seed: int
    options: FitOptions
    identity_B: Int64[np.ndarray, "molecules"]
    weight_B: Weights = None

    def weights_of(self, rows: np.ndarray) -> Weights:
        """Of some molecules."""
        return None if self.weight_B is None else self.weight_B[rows]

    def known(self, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` that have features."""
        found: np.ndarray = rows[self.place_B[rows] >= 0]
        return found

    def features(self, rows: np.ndarray) -> Float32[np.ndarray, "rows features"]:
        """Of molecules that have them."""
        found: np.ndarray = self.x_BF[self.place_B[rows]]
        return found

    def fit(
        self, name: str, rows: np.ndarray, fold: int, columns: Sequence[int] | None = None
    ) -> tuple[ArrayModel, ...]:
        """One model per target, or for those of `columns`, on the labelled ones of `rows`."""
        models = []
        for column in range(len(self.targets)) if columns is None else columns:
            target = self.targets[column]
            labels_B = self.targets_BC[rows, column]
            known = rows[~np.isnan(labels_B)]
            labels_B = target.scaled(self.targets_BC[known, column])
            seed = derive_seed(self.seed, f"classical {name}", fold, column)
            classes = target.kind != "regression"
            x_BF, count = self.features(known), len(self.targets)
            own, weight_B = self.identity_B[known], self.weights_of(known)
            training = Training(x_BF, labels_B, self.layout, classes, count, seed, self.options, own, weight_B)
            models.append(fit_member(name, training))
        return tuple(models)

    def predict(self, models: Sequence[ArrayModel], rows: np.ndarray) -> Array:
        """Predictions for `rows` in raw units."""
        x_BF = self.features(rows)
        columns = [target.raw(model.predict(x_BF)) for model, target in zip(models, self.targets, strict=True)]
        return np.stack(columns, axis=1)


@dataclass
class ClassicalFits:
    """What came of the classical members.

    Attributes:
        out_of_fold: per member predictions for all molecules, NaN where there is none.
        seconds: per member.
        models: per member one per target, fitted on all development molecules with features.
        folds: that were used.
        dropped: why members or folds were left out, in words.
    """

    out_of_fold: dict[str, Array] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    models: dict[str, tuple[ArrayModel, ...]] = field(default_factory=dict)
    folds: int = 0
    dropped: list[str] = field(default_factory=list)


def fit_classical(data: FoldData, names: Sequence[str], budget_s: float, kept: KeptWork) -> ClassicalFits:
    """Fit the members out of fold and on everything, within a budget.

    The first member is always fitted. Before every other one a pilot on few molecules says what it would cost; of a
    forest that does not fit into what is left fewer trees are grown, any other member is dropped.

    Args:
        data: data of the partition.
        names: names of the members, the most important first.
        budget_s: seconds; infinite = no limit.
        kept: fits of an earlier call that was stopped.
    """
    found, started = ClassicalFits(folds=data.num_folds), time.monotonic()
    for name in names:
        if not suits(name, len(data.rows), len(data.targets)):
            found.dropped.append(f"{name}: not for {len(data.rows)} molecules and {len(data.targets)} targets")
            continue
        own, left = data, budget_s - (time.monotonic() - started)
        if found.models and left <= 0:
            found.dropped.append(f"{name}: time limit")
            continue
        if np.isfinite(budget_s):
            cost = _pilot(data, name)
            if not found.models:
                affordable = int(left / max(cost, 1e-3) - _FINAL_COST)
                found.folds = max(min(FEWEST_FOLDS, data.num_folds), min(data.num_folds, affordable))
                if found.folds < data.num_folds:
                    found.dropped.append(f"{data.num_folds - found.folds} of {data.num_folds} folds: time limit")
            elif (whole := cost * (found.folds + _FINAL_COST)) > left:
                asked = trees_of(data.options, len(data.targets))
                trees = int(asked * left / whole)
                if not is_forest(name) or trees < FEWEST_TREES:
                    found.dropped.append(f"{name}: {whole:.0f} s, time limit")
                    continue
                found.dropped.append(f"{asked - trees} of {asked} trees of {name}: time limit")
                own = replace(data, options=replace(data.options, trees=trees))
        begun = time.monotonic()
        progress = Progress(f"classical member {name}", unit="fit", total=found.folds + 1)
        found.out_of_fold[name] = _out_of_fold(own, name, found.folds, kept, progress)
        found.models[name] = _on_all(own, name, kept)
        progress.close(say=False)
        found.seconds[name] = time.monotonic() - begun
        LOGGER.info(f"classical member {name}: {found.seconds[name]:.1f} s")
    return found


def _pilot(data: FoldData, name: str) -> float:
    """Seconds that a fit on one fold's training molecules would take, from a few molecules and targets."""
    few = data.rows[:: math.ceil(len(data.rows) / _PILOT_ROWS)]
    columns = range(0, len(data.targets), math.ceil(len(data.targets) / _PILOT_TARGETS))
    started = time.monotonic()
    data.fit(name, few, data.num_folds, columns)
    seconds = (time.monotonic() - started) * len(data.targets) / len(columns)
    return float(seconds * max(1.0, len(data.rows) / len(few)) ** _GROWTH_OF.get(name, _GROWTH))


def _out_of_fold(data: FoldData, name: str, folds: int, kept: KeptWork, progress: Progress) -> Array:
    found_BC = np.full(data.targets_BC.shape, np.nan)
    for fold in range(folds):
        inside = data.rows[data.folds == fold]
        piece, started = _piece(data, name, fold), time.monotonic()
        found = kept.get(piece)
        if found is None:
            models = data.fit(name, data.rows[data.folds != fold], fold)
            found_BC[inside] = data.predict(models, inside)
            kept.put(piece, {"values": found_BC[inside]}, {}, time.monotonic() - started)
        else:
            found_BC[inside] = found[0]["values"]
        progress.advance()
    return found_BC


def _on_all(data: FoldData, name: str, kept: KeptWork) -> tuple[ArrayModel, ...]:
    """The models of all development molecules."""
    piece, started = _piece(data, name, data.num_folds), time.monotonic()
    found = kept.get(piece)
    if found is not None:
        return stored_models(*found, data.layout.width)
    models = data.fit(name, data.rows, data.num_folds)
    kept.put(piece, *models_to_store(models), time.monotonic() - started)
    return models


def _piece(data: FoldData, name: str, fold: int) -> str:
    """The name of a fit: what it learns from is in it, since a time limit may draw other molecules."""
    digest = hashlib.sha256(repr(asdict(data.options)).encode())
    for array in (data.rows, data.folds, data.targets_BC[data.rows], data.weights_of(data.rows)):
        if array is not None:
            digest.update(np.ascontiguousarray(array).tobytes())
    return f"{name}-{fold}-{digest.hexdigest()[:16]}"


def with_smaller_forests(
    members: Sequence[Sequence[ArrayModel]], limit: int
) -> tuple[list[tuple[ArrayModel, ...]], int]:
    """The members with fewer trees where the forests would take more than `limit` bytes, and the trees left out.

    A forest is a mean over trees that are alike, so fewer of them change a prediction little: its error grows with one
    over their number. All forests lose the same share, but each keeps `SMALLEST_FOREST` of them, whatever they take.
    Boosted trees correct each other and stay; so do all members that are not forests.
    """
    forests = [model for models in members for model in models if _is_mean_of_trees(model)]
    share = limit / max(1, sum(model.num_bytes for model in forests))
    if share >= 1:
        return [tuple(models) for models in members], 0
    kept = [tuple(_with_share(model, share) for model in models) for models in members]
    return kept, sum(model.num_trees for model in forests) - sum(
        model.num_trees for models in kept for model in models if _is_mean_of_trees(model)
    )


def _is_mean_of_trees(model: ArrayModel) -> TypeGuard[Trees]:
    return isinstance(model, Trees) and model.is_mean


def _with_share(model: ArrayModel, share: float) -> ArrayModel:
    """A forest with this share of its trees; another model as it is."""
    if not _is_mean_of_trees(model):
        return model
    return model.first(min(model.num_trees, max(SMALLEST_FOREST, int(share * model.num_trees))))
