"""The plots of a model's report, written as SVG: axes, ticks and marks in the style of `figures`, without Matplotlib.

Loading Matplotlib and drawing two figures with it took a twelfth of a finetuning of 300 molecules.
"""

from __future__ import annotations

import html
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

# Colours safe for colour-blind readers, those of Okabe and Ito (2008). Series differ in marker or line style as well as
# in colour, so a figure also survives a grey print.

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#7F7F7F")
LINES = ("-", "--", "-.", ":")
DASHES = ("", "5.9 2.6", "10.2 2.6 1.6 2.6", "1.6 2.6")
"""`LINES` in SVG, in points."""
_LONGEST_LABEL = 80


def printable(text: object) -> str:
    """Text of a user as a label: no control characters, at most 80 characters."""
    found = "".join(character if character.isprintable() else " " for character in str(text))
    return found if len(found) <= _LONGEST_LABEL else found[: _LONGEST_LABEL - 1] + "…"


# Axes: from data to points (1/72 inch), with ticks at round numbers.

_WIDTH_OF_A_LETTER = 0.62  # of the size of the font, for the room that tick labels need
_TICK, _LABEL, _TITLE = 8.0, 9.0, 10.0  # sizes of fonts
_PAD, _TICK_LENGTH, _LEGEND_ROW = 4.0, 3.5, 13.0
_MARGIN = 0.05  # of the range of the data, on either side
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_MOST_STEPS, _MOST_DECADES = 7, 8
_INK = "currentColor"  # readable on light and on dark pages


