r"""How much each member of a blend counts: weights that are not negative and sum to 1, fitted out of fold.

.. math:: w^* = \arg\min_{w \in \Delta} \frac1n \sum_i \ell\Big(y_i, \sum_m w_m \hat y_{mi}\Big)
          + \frac{\lambda}{n} \lVert w - w_0 \rVert^2

Source: stacking with weights that are not negative (Breiman, Machine Learning 24 (1996) 49), with a pull to w₀ that few
molecules don't overcome: to equal shares for all targets of a kind together, and from there for each target. Each
prediction must come from a member that never saw the molecule. The loss is the squared error, also of the probability
of each of several classes, or the log loss of two classes; the absolute error of values where that is asked for. A rank
metric has no slope: from the weights of the loss, small steps towards single members are taken as long as the metric
clearly grows (after Caruana et al., ICML 2004).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.stats import rankdata

from dnd.common.compute import numpy_generator
from dnd.predictor.metrics import average_precision, roc_auc
from dnd.predictor.targets import TaskKind, Weights, weighted_moments

Metric = Literal["mae", "rmse", "spearman", "auroc", "auprc"]
VALUE_METRICS: tuple[Metric, ...] = ("mae", "rmse", "spearman")
CLASS_METRICS: tuple[Metric, ...] = ("auroc", "auprc")
METRICS_OF: dict[TaskKind, tuple[Metric, ...]] = {
    "regression": VALUE_METRICS,
    "classification": CLASS_METRICS,
    "multiclass": (),
}
"""Which metrics the weights of a target can be chosen for; of several classes the loss alone decides."""
PULL = 10.0  # λ, in units of the variance of the labels
FEWEST_LABELS = 20  # a target with fewer takes the weights of all targets together
NEGLIGIBLE = 0.01  # smaller shares are dropped, so that their members need not be kept
_EDGE = 1e-6
_CORNER = 0.01  # of the absolute error, in deviations: below it is smooth
_STEP, _MOST_STEPS, _LEAST_GAIN = 0.1, 10, 0.001


def fit_weights(
    predictions_MBC: Float[np.ndarray, "members molecules targets"],
    targets_BC: Float[np.ndarray, "molecules targets"],
    kinds: Sequence[TaskKind],
    scale_C: Float[np.ndarray, "targets"],
    metric: Metric | None = None,
    weight_B: Weights = None,
) -> Float[np.ndarray, "members targets"]:
    """Weights of every member for every target.

    Args:
        predictions_MBC: out of fold; NaN where a member has none.
        targets_BC: labels; NaN = missing.
        kinds: tasks of the targets.
        scale_C: deviation of the labels of each target, 1 for classes.
        metric: that they are chosen for, of the kinds that it is for; None = the loss alone.
        weight_B: weight of each molecule in loss and metric; None = 1.
    """
    members, _, targets = predictions_MBC.shape
    equal_M = np.full(members, 1 / members)
    weights_MC = np.tile(equal_M[:, None], targets)
    usable_BC = np.isfinite(predictions_MBC).all(axis=0) & ~np.isnan(targets_BC)
    for kind in dict.fromkeys(kinds):
        own = [column for column, other in enumerate(kinds) if other == kind]
        of_rows = [None if weight_B is None else weight_B[usable_BC[:, c]] for c in own]
        pairs = [
            _scaled(predictions_MBC[:, usable_BC[:, c], c], targets_BC[usable_BC[:, c], c], kind, scale_C[c], own_B)
            for c, own_B in zip(own, of_rows, strict=True)
        ]
        every_B = None if weight_B is None else np.concatenate([one for one in of_rows if one is not None])
        all_MB, all_B = np.hstack([p for p, _ in pairs]), np.concatenate([y for _, y in pairs])
        shared_M = _fit(all_MB, all_B, kind, equal_M, metric, every_B)
        for column, (predictions_MB, labels_B), own_B in zip(own, pairs, of_rows, strict=True):
            alone = len(own) == 1 or len(labels_B) < FEWEST_LABELS
            weights_MC[:, column] = shared_M if alone else _fit(predictions_MB, labels_B, kind, shared_M, metric, own_B)
    return _without_small(weights_MC)


def _scaled(
    predictions_MB: np.ndarray, labels_B: np.ndarray, kind: TaskKind, scale: float, weight_B: Weights
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels of a target in deviations, values as distances from the mean of their labels.

    So the variance of the labels of several targets together is not that of their means.
    """
    centre = float(np.average(labels_B, weights=weight_B)) if kind == "regression" and len(labels_B) else 0.0
    return (predictions_MB - centre) / scale, (labels_B - centre) / scale


def _fit(
    predictions_MB: np.ndarray,
    labels_B: np.ndarray,
    kind: TaskKind,
    prior_M: np.ndarray,
    metric: Metric | None,
    weight_B: Weights,
) -> np.ndarray:
    if len(labels_B) == 0 or len(prior_M) == 1:
        return prior_M
    loss_name = _loss_of(kind, metric)
    count = len(labels_B) if weight_B is None else float(weight_B.sum())
    variance = np.var(labels_B) if weight_B is None else weighted_moments(labels_B, weight_B)[1] ** 2
    pull = PULL * float(variance) / count
    mean = partial(np.average, weights=weight_B)

    def loss(weights_M: np.ndarray) -> tuple[float, np.ndarray]:
        blended_B = weights_M @ predictions_MB
        if loss_name == "log":
            inside_B = blended_B.clip(_EDGE, 1 - _EDGE)
            value = -mean(labels_B * np.log(inside_B) + (1 - labels_B) * np.log1p(-inside_B))
            slope_B = (inside_B - labels_B) / (inside_B * (1 - inside_B))
        elif loss_name == "absolute":
            away_B = blended_B - labels_B
            size_B = np.sqrt(away_B**2 + _CORNER**2)
            value, slope_B = mean(size_B), away_B / size_B
        else:
            value = mean((blended_B - labels_B) ** 2)
            slope_B = 2 * (blended_B - labels_B)
        slope_B = slope_B if weight_B is None else weight_B * slope_B
        away_M = weights_M - prior_M
        gradient_M = predictions_MB @ slope_B / count + 2 * pull * away_M
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
    ranked = _RANKED.get(metric or "") if metric in METRICS_OF[kind] else None
    if ranked is None or len(np.unique(labels_B)) < 2:
        return weights_M
    return _climb(weights_M, predictions_MB, partial(ranked, labels_B, weight_B=weight_B))


