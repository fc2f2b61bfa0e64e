"""The curves of `dnd bench scaling` as a picture: time above, memory below, an axis per column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnd.analysis.bench.scaling import Point, points_csv
from dnd.analysis.figures import LINES, MARKERS, PALETTE, drawing, save_figure
from dnd.common.files import write_text

_GROWING = (
    "atoms"  # here cost grows by orders of magnitude; elsewhere it should be level, which only an axis from 0 shows
)


def write_points(points: Sequence[Point], stem: Path) -> list[Path]:
    """`stem`.csv, and the picture as .png and .svg."""
    write_text(stem.with_suffix(".csv"), points_csv(points))
    names = list(dict.fromkeys(point.axis for point in points))
    with drawing(len(names), 2, width=3.6, height=2.8) as (figure, grid):
        for column, axis in enumerate(names):
            own = [point for point in points if point.axis == axis]
            _draw(grid[0, column], own, _time, f"{_clock(axis)} per {own[0].per}")
            grid[0, column].legend()
            if any(_memory(point) is not None for point in own):
                _draw(grid[1, column], own, _memory, "MiB")
            else:
                grid[1, column].remove()
        return [stem.with_suffix(".csv"), *save_figure(figure, stem)]


def _draw(panel: Any, points: Sequence[Point], height: Any, label: str) -> None:
    axis = points[0].axis
    for number, what in enumerate(dict.fromkeys(point.what for point in points)):
        own = [point for point in points if point.what == what]
        style = {"color": PALETTE[number], "marker": MARKERS[number], "linestyle": LINES[number % len(LINES)]}
        panel.plot([point.value for point in own], [height(point) for point in own], label=what, **style)
    panel.set(xlabel=axis, ylabel=label)
    if axis != "threads":
        panel.set_xscale("log")
    if axis == _GROWING:
        panel.set_yscale("log")
    else:
        panel.set_ylim(0, 1.3 * max(height(point) for point in points))
    values = sorted({point.value for point in points})
    panel.set_xticks(values, [f"{value:,}" for value in values])
    panel.minorticks_off()


def _clock(axis: str) -> str:
    return "ms by the clock" if axis == "threads" else "CPU ms"


def _time(point: Point) -> float:
    return point.wall_ms if point.axis == "threads" else point.cpu_ms


def _memory(point: Point) -> float | None:
    return point.own_mb if point.axis == "molecules" else point.peak_mb
