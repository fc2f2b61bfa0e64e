"""How sure a model is: the calibration of each target, its file in a MODEL folder, and its description in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dnd.common.config import from_dict
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.common.files import write_json
from dnd.common.model_folder import ModelFolder
from dnd.predictor.metrics import TaskKind, significant
from dnd.predictor.transforms import AS_IT_IS, Transform
from dnd.predictor.uncertainty.class_sets import GroupSets
from dnd.predictor.uncertainty.intervals import COVERAGE
from dnd.predictor.uncertainty.probabilities import Temperature, apply_temperature, isotonic, platt

# How sure a model is: what was learned for each target (`calibrating.py`), and its file in a MODEL folder.


Array = Float[np.ndarray, "molecules targets"]

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class TargetCalibration:
    """What was learned for one target; None where there were too few labels.

    Attributes:
        half_width: of the interval, in the target's unit (in the scale of its transform), or per unit of spread.
        spread_floor: added to the spread of the members, where the interval goes with it; None = one width for all.
        slope: a of Platt's scaling.
        intercept: b.
        molecules: it was learned from.
        judged_on: molecules that judged it.
        before: Brier score of the raw probabilities on those molecules; None for intervals.
        measured: coverage of the intervals, or Brier score after scaling, on those molecules.
        knots_x, knots_y: of an isotonic line, which then takes the place of Platt's scaling.
        set_thresholds: of the sets, class 0 and class 1.
        set_coverage: how often the true class was in the set, on those molecules.
        set_single: share of sets with one class, on those molecules.
    """

    half_width: float | None = None
    slope: float | None = None
    intercept: float | None = None
    molecules: int = 0
    judged_on: int = 0
    before: float | None = None
    measured: float | None = None
    knots_x: tuple[float, ...] | None = None
    knots_y: tuple[float, ...] | None = None
    set_thresholds: tuple[float, ...] | None = None
    set_coverage: float | None = None
    set_single: float | None = None
    spread_floor: float | None = None

    def bounds(
        self,
        predictions_N: Float[np.ndarray, "molecules"],
        spread_N: Float[np.ndarray, "molecules"] | None = None,
        transform: Transform = AS_IT_IS,
    ) -> tuple[Float[np.ndarray, "molecules"], Float[np.ndarray, "molecules"]] | None:
        """Both ends of the intervals in the target's unit; None where none was learned.

        Args:
            predictions_N: in the target's unit.
            spread_N: of the members, as it was when the width was learned; needed where the width goes with it.
            transform: of the target.
        """
        if self.half_width is None:
            return None
        half_N: float | np.ndarray = self.half_width
        if self.spread_floor is not None:
            assert spread_N is not None, "a width by the spread needs the spread"
            half_N = self.half_width * (spread_N + self.spread_floor)
        centre_N = transform.forward(predictions_N)
        return transform.inverse(centre_N - half_N), transform.inverse(centre_N + half_N)

    def scaled(self, predictions_N: Float[np.ndarray, "molecules"]) -> Float[np.ndarray, "molecules"]:
        """Calibrated probabilities; unchanged where no scaling was learned."""
        if self.knots_x is not None and self.knots_y is not None:
            return isotonic(predictions_N, (self.knots_x, self.knots_y))
        if self.slope is None or self.intercept is None:
            return predictions_N
        return platt(predictions_N, self.slope, self.intercept)


@dataclass(frozen=True)
class Calibration:
    """One entry per target.

    Attributes:
        targets: in the order of the model's targets.
        coverage: that the intervals aim at.
        temperatures: of the targets of several classes.
        sets: of the targets of several classes; none in models of before there were any.
    """

    targets: tuple[TargetCalibration, ...]
    coverage: float = COVERAGE
    temperatures: tuple[Temperature, ...] = ()
    sets: tuple[GroupSets, ...] = ()

    def scaled(self, predictions_NC: Array) -> Array:
        """Calibrated probabilities; unchanged where no scaling was learned."""
        columns = [one.scaled(column_N) for one, column_N in zip(self.targets, predictions_NC.T, strict=True)]
        return apply_temperature(np.stack(columns, axis=1), self.temperatures)


def both_classes(probabilities_N: Float[np.ndarray, "molecules"]) -> Float[np.ndarray, "molecules classes"]:
    """Probabilities of class 0 and class 1."""
    return np.stack([1 - probabilities_N, probabilities_N], axis=1)


def write_calibration(folder: Path, calibration: Calibration, lines: Sequence[str]) -> None:
    """Write `calibration.json` into a MODEL folder that is not sealed yet."""
    write_json(folder / CALIBRATION, {"calibration": asdict(calibration), "sentences": list(lines)})


def read_calibration(model: ModelFolder) -> Calibration | None:
    """The calibration of a MODEL folder; None where it was made without one.

    Raises:
        CorruptFileError: the file is not what `write_calibration` writes.
    """
    if not model.holds(CALIBRATION):
        return None
    try:
        return from_dict(Calibration, model.json(CALIBRATION)["calibration"])
    except (KeyError, TypeError, ConfigError) as error:
        raise CorruptFileError(
            f"{model.path / CALIBRATION} is no calibration", found=repr(error), next_step="Finetune the model again"
        ) from error


# What a calibration is, in words.


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
        return f"of the prediction divided and multiplied by {significant(math.exp(min(one.half_width, _LARGEST)))}"
    if transform.name == "yeo-johnson":
        return f"± {significant(one.half_width)} in the scale of the Yeo-Johnson map"
    if one.spread_floor is not None:
        return f"± {significant(one.half_width)} × (spread of the members + {significant(one.spread_floor)})"
    return f"± {significant(one.half_width)}"
