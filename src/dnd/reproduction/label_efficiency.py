"""Figure 5: how many labels a pretrained student needs, with nested subsets of the training labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dnd.common.errors import InputError
from dnd.report.figures import MARKERS, Finding, drawing, plain
from dnd.report.plots import LINES, PALETTE
from dnd.reproduction.results import Record
from dnd.reproduction.significance import Seeds
from dnd.reproduction.systems import SYSTEMS
from dnd.reproduction.tables import LARGER_IS_BETTER, metric_name, pooling_name, seeds_of

_COLUMNS = 5


@dataclass(frozen=True)
class Curve:
    """Test scores of one system on one data set by fraction of the training labels.

    Attributes:
        dataset: name shown.
        label: label of the system.
        metric: metric of the scores.
        points: fraction → (training molecules, score by upstream and finetuning seed).
    """

    dataset: str
    label: str
    metric: str
    points: Mapping[float, tuple[int, Mapping[Seeds, float]]]

    def mean(self, fraction: float) -> float:
        """Mean over seeds at a fraction."""
        return float(np.mean(list(self.points[fraction][1].values())))

    def deviation(self, fraction: float) -> float:
        """Sample deviation over seeds at a fraction; 0 for one seed."""
        values = list(self.points[fraction][1].values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def curves_of(records: Sequence[Record], names: Mapping[str, str]) -> list[Curve]:
    """Curves from the finetuning cells of a grid; `names` are those of the data sets as shown.

    Raises:
        InputError: no cell is finished.
    """
    groups: dict[tuple[str, str, str], dict[float, dict[Seeds, Record]]] = {}
    for record in records:
        if record.kind == "finetune" and record.status == "done" and record.result.get("test") is not None:
            settings = record.settings
            by_fraction = groups.setdefault((settings["dataset"], settings["system"], settings["pooling"]), {})
            by_fraction.setdefault(settings["fraction"], {})[seeds_of(record)] = record
    if not groups:
        reason = next((record.reason for record in records if record.status == "failed"), "nothing to run")
        raise InputError("no finetuning is finished, so there is no curve", found=reason)
    found = []
    for (dataset, name, pooling), by_fraction in groups.items():
        points = {
            fraction: (
                next(iter(seeds.values())).result["molecules"]["train"],
                {seed: float(record.result["test"]) for seed, record in seeds.items()},
            )
            for fraction, seeds in sorted(by_fraction.items())
        }
        metric = next(iter(next(iter(by_fraction.values())).values())).result["metric"]
        label = f"{SYSTEMS[name].label} {pooling_name(pooling)}" if name in SYSTEMS else name
        found.append(Curve(names.get(dataset, dataset), label, metric, points))
    return found


def draw_label_efficiency(curves: Sequence[Curve], *, name: str = "labels") -> Finding:
    """A panel per data set: score against the number of training molecules, one line per system, ± deviation."""
    datasets = list(dict.fromkeys(curve.dataset for curve in curves))
    columns = min(_COLUMNS, len(datasets))
    lines = -(-len(datasets) // columns)
    with drawing(columns, lines, width=3.4, height=2.8) as (figure, grid):
        for place, axes in enumerate(grid.ravel()):
            if place >= len(datasets):
                axes.set_axis_off()
                continue
            own = [curve for curve in curves if curve.dataset == datasets[place]]
            for number, curve in enumerate(own):
                sizes = [count for count, _ in curve.points.values()]
                means = [curve.mean(fraction) for fraction in curve.points]
                errors = [curve.deviation(fraction) for fraction in curve.points]
                axes.errorbar(
                    sizes, means, errors, color=PALETTE[number % len(PALETTE)], ls=LINES[number % len(LINES)],
                    marker=MARKERS[number % len(MARKERS)], ms=3, capsize=2, label=plain(curve.label),
                )  # fmt: skip
            axes.set(title=plain(datasets[place]), xlabel="training molecules", ylabel=metric_name(own[0].metric))
            if place == 0:
                axes.legend()
    rows: list[Sequence[object]] = []
    for curve in curves:
        for fraction, (count, by_seed) in curve.points.items():
            rows += [(curve.dataset, curve.label, fraction, count, *seeds, value) for seeds, value in by_seed.items()]
    columns_csv = ("dataset", "system", "fraction", "train_molecules", "upstream_seed", "seed", "score")
    return Finding(name, figure, columns_csv, rows, _sentence(curves))


def _sentence(curves: Sequence[Curve]) -> str:
    """On how many data sets each pretrained system with its smallest subset is comparable to RandInit with all labels.

    Comparable: its mean is not worse than RandInit's by more than RandInit's deviation over seeds.
    """
    parts = []
    controls = [curve for curve in curves if "RandInit" in curve.label and 1.0 in curve.points]
    for label in dict.fromkeys(curve.label for curve in curves if "RandInit" not in curve.label):
        for control_label in dict.fromkeys(curve.label for curve in controls):
            pairs = [
                (curve, control)
                for curve in curves
                for control in controls
                if curve.label == label and control.label == control_label and curve.dataset == control.dataset
            ]
            good = [curve.dataset for curve, control in pairs if _comparable(curve, control)]
            if pairs:
                fraction = min(pairs[0][0].points)
                parts.append(
                    f"{label} with {100 * fraction:.0f} % of the training labels is comparable to {control_label} with "
                    f"all of them on {len(good)} of {len(pairs)} data sets ({', '.join(good) or 'none'})."
                )
    return " ".join(parts) or "There is no pair of a pretrained system and RandInit to compare."


def _comparable(curve: Curve, control: Curve) -> bool:
    sign = 1.0 if curve.metric in LARGER_IS_BETTER else -1.0
    worse_by = sign * (control.mean(1.0) - curve.mean(min(curve.points)))
    return worse_by <= control.deviation(1.0)
