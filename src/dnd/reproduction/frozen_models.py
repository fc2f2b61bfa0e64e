"""Models beside finetuning: on the frozen representation of an encoder, and the classical ones on fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from dnd.common.config import look_up
from dnd.finetuning.evaluation import fit_forests, mean_prediction
from dnd.reproduction.results import ENCODER, Work

# The classical models of the tables: random forests and gradient boosting on fingerprints and descriptors.

MOST_BOOSTED_TARGETS = 12  # a booster per target: with hundreds it would outlast all networks of the table
_FEATURES = {
    "rf-counts": ("counts",),
    "rf-descriptors": ("descriptors",),
    "rf-both": ("counts", "descriptors"),
    "gb-both": ("counts", "descriptors"),
}


def predict(
    name: str,
    features: Mapping[str, np.ndarray],
    targets_BC: Float[np.ndarray, "molecules targets"],
    train: np.ndarray,
    task: Literal["regression", "classification"],
    seed: int,
) -> tuple[Float[np.ndarray, "molecules targets"], dict[str, object]]:
    """Fit on the rows `train` and predict all rows.

    Args:
        name: one of `systems.CLASSICAL`.
        features: `counts` and `descriptors`, a row per molecule.
        targets_BC: labels; NaN = missing.
        train: rows of the training part.
        task: task of the targets; for classes the prediction is the probability of class 1.
        seed: random seed of the model.

    Returns:
        Predictions, and what was fitted.
    """
    chosen_BF = np.hstack([features[part].astype(np.float32) for part in look_up(_FEATURES, name, "classical model")])
    if name.startswith("rf-"):
        fitted = fit_forests(chosen_BF, targets_BC, train, task, seed)
        return fitted.predictions_BC, fitted.settings
    predictions_BC = np.tile(np.nan_to_num(np.nanmean(targets_BC[train], axis=0)), (len(targets_BC), 1))
    for column, target_B in enumerate(targets_BC.T):
        known = train[~np.isnan(target_B[train])]
        if len(np.unique(target_B[known])) < 2:
            continue
        if task == "regression":
            model = HistGradientBoostingRegressor(random_state=seed).fit(chosen_BF[known], target_B[known])
            predictions_BC[:, column] = model.predict(chosen_BF)
        else:
            classifier = HistGradientBoostingClassifier(random_state=seed).fit(chosen_BF[known], target_B[known])
            predictions_BC[:, column] = classifier.predict_proba(chosen_BF)[:, 1]
    return predictions_BC, {"boosting": "histogram, scikit-learn defaults", "training_molecules": len(train)}


Task = Literal["regression", "classification"]
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

BESIDE = "+descriptors"
"""End of the name of a model that has RDKit's descriptors beside the representation."""

_RIDGE_ALPHAS = np.logspace(-1, 5, 13)
_GP_MOLECULES = 1500  # an exact process takes time with the cube of its molecules: 1,500 are a minute of one core


def frozen_features(work: Work, smiles: list[str]) -> Float[np.ndarray, "molecules features"]:
    """Features of the molecules as the cell's settings want them; NaN rows where there is no molecule.

    The control `neither` has a representation of random weights, and beside descriptors nothing but these: whether a
    representation adds to descriptors is the question there.
    """
    beside, taught = work.settings["model"].endswith(BESIDE), bool(work.needs)
    parts = []
    if taught or not beside:
        parts.append(_representation(work, smiles))
    if beside:
        parts.append(_descriptors(smiles))
    return np.hstack(parts)


def _representation(work: Work, smiles: list[str]) -> np.ndarray:
    import torch

    from dnd.common.compute import derive_seed
    from dnd.common.config import from_dict
    from dnd.models.students.base import StudentConfig
    from dnd.models.students.encoders import build_student
    from dnd.prediction.embedder import Embedder

    made = [folder / ENCODER for folder in work.needs.values()]
    if made:
        return Embedder.load(made[0], device="cpu").embed(smiles)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(work.settings["seed"], "random encoder"))
        student = build_student(from_dict(StudentConfig, work.settings["student"])).eval()
    return Embedder(student, work.settings["hydrogens"], device="cpu").embed(smiles)


def _descriptors(smiles: list[str]) -> np.ndarray:
    from dnd.chemistry.molecule import Molecule
    from dnd.chemistry.parse import parse_smiles
    from dnd.predictor.classical.features import descriptors_2d

    outcomes = [parse_smiles(text) for text in smiles]
    places = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, Molecule)]
    found = descriptors_2d([outcome.mol for outcome in outcomes if isinstance(outcome, Molecule)])
    values_BF = np.full((len(smiles), found.shape[1]), np.nan, dtype=np.float32)
    values_BF[places] = found
    return values_BF


def predict_frozen(
    model: str,
    features_BF: Float[np.ndarray, "molecules features"],
    targets_BC: Float[np.ndarray, "molecules targets"],
    train: np.ndarray,
    task: Task,
    seed: int,
) -> Float[np.ndarray, "molecules targets"]:
    """Fit on the rows `train` and predict all rows; of classes a score that grows with the chance of class 1.

    Args:
        model: `ridge`, `gp` or `forest`, with or without `+descriptors`.
        features_BF: features of all molecules, finite.
        targets_BC: labels; NaN = missing.
        train: rows of the training part.
        task: task of the targets.
        seed: random seed of the model.
    """
    name = model.removesuffix(BESIDE)
    if name == "forest":
        return fit_forests(features_BF, targets_BC, train, task, seed).predictions_BC
    fit = look_up(_FITS, name, "frozen model")(seed)
    scaled_BF = _scaled(features_BF, train)
    predictions_BC = mean_prediction(targets_BC, train)
    for column, target_B in enumerate(targets_BC.T):
        known = train[~np.isnan(target_B[train])]
        if len(np.unique(target_B[known])) > 1:
            predictions_BC[:, column] = fit(scaled_BF[known], target_B[known], scaled_BF)
    return predictions_BC


def _scaled(features_BF: np.ndarray, train: np.ndarray) -> np.ndarray:
    """In training deviations and cut off at five, without columns that never vary."""
    from dnd.predictor.classical.array_models import Scaling

    return Scaling.fit(features_BF[train]).apply(features_BF).astype(np.float64)


def _ridge(seed: int) -> Fit:
    """Ridge regression whose strength leaving out one molecule at a time decides; it draws nothing."""
    from sklearn.linear_model import RidgeCV

    return lambda x_train, y_train, x_all: RidgeCV(_RIDGE_ALPHAS).fit(x_train, y_train).predict(x_all)


def _process(seed: int) -> Fit:
    """A Gaussian process with one length scale and noise, by likelihood, on at most 1,500 molecules drawn."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    def fit(x_train: np.ndarray, y_train: np.ndarray, x_all: np.ndarray) -> np.ndarray:
        drawn = np.random.default_rng(seed).permutation(len(x_train))[:_GP_MOLECULES]
        width = float(x_train.shape[1])
        kernel = ConstantKernel(1.0, (1e-2, 1e3)) * RBF(width**0.5, (0.1 * width**0.5, 100 * width**0.5))
        process = GaussianProcessRegressor(kernel + WhiteKernel(0.1, (1e-4, 1e1)), normalize_y=True, random_state=seed)
        found: np.ndarray = process.fit(x_train[drawn], y_train[drawn]).predict(x_all)
        return found

    return fit


_FITS: Mapping[str, Callable[[int], Fit]] = {"ridge": _ridge, "gp": _process}
FROZEN_MODELS = tuple(f"{name}{end}" for name in (*_FITS, "forest") for end in ("", BESIDE))
