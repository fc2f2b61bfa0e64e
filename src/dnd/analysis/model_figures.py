"""Figures of a classifier: ROC curves and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.metrics import roc_curve

from dnd.analysis.figures import LINES, MARKERS, PALETTE, drawing, plain, to_svg

Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]
BINS = 10
_LIMIT_NUMBERED = 25  # classes; more numbers could not be read


def roc_plot(pairs: Pairs) -> str:
    """SVG of one ROC curve per target; `pairs` are labels (0, 1) and probabilities without missing values."""
    with drawing(width=3.9, height=3.7) as (figure, grid):
        axes = grid[0, 0]
        for number, (name, (labels, probabilities)) in enumerate(pairs.items()):
            false_rate, true_rate, _ = roc_curve(labels, probabilities)
            style, colour = LINES[number % len(LINES)], PALETTE[number % len(PALETTE)]
            axes.plot(false_rate, true_rate, style, color=colour, label=plain(name))
        axes.plot([0, 1], [0, 1], ":", color=PALETTE[-1], linewidth=1)
        axes.set(xlabel="share of class 0 called 1", ylabel="share of class 1 found")
        if len(pairs) > 1:
            axes.legend()
        return to_svg(figure)


def calibration_plot(pairs: Pairs) -> str:
    """SVG of how often class 1 occurs among molecules with about the same predicted probability."""
    with drawing(width=3.9, height=3.7) as (figure, grid):
        axes = grid[0, 0]
        for number, (name, (labels, probabilities)) in enumerate(pairs.items()):
            predicted, observed, counts = calibration_bins(labels, probabilities)
            colour = PALETTE[number % len(PALETTE)]
            axes.plot(predicted, observed, LINES[number % len(LINES)], color=colour, label=plain(name))
            marker = MARKERS[number % len(MARKERS)]
            axes.scatter(predicted, observed, s=10 + 60 * counts / counts.max(), marker=marker, color=colour)
        axes.plot([0, 1], [0, 1], ":", color=PALETTE[-1], linewidth=1)
        axes.set(xlabel="predicted probability of class 1", ylabel="observed share of class 1")
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
