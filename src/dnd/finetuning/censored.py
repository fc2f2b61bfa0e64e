r"""What classical members learn of a limit such as `>10`: the value that is expected beyond it.

They know values only. A limit taken for a value pulls their predictions to it, from where the truth is not. So limits
are filled by the mean of a normal distribution that they cut off, of a limit L from above with the density φ and the
distribution Φ:

.. math:: \mathrm{E}[y \mid y > L] = \mu + \sigma \frac{\varphi(a)}{1 - \Phi(a)}, \qquad a = (L - \mu) / \sigma

μ is predicted out of fold by ridge regression, σ the deviation of its errors on labels that are values; filling and
fitting take turns, which is the EM algorithm for censored regression (Tobin, Econometrica 26 (1958) 24; Dempster et
al., J. R. Stat. Soc. B 39 (1977) 1) with predictions out of fold in place of fitted ones. Whether limits are filled,
left out or taken for values is decided by the likelihood of all labels out of fold, in which a limit counts as the
chance of a truth beyond it. No test label is used.
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


def expected_beyond(limits_B: Values, sides_B: Sides, means_B: Values, deviation: float) -> Values:
    """The mean of a normal distribution above (side 1) or below (side -1) a limit."""
    a_B = sides_B * (limits_B - means_B) / deviation
    return np.asarray(means_B + sides_B * deviation * np.exp(norm.logpdf(a_B) - norm.logsf(a_B)))


def log_likelihood(labels_B: Values, sides_B: Sides, means_B: Values, deviation: float) -> float:
    """Of values and limits, if errors are normal: a limit counts as the chance of a truth beyond it."""
    z_B = (labels_B - means_B) / deviation
    return float(np.where(sides_B == 0, norm.logpdf(z_B) - np.log(deviation), norm.logsf(sides_B * z_B)).sum())


def with_limits_filled(bench: Workbench, sides_BC: Int[np.ndarray, "molecules targets"]) -> Workbench:
    """The workbench with labels that classical members do best with.

    Args:
        bench: `targets_BC` has the limits as values.
        sides_BC: 1 where the truth is above a label, -1 where it is below, 0 for values.
    """
    targets_BC = bench.targets_BC.copy()
    for column, target in enumerate(bench.targets):
        rows = bench.rows[~np.isnan(bench.targets_BC[bench.rows, column])]
        limits = rows[sides_BC[rows, column] != 0]
        if target.kind != "regression" or not len(limits) or len(rows) - len(limits) < FEWEST_LABELS:
            continue
        chosen, values_B = _chosen(bench, column, rows, limits, sides_BC[:, column])
        targets_BC[limits, column] = values_B
        LOGGER.info(
            f"classical members: {len(limits)} limits of {target.name} {chosen}, by their likelihood out of fold"
        )
    return replace(bench, targets_BC=targets_BC)


def _chosen(
    bench: Workbench, column: int, rows: np.ndarray, limits: np.ndarray, sides_B: Sides
) -> tuple[str, Float[np.ndarray, "limits"]]:
    """What is done with the limits, in words, and the labels in raw units that they get."""
    target, labels_B = bench.targets[column], bench.targets_BC[:, column]
    scaled_B = np.full(len(labels_B), np.nan)
    scaled_B[rows] = target.scaled(labels_B[rows])

    def judged(own_B: np.ndarray) -> tuple[float, np.ndarray, float]:
        """Likelihood, means and deviation, where the limits have the labels `own_B` in raw units."""
        filled_BC = bench.targets_BC.copy()
        filled_BC[limits, column] = own_B
        means_B = _out_of_fold(replace(bench, targets_BC=filled_BC), column, rows)
        exact = rows[sides_B[rows] == 0]
        deviation = float(np.sqrt(np.mean((scaled_B[exact] - means_B[exact]) ** 2))) or 1.0
        return log_likelihood(scaled_B[rows], sides_B[rows], means_B[rows], deviation), means_B, deviation

    as_values = labels_B[limits]
    found = {"taken for values": (judged(as_values)[0], as_values)}
    likelihood, means_B, deviation = judged(np.full(len(limits), np.nan))
    found["left out"] = likelihood, np.full(len(limits), np.nan)
    for _ in range(ROUNDS):
        beyond_B = expected_beyond(scaled_B[limits], sides_B[limits], means_B[limits], deviation)
        filled_B = target.transform.inverse(beyond_B * target.std + target.mean)
        likelihood, means_B, deviation = judged(filled_B)
        found["filled by the values expected beyond them"] = likelihood, filled_B
    name = max(found, key=lambda one: found[one][0])
    return name, found[name][1]


def _out_of_fold(bench: Workbench, column: int, rows: np.ndarray) -> Values:
    """Predictions for `rows` on the scale that is learned."""
    found_B, fold_of = np.full(len(bench.targets_BC), np.nan), np.full(len(bench.targets_BC), -1)
    fold_of[bench.rows] = bench.folds
    for fold in range(bench.num_folds):
        inside = rows[fold_of[rows] == fold]
        (model,) = bench.fit(MODEL, rows[fold_of[rows] != fold], fold, [column])
        found_B[inside] = model.predict(bench.features(inside))
    return found_B
