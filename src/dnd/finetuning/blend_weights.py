r"""How much each member of a blend counts: weights that are not negative and sum to 1, fitted out of fold.

.. math:: w^* = \arg\min_{w \in \Delta} \frac1n \sum_i \ell\Big(y_i, \sum_m w_m \hat y_{mi}\Big)
          + \frac{\lambda}{n} \lVert w - w_0 \rVert^2

Source: stacking with weights that are not negative (Breiman, Machine Learning 24 (1996) 49), with a pull to w₀ that
few molecules don't overcome: to equal shares for all targets of a kind together, and from there for each target. Each
prediction must come from a member that never saw the molecule. The loss is the squared error or the log loss; the
absolute error where the mean absolute error is asked for. A rank metric has no slope: from the weights of the loss,
small steps towards single members are taken as long as the metric clearly grows (after Caruana et al., ICML 2004).

Legend: M members, N molecules, C targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.stats import rankdata

from dnd.common.randomness import numpy_generator
from dnd.predictor.metrics import average_precision, roc_auc
from dnd.predictor.targets import TaskKind

Metric = Literal["mae", "rmse", "spearman", "auroc", "auprc"]
VALUE_METRICS: tuple[Metric, ...] = ("mae", "rmse", "spearman")
CLASS_METRICS: tuple[Metric, ...] = ("auroc", "auprc")
PULL = 10.0  # λ, in units of the variance of the labels
FEWEST_LABELS = 20  # a target with fewer takes the weights of all targets together
NEGLIGIBLE = 0.01  # smaller shares are dropped, so that their members need not be kept
_EDGE = 1e-6
_CORNER = 0.01  # of the absolute error, in deviations: below it is smooth
_STEP, _MOST_STEPS, _LEAST_GAIN = 0.1, 10, 0.001


def fit_weights(
    predictions_MNC: Float[np.ndarray, "members molecules targets"],
    targets_NC: Float[np.ndarray, "molecules targets"],
    kinds: Sequence[TaskKind],
    scale_C: Float[np.ndarray, "targets"],
    metric: Metric | None = None,
) -> Float[np.ndarray, "members targets"]:
    """Weights of every member for every target.

    Args:
        predictions_MNC: out of fold; NaN where a member has none.
        targets_NC: labels; NaN = missing.
        kinds: of the targets.
        scale_C: deviation of the labels of each target, 1 for classes.
        metric: that they are chosen for, of the kinds that it is for; None = the loss alone.
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
        shared_M = _fit(np.hstack([p for p, _ in pairs]), np.concatenate([y for _, y in pairs]), kind, equal_M, metric)
        for column, (predictions_MN, labels_N) in zip(own, pairs, strict=True):
            alone = len(own) == 1 or len(labels_N) < FEWEST_LABELS
            weights_MC[:, column] = shared_M if alone else _fit(predictions_MN, labels_N, kind, shared_M, metric)
    return _without_small(weights_MC)


def _fit(
    predictions_MN: np.ndarray, labels_N: np.ndarray, kind: TaskKind, prior_M: np.ndarray, metric: Metric | None
) -> np.ndarray:
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
        elif metric == "mae":
            away_N = blended_N - labels_N
            size_N = np.sqrt(away_N**2 + _CORNER**2)
            value, slope_N = np.mean(size_N), away_N / size_N
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
    weights_M = np.asarray(weights_M / weights_M.sum())
    ranked = _RANKED.get(metric or "rmse")
    if ranked is None or (metric in CLASS_METRICS) != classes or len(np.unique(labels_N)) < 2:
        return weights_M
    return _climb(weights_M, predictions_MN, labels_N, ranked)


def _climb(
    weights_M: np.ndarray,
    predictions_MN: np.ndarray,
    labels_N: np.ndarray,
    ranked: Callable[[np.ndarray, np.ndarray], float],
) -> np.ndarray:
    """Steps towards single members while the metric grows by more than luck would have it."""
    best = ranked(labels_N, weights_M @ predictions_MN)
    for _ in range(_MOST_STEPS):
        tried = [(1 - _STEP) * weights_M + _STEP * one for one in np.eye(len(weights_M))]
        values = [ranked(labels_N, each @ predictions_MN) for each in tried]
        if max(values) < best + _LEAST_GAIN:
            break
        best, weights_M = max(values), tried[int(np.argmax(values))]
    return weights_M


def _spearman(labels_N: np.ndarray, predictions_N: np.ndarray) -> float:
    """Correlation of ranks, ties at their mean; 0 where the predictions are all equal."""
    if np.ptp(predictions_N) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(labels_N), rankdata(predictions_N))[0, 1])


_RANKED: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "spearman": _spearman,
    "auroc": roc_auc,
    "auprc": average_precision,
}


def lowers_error(
    candidate_NC: Float[np.ndarray, "molecules targets"],
    others_MNC: Float[np.ndarray, "members molecules targets"],
    targets_NC: Float[np.ndarray, "molecules targets"],
    kinds: Sequence[TaskKind],
    scale_C: Float[np.ndarray, "targets"],
    seed: int,
) -> tuple[bool, float, float]:
    """Whether a blend with one more member errs less, and the loss with and without it.

    The weights of one half of the molecules are judged on the other, and the other way round.
    """
    halves = np.array_split(numpy_generator(seed, "halves of a blend").permutation(len(targets_NC)), 2)
    losses = []
    for values_MNC in (np.concatenate([candidate_NC[None], others_MNC]), others_MNC):
        total = 0.0
        for own, other in (halves, halves[::-1]):
            weights_MC = fit_weights(values_MNC[:, own], targets_NC[own], kinds, scale_C)
            total += blend_loss(
                np.einsum("mc,mnc->nc", weights_MC, values_MNC[:, other]), targets_NC[other], kinds, scale_C
            )
        losses.append(total / 2)
    return losses[0] < losses[1], losses[0], losses[1]


def blend_loss(values_NC: np.ndarray, targets_NC: np.ndarray, kinds: Sequence[TaskKind], scale_C: np.ndarray) -> float:
    """The mean over targets of the squared error in deviations, or the log loss; of those with a label."""
    losses = []
    for value_N, label_N, kind, scale in zip(values_NC.T, targets_NC.T, kinds, scale_C, strict=True):
        known_N = np.isfinite(value_N) & ~np.isnan(label_N)
        if not known_N.any():
            continue
        value_N, label_N = value_N[known_N], label_N[known_N]
        if kind == "regression":
            losses.append(float((((value_N - label_N) / scale) ** 2).mean()))
        else:
            inside_N = value_N.clip(_EDGE, 1 - _EDGE)
            losses.append(-float((label_N * np.log(inside_N) + (1 - label_N) * np.log1p(-inside_N)).mean()))
    return float(np.mean(losses)) if losses else 0.0


def _without_small(weights_MC: np.ndarray) -> np.ndarray:
    kept_MC = np.where(weights_MC < NEGLIGIBLE, 0.0, weights_MC)
    return np.asarray(kept_MC / kept_MC.sum(axis=0))
