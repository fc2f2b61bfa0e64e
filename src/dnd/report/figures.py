"""One plotting style for every figure, and what an analysis leaves: a picture, its numbers as CSV, a sentence."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dnd.common.files import replacing, write_text
from dnd.predictor.metrics import significant
from dnd.report.html import drawn_svg
from dnd.report.plots import LINES, PALETTE, printable
from dnd.tables.writers import csv_text

# One plotting style for every figure: safe for colour-blind readers, and SVG that follows the page's colour.
#
# The palette is that of Okabe and Ito (2008). Series differ in marker or line style as well as in colour, so a figure
# also survives a grey print.


MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_INK = "#1a1b1c"  # becomes `currentColor` in SVG, so that text and axes are readable on light and on dark pages
_STYLE: dict[str, Any] = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.dpi": 150,
    "svg.fonttype": "none",
    "svg.hashsalt": "dnd",  # the same numbers give the same file
    "text.color": _INK,
    "xtick.color": _INK,
    "xtick.labelsize": 8.0,
    "ytick.color": _INK,
    "ytick.labelsize": 8.0,
}


@contextmanager
def drawing(
    columns: int = 1, rows: int = 1, *, width: float = 5.2, height: float = 3.4
) -> Iterator[tuple[Figure, Any]]:
    """A figure in the common style and its array of axes [rows, columns]; `width` and `height` in inches per panel."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not what a `matplotlibrc` of the current folder says, which may be one that came
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, columns, squeeze=False)


def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element without prologue: scales with the page and takes its text colour."""
    buffer = io.StringIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # not what a `matplotlibrc` of the current folder says, which may be one that came
        matplotlib.rcParams.update(_STYLE)
        warnings.simplefilter("ignore", UserWarning)  # of letters that our font has not; the page's fonts have them
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = drawn_svg(text).replace(_INK, "currentColor")
    tag, end, rest = text.partition(">")
    return re.sub(r' (?:width|height)="[^"]*"', "", tag) + end + rest


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png (white background) and `stem`.svg, atomically; returns both paths."""
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    with matplotlib.rc_context(_STYLE), replacing(png) as temporary:
        figure.savefig(temporary, format="png", facecolor="white", metadata={"Software": None})
    write_text(svg, to_svg(figure))
    return [png, svg]


def label_decades(axis: Any) -> None:
    """Label a logarithmic axis in plain numbers, as the tables have them, between decades only where there are few.

    Matplotlib writes powers with its mathematics mode, which took half the time of a figure.
    """
    low, high = np.log10(axis.get_view_interval())
    kept = (1.0, 2.0, 5.0) if high - low < 2 else (1.0,)

    def label(value: float, _place: int | None = None) -> str:
        mantissa = value / 10 ** np.floor(round(np.log10(value), 9)) if value > 0 else 0.0
        return f"{value:.6g}" if high - low < 0.5 or round(mantissa, 6) in kept else ""

    axis.set_major_formatter(FuncFormatter(label))
    axis.set_minor_formatter(FuncFormatter(label))


def plain(text: object) -> str:
    """Text of a user as a label of Matplotlib: no mathematics mode, no control characters, at most 80 characters."""
    label = printable(text)
    return (f" {label}" if label.startswith("_") else label).replace("$", r"\$")  # a legend would leave `_a` out