@dataclass(frozen=True)
class Scale:
    """One axis.

    Attributes:
        low: smallest value of the data.
        high: largest value, at least `low`.
        logarithmic: both are positive then.
        below: share of the range that is left free below the data.
    """

    low: float
    high: float
    logarithmic: bool = False
    below: float = _MARGIN

    def shares(self, values: Iterable[float] | np.ndarray) -> np.ndarray:
        """Where values lie between the ends of the axis, 0 to 1."""
        low, high = self._ends()
        return np.asarray((self._mapped(np.asarray(values, float)) - low) / (high - low))

    def ticks(self) -> list[tuple[float, str]]:
        """Values and labels of the ticks within the axis."""
        low, high = self._ends()
        if not self.logarithmic:
            return _linear_ticks(low, high)
        found = _logarithmic_ticks(low, high)
        return found if len(found) > 1 else [tick for tick in _linear_ticks(10**low, 10**high) if tick[0] > 0]

    def _mapped(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(np.log10(values) if self.logarithmic else values)

    def _ends(self) -> tuple[float, float]:
        low, high = self._mapped(np.array([self.low, self.high])).tolist()
        if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
            half = 0.5 if self.logarithmic or low == 0 else abs(low) / 2
            low, high = low - half, high + half
        return low - self.below * (high - low), high + _MARGIN * (high - low)


def _linear_ticks(low: float, high: float) -> list[tuple[float, str]]:
    least = (high - low) / _MOST_STEPS
    power = math.floor(math.log10(least))
    factor = next(factor for factor in _STEPS if factor * 10.0**power >= least * (1 - 1e-9))
    step, decimals = factor * 10.0**power, max(0, (factor == 2.5) - power - (factor == 10.0))
    values = [place * step for place in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    is_short = decimals <= 4 and max(abs(low), abs(high)) < 1e6
    return [(value, f"{value:.{decimals}f}" if is_short else f"{value:.6g}") for value in values]


def _logarithmic_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Decades, and between them 2 and 5 or all digits where there are few."""
    factors = range(1, 10) if high - low < 0.5 else (1, 2, 5) if high - low < 2 else (1,)
    every = max(1, math.ceil((high - low) / _MOST_DECADES))
    first, last = max(math.floor(low), sys.float_info.min_10_exp), min(math.ceil(high), sys.float_info.max_10_exp)
    values = [factor * 10.0**decade for decade in range(first, last + 1, every) for factor in factors]
    return [(value, f"{value:.6g}") for value in values if low <= math.log10(value) <= high]


@dataclass
class Plot:
    """A plot of marks in data coordinates.

    Attributes:
        x: horizontal axis.
        y: vertical axis.
        x_label: under it.
        y_label: beside it.
        title: above all.
        width: in inches, as `height`.
        height: of the whole plot.
    """

    x: Scale
    y: Scale
    x_label: str
    y_label: str
    title: str = ""
    width: float = 3.9
    height: float = 3.7
    _marks: list[str] = field(default_factory=list)
    _legend: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._y_ticks = self.y.ticks()
        widest = max((len(label) for _, label in self._y_ticks), default=0) * _WIDTH_OF_A_LETTER * _TICK
        self._left = _LABEL + _TICK_LENGTH + widest + 3 * _PAD
        self._right, self._bottom = 72 * self.width - 3 * _PAD, 72 * self.height - _LABEL - _TICK - 4 * _PAD
        self._top = (_TITLE + 2 * _PAD) if self.title else 2 * _PAD

    def bars(self, edges: Sequence[float], below: np.ndarray, above: np.ndarray, color: str) -> None:
        """A bar between neighbouring edges, from `below` to `above`."""
        left, right = self._across(edges[:-1]), self._across(edges[1:])
        for x, end, low, high in zip(left, right, self._up(below), self._up(above), strict=True):
            if low > high:
                self._marks.append(
                    f'<rect x="{x:.2f}" y="{high:.2f}" width="{end - x:.2f}" height="{low - high:.2f}" '
                    f'fill="{color}" stroke="white" stroke-width="0.4"/>'
                )

    def intervals(self, x: np.ndarray, ends_2B: np.ndarray, color: str) -> None:
        """A thin vertical line for each point."""
        lines = zip(self._across(x), *self._up(ends_2B), strict=True)
        path = "".join(f"M{at:.2f} {start:.2f}V{end:.2f}" for at, start, end in lines)
        self._marks.append(f'<path d="{path}" stroke="{color}" stroke-width="0.7" stroke-opacity="0.35" fill="none"/>')

    def points(
        self, x: np.ndarray, y: np.ndarray, number: int, *, areas: Iterable[float], opacity: float = 1.0
    ) -> None:
        """The marks of series `number`, whose areas are in square points."""
        drawn = zip(self._across(x), self._up(y), areas, strict=True)
        path = "".join(_mark(number, at, up, math.sqrt(area) / 2) for at, up, area in drawn)
        self._marks.append(f'<path d="{path}" fill="{_color(number)}" fill-opacity="{opacity}"/>')

    def frames(self, x: np.ndarray, y: np.ndarray, color: str) -> None:
        """A square around each point."""
        path = "".join(_mark(1, at, up, 3.3) for at, up in zip(self._across(x), self._up(y), strict=True))
        self._marks.append(f'<path d="{path}" fill="none" stroke="{color}"/>')

    def line(
        self,
        x: Sequence[float] | np.ndarray,
        y: Sequence[float] | np.ndarray,
        color: str,
        *,
        dash: str,
        width: float = 1.6,
    ) -> None:
        """A line through the points."""
        places = " ".join(f"{at:.2f},{up:.2f}" for at, up in zip(self._across(x), self._up(y), strict=True))
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._marks.append(f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="{width}"{dashed}/>')

    def name(self, number: int, name: str) -> None:
        """Name series `number` above the axes."""
        self._legend.append((_color(number), name))

    def svg(self) -> str:
        """The plot, which scales with the page and takes its text colour."""
        rows = len(self._legend) * _LEGEND_ROW
        width, height = 72 * self.width, 72 * self.height
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {-rows:g} {width:.2f} {height + rows:.2f}" '
            f'version="1.1" fill="{_INK}" font-family="DejaVu Sans, sans-serif">',
            *self._texts(rows),
            *self._marks,
            *self._axes(),
            "</svg>",
        ]
        return "\n".join(parts)

    def _across(self, values: Iterable[float] | np.ndarray) -> np.ndarray:
        return np.asarray(self._left + self.x.shares(values) * (self._right - self._left))

    def _up(self, values: Iterable[float] | np.ndarray) -> np.ndarray:
        return np.asarray(self._bottom - self.y.shares(values) * (self._bottom - self._top))

    def _texts(self, rows: float) -> list[str]:
        middle = (self._left + self._right) / 2
        found = [
            _text(middle, 72 * self.height - 2 * _PAD, self.x_label, _LABEL),
            _text(0, 0, self.y_label, _LABEL, at=f"translate({_LABEL + _PAD / 2:.2f} "
                  f"{(self._top + self._bottom) / 2:.2f}) rotate(-90)"),
        ]  # fmt: skip
        if self.title:
            found.append(_text(middle, _TITLE + _PAD - rows, self.title, _TITLE))
        for row, (color, name) in enumerate(self._legend):
            y = (row + 1) * _LEGEND_ROW - rows + (_TITLE + _PAD if self.title else 0.0)
            found += [
                f'<rect x="{self._left:.2f}" y="{y - 7:.2f}" width="10" height="6" fill="{color}"/>',
                _text(self._left + 14, y, name, _TICK, anchor="start"),
            ]
        return found

    def _axes(self) -> list[str]:
        path = f"M{self._left:.2f} {self._top:.2f}V{self._bottom:.2f}H{self._right:.2f}"
        texts = []
        for value, label in self.x.ticks():
            at = float(self._across([value])[0])
            path += f"M{at:.2f} {self._bottom:.2f}v{_TICK_LENGTH}"
            texts.append(_text(at, self._bottom + _TICK_LENGTH + _TICK + 1, label, _TICK))
        for value, label in self._y_ticks:
            up = float(self._up([value])[0])
            path += f"M{self._left:.2f} {up:.2f}h{-_TICK_LENGTH}"
            texts.append(_text(self._left - _TICK_LENGTH - _PAD / 2, up + 0.36 * _TICK, label, _TICK, anchor="end"))
        return [f'<path d="{path}" fill="none" stroke="{_INK}" stroke-width="0.8"/>', *texts]


def _color(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


def _text(x: float, y: float, text: str, size: float, *, anchor: str = "middle", at: str = "") -> str:
    moved = f' transform="{at}"' if at else f' x="{x:.2f}" y="{y:.2f}"'
    return f'<text{moved} font-size="{size:g}" text-anchor="{anchor}">{html.escape(printable(text))}</text>'


def _mark(number: int, x: float, y: float, half: float) -> str:
    """A circle, a square, a triangle or a diamond as the path of a series' mark."""
    if number % 4 == 0:
        arc = f"a{half:.2f} {half:.2f} 0 1 0"
        return f"M{x - half:.2f} {y:.2f}{arc} {2 * half:.2f} 0{arc} {-2 * half:.2f} 0z"
    if number % 4 == 1:
        return f"M{x - half:.2f} {y - half:.2f}h{2 * half:.2f}v{2 * half:.2f}h{-2 * half:.2f}z"
    if number % 4 == 2:
        return f"M{x:.2f} {y - half:.2f}L{x + half:.2f} {y + half:.2f}H{x - half:.2f}z"
    half *= math.sqrt(2)
    return f"M{x:.2f} {y - half:.2f}l{half:.2f} {half:.2f}l{-half:.2f} {half:.2f}l{-half:.2f} {-half:.2f}z"


# Predictions against measurements, and how labels are distributed.


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
    labels = _with_logarithm(measured, logarithmic)
    values = {name: _with_logarithm(own, logarithmic) for name, own in predicted.items()}
    known = {name: np.isfinite(labels) & np.isfinite(own) for name, own in values.items()}
    drawn = {
        name: known[name] & np.isfinite(ends_2B).all(axis=0) & ((ends_2B > 0).all(axis=0) | (not logarithmic))
        for name in values
        if ends_2B is not None
    }
    of_x = [labels[rows] for rows in known.values()]
    of_y = [values[name][rows] for name, rows in known.items()]
    ends = [ends_2B[:, rows].ravel() for rows in drawn.values() if ends_2B is not None]
    suffix = f" ({printable(unit)})" if unit else ""
    low, high = _range([*of_x, *of_y], logarithmic)
    plot = Plot(
        Scale(low, high, logarithmic), Scale(*_range([*of_x, *of_y, *ends], logarithmic), logarithmic),
        f"measured{suffix}", f"predicted{suffix}", title,
    )  # fmt: skip
    for number, (name, own) in enumerate(values.items()):
        rows = known[name]
        if ends_2B is not None:
            plot.intervals(labels[drawn[name]], ends_2B[:, drawn[name]], _color(number))
        if outside_B is not None and (rows & outside_B).any():
            plot.frames(labels[rows & outside_B], own[rows & outside_B], PALETTE[1])
        plot.points(labels[rows], own[rows], number, areas=[14.0] * int(rows.sum()), opacity=0.65)
        if len(values) > 1:
            plot.name(number, name)
    plot.line([low, high], [low, high], _INK, dash="1 1.65", width=1.0)
    return plot.svg()


def _with_logarithm(values: Sequence[float] | np.ndarray, logarithmic: bool) -> np.ndarray:
    numbers = np.asarray(values, dtype=float)
    return np.where(numbers > 0, numbers, np.nan) if logarithmic else numbers


def _range(values: Sequence[np.ndarray], logarithmic: bool) -> tuple[float, float]:
    every = np.concatenate([*values, np.empty(0)])
    return (float(every.min()), float(every.max())) if len(every) else (0.1 if logarithmic else 0.0, 1.0)


def label_histogram(
    edges: Sequence[float], counts: Mapping[str, Sequence[int]], *, unit: str = "", logarithmic: bool = False
) -> str:
    """SVG of how many labels lie between edges, the parts of the data on top of each other."""
    below = np.zeros(len(edges) - 1)
    highest = max(1.0, float(np.sum([list(own) for own in counts.values()], axis=0).max())) if counts else 1.0
    plot = Plot(
        Scale(edges[0], edges[-1], logarithmic), Scale(0.0, highest, below=0.0),
        f"label ({printable(unit)})" if unit else "label", "molecules", width=5.2, height=2.6,
    )  # fmt: skip
    for number, (name, own) in enumerate(counts.items()):
        above = below + np.asarray(own)
        plot.bars(edges, below, above, _color(number))
        below = above
        if len(counts) > 1:
            plot.name(number, name)
    return plot.svg()


# Figures of a classifier: ROC curves and calibration.


Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]
CLASSES = ("class 0", "class 1")
"""How figures call two classes without names of their own."""
BINS = 10


def roc_plot(pairs: Pairs, words: tuple[str, str] = CLASSES) -> str:
    """SVG of one ROC curve per target; `pairs` are labels (0, 1) and probabilities without missing values.

    Args:
        pairs: pairs of each target, by its name.
        words: names of the classes 0 and 1 on the axes.
    """
    from sklearn.metrics import roc_curve  # a slow import that models of values do not need

    negative, positive = map(printable, words)
    x_label, y_label = f"share of {negative} called {positive}", f"share of {positive} found"
    plot = Plot(Scale(0.0, 1.0), Scale(0.0, 1.0), x_label, y_label)
    for number, (name, (labels, probabilities)) in enumerate(pairs.items()):
        false_rate, true_rate, _ = roc_curve(labels, probabilities)
        plot.line(false_rate, true_rate, _color(number), dash=DASHES[number % len(DASHES)])
        if len(pairs) > 1:
            plot.name(number, name)
    plot.line([0, 1], [0, 1], PALETTE[-1], dash="1 1.65", width=1.0)
    return plot.svg()


def calibration_plot(pairs: Pairs, positive: str = CLASSES[1]) -> str:
    """SVG of how often the class `positive` occurs among molecules with about the same predicted probability."""
    positive = printable(positive)
    x_label, y_label = f"predicted probability of {positive}", f"observed share of {positive}"
    plot = Plot(Scale(0.0, 1.0), Scale(0.0, 1.0), x_label, y_label)
    for number, (name, (labels, probabilities)) in enumerate(pairs.items()):
        predicted, observed, counts = calibration_bins(labels, probabilities)
        plot.line(predicted, observed, _color(number), dash=DASHES[number % len(DASHES)])
        plot.points(predicted, observed, number, areas=10 + 60 * counts / counts.max())
        if len(pairs) > 1:
            plot.name(number, name)
    plot.line([0, 1], [0, 1], PALETTE[-1], dash="1 1.65", width=1.0)
    return plot.svg()


def calibration_bins(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean prediction, share of class 1 and count of each of the ten equal bins that is not empty."""
    places = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    used = counts > 0
    predicted = np.bincount(places, probabilities, minlength=BINS)[used] / counts[used]
    observed = np.bincount(places, labels, minlength=BINS)[used] / counts[used]
    return predicted, observed, counts[used]
