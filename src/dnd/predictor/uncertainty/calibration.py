"""The calibration of a model: the calibrators of each target, how they did, their file, and their words.

`calibration.json` is older than the protocol: it has one flat entry per column, and lists of temperatures and sets for
targets of several classes. What is read and written here keeps that format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from dnd.common.config import from_dict
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.common.files import write_json
from dnd.common.log import counted
from dnd.common.model_folder import ModelFolder
from dnd.predictor.targets import AS_IT_IS, ClassGroup, TaskKind, Transform
from dnd.predictor.uncertainty.classes import (
    FEWEST_PER_CLASS,
    ClassSets,
    ClassWiseSets,
    Isotonic,
    MarginalSets,
    Platt,
    Temperature,
)
from dnd.predictor.uncertainty.intervals import COVERAGE, Calibrator, ConformalIntervals, Predicted

Array = Float[np.ndarray, "molecules targets"]
C = TypeVar("C", bound=Calibrator)

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Chosen:
    """The calibrators of one target; None if there were too few molecules, or the kind of target has none.

    Attributes:
        intervals: intervals of a regression.
        platt: Platt scaling of two classes; kept even if an isotonic line replaces it.
        isotonic: isotonic line of two classes, if it is better than Platt's scaling.
        temperature: temperature of several classes.
        sets: sets for two or more classes.
    """

    intervals: ConformalIntervals | None = None
    platt: Platt | None = None
    isotonic: Isotonic | None = None
    temperature: Temperature | None = None
    sets: ClassSets | None = None

    @property
    def scaling(self) -> Platt | Isotonic | Temperature | None:
        """The calibrator of the probabilities."""
        return self.temperature or self.isotonic or self.platt

    def scaled(self, predicted: Predicted) -> Predicted:
        """Predictions with calibrated probabilities; unchanged where no scaling was learned."""
        return predicted if self.scaling is None else replace(predicted, values=self.scaling.apply(predicted))


@dataclass(frozen=True)
class Judged:
    """Evaluation of the calibrators of a target, with the numbers of molecules; None = not evaluated.

    Attributes:
        molecules: number of molecules that they were fitted on.
        judged_on: number of molecules that they were evaluated on.
        before: Brier score (several classes: log loss) of the raw probabilities on those molecules.
        measured: coverage of the intervals, or the score of the calibrated probabilities, on those molecules.
        set_judged_on: number of molecules that the sets were evaluated on.
        set_coverage: share of those molecules whose true class was in the set.
        set_single: share of sets with one class.
        set_size: mean number of classes in a set.
    """

    molecules: int = 0
    judged_on: int = 0
    before: float | None = None
    measured: float | None = None
    set_judged_on: int = 0
    set_coverage: float | None = None
    set_single: float | None = None
    set_size: float | None = None


@dataclass(frozen=True)
class TargetCalibration:
    """What was learned for one column: a regression, or the probability of class 1 of two.

    Attributes:
        chosen: its calibrators.
        judged: their evaluation.
    """

    chosen: Chosen = field(default_factory=Chosen)
    judged: Judged = field(default_factory=Judged)

    def to_dict(self) -> dict[str, Any]:
        """Its entry in `targets`."""
        entry = {key: getattr(self.judged, key) for key in _JUDGED}
        for name, kind in _PARTS.items():
            part = getattr(self.chosen, name)
            entry |= (
                {_key(own): None for own in kind.field_names() if own not in kind.optional}
                if part is None
                else _renamed(part)
            )
        return entry

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> TargetCalibration:
        """The inverse of `to_dict`; keys that older versions did not have may be missing."""
        chosen = Chosen(
            intervals=_read_part(ConformalIntervals, entry),
            platt=_read_part(Platt, entry),
            isotonic=_read_part(Isotonic, entry),
            sets=_read_part(ClassWiseSets, entry),
        )
        known = {*_JUDGED, *(_key(own) for kind in _PARTS.values() for own in kind.field_names())}
        _refuse_others(entry, known)
        return cls(chosen, from_dict(Judged, _own(entry, _JUDGED)))


@dataclass(frozen=True)
class GroupCalibration:
    """What was learned for one target of several classes.

    Attributes:
        name: name of the target.
        first: the first of its columns.
        classes: number of classes.
        chosen: its calibrators.
        judged: their evaluation.
    """

    name: str
    first: int
    classes: int
    chosen: Chosen = field(default_factory=Chosen)
    judged: Judged = field(default_factory=Judged)

    @classmethod
    def of(cls, group: ClassGroup, chosen: Chosen, judged: Judged) -> GroupCalibration:
        """The entry of `group`."""
        return cls(group.name, group.first, len(group.classes), chosen, judged)

    @property
    def span(self) -> slice:
        """Its columns."""
        return slice(self.first, self.first + self.classes)

    def to_dicts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Its entries in `temperatures` and in `sets`."""
        judged, sets, temperature = self.judged, self.chosen.sets, self.chosen.temperature
        named = {"name": self.name, "first": self.first, "molecules": judged.molecules}
        return (
            named
            | {"classes": self.classes, "value": temperature and temperature.value, "judged_on": judged.judged_on}
            | {"before": judged.before, "measured": judged.measured},
            named
            | {"thresholds": sets and sets.thresholds, "each_class": bool(sets and sets.each_class)}
            | {"judged_on": judged.set_judged_on, "coverage": judged.set_coverage, "size": judged.set_size},
        )

    @classmethod
    def from_dicts(cls, scaling: Mapping[str, Any], sets: Mapping[str, Any] | None) -> GroupCalibration:
        """The inverse of `to_dicts`; older models have no sets."""
        _refuse_others(scaling, {"name", "first", "classes", "value", *_SCORED})
        value = scaling.get("value")
        chosen = Chosen(temperature=None if value is None else Temperature.from_dict({"value": value}))
        judged = from_dict(Judged, _own(scaling, _SCORED))
        if sets is not None:
            _refuse_others(sets, {"name", "first", "thresholds", "each_class", "molecules", "judged_on", *_SETS})
            kind = ClassWiseSets if sets.get("each_class") else MarginalSets
            chosen = replace(chosen, sets=_read_part(kind, sets, ""))
            found = {own: sets[key] for key, own in _SETS.items() if key in sets}
            judged = from_dict(Judged, {**_own(scaling, _SCORED), **found, "set_judged_on": sets.get("judged_on", 0)})
        return cls(str(scaling["name"]), int(scaling["first"]), int(scaling["classes"]), chosen, judged)


