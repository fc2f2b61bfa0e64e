"""The tables of the ablation of the teachers: errors, paired changes against random weights, and the bars.

Changes are paired by seed: mean of the differences, relative to the control for errors and as they are for ROC-AUC,
half-width of the 95 % interval (Student's t), and a star where it leaves out 0. They are over the finetuning seeds of
one pretraining, uncorrected for their number, and data sets are not counted as trials: they share molecules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dnd.analysis.demo_comparison import paired_change
from dnd.analysis.encoder_ablation import NEITHER
from dnd.analysis.results import Record
from dnd.analysis.tables import LARGER_IS_BETTER, is_better, metric_name, paper_best

REGRESSION, CLASSIFICATION = "regression", "classification"
Key = tuple[str, str, float]  # data set, variant, fraction


@dataclass(frozen=True)
class Scores:
    """Finished finetunings.

    Attributes:
        parts: `valid` or `test` → (data set, variant, fraction) → score by seed.
        metrics: of each data set.
        sizes: training molecules by (data set, fraction).
        failed: keys of cells that failed, with the reason.
    """

    parts: Mapping[str, Mapping[Key, Mapping[int, float]]]
    metrics: Mapping[str, str]
    sizes: Mapping[tuple[str, float], int]
    failed: Mapping[str, str] = field(default_factory=dict)

    def mean(self, part: str, key: Key) -> float:
        """Mean over seeds; NaN where nothing is finished."""
        return float(np.mean(list(self.parts[part][key].values()))) if key in self.parts[part] else float("nan")

    def kinds(self) -> dict[str, list[str]]:
        """Data sets with errors and data sets with ROC-AUC; a kind that there is none of is left out."""
        larger = {name: metric in LARGER_IS_BETTER for name, metric in self.metrics.items()}
        kinds = {REGRESSION: False, CLASSIFICATION: True}
        found = {kind: [name for name in larger if larger[name] == wanted] for kind, wanted in kinds.items()}
        return {kind: names for kind, names in found.items() if names}

    def change(self, part: str, key: Key) -> tuple[float, float] | None:
        """Change against the control and its half-width, relative for errors; None with fewer than two pairs."""
        dataset, _, fraction = key
        ours, control = (self.parts[part].get(one, {}) for one in (key, (dataset, NEITHER, fraction)))
        seeds = sorted(ours.keys() & control.keys())
        if len(seeds) < 2:
            return None
        mine, other = [ours[seed] for seed in seeds], [control[seed] for seed in seeds]
        change, half = paired_change(mine, other)
        scale = 1.0 if self.metrics[dataset] in LARGER_IS_BETTER else float(np.mean(other))
        return change / scale, half / scale


def scores_of(records: Sequence[Record]) -> Scores:
    """Scores of the finished cells of a grid."""
    parts: dict[str, dict[Key, dict[int, float]]] = {"valid": {}, "test": {}}
    metrics, sizes = {}, {}
    for record in records:
        if record.kind != "finetune" or record.status != "done":
            continue
        settings, result = record.settings, record.result
        key = (settings["dataset"], settings["system"], settings["fraction"])
        for part, values in parts.items():
            if result[part] is not None:
                values.setdefault(key, {})[settings["seed"]] = float(result[part])
        metrics[key[0]] = result["metric"]
        sizes[key[0], key[2]] = result["molecules"]["train"]
    failed = {record.key: record.reason for record in records if record.status == "failed"}
    return Scores(parts, metrics, sizes, failed)


def ablation_page(scores: Scores, variants: Sequence[str], fractions: Sequence[float]) -> str:
    """All tables as Markdown."""
    lines: list[str] = []
    for fraction in fractions:
        for part in ("test", "valid"):
            lines += [
                f"## {100 * fraction:.0f} % of the labels, {part} part",
                "",
                *_errors(scores, variants, fraction, part),
            ]
            lines += ["", f"Change against `{NEITHER}`, paired over seeds:", ""]
            lines += [*_changes(scores, variants, fraction, part), ""]
    lines += ["## Bars", "", *_bars(scores, variants, fractions), ""]
    if scores.failed:
        lines += ["## Failed cells", "", *(f"- `{key}`: {reason}" for key, reason in scores.failed.items()), ""]
    return "\n".join(lines)


def _errors(scores: Scores, variants: Sequence[str], fraction: float, part: str) -> Iterator[str]:
    yield f"| data set | metric | training molecules | {' | '.join(variants)} |"
    yield "|---" * (3 + len(variants)) + "|"
    for dataset, metric in scores.metrics.items():
        cells = [_shown(scores.parts[part].get((dataset, name, fraction), {})) for name in variants]
        size = scores.sizes.get((dataset, fraction), 0)
        yield f"| {dataset} | {metric_name(metric)} | {size:,} | {' | '.join(cells)} |"


def _shown(by_seed: Mapping[int, float]) -> str:
    values = list(by_seed.values())
    if not values:
        return "–"
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread} ({len(values)})"


def _changes(scores: Scores, variants: Sequence[str], fraction: float, part: str) -> Iterator[str]:
    ours = [name for name in variants if name != NEITHER]
    yield f"| data set | {' | '.join(ours)} |"
    yield "|---" * (1 + len(ours)) + "|"
    for kind, datasets in scores.kinds().items():
        means: dict[str, list[float]] = {name: [] for name in ours}
        for dataset in datasets:
            found = {name: scores.change(part, (dataset, name, fraction)) for name in ours}
            for name, change in found.items():
                means[name] += [change[0]] if change is not None else []
            yield f"| {dataset} | {' | '.join(_shown_change(change, kind) for change in found.values())} |"
        yield f"| mean of {kind} | {' | '.join(_mean_change(means[name], kind) for name in ours)} |"


def _shown_change(found: tuple[float, float] | None, kind: str) -> str:
    if found is None:
        return "–"
    change, half = found
    text = f"{100 * change:+.1f} ± {100 * half:.1f} %" if kind == REGRESSION else f"{change:+.3f} ± {half:.3f}"
    return f"{text}{' *' if abs(change) > half else ''}"


def _mean_change(changes: Sequence[float], kind: str) -> str:
    if not changes:
        return "–"
    better = -1 if kind == REGRESSION else 1
    return f"{_mean(changes, kind)} (better on {sum(better * change > 0 for change in changes)} of {len(changes)})"


def _mean(changes: Sequence[float], kind: str) -> str:
    mean = float(np.mean(changes))
    return f"{100 * mean:+.1f} %" if kind == REGRESSION else f"{mean:+.3f}"


def _bars(scores: Scores, variants: Sequence[str], fractions: Sequence[float]) -> Iterator[str]:
    """Each variant against what was asked of the encoder that ships."""
    full, few = max(fractions), min(fractions)
    for name in [one for one in variants if one != NEITHER]:
        for kind, all_datasets in scores.kinds().items():
            datasets = [one for one in all_datasets if (one, name, full) in scores.parts["test"]]
            if not datasets:
                continue
            changes = [found[0] for one in datasets if (found := scores.change("test", (one, name, full))) is not None]
            measure = "error" if kind == REGRESSION else "ROC-AUC"
            mean = _mean(changes, kind) if changes else "not known"
            yield f"- {name}, {kind}: mean change of the test {measure} {mean}"
            with_paper = [(one, best) for one in datasets if (best := paper_best(one)) is not None]
            beaten = [
                one for one, best in with_paper
                if is_better(scores.metrics[one], scores.mean("test", (one, name, full)), best)
            ]  # fmt: skip
            yield (
                f"  - better than the paper's best number on {len(beaten)} of {len(with_paper)} data sets that have "
                f"one ({', '.join(beaten) or 'none'}; only the OGB sets have the paper's split)"
            )
            if few < full:
                good = [one for one in datasets if _as_good(scores, one, name, few, full)]
                yield (
                    f"  - with {100 * few:.0f} % of the labels as good as `{NEITHER}` with the most (mean within one "
                    f"deviation) on {len(good)} of {len(datasets)} ({', '.join(good) or 'none'})"
                )


def _as_good(scores: Scores, dataset: str, name: str, few: float, full: float) -> bool:
    control = list(scores.parts["test"].get((dataset, NEITHER, full), {}).values())
    ours = scores.mean("test", (dataset, name, few))
    if not control or np.isnan(ours):
        return False
    spread = float(np.std(control, ddof=1)) if len(control) > 1 else 0.0
    mean = float(np.mean(control))
    return ours >= mean - spread if scores.metrics[dataset] in LARGER_IS_BETTER else ours <= mean + spread
