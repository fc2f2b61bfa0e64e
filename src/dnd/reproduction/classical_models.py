"""The classical models of the tables: random forests and gradient boosting on fingerprints and descriptors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from dnd.common.config import look_up
from dnd.finetuning.baselines import fit_forests

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
