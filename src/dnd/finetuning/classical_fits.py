"""The classical members of a blend: which features each looks at and how it is fitted, on one target at a time.

Trees are scikit-learn's; what is kept of them are arrays (`tree_arrays.py`). The settings are ordinary ones and are not
searched over: the blend weighs the members out of fold, so one that is bad on some data gets little weight there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from dnd.common.registry import look_up
from dnd.common.seeds import derive_seed
from dnd.finetuning.blend import ArrayModel
from dnd.finetuning.classical_features import COUNTS, DESCRIPTORS, EMBEDDING, Layout
from dnd.finetuning.kernel_arrays import Kernel, fit_kernel
from dnd.finetuning.linear_arrays import Linear, Scaling, constant
from dnd.finetuning.tree_arrays import Trees, from_boosting, from_forest

LIMIT_KERNEL_MOLECULES = 2_000  # a Cholesky factor of so many takes half a second
LIMIT_KERNEL_TARGETS = 6
LIMIT_BOOSTED_TARGETS = 30
LIMIT_FOREST_WORK = 3_000  # trees of a forest over all targets
_COMMON_COUNTS = 512
_RIDGE = (1.0, 10.0, 100.0, 1e3, 1e4)
_LOGISTIC = (1e-3, 1e-2, 1e-1)
_HELD_OUT = 0.2


@dataclass(frozen=True)
class FitOptions:
    """What all fits have in common.

    Attributes:
        threads: that a forest may use.
        trees: of a forest, at most.
        balanced: both labels weigh the same, however rare one is; the Gaussian process knows no such weights.
    """

    threads: int = 1
    trees: int = 300
    balanced: bool = False


@dataclass(frozen=True)
class Training:
    """What a fit gets.

    Attributes:
        x_NF: features of the training molecules, all sets side by side.
        y_N: labels: scaled values, or 0 and 1.
        layout: which columns are which set.
        classes: whether the labels are 0 and 1.
        num_targets: of the whole table; many targets get smaller models.
        seed: of this fit.
        options: threads, trees and weights of labels.
    """

    x_NF: Float32[np.ndarray, "molecules features"]
    y_N: Float[np.ndarray, "molecules"]
    layout: Layout
    classes: bool
    num_targets: int
    seed: int
    options: FitOptions = FitOptions()

    @property
    def class_weight(self) -> dict[str, str]:
        """The setting of scikit-learn's classifiers."""
        return {"class_weight": "balanced"} if self.options.balanced and self.classes else {}


def fit_member(name: str, training: Training) -> ArrayModel:
    """Fit the classical member `name` on one target; a target with one label value becomes a constant."""
    fit = look_up(MEMBERS, name, "classical member")
    if len(training.y_N) == 0 or np.ptp(training.y_N) == 0:
        return constant(float(training.y_N[0]) if len(training.y_N) else 0.5 if training.classes else 0.0)
    return fit(training)


