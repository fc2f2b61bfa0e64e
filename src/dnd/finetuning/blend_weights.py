r"""How much each member of a blend counts: weights that are not negative and sum to 1, fitted out of fold.

.. math:: w^* = \arg\min_{w \in \Delta} \frac1n \sum_i \ell\Big(y_i, \sum_m w_m \hat y_{mi}\Big)
          + \frac{\lambda}{n} \lVert w - w_0 \rVert^2

Source: stacking with weights that are not negative (Breiman, Machine Learning 24 (1996) 49), with a pull to w₀ that few
molecules don't overcome: to equal shares for all targets of a kind together, and from there for each target. Each
prediction must come from a member that never saw the molecule.

Legend: M members, N molecules, C targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from dnd.finetuning.metrics import TaskKind

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
