r"""How far the members of a blend disagree about a molecule.

.. math:: s = \sqrt{\sum_g w_g (\hat y_g - \bar y)^2}, \qquad \bar y = \sum_g w_g \hat y_g

Members of one name count as one, by their mean: out of fold a molecule is predicted by one student, later by the mean
of all, and widths that are learned from the one kind of spread must not meet another. Legend: M members, G names,
N molecules, C targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

STUDENTS = "students"  # the name that all networks share
_SMALLEST = 1e-12


def weighted_spread(
    values_GNC: Float[np.ndarray, "names molecules targets"], weights_GC: Float[np.ndarray, "names targets"]
) -> Float[np.ndarray, "molecules targets"]:
    """The weighted deviation between values; those that are NaN take no part, and NaN where all are."""
    known_GNC = np.isfinite(values_GNC)
    share_GNC = np.where(known_GNC, weights_GC[:, None, :], 0.0)
    total_NC = share_GNC.sum(axis=0)
    share_GNC = share_GNC / total_NC.clip(_SMALLEST, None)
    filled_GNC = np.where(known_GNC, values_GNC, 0.0)
    away_GNC = filled_GNC - (share_GNC * filled_GNC).sum(axis=0)
    return np.where(total_NC > 0, np.sqrt((share_GNC * away_GNC**2).sum(axis=0)), np.nan)


def spread_by_name(
    members_MNC: Float[np.ndarray, "members molecules targets"],
    weights_MC: Float[np.ndarray, "members targets"],
    names: Sequence[str],
) -> Float[np.ndarray, "molecules targets"]:
    """`weighted_spread` of the means of the members of each name."""
    values, weights = [], []
    for name in dict.fromkeys(names):
        own = [place for place, other in enumerate(names) if other == name]
        total_C = weights_MC[own].sum(axis=0)
        share_MC = weights_MC[own] / total_C.clip(_SMALLEST, None)
        values.append(np.einsum("mc,mnc->nc", share_MC, members_MNC[own]))
        weights.append(total_C)
    return weighted_spread(np.stack(values), np.stack(weights))
