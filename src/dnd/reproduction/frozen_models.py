"""Models on the frozen representation of an encoder, alone or beside descriptors: what it knows without finetuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float

from dnd.common.config import look_up
from dnd.finetuning.baselines import fit_forests, mean_prediction
from dnd.reproduction.results import ENCODER, Work

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

    from dnd.common.config import from_dict
    from dnd.common.randomness import derive_seed
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
    from dnd.predictor.classical.gaussian_process import Scaling

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
