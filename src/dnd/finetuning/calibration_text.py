"""What a calibration is, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dnd.finetuning.calibration import Calibration, TargetCalibration
from dnd.finetuning.metrics import TaskKind
from dnd.finetuning.transforms import AS_IT_IS, Transform

_LARGEST = 700.0  # whose exponential is a number still


def sentences(
    calibration: Calibration,
    names: Sequence[str],
    kinds: Sequence[TaskKind],
    source: str,
    transforms: Sequence[Transform] = (),
) -> list[str]:
    """What was learned from the molecules of `source` and how it did, one line per target."""
    found = []
    maps = list(transforms) or [AS_IT_IS] * len(names)
    for name, kind, one, own in zip(names, kinds, calibration.targets, maps, strict=True):
        if kind == "multiclass":
            continue
        judged = one.judged_on and one.measured is not None
        if one.half_width is not None:
            line = f"{name}: interval {_width(one, own)}, made for {calibration.coverage:.0%} coverage"
            line += f", learned from {one.molecules} molecules of {source}"
            line += f"; measured coverage {one.measured:.1%} of {one.judged_on} test molecules" if judged else ""
        elif one.slope is not None:
            how = "Platt" if one.knots_x is None else "isotonic"
            line = f"{name}: probabilities calibrated ({how}) on {one.molecules} molecules of {source}"
            brier = "; Brier score of the test part"
            line += f"{brier} {one.before:.4f} before, {one.measured:.4f} after" if judged else ""
        else:
            what = "no interval" if kind == "regression" else "probabilities as the network gives them"
            line = f"{name}: {what}, because {one.molecules} held-out labels are too few"
        found.append(line)
        if one.set_thresholds is not None and one.set_coverage is not None:
            made = f"sets of classes made for {calibration.coverage:.0%} coverage of each class"
            held = f"{one.set_coverage:.1%} of the test molecules have theirs in the set"
            found.append(f"{name}: {made}; {held}, {one.set_single:.0%} of the sets name one class")
    found += [one.sentence(source) for one in calibration.temperatures]
    return [*found, *(one.sentence() for one in calibration.sets)]


def _width(one: TargetCalibration, transform: Transform) -> str:
    assert one.half_width is not None
    if transform.name == "log":
        return f"of the prediction divided and multiplied by {math.exp(min(one.half_width, _LARGEST)):.4g}"
    if transform.name == "yeo-johnson":
        return f"± {one.half_width:.4g} in the scale of the Yeo-Johnson map"
    if one.spread_floor is not None:
        return f"± {one.half_width:.4g} × (spread of the members + {one.spread_floor:.4g})"
    return f"± {one.half_width:.4g}"