def draw_loss_curves(
    axes: Any,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str = "",
    references: Mapping[str, float] | None = None,
    x_label: str = "step",
    y_label: str = "loss",
    logarithmic: bool = True,
) -> None:
    """Draw each curve's (step, loss) points and a dotted horizontal line per reference value."""
    for number, (name, points) in enumerate(curves.items()):
        finite = [(step, loss) for step, loss in points if np.isfinite(loss) and (loss > 0 or not logarithmic)]
        if finite:
            steps, losses = zip(*finite, strict=True)
            marker = MARKERS[number % len(MARKERS)] if len(finite) <= 30 else None
            style = LINES[number % len(LINES)]
            axes.plot(
                steps, losses, style, color=PALETTE[number % len(PALETTE)], marker=marker, ms=3, label=plain(name)
            )
    for name, value in (references or {}).items():
        axes.axhline(value, color=_INK, linestyle=":", linewidth=1)
        axes.annotate(plain(name), (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
    if logarithmic and axes.lines:
        axes.set_yscale("log")
        label_decades(axes.yaxis)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
    axes.set(title=plain(title), xlabel=plain(x_label), ylabel=plain(y_label))


def loss_curves(curves: Mapping[str, Sequence[tuple[float, float]]], **labels: Any) -> str:
    """SVG of loss curves; keywords as in `draw_loss_curves`."""
    with drawing() as (figure, axes):
        draw_loss_curves(axes[0, 0], curves, **labels)
        return to_svg(figure)


def bar_chart(
    labels: Sequence[str],
    values: Sequence[float],
    errors: Sequence[float] | None = None,
    *,
    title: str = "",
    axis_label: str = "",
) -> str:
    """SVG of horizontal bars with their numbers, the first on top; `errors` are drawn as ± whiskers."""
    places = np.arange(len(labels))
    with drawing(height=0.8 + 0.32 * max(len(labels), 1)) as (figure, grid):
        axes = grid[0, 0]
        colours = [PALETTE[number % len(PALETTE)] for number in range(len(labels))]
        axes.barh(places, values, xerr=errors, color=colours, height=0.7, error_kw={"ecolor": _INK, "capsize": 2})
        for place, value, error in zip(places, values, errors or [0.0] * len(labels), strict=True):
            axes.annotate(f" {significant(value)}", (value + error, place), va="center", fontsize=8)
        axes.margins(x=0.15)
        axes.set_yticks(places, [plain(label) for label in labels])
        axes.invert_yaxis()
        axes.set(title=plain(title), xlabel=plain(axis_label))
        return to_svg(figure)


# What an analysis leaves: a picture, the numbers behind it as CSV, and a sentence that says what it shows.


@dataclass(frozen=True)
class Finding:
    """The outcome of one analysis.

    Attributes:
        name: stem of its files.
        figure: the picture.
        columns: heads of the CSV.
        rows: its cells; None is an empty cell.
        sentence: what the picture shows, with its numbers.
    """

    name: str
    figure: Figure
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    sentence: str

    def write(self, folder: Path) -> list[Path]:
        """Write `name`.png, .svg, .csv and .txt (the sentence) into `folder`; returns their paths."""
        table, text = folder / f"{self.name}.csv", folder / f"{self.name}.txt"
        write_text(table, guarded_table(self.columns, self.rows))
        write_text(text, self.sentence + "\n")
        return [*save_figure(self.figure, folder / self.name), table, text]


def table_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as CSV that programs read; floats with six digits."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(_six_digits, rows))
    return stream.getvalue()


def guarded_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same for people, who open it in a spreadsheet."""
    return csv_text(columns, list(map(_six_digits, rows)))


def _six_digits(row: Sequence[object]) -> list[object]:
    return [f"{cell:.6g}" if isinstance(cell, float) else "" if cell is None else cell for cell in row]


# How many molecules of each class were called which.


_LIMIT_NUMBERED = 25  # classes; more numbers could not be read


def confusion_plot(counts_KK: np.ndarray, classes: Sequence[str]) -> str:
    """SVG of how many molecules of each class (rows) were called which (columns), coloured by the share of the row."""
    count = len(classes)
    side = max(3.2, 0.42 * count + 1.6)
    share_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    with drawing(width=side + 0.4, height=side) as (figure, grid):
        axes = grid[0, 0]
        image = axes.imshow(share_KK, cmap="cividis_r", vmin=0, vmax=1)
        figure.colorbar(image, ax=axes, shrink=0.7, label="share of the measured class")
        labels = [plain(name)[:16] for name in classes]
        axes.set_xticks(range(count), labels, rotation=45, ha="right")
        axes.set_yticks(range(count), labels)
        if count <= _LIMIT_NUMBERED:
            for (row, column), number in np.ndenumerate(counts_KK):
                colour = "white" if share_KK[row, column] > 0.5 else "black"
                axes.text(column, row, str(number), ha="center", va="center", color=colour, fontsize=8)
        axes.set(xlabel="predicted", ylabel="measured")
        return to_svg(figure)
