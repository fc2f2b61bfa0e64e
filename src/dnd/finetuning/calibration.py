"""How sure a model is: what was learned for each target (`calibrating.py`), and its file in a MODEL folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dnd.common.config import from_dict
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.common.files import write_json
from dnd.common.model_folder import ModelFolder
from dnd.finetuning.group_sets import GroupSets
from dnd.finetuning.interval_width import COVERAGE
from dnd.finetuning.isotonic import isotonic
from dnd.finetuning.platt import platt
from dnd.finetuning.temperature import Temperature, apply_temperature
from dnd.finetuning.transforms import AS_IT_IS, Transform

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