def trees_of(options: FitOptions, targets: int) -> int:
    """Trees of a forest for each of so many targets."""
    return max(10, min(options.trees, LIMIT_FOREST_WORK // targets))


def is_forest(name: str) -> bool:
    """Whether a member is a mean over trees, of which fewer do nearly as well."""
    return name.startswith("forest")


def suits(name: str, molecules: int, targets: int) -> bool:
    """Whether a member can be fitted on so many molecules and targets in sensible time."""
    if name == "gaussian_process":
        return molecules <= LIMIT_KERNEL_MOLECULES and targets <= LIMIT_KERNEL_TARGETS
    return name != "boosting" or targets <= LIMIT_BOOSTED_TARGETS


def _forest(sets: tuple[str, ...], kind: str) -> Callable[[Training], Trees]:
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
            min_samples_leaf=1 + len(training.y_N) // 10_000,
            n_jobs=training.options.threads,
            random_state=training.seed % 2**32,
            **training.class_weight,
        )
        forest.fit(training.x_NF[:, columns], training.y_N)
        return from_forest(forest, columns, classes=training.classes)

    return fit


def _boosting(training: Training) -> Trees:
    columns = _informative(training, (EMBEDDING, DESCRIPTORS, COUNTS), most=_COMMON_COUNTS)
    settings: dict[str, Any] = {
        "max_iter": 200,
        "learning_rate": 0.06,
        "max_leaf_nodes": 16,
        "min_samples_leaf": min(20, max(2, len(training.y_N) // 20)),
        "l2_regularization": 1.0,
        "max_features": 0.3,
        "early_stopping": False,
        "random_state": training.seed % 2**32,
        **training.class_weight,
    }
    kind: Any = HistGradientBoostingClassifier if training.classes else HistGradientBoostingRegressor
    with threadpool_limits(1, "openmp"):  # OpenMP threads on busy cores wait for each other, see `set_threads`
        model = kind(**settings).fit(training.x_NF[:, columns], training.y_N)
    return from_boosting(model, columns, classes=training.classes)


def _linear(training: Training) -> Linear:
    columns = _informative(training, (EMBEDDING, DESCRIPTORS, COUNTS), most=_COMMON_COUNTS)
    scaling = Scaling.fit(training.x_NF[:, columns])
    scaling = Scaling(columns[scaling.columns_K], scaling.mean_K, scaling.std_K)
    z_NK, y_N = scaling.apply(training.x_NF).astype(np.float64), training.y_N
    order = np.random.default_rng(training.seed).permutation(len(y_N))
    held_out, kept = np.split(order, [max(1, int(_HELD_OUT * len(y_N)))])
    grid: tuple[float, ...] = _LOGISTIC if training.classes else _RIDGE
    logistic = partial(_logistic, class_weight=training.class_weight)
    solve, loss = (logistic, _log_loss) if training.classes else (_ridge, _squared_error)
    if training.classes and min(len(np.unique(y_N[rows])) for rows in (held_out, kept)) < 2:
        grid = grid[1:2]
    if len(grid) > 1:
        losses = [loss(y_N[held_out], *solve(z_NK[kept], y_N[kept], strength), z_NK[held_out]) for strength in grid]
        grid = (grid[int(np.argmin(losses))],)
    weights_K, intercept = solve(z_NK, y_N, grid[0])
    return Linear(scaling, weights_K, intercept, "logit" if training.classes else "identity")


def _ridge(z_NK: np.ndarray, y_N: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Weights that minimise the squared error plus `strength` times their square, by the smaller of both systems."""
    mean_K, mean = z_NK.mean(axis=0), float(y_N.mean())
    centred_NK, rest_N = z_NK - mean_K, y_N - mean
    if len(y_N) < z_NK.shape[1]:
        gram = centred_NK @ centred_NK.T + strength * np.eye(len(y_N))
        weights_K = centred_NK.T @ np.linalg.solve(gram, rest_N)
    else:
        gram = centred_NK.T @ centred_NK + strength * np.eye(z_NK.shape[1])
        weights_K = np.linalg.solve(gram, centred_NK.T @ rest_N)
    return weights_K, mean - float(mean_K @ weights_K)


def _logistic(
    z_NK: np.ndarray, y_N: np.ndarray, strength: float, *, class_weight: Mapping[str, str]
) -> tuple[np.ndarray, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred steps are near enough for a member of a blend
        model = LogisticRegression(C=strength, max_iter=100, tol=1e-3, **class_weight).fit(z_NK, y_N)
    return model.coef_[0], float(model.intercept_[0])


def _squared_error(y_N: np.ndarray, weights_K: np.ndarray, intercept: float, z_NK: np.ndarray) -> float:
    return float(((z_NK @ weights_K + intercept - y_N) ** 2).mean())


def _log_loss(y_N: np.ndarray, weights_K: np.ndarray, intercept: float, z_NK: np.ndarray) -> float:
    outputs_N = z_NK @ weights_K + intercept
    return float((np.logaddexp(0, outputs_N) - y_N * outputs_N).mean())


def _gaussian_process(training: Training) -> Kernel:
    others = np.concatenate([training.layout.columns(EMBEDDING), training.layout.columns(DESCRIPTORS)])
    counts = training.layout.columns(COUNTS)
    return fit_kernel(
        training.x_NF, training.y_N, counts, others, classes=training.classes, seed=derive_seed(training.seed, "kernel")
    )


def _informative(training: Training, sets: tuple[str, ...], most: int = 1024) -> np.ndarray:
    """Columns of the feature sets; of the counts only the `most` frequent ones that three molecules or more have."""
    found = [training.layout.columns(name) for name in sets if name != COUNTS]
    if COUNTS in sets:
        counts = training.layout.columns(COUNTS)
        have = (training.x_NF[:, counts] > 0).sum(axis=0)
        frequent = np.argsort(-have, kind="stable")[:most]
        found.append(np.sort(counts[frequent[have[frequent] >= min(3, len(training.y_N))]]))
    columns = np.concatenate(found)
    return columns if len(columns) else training.layout.columns(COUNTS)


# In the order in which a time limit keeps them.
MEMBERS: Mapping[str, Callable[[Training], ArrayModel]] = {
    "ridge": _linear,
    "forest_descriptors": _forest((EMBEDDING, DESCRIPTORS), "extra"),
    "gaussian_process": _gaussian_process,
    "boosting": _boosting,
    "forest_counts": _forest((COUNTS,), "random"),
    "forest": _forest((EMBEDDING, DESCRIPTORS, COUNTS), "extra"),
}