_SCORED = ("molecules", "judged_on", "before", "measured")
_JUDGED = (*_SCORED, "set_coverage", "set_single")  # of a column
_SETS = {"coverage": "set_coverage", "size": "set_size"}  # of several classes: key in the file, name here
_PARTS: dict[str, type[Calibrator]] = {
    "intervals": ConformalIntervals,
    "platt": Platt,
    "isotonic": Isotonic,
    "sets": ClassWiseSets,
}


@dataclass(frozen=True)
class Calibration:
    """What was learned for the targets of a model.

    Attributes:
        targets: one entry per column, in the order of the model's; those of several classes are empty.
        coverage: coverage that intervals and sets are made for.
        groups: one entry per target of several classes.
    """

    targets: tuple[TargetCalibration, ...]
    coverage: float = COVERAGE
    groups: tuple[GroupCalibration, ...] = ()

    @property
    def needs_similarity(self) -> bool:
        """Whether some intervals depend on the similarity to the nearest training molecule."""
        intervals = [one.chosen.intervals for one in self.targets]
        return any(own is not None and own.similarity_knots is not None for own in intervals)

    def scaled(self, predictions_BC: Array) -> Array:
        """Calibrated probabilities; unchanged where no scaling was learned."""
        columns = [
            one.chosen.scaled(Predicted(column_B)).values
            for one, column_B in zip(self.targets, predictions_BC.T, strict=True)
        ]
        found = np.stack(columns, axis=1)
        for group in self.groups:
            found[:, group.span] = group.chosen.scaled(Predicted(found[:, group.span])).values
        return found

    def to_dict(self) -> dict[str, Any]:
        """As in `calibration.json`."""
        groups = [group.to_dicts() for group in self.groups]
        return {
            "targets": [one.to_dict() for one in self.targets],
            "coverage": self.coverage,
            "temperatures": [scaling for scaling, _ in groups],
            "sets": [sets for _, sets in groups],
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_dict`.

        Raises:
            ConfigError, KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        _refuse_others(entry, {"targets", "coverage", "temperatures", "sets"})
        sets = {own["name"]: own for own in entry.get("sets", ())}
        groups = [GroupCalibration.from_dicts(own, sets.get(own["name"])) for own in entry.get("temperatures", ())]
        targets = tuple(TargetCalibration.from_dict(own) for own in entry["targets"])
        return cls(targets, float(entry.get("coverage", COVERAGE)), tuple(groups))


def write_calibration(folder: Path, calibration: Calibration, lines: Sequence[str]) -> None:
    """Write `calibration.json` into a MODEL folder that is not sealed yet."""
    write_json(folder / CALIBRATION, {"calibration": calibration.to_dict(), "sentences": list(lines)})


def read_calibration(model: ModelFolder) -> Calibration | None:
    """The calibration of a MODEL folder; None if it was made without one.

    Raises:
        CorruptFileError: the file is not what `write_calibration` writes.
    """
    if not model.holds(CALIBRATION):
        return None
    try:
        return Calibration.from_dict(model.json(CALIBRATION)["calibration"])
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError, ConfigError) as error:
        raise CorruptFileError(
            f"{model.path / CALIBRATION} is not a calibration", found=repr(error), next_step="Finetune the model again"
        ) from error


def _key(name: str) -> str:
    """The key of a calibrator's field in the flat entry of a column."""
    return "set_thresholds" if name == "thresholds" else name


def _renamed(part: Calibrator) -> dict[str, Any]:
    return {_key(name): value for name, value in part.to_dict().items()}


def _read_part(kind: type[C], entry: Mapping[str, Any], prefix: str = "set_") -> C | None:
    """The calibrator whose fields lie in a flat entry; None where none of them has a value."""
    keys = {name: _key(name) if prefix else name for name in kind.field_names()}
    own = {name: entry[key] for name, key in keys.items() if entry.get(key) is not None}
    return kind.from_dict(own) if own else None


def _own(entry: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: entry[key] for key in keys if key in entry}


def _refuse_others(entry: Mapping[str, Any], known: set[str]) -> None:
    others = sorted(set(entry) - known)
    if others:
        raise ConfigError("a calibration has unknown entries", found=", ".join(others))


# What a calibration is, in words.


def sentences(
    calibration: Calibration,
    names: Sequence[str],
    kinds: Sequence[TaskKind],
    source: str,
    transforms: Sequence[Transform] = (),
) -> list[str]:
    """One line per target: the calibration learned from the molecules of `source`, and its evaluation."""
    found = []
    maps = list(transforms) or [AS_IT_IS] * len(names)
    for name, kind, one, own in zip(names, kinds, calibration.targets, maps, strict=True):
        if kind == "multiclass":
            continue
        found.append(f"{name}: {_column_words(calibration, one, kind, source, own)}")
        if one.chosen.sets is not None and one.judged.set_coverage is not None:
            made = f"sets of classes made for {calibration.coverage:.0%} coverage {one.chosen.sets.describe()}"
            held = f"{one.judged.set_coverage:.1%} of the test molecules have their class in the set"
            found.append(f"{name}: {made}; {held}, {one.judged.set_single:.0%} of the sets name one class")
    found += [f"{group.name}: {_temperature_words(group, source)}" for group in calibration.groups]
    return [*found, *(f"{group.name}: {_set_words(calibration, group)}" for group in calibration.groups)]


def _column_words(
    calibration: Calibration, one: TargetCalibration, kind: TaskKind, source: str, transform: Transform
) -> str:
    chosen, judged = one.chosen, one.judged
    was_judged = judged.judged_on and judged.measured is not None
    if chosen.intervals is not None:
        line = f"interval {chosen.intervals.describe(transform)}, made for {calibration.coverage:.0%} coverage"
        line += f", learned from {judged.molecules} molecules of {source}"
        return line + (
            f"; measured coverage {judged.measured:.1%} of {counted(judged.judged_on, 'test molecule')}"
            if was_judged
            else ""
        )
    if chosen.scaling is not None:
        line = f"probabilities calibrated ({chosen.scaling.describe()}) on {judged.molecules} molecules of {source}"
        brier = "; Brier score of the test part"
        return line + (f"{brier} {judged.before:.4f} before, {judged.measured:.4f} after" if was_judged else "")
    if kind == "regression":
        return f"no interval, because {judged.molecules} held-out labels are too few"
    few = f"a class has fewer than {FEWEST_PER_CLASS} of {judged.molecules} held-out labels"
    return f"probabilities as the model gives them, because {few}, or the model ranks the classes the wrong way round"


def _temperature_words(group: GroupCalibration, source: str) -> str:
    judged, temperature = group.judged, group.chosen.temperature
    if temperature is None:
        return f"probabilities as the model gives them, because {judged.molecules} held-out labels are too few"
    line = f"probabilities calibrated ({temperature.describe()}) on {judged.molecules} molecules of {source}"
    if judged.before is not None and judged.measured is not None:
        line += f"; log loss of the test part {judged.before:.4f} before, {judged.measured:.4f} after"
    return line


def _set_words(calibration: Calibration, group: GroupCalibration) -> str:
    judged, sets = group.judged, group.chosen.sets
    if sets is None:
        return f"no sets of classes, because {judged.molecules} held-out labels are too few"
    made = f"{calibration.coverage:.0%} coverage {sets.describe()}"
    line = f"sets of classes made for {made}, from {judged.molecules} molecules"
    if judged.set_coverage is not None and judged.set_size is not None:
        held = (
            f"{judged.set_coverage:.1%} of {counted(judged.set_judged_on, 'test molecule')} have their class in the set"
        )
        line += f"; {held}, which names {judged.set_size:.1f} of {len(sets.thresholds)} classes on average"
    return line
