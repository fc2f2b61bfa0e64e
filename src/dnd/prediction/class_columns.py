"""Output columns of a target of several classes. Legend: M members, N molecules, K classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from dnd.finetuning.conformal_sets import set_words
from dnd.finetuning.multiclass import ClassGroup
from dnd.prediction.table import Column


def class_columns(
    group: ClassGroup,
    probabilities_NK: Float[np.ndarray, "molecules classes"],
    members_MNK: Float[np.ndarray, "members molecules classes"],
    thresholds: Sequence[float] | None = None,
) -> dict[str, Column]:
    """The output columns of a target of several classes.

    `<target>_pred`, the most probable class; `<target>_std`, with several members; `<target>_set`, the likely classes,
    where such sets were learned; `<target>_prob_<class>`.

    The deviation is that between the members' probabilities of the class that is predicted.

    Args:
        group: name and classes.
        probabilities_NK: of the whole model; NaN rows where there is no molecule.
        members_MNK: of each member, before calibration.
        thresholds: of the sets; None = there are none.
    """
    known_N = ~np.isnan(probabilities_NK).any(axis=1)
    best_N = np.where(known_N[:, None], probabilities_NK, 0.0).argmax(axis=1)
    names = [group.classes[best] if known else "" for best, known in zip(best_N, known_N, strict=True)]
    columns: dict[str, Column] = {f"{group.name}_pred": names}
    if len(members_MNK) > 1:
        spread_NK = members_MNK.std(axis=0, ddof=1)
        columns[f"{group.name}_std"] = spread_NK[np.arange(len(best_N)), best_N]
    if thresholds is not None:
        columns[f"{group.name}_set"] = set_words(probabilities_NK, thresholds, group.classes)
    for place, name in enumerate(group.classes):
        columns[f"{group.name}_prob_{name}"] = probabilities_NK[:, place]
    return columns
