"""Tables 1, 2 and 6: ours beside the paper's, with deviations, numbers of seeds, sizes and tests.

Deviations are sample deviations (n - 1). A test counts pretrainings (`significance.py`), and p-values are corrected for
the number of comparisons of a table against the same rival; a comparison that is left open says nothing.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from dnd.reproduction.benchmarks import BENCHMARKS, PARTS, QM9_PREFIX
from dnd.reproduction.results import Record
from dnd.reproduction.significance import Seeds, Significance, by_pretraining, holm, paired, unpaired
from dnd.reproduction.systems import (
    SYSTEMS,
)

LARGER_IS_BETTER = frozenset({"rocauc"})
LEVEL = 0.05
_POOLINGS = {"mean": "MP", "virtual_node": "VN", "min_max_mean_sum": "", "": ""}
_METRIC_NAMES = {"rmse": "RMSE ↓", "rocauc": "ROC-AUC ↑", "mae_z": "MAE/σ ↓", "mae": "MAE ↓"}


@dataclass(frozen=True)
class Entry:
    """A system with a pooling on a data set.

    Attributes:
        dataset, system, pooling: which.
        metric: metric of the values.
        by_seed: upstream and finetuning seed → test score; the upstream seed of a classical model is 0.
        sizes: training, validation and test molecules.
        full: the same before the budget reduced them.
        valid: mean validation score.
        paper: mean and deviation that the paper prints; None where it has none.
    """

    dataset: str
    system: str
    pooling: str
    metric: str
    by_seed: Mapping[Seeds, float]
    sizes: tuple[int, ...]
    full: tuple[int, ...]
    valid: float
    paper: tuple[float, float | None] | None

    @property
    def mean(self) -> float:
        """Mean over pretrainings and seeds."""
        return float(np.mean(list(self.by_pretraining.values())))

    @property
    def by_pretraining(self) -> dict[int, float]:
        """Upstream seed → mean over its finetuning seeds."""
        return by_pretraining(self.by_seed)

    @property
    def deviation(self) -> float | None:
        """Sample deviation of the pretrainings' means; of the finetuning seeds where there is one pretraining."""
        means = list(self.by_pretraining.values())
        values = means if len(means) > 1 else list(self.by_seed.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    @property
    def deviation_of_finetuning(self) -> float | None:
        """Sample deviation of the finetuning seeds about their pretraining's mean, pooled; None without two of any."""
        own = self.by_pretraining
        spare = len(self.by_seed) - len(own)
        squares = sum((value - own[upstream]) ** 2 for (upstream, _), value in self.by_seed.items())
        return math.sqrt(squares / spare) if spare else None

    @property
    def counts(self) -> str:
        """Pretrainings × finetuning seeds, or the number of seeds where nothing was pretrained."""
        own = self.by_pretraining
        return f"{len(self.by_seed)}" if set(own) == {0} else f"{len(own)} × {len(self.by_seed) // len(own)}"


@dataclass(frozen=True)
class Comparison:
    """Two systems on one data set.

    Attributes:
        gain: relative improvement of the first over the second, positive = better.
        test: test of the difference, over the seeds that both have.
        corrected: its p-value corrected for the comparisons made beside it; None where there is none.
    """

    gain: float
    test: Significance
    corrected: float | None = None

    @property
    def verdict(self) -> str:
        """`better` or `worse` where a test over pretrainings supports it, else `open`."""
        if self.test.over != "pretrainings" or self.corrected is None or self.corrected >= LEVEL:
            return "open"
        return "better" if self.gain > 0 else "worse"


def entries(records: Iterable[Record]) -> list[Entry]:
    """Finished cells with all training labels, grouped over seeds."""
    groups: dict[tuple[str, str, str], dict[Seeds, Record]] = {}
    for record in records:
        settings = record.settings
        if record.status == "done" and record.kind in ("finetune", "classical") and settings["fraction"] >= 1:
            if record.result.get("test") is None:
                continue
            key = (settings["dataset"], settings["system"], settings["pooling"])
            groups.setdefault(key, {})[seeds_of(record)] = record
    found = []
    for (dataset, system, pooling), by_seed in groups.items():
        first = next(iter(by_seed.values())).result
        found.append(
            Entry(
                dataset, system, pooling, first["metric"],
                {seed: float(record.result["test"]) for seed, record in sorted(by_seed.items())},
                tuple(first["molecules"][part] for part in PARTS), tuple(first["available"][part] for part in PARTS),
                _mean_valid(by_seed.values()),
                paper_value(dataset, system, pooling),
            )
        )  # fmt: skip
    return found


def _mean_valid(records: Iterable[Record]) -> float:
    """NaN where a validation part has no score, as with a single class."""
    values = [record.result.get("valid") for record in records]
    return float(np.mean([math.nan if value is None else value for value in values]))


def seeds_of(record: Record) -> Seeds:
    """Upstream and finetuning seed of a cell; older cells, without an upstream seed, have the first."""
    upstream = 0 if record.kind == "classical" else record.settings.get("upstream_seed", 1)
    return int(upstream), int(record.settings["seed"])


def gain_by_pretraining(first: Entry, second: Entry) -> dict[int, float]:
    """Relative gain of `first` over `second` by upstream seed, positive = better."""
    sign = 1.0 if first.metric in LARGER_IS_BETTER else -1.0
    ours, theirs = first.by_pretraining, second.by_pretraining
    rival = {seed: theirs.get(seed, theirs.get(0)) for seed in ours}
    return {seed: sign * (ours[seed] - other) / abs(other) for seed, other in rival.items() if other is not None}


def compare(pairs: Sequence[tuple[Entry, Entry]]) -> list[Comparison]:
    """The first against the second of every pair; the p-values are corrected for the number of pairs (Holm)."""
    found = []
    for first, second in pairs:
        test = (unpaired if set(second.by_pretraining) == {0} else paired)(first.by_seed, second.by_seed)
        gains = list(gain_by_pretraining(first, second).values())
        found.append(Comparison(float(np.mean(gains)) if gains else math.nan, test))
    corrected = holm([one.test.p_value if one.test.over == "pretrainings" else None for one in found])
    return [replace(one, corrected=value) for one, value in zip(found, corrected, strict=True)]


_FEWEST_RANKED = 5  # data sets: of four, all alike have p = 0.12


def wilcoxon_test(gains: Sequence[float]) -> float | None:
    """Two-sided p-value of Wilcoxon's signed ranks, over data sets; None for fewer than five, which can't decide."""
    from scipy.stats import wilcoxon

    decided = [gain for gain in gains if gain != 0 and math.isfinite(gain)]
    return float(wilcoxon(decided).pvalue) if len(decided) >= _FEWEST_RANKED else None


def paper_value(dataset: str, system: str, pooling: str) -> tuple[float, float | None] | None:
    """Mean and deviation of the paper for this place of its table."""
    name = SYSTEMS[system].paper if system in SYSTEMS else ""
    if dataset.startswith(QM9_PREFIX):
        return _paper_table6().get((dataset.removeprefix(QM9_PREFIX), name)) if name else None
    key = (BENCHMARKS[dataset].paper_name.upper(), name, _POOLINGS.get(pooling, ""))
    return _paper_table1().get(key) if name else None


def paper_best(dataset: str) -> float | None:
    """The best mean of any method and pooling in the paper's Table 1; None where it has none for the data set."""
    name = BENCHMARKS[dataset].paper_name.upper()
    values = [mean for (row, _, _), (mean, _) in _paper_table1().items() if row == name]
    if not values:
        return None
    return max(values) if BENCHMARKS[dataset].metric in LARGER_IS_BETTER else min(values)


@cache
def _paper_table1() -> dict[tuple[str, str, str], tuple[float, float | None]]:
    rows = _paper_rows("table1.csv")
    return {(row["dataset"].upper(), row["method"], row["pooling"]): _value(row) for row in rows}


@cache
def _paper_table6() -> dict[tuple[str, str], tuple[float, float | None]]:
    return {(row["target"], row["method"]): _value(row) for row in _paper_rows("table6.csv")}


def _paper_rows(name: str) -> list[dict[str, str]]:
    text = (resources.files("dnd.reproduction") / "paper" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _value(row: Mapping[str, str]) -> tuple[float, float | None]:
    return float(row["mean"]), float(row["std"]) if row["std"] else None


def csv_rows(found: Sequence[Entry]) -> tuple[list[str], list[list[Any]]]:
    """The numbers behind a table: one row per data set, system and pooling."""
    columns = [
        "dataset", "metric", "system", "pooling", "mean", "deviation", "deviation_of_finetuning", "pretrainings",
        "cells", "paper_mean", "paper_deviation", "train", "valid", "test", "full_train", "full_valid", "full_test",
    ]  # fmt: skip
    rows = []
    for entry in found:
        paper = entry.paper or (None, None)
        pretrainings = len(set(entry.by_pretraining) - {0})
        values = [entry.dataset, entry.metric, entry.system, entry.pooling, entry.mean, entry.deviation]
        values += [entry.deviation_of_finetuning, pretrainings, len(entry.by_seed)]
        rows.append([*values, *paper, *entry.sizes, *entry.full])
    return columns, rows


def metric_name(metric: str) -> str:
    """Name of a metric with an arrow to the better side."""
    return _METRIC_NAMES[metric]


def pooling_name(pooling: str) -> str:
    """+MP, +VN, or nothing for classical models."""
    short = _POOLINGS[pooling]
    return f"+{short}" if short else ""


def is_better(metric: str, first: float, second: float) -> bool:
    """Whether `first` is better than `second`."""
    return first > second if metric in LARGER_IS_BETTER else first < second