def _loss_of(kind: TaskKind, metric: Metric | None) -> Literal["log", "absolute", "squared"]:
    """What the weights of a target lower: of a class among several the squared error of its probability."""
    if kind == "classification":
        return "log"
    return "absolute" if kind == "regression" and metric == "mae" else "squared"


def _climb(
    weights_M: np.ndarray,
    predictions_MB: np.ndarray,
    ranked: Callable[[np.ndarray], float],
) -> np.ndarray:
    """Steps towards single members while the metric grows by more than luck would have it."""
    best = ranked(weights_M @ predictions_MB)
    for _ in range(_MOST_STEPS):
        tried = [(1 - _STEP) * weights_M + _STEP * one for one in np.eye(len(weights_M))]
        values = [ranked(each @ predictions_MB) for each in tried]
        if max(values) < best + _LEAST_GAIN:
            break
        best, weights_M = max(values), tried[int(np.argmax(values))]
    return weights_M


def _spearman(labels_B: np.ndarray, predictions_B: np.ndarray, weight_B: Weights = None) -> float:
    """Correlation of ranks, ties at their mean; 0 where the predictions are all equal."""
    if np.ptp(predictions_B) == 0:
        return 0.0
    if weight_B is None:
        return float(np.corrcoef(rankdata(labels_B), rankdata(predictions_B))[0, 1])
    ranks_B, own_B = (_weighted_ranks(values_B, weight_B) for values_B in (labels_B, predictions_B))
    return float(
        np.cov(ranks_B, own_B, aweights=weight_B)[0, 1]
        / np.sqrt(np.cov(ranks_B, aweights=weight_B) * np.cov(own_B, aweights=weight_B))
    )


def _weighted_ranks(values_B: np.ndarray, weight_B: np.ndarray) -> np.ndarray:
    """The weight of all smaller values and half of that of equal ones, up to a constant the rank of so many rows."""
    _, place_B = np.unique(values_B, return_inverse=True)
    own_K = np.bincount(place_B, weight_B)
    return np.asarray((np.cumsum(own_K) - own_K / 2)[place_B])


_RANKED: dict[str, Callable[..., float]] = {
    "spearman": _spearman,
    "auroc": roc_auc,
    "auprc": average_precision,
}


def lowers_error(
    candidate_BC: Float[np.ndarray, "molecules targets"],
    others_MBC: Float[np.ndarray, "members molecules targets"],
    targets_BC: Float[np.ndarray, "molecules targets"],
    kinds: Sequence[TaskKind],
    scale_C: Float[np.ndarray, "targets"],
    seed: int,
    weight_B: Weights = None,
) -> tuple[bool, float, float]:
    """Whether a blend with one more member errs less, and the loss with and without it.

    The weights of one half of the molecules are judged on the other, and the other way round.
    """
    halves = np.array_split(numpy_generator(seed, "halves of a blend").permutation(len(targets_BC)), 2)
    losses = []
    for values_MBC in (np.concatenate([candidate_BC[None], others_MBC]), others_MBC):
        total = 0.0
        for own, other in (halves, halves[::-1]):
            of_own, of_other = (None if weight_B is None else weight_B[rows] for rows in (own, other))
            weights_MC = fit_weights(values_MBC[:, own], targets_BC[own], kinds, scale_C, weight_B=of_own)
            blended_BC = np.einsum("mc,mnc->nc", weights_MC, values_MBC[:, other])
            total += blend_loss(blended_BC, targets_BC[other], kinds, scale_C, of_other)
        losses.append(total / 2)
    return losses[0] < losses[1], losses[0], losses[1]


def blend_loss(
    values_BC: np.ndarray,
    targets_BC: np.ndarray,
    kinds: Sequence[TaskKind],
    scale_C: np.ndarray,
    weight_B: Weights = None,
) -> float:
    """The mean over targets of the squared error in deviations, or the log loss; of those with a label."""
    losses = []
    for value_B, label_B, kind, scale in zip(values_BC.T, targets_BC.T, kinds, scale_C, strict=True):
        known_B = np.isfinite(value_B) & ~np.isnan(label_B)
        if not known_B.any():
            continue
        value_B, label_B = value_B[known_B], label_B[known_B]
        own_B = None if weight_B is None else weight_B[known_B]
        if kind == "regression":
            losses.append(float(np.average(((value_B - label_B) / scale) ** 2, weights=own_B)))
        else:
            inside_B = value_B.clip(_EDGE, 1 - _EDGE)
            each_B = label_B * np.log(inside_B) + (1 - label_B) * np.log1p(-inside_B)
            losses.append(-float(np.average(each_B, weights=own_B)))
    return float(np.mean(losses)) if losses else 0.0


def _without_small(weights_MC: np.ndarray) -> np.ndarray:
    kept_MC = np.where(weights_MC < NEGLIGIBLE, 0.0, weights_MC)
    return np.asarray(kept_MC / kept_MC.sum(axis=0))
