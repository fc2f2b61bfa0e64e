r"""What classical members learn of a limit such as `>10`: the value that is expected beyond it.

They know values only. A limit taken for a value pulls their predictions to it, from where the truth is not. So limits
are filled by the mean of a normal distribution that they cut off, of a limit L from above with the density φ and the
distribution Φ:

.. math:: \mathrm{E}[y \mid y > L] = \mu + \sigma \frac{\varphi(a)}{1 - \Phi(a)}, \qquad a = (L - \mu) / \sigma

μ is predicted out of fold by ridge regression, σ the deviation of its errors on labels that are values; filling and
fitting take turns, which is the EM algorithm for censored regression (Tobin, Econometrica 26 (1958) 24; Dempster et
al., J. R. Stat. Soc. B 39 (1977) 1) with predictions out of fold in place of fitted ones. Whether limits are filled,
left out or taken for values is decided by the likelihood of all labels out of fold, in which a limit counts as the
chance of a truth beyond it. No test label is looked at.

Legend: N molecules, C targets.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm

from dnd.common.log import LOGGER
from dnd.finetuning.classical import Workbench

MODEL = "ridge"
ROUNDS = 3
FEWEST_LABELS = 20  # that are values; from fewer no deviation is learned
Values = Float[np.ndarray, "molecules"]
Sides = Int[np.ndarray, "molecules"]


def expected_beyond(limits_N: Values, sides_N: Sides, means_N: Values, deviation: float) -> Values:
    """The mean of a normal distribution above (side 1) or below (side -1) a limit."""
    a_N = sides_N * (limits_N - means_N) / deviation
    return np.asarray(means_N + sides_N * deviation * np.exp(norm.logpdf(a_N) - norm.logsf(a_N)))


def log_likelihood(labels_N: Values, sides_N: Sides, means_N: Values, deviation: float) -> float:
    """Of values and limits, if errors are normal: a limit counts as the chance of a truth beyond it."""
    z_N = (labels_N - means_N) / deviation
    return float(np.where(sides_N == 0, norm.logpdf(z_N) - np.log(deviation), norm.logsf(sides_N * z_N)).sum())


def with_limits_filled(bench: Workbench, sides_NC: Int[np.ndarray, "molecules targets"]) -> Workbench:
    """The workbench with labels that classical members do best with.

    Args:
        bench: `targets_NC` has the limits as values.
        sides_NC: 1 where the truth is above a label, -1 where it is below, 0 for values.
    """
    targets_NC = bench.targets_NC.copy()
    for column, target in enumerate(bench.targets):
        rows = bench.rows[~np.isnan(bench.targets_NC[bench.rows, column])]
        limits = rows[sides_NC[rows, column] != 0]
        if target.kind != "regression" or not len(limits) or len(rows) - len(limits) < FEWEST_LABELS:
            continue
        chosen, values_N = _chosen(bench, column, rows, limits, sides_NC[:, column])
        targets_NC[limits, column] = values_N
        LOGGER.info(
            f"classical members: {len(limits)} limits of {target.name} {chosen}, by their likelihood out of fold"
        )
    return replace(bench, targets_NC=targets_NC)


def _chosen(
    bench: Workbench, column: int, rows: np.ndarray, limits: np.ndarray, sides_N: Sides
) -> tuple[str, Float[np.ndarray, "limits"]]:
    """What is done with the limits, in words, and the labels in raw units that they get."""
    target, labels_N = bench.targets[column], bench.targets_NC[:, column]
    scaled_N = np.full(len(labels_N), np.nan)
    scaled_N[rows] = target.scaled(labels_N[rows])

    def judged(own_N: np.ndarray) -> tuple[float, np.ndarray, float]:
        """Likelihood, means and deviation, where the limits have the labels `own_N` in raw units."""
        filled_NC = bench.targets_NC.copy()
        filled_NC[limits, column] = own_N
        means_N = _out_of_fold(replace(bench, targets_NC=filled_NC), column, rows)
        exact = rows[sides_N[rows] == 0]
        deviation = float(np.sqrt(np.mean((scaled_N[exact] - means_N[exact]) ** 2))) or 1.0
        return log_likelihood(scaled_N[rows], sides_N[rows], means_N[rows], deviation), means_N, deviation

    as_values = labels_N[limits]
    found = {"taken for values": (judged(as_values)[0], as_values)}
    likelihood, means_N, deviation = judged(np.full(len(limits), np.nan))
    found["left out"] = likelihood, np.full(len(limits), np.nan)
    for _ in range(ROUNDS):
        beyond_N = expected_beyond(scaled_N[limits], sides_N[limits], means_N[limits], deviation)
        filled_N = target.transform.inverse(beyond_N * target.std + target.mean)
        likelihood, means_N, deviation = judged(filled_N)
        found["filled by the values expected beyond them"] = likelihood, filled_N
    name = max(found, key=lambda one: found[one][0])
    return name, found[name][1]


def _out_of_fold(bench: Workbench, column: int, rows: np.ndarray) -> Values:
    """Predictions for `rows` on the scale that is learned."""
    found_N, fold_of = np.full(len(bench.targets_NC), np.nan), np.full(len(bench.targets_NC), -1)
    fold_of[bench.rows] = bench.folds
    for fold in range(bench.num_folds):
        inside = rows[fold_of[rows] == fold]
        (model,) = bench.fit(MODEL, rows[fold_of[rows] != fold], fold, [column])
        found_N[inside] = model.predict(bench.features(inside))
    return found_N
