"""One plotting style for every figure, and what an analysis leaves: a picture, its numbers as CSV, a sentence."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from sklearn.metrics import roc_curve

from dnd.common.files import replacing, write_text
from dnd.predictor.metrics import significant
from dnd.tables.writers import csv_text

# What a drawing may be that goes into a page: SVG whose tags and attributes run nothing and fetch nothing.

_TAGS = {
    *("svg", "g", "defs", "path", "use", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan"),
    *("title", "desc", "style", "clipPath", "mask", "pattern", "linearGradient", "radialGradient", "stop", "image"),
    *("marker", "symbol", "metadata"),
}
# Which no XML may hold, not even as a reference; labels come from files.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def drawn_svg(text: str) -> str:
    """The `<svg>` element of what a drawing program wrote, without prologue, comments and illegal characters."""
    parts = _ILLEGAL.sub(" ", text[text.index("<svg") :]).split("<!--")
    return (parts[0] + "".join(part.partition("-->")[2] for part in parts[1:])).strip()


class SvgCheck:
    """Reads the tags of a drawing."""

    def __init__(self) -> None:
        self.problem, self._in_style = "", False

    @classmethod
    def of(cls, svg: str) -> str:
        """What is wrong with a drawing, or nothing."""
        check, parser = cls(), expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = check._start, check._end
        parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = check._text, check._doctype
        if not svg.lstrip().startswith("<svg"):
            return f"it begins with {svg.lstrip()[:20]!a}"
        try:
            parser.Parse(svg.strip(), True)
        except (expat.ExpatError, UnicodeError) as error:
            return f"no XML, {error}"
        return check.problem

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition(":")[2]
        known = tag in _TAGS or name.partition(":")[0] in ("rdf", "cc", "dc", "rdkit")
        self.problem = self.problem or ("" if known else f"a tag {name}")
        self._in_style = tag == "style"
        for key, value in attributes.items():
            own = key.rpartition(":")[2].lower()
            if own.startswith("on") or (own in ("href", "src") and not value.startswith(("#", "data:image/"))):
                self.problem = self.problem or f"an attribute {key}={value[:40]!r}"
            elif not key.startswith("xmlns"):
                self._css(value)

    def _end(self, name: str) -> None:
        self._in_style = False

    def _text(self, text: str) -> None:
        if self._in_style:
            self._css(text)

    def _css(self, text: str) -> None:
        for part in text.lower().split("url(")[1:]:
            if not part.lstrip(" \"'").startswith(("#", "data:image/")):
                self.problem = self.problem or f"a reference url({part[:40]}"
        if "@import" in text.lower() or "javascript:" in text.lower():
            self.problem = self.problem or "a reference in a style"

    def _doctype(self, name: str, *_: object) -> None:
        self.problem = self.problem or "a document type"


# One plotting style for every figure: safe for colour-blind readers, and SVG that follows the page's colour.
#
# The palette is that of Okabe and Ito (2008). Series differ in marker or line style as well as in colour, so a figure
# also survives a grey print.


PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#7F7F7F")
LINES = ("-", "--", "-.", ":")
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
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not what a `matplotlibrc` of the current folder says, which may be one that came
        matplotlib.rcParams.update(_STYLE)
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
    """Text of a user as a label: no mathematics mode, no control characters, at most 80 characters."""
    printable = "".join(character if character.isprintable() else " " for character in str(text))
    printable = f" {printable}" if printable.startswith("_") else printable  # a legend would leave it out
    return (printable if len(printable) <= 80 else printable[:79] + "…").replace("$", r"\$")


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


def parity_plot(
    measured: Sequence[float] | np.ndarray,
    predicted: Mapping[str, Sequence[float] | np.ndarray],
    *,
    title: str = "",
    unit: str = "",
    logarithmic: bool = False,
    ends_2B: np.ndarray | None = None,
    outside_B: np.ndarray | None = None,
) -> str:
    """SVG of predictions against measurements, one colour per model; pairs with a missing value are left out.

    Args:
        measured: labels.
        predicted: model name to its predictions of the same molecules.
        title: title of the figure.
        unit: unit of both axes.
        logarithmic: both axes; pairs with a value that has no logarithm are left out.
        ends_2B: lower and upper ends of the intervals of the predictions, drawn as bars; NaN = none.
        outside_B: molecules outside the domain of the model, which are marked.
    """
    labels = np.asarray(measured, dtype=float)
    labels = np.where(labels > 0, labels, np.nan) if logarithmic else labels
    with drawing(width=3.9, height=3.7) as (figure, grid):
        axes, seen = grid[0, 0], [0.1, 1.0] if logarithmic else [0.0, 1.0]
        for number, (name, values) in enumerate(predicted.items()):
            numbers = np.asarray(values, dtype=float)
            numbers = np.where(numbers > 0, numbers, np.nan) if logarithmic else numbers
            known = np.isfinite(labels) & np.isfinite(numbers)
            seen = [*labels[known], *numbers[known]] if known.any() and number == 0 else [*seen, *numbers[known]]
            marker = MARKERS[number % len(MARKERS)]
            if ends_2B is not None:
                drawn = known & np.isfinite(ends_2B).all(axis=0) & ((ends_2B > 0).all(axis=0) | (not logarithmic))
                axes.vlines(labels[drawn], *ends_2B[:, drawn], color=PALETTE[number], linewidth=0.7, alpha=0.35)
            if outside_B is not None and (known & outside_B).any():
                far = known & outside_B
                axes.scatter(labels[far], numbers[far], s=44, marker="s", facecolors="none", edgecolors=PALETTE[1])
            axes.scatter(
                labels[known], numbers[known], s=14, alpha=0.65, marker=marker, linewidths=0,
                color=PALETTE[number % len(PALETTE)], label=plain(name),
            )  # fmt: skip
        low, high = min(seen), max(seen)
        axes.plot([low, high], [low, high], ":", color=_INK, linewidth=1)
        if logarithmic:
            axes.set(xscale="log", yscale="log")
            label_decades(axes.xaxis)
            label_decades(axes.yaxis)
        suffix = f" ({plain(unit)})" if unit else ""
        axes.set(title=plain(title), xlabel=f"measured{suffix}", ylabel=f"predicted{suffix}")
        if len(predicted) > 1:
            axes.legend()
        return to_svg(figure)


def label_histogram(
    edges: Sequence[float], counts: Mapping[str, Sequence[int]], *, unit: str = "", logarithmic: bool = False
) -> str:
    """SVG of how many labels lie between edges, the parts of the data on top of each other."""
    with drawing(width=5.2, height=2.6) as (figure, grid):
        axes, below = grid[0, 0], np.zeros(len(edges) - 1)
        for number, (name, own) in enumerate(counts.items()):
            axes.bar(
                edges[:-1], own, np.diff(edges), below, align="edge", label=plain(name),
                color=PALETTE[number % len(PALETTE)], linewidth=0.4, edgecolor="white",
            )  # fmt: skip
            below += np.asarray(own)
        if logarithmic:
            axes.set(xscale="log")
            label_decades(axes.xaxis)
        axes.set(xlabel=f"label ({plain(unit)})" if unit else "label", ylabel="molecules")
        if len(counts) > 1:
            axes.legend()
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


# Figures of a classifier: ROC curves and calibration.


Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]
CLASSES = ("class 0", "class 1")
"""How figures call two classes without names of their own."""
BINS = 10
_LIMIT_NUMBERED = 25  # classes; more numbers could not be read


def roc_plot(pairs: Pairs, words: tuple[str, str] = CLASSES) -> str:
    """SVG of one ROC curve per target; `pairs` are labels (0, 1) and probabilities without missing values.

    Args:
        pairs: pairs of each target, by its name.
        words: names of the classes 0 and 1 on the axes.
    """
    negative, positive = map(plain, words)
    with drawing(width=3.9, height=3.7) as (figure, grid):
        axes = grid[0, 0]
        for number, (name, (labels, probabilities)) in enumerate(pairs.items()):
            false_rate, true_rate, _ = roc_curve(labels, probabilities)
            style, colour = LINES[number % len(LINES)], PALETTE[number % len(PALETTE)]
            axes.plot(false_rate, true_rate, style, color=colour, label=plain(name))
        axes.plot([0, 1], [0, 1], ":", color=PALETTE[-1], linewidth=1)
        axes.set(xlabel=f"share of {negative} called {positive}", ylabel=f"share of {positive} found")
        if len(pairs) > 1:
            axes.legend()
        return to_svg(figure)


def calibration_plot(pairs: Pairs, positive: str = CLASSES[1]) -> str:
    """SVG of how often the class `positive` occurs among molecules with about the same predicted probability."""
    positive = plain(positive)
    with drawing(width=3.9, height=3.7) as (figure, grid):
        axes = grid[0, 0]
        for number, (name, (labels, probabilities)) in enumerate(pairs.items()):
            predicted, observed, counts = calibration_bins(labels, probabilities)
            colour = PALETTE[number % len(PALETTE)]
            axes.plot(predicted, observed, LINES[number % len(LINES)], color=colour, label=plain(name))
            marker = MARKERS[number % len(MARKERS)]
            axes.scatter(predicted, observed, s=10 + 60 * counts / counts.max(), marker=marker, color=colour)
        axes.plot([0, 1], [0, 1], ":", color=PALETTE[-1], linewidth=1)
        axes.set(xlabel=f"predicted probability of {positive}", ylabel=f"observed share of {positive}")
        if len(pairs) > 1:
            axes.legend()
        return to_svg(figure)


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


def calibration_bins(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean prediction, share of class 1 and count of each of the ten equal bins that is not empty."""
    places = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    used = counts > 0
    predicted = np.bincount(places, probabilities, minlength=BINS)[used] / counts[used]
    observed = np.bincount(places, labels, minlength=BINS)[used] / counts[used]
    return predicted, observed, counts[used]
