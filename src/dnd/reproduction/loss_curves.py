"""Figure 3: loss curves of runs, from their `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnd.common.errors import InputError
from dnd.report.figures import Finding, draw_loss_curves, drawing
from dnd.training.logs import LOG, read_log

_VALID = ("valid_loss", "held_out_loss", "loss")  # held-out loss of an evaluation, by the name its stage gives it
_WINDOWS = 200  # points of the smoothed step loss


@dataclass(frozen=True)
class RunCurves:
    """Losses of one run by optimizer step.

    Attributes:
        steps: (step, loss) of each window of steps, the mean of the batches in it.
        train: (step, loss) of training molecules in evaluation mode; empty where the stage measures none.
        valid: (step, loss) of held-out molecules.
        last: the last evaluation, all its numbers.
    """

    steps: list[tuple[float, float]]
    train: list[tuple[float, float]]
    valid: list[tuple[float, float]]
    last: Mapping[str, Any]


def read_curves(folder: Path | str) -> RunCurves:
    """The losses that a run logged.

    Raises:
        InputError: the folder holds no log, or the log no step.
    """
    path = Path(folder) / LOG
    if not path.is_file():
        raise InputError(f"{folder} holds no {LOG}", expected="the folder of a training run")
    records = read_log(path)
    steps = [(record["step"], record["loss"]) for record in records if record["kind"] == "step"]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    if not steps:
        raise InputError(f"{path} holds no step", next_step="Let the run make a step first")
    name = next((name for name in _VALID if any(name in record for record in evaluations)), _VALID[0])
    return RunCurves(
        _windows([(step, loss) for step, loss in steps if loss is not None]),
        _points(evaluations, "train_loss"),
        _points(evaluations, name),
        evaluations[-1] if evaluations else {},
    )


def draw_curves(runs: Mapping[str, RunCurves], *, name: str = "curves") -> Finding:
    """One panel per run: step loss, training molecules and held-out molecules in evaluation mode."""
    with drawing(columns=len(runs), width=4.4) as (figure, grid):
        for axes, (title, run) in zip(grid[0], runs.items(), strict=True):
            curves = {"each step": run.steps, "training molecules": run.train, "held-out molecules": run.valid}
            draw_loss_curves(axes, {key: points for key, points in curves.items() if points}, title=title)
    rows: list[Sequence[object]] = []
    for title, run in runs.items():
        for kind, points in (("step", run.steps), ("train", run.train), ("valid", run.valid)):
            rows += [(title, kind, int(step), float(loss)) for step, loss in points]
    sentence = " ".join(_describe(title, run) for title, run in runs.items())
    return Finding(name, figure, ("run", "curve", "step", "loss"), rows, sentence)


def _describe(title: str, run: RunCurves) -> str:
    train = run.train[-1][1] if run.train else run.steps[-1][1]
    if not run.valid:
        return f"{title}: training loss {train:.4g} at the end, nothing held out."
    valid = run.valid[-1][1]
    text = f"{title}: training loss {train:.4g}, held-out loss {valid:.4g}, gap {valid - train:+.2g}"
    explained = {key: value for key, value in run.last.items() if key.startswith("valid_") and key.endswith("_r2")}
    known = [f"{key[6:-3]} R² {value:.3f}" for key, value in explained.items() if value is not None]
    return f"{text}{'; held-out ' + ', '.join(known) if known else ''}."


def _points(evaluations: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(record["step"], record[key]) for record in evaluations if record.get(key) is not None]


def _windows(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over at most `_WINDOWS` windows of consecutive steps, so that a long run stays readable."""
    pieces = np.array_split(np.array(points, dtype=np.float64), min(_WINDOWS, len(points)))
    return [(float(piece[-1, 0]), float(piece[:, 1].mean())) for piece in pieces]
