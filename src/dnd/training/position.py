"""Where a run is: everything about it that is not a tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Position:
    """Where a run is.

    Attributes:
        step: steps, those of skipped batches included.
        epoch: epochs completed.
        index: batches of this epoch already taken; never a whole epoch, whose end is evaluated before it is saved.
        best_step: step of the best evaluation so far.
        best: that evaluation.
        last: the last evaluation.
        stale: evaluations since the best.
        done: whether the run is complete.
        ranks: processes that the run went on with last.
        cuts: of the learning rate by the plateau schedule.
        skipped: batches left out because a loss or gradient was not finite.
    """

    step: int = 0
    epoch: int = 0
    index: int = 0
    best_step: int | None = None
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    stale: int = 0
    done: bool = False
    ranks: int = 1
    skipped: int = 0
    cuts: int = 0

    def to_state(self) -> dict[str, Any]:
        """As plain values; JSON has no NaN and no infinity, so such metrics (one class only, say) become text."""
        return {**vars(self), "best": _encoded(self.best), "last": _encoded(self.last)}

    def adapt(self, epochs: int) -> None:
        """Go on under other settings: this epoch's batches may be others, so it begins again, and the end may move."""
        self.index, self.done = 0, self.epoch >= epochs

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Position:
        """The inverse of `to_state`."""
        return cls(**{**state, "best": _decoded(state["best"]), "last": _decoded(state["last"])})

    def note_best(self, key: str, *, maximum: bool) -> bool:
        """Compare the last evaluation with the best so far; whether it is better.

        Args:
            key: the metric that decides; a first value that is not NaN beats NaN.
            maximum: whether larger is better.
        """
        value, best = self.last[key], self.best.get(key, math.nan)
        better = value > best if maximum else value < best
        if better or self.best_step is None or (math.isnan(best) and not math.isnan(value)):
            self.best, self.best_step, self.stale = self.last, self.step, 0
            return True
        self.stale += 1
        return False


def _encoded(metrics: Mapping[str, float]) -> dict[str, float | str]:
    return {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}


def _decoded(metrics: Mapping[str, float | str]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
