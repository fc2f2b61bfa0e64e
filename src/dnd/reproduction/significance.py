"""Tests between systems whose scores vary at two levels: the pretraining, and the finetuning that follows it.

Finetunings of one pretraining share a teacher, an encoder and a split, so they say how much a finetuning varies and
nothing of another pretraining. So the scores of a pretraining are averaged over its finetuning seeds, and the
pretrainings are what a test counts. Every test says what it is over. With three pretrainings it is weak: Student's t
with two degrees of freedom, 4.3 standard errors at 5 %.

Data sets are never counted as independent trials: they share molecules, split and pretraining.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Seeds = tuple[int, int]
"""Upstream seed (0 for a model without a pretraining) and finetuning seed."""

Over = Literal["pretrainings", "finetuning seeds of one pretraining", "nothing"]
_NO_SPREAD = 1e-12


@dataclass(frozen=True)
class Significance:
    """A two-sided test that the difference is 0.

    Attributes:
        p_value: None where there are fewer than two differences, or they don't differ.
        count: differences that were tested.
        over: what they are differences of.
    """

    p_value: float | None
    count: int
    over: Over

    @property
    def subject(self) -> str:
        """What was tested, with its number."""
        return f"{self.count} {self.over}" if self.count > 1 else "one run, no test"


def by_pretraining(scores: Mapping[Seeds, float]) -> dict[int, float]:
    """Upstream seed to the mean score over its finetuning seeds."""
    upstream = sorted({seeds[0] for seeds in scores})
    return {one: float(np.mean([value for seeds, value in scores.items() if seeds[0] == one])) for one in upstream}


def paired(first: Mapping[Seeds, float], second: Mapping[Seeds, float]) -> Significance:
    r"""Paired t-test over pretrainings, each difference the mean over the finetuning seeds that both have.

    .. math:: d_u = \frac{1}{S} \sum_s (a_{us} - b_{us}), \qquad t = \bar d \,/\, (s_d / \sqrt{U})

    With a single pretraining the finetuning seeds are tested instead, and `over` says so.

    Args:
        first: a, score by upstream and finetuning seed.
        second: b.
    """
    common = sorted(first.keys() & second.keys())
    differences = {seeds: first[seeds] - second[seeds] for seeds in common}
    means = by_pretraining(differences)
    if len(means) > 1:
        return _against_zero(list(means.values()), "pretrainings")
    return _against_zero(list(differences.values()), "finetuning seeds of one pretraining")


def unpaired(first: Mapping[Seeds, float], second: Mapping[Seeds, float]) -> Significance:
    """Welch's t-test of the pretrainings' means against a model without a pretraining, by its seeds.

    Where the model is the same for every seed, its score is a constant and the test is of one sample.
    """
    from scipy.stats import ttest_ind

    means = list(by_pretraining(first).values())
    over: Over = "pretrainings" if len(means) > 1 else "finetuning seeds of one pretraining"
    ours, theirs = means if len(means) > 1 else list(first.values()), list(second.values())
    if min(len(ours), len(theirs)) < 2:
        return Significance(None, len(ours), over if len(ours) > 1 else "nothing")
    if np.ptp(theirs) < _NO_SPREAD:
        return _against_zero([value - float(np.mean(theirs)) for value in ours], over)
    if np.ptp(ours) < _NO_SPREAD:
        return Significance(None, len(ours), over)
    return Significance(float(ttest_ind(ours, theirs, equal_var=False).pvalue), len(ours), over)


def mean_over_sets(gains: Sequence[Mapping[int, float]]) -> tuple[float, Significance]:
    """The mean gain over data sets, and a t-test over pretrainings that it is 0.

    Each pretraining gives one number, its mean over the data sets, so the test speaks of other pretrainings on these
    data sets, not of other data sets.

    Args:
        gains: for each data set, the gain by upstream seed; pretrainings that a data set lacks are left out.
    """
    shared = sorted(set.intersection(*(set(one) for one in gains))) if gains else []
    means = [float(np.mean([one[seed] for one in gains])) for seed in shared]
    mean = float(np.mean(means)) if means else float("nan")
    return mean, _against_zero(means, "pretrainings" if len(means) > 1 else "nothing")


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    r"""p-values corrected for their number, None where there was no test.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979. It needs no independence.
    """
    tested = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * value))
        corrected[place] = largest
    return corrected


def _against_zero(differences: Sequence[float], over: Over) -> Significance:
    from scipy.stats import ttest_1samp

    if len(differences) < 2 or np.ptp(differences) < _NO_SPREAD:
        return Significance(None, len(differences), over if len(differences) > 1 else "nothing")
    return Significance(float(ttest_1samp(differences, 0.0).pvalue), len(differences), over)
