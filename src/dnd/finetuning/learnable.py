"""Whether the molecules that a model learns from can teach it its targets; said before any training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from dnd.chemistry.splits import Split
from dnd.common.errors import InputError
from dnd.finetuning.metrics import TaskKind
from dnd.finetuning.tasks import fit_targets
from dnd.finetuning.transforms import TransformName


def check_learnable(
    targets_NC: Float[np.ndarray, "molecules targets"],
    names: Sequence[str],
    kinds: Sequence[TaskKind],
    parts: Sequence[Split],
    *,
    with_valid: bool,
    transforms: Sequence[TransformName] = (),
) -> list[str]:
    """Refuse a split whose training part can't teach any target, and name the targets that it can't teach.

    Args:
        targets_NC: labels; NaN = missing.
        names: of the columns.
        kinds: of the columns.
        parts: partitions.
        with_valid: the validation part is learned from too, as by a blend.
        transforms: of the columns; empty = none.

    Returns:
        A notice for each column of 0 and 1 with a single one of them.

    Raises:
        InputError: values without spread, or no column with both 0 and 1 where all are of that kind.
    """
    where = "the training part" if not with_valid else "the training and validation parts"
    notices: dict[str, None] = {}
    for part in parts:
        rows = np.concatenate([part.train, part.valid]) if with_valid else part.train
        fit_targets(targets_NC[rows], names, (), kinds, standardise=True, transforms=transforms)
        single = {
            name: np.unique(known_N)
            for name, kind, labels_N in zip(names, kinds, targets_NC[rows].T, strict=True)
            if kind != "regression" and len(np.unique(known_N := labels_N[~np.isnan(labels_N)])) < 2
        }
        if len(single) == len(names):
            name, values = next(iter(single.items()))
            found = f"only {values[0]:g} for {name}" if len(values) else f"no label of {name}"
            next_step = "Use another --split, such as random"
            raise InputError(f"{where} of the split holds one class only", found=found, next_step=next_step)
        for name, values in single.items():
            what = f"one class only ({values[0]:g})" if len(values) else "no label"
            notices[f"target {name} has {what} in {where}: it can't be learned"] = None
    return list(notices)
