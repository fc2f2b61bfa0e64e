"""Tables 1, 2 and 6: the systems, ours beside the paper's, with deviations, seeds, sizes and paired tests."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np

from dnd.common.config import look_up
from dnd.reproduction.benchmarks import BENCHMARKS, PARTS, QM9_PREFIX
from dnd.reproduction.results import Record

# The systems that the tables compare, by their names on the command line and in the paper.


Upstream = Literal["none", "contrast", "distill", "pretrain", "classical"]
PAPER_LAYER_DECAY = 0.65


@dataclass(frozen=True)
class System:
    """One system.

    Attributes:
        name: as on the command line.
        label: as in our tables.
        paper: its name in the paper's tables; empty = not there.
        upstream: the stage that makes its encoder; `none` = random weights, `classical` = no network at all.
        variant: level of the distillation, objective of the pretraining, or kind of classical model.
        layer_decay: learning rate multiplier per layer in finetuning.
        words: settings of the pretraining, `key=value`, beside those that `variant` stands for.
    """

    name: str
    label: str
    paper: str
    upstream: Upstream
    variant: str = ""
    layer_decay: float = PAPER_LAYER_DECAY
    words: tuple[str, ...] = ()


_ENTRIES = (
    System("randinit-0.65", "RandInit, layer decay 0.65", "RandInit", "none"),
    System("randinit-1.0", "RandInit, layer decay 1.0", "RandInit", "none", layer_decay=1.0),
    System("3dinfomax", "3DInfomax", "3DInfomax", "contrast"),
    # The temperature that D&D states; the default is that of 3DInfomax's own files.
    System("3dinfomax-0.01", "3DInfomax, τ = 0.01", "3DInfomax", "contrast", words=("temperature=0.01",)),
    System("dnd-graph", "D&D-GRAPH", "D&D-Graph", "distill", "graph"),
    System("dnd-node", "D&D-NODE", "D&D-Node", "distill", "node"),
    System("coordinated", "coordinated (CCMD)", "", "distill", "coordinated"),
    # CCMD's ablation; "coordinated" is its third line.
    System("ccmd-global", "CCMD, global only", "", "distill", "custom", words=("terms.global_tokens=1",)),
    System("ccmd-mean", "CCMD, global + local mean", "", "distill", "coordinated", words=("size_factor=mean",)),
    System("graphcl", "GraphCL", "GraphCL", "pretrain", "graphcl"),
    System("propred", "ProPred", "ProPred", "pretrain", "propred"),
    System("dispred", "DisPred", "DisPred", "pretrain", "dispred"),
    System("confgen", "ConfGen", "ConfGen", "pretrain", "confgen"),
    System("rf-counts", "random forest, count fingerprints", "", "classical", "rf-counts"),
    System("rf-descriptors", "random forest, RDKit descriptors", "", "classical", "rf-descriptors"),
    System("rf-both", "random forest, both", "", "classical", "rf-both"),
    System("gb-both", "gradient boosting, both", "", "classical", "gb-both"),
)
SYSTEMS: dict[str, System] = {entry.name: entry for entry in _ENTRIES}
CLASSICAL = tuple(entry.name for entry in _ENTRIES if entry.upstream == "classical")
TABLE_1 = ("randinit-0.65", "randinit-1.0", "3dinfomax", "dnd-graph", "dnd-node", "coordinated", *CLASSICAL)
TABLE_2 = ("randinit-0.65", "randinit-1.0", "3dinfomax", "dnd-graph", "dnd-node", *CLASSICAL)
TABLE_6 = ("graphcl", "propred", "dispred", "confgen", *TABLE_2)


def system(name: str) -> System:
    """The system of that name.

    Raises:
        ConfigError: there is none; the message holds the nearest names.
    """
    return look_up(SYSTEMS, name, "system")


# Tables 1, 2 and 6: ours beside the paper's, with deviations, numbers of seeds, sizes and paired tests.
#
# Deviations are sample deviations (n - 1). A paired test compares two systems on the same data set over the same seeds:
# Student's t on the differences, two-sided, 5 %. With three seeds it is weak, and 8 of 10 comparisons that it leaves
# open say nothing; the sign test over data sets below each table has more to say.


LARGER_IS_BETTER = frozenset({"rocauc"})
LEVEL = 0.05
_POOLINGS = {"mean": "MP", "virtual_node": "VN", "": ""}
_METRIC_NAMES = {"rmse": "RMSE ↓", "rocauc": "ROC-AUC ↑", "mae_z": "MAE/σ ↓", "mae": "MAE ↓"}


@dataclass(frozen=True)
class Entry:
    """A system with a pooling on a data set.

    Attributes:
        dataset, system, pooling: which.
        metric: of the values.
        by_seed: seed → test score.
        sizes: training, validation and test molecules.
        full: the same before the budget reduced them.
        paper: mean and deviation that the paper prints; None where it has none.
    """

    dataset: str
    system: str
    pooling: str
    metric: str
    by_seed: Mapping[int, float]
    sizes: tuple[int, ...]
    full: tuple[int, ...]
    paper: tuple[float, float | None] | None

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(list(self.by_seed.values())))

    @property
    def deviation(self) -> float | None:
        """Sample deviation over seeds; None for a single one."""
        return float(np.std(list(self.by_seed.values()), ddof=1)) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """Two systems on one data set over the seeds that both have.

    Attributes:
        gain: relative improvement of the first over the second, positive = better.
        seeds: number of pairs.
        p_value: of the paired t-test; None with fewer than two pairs or without any spread.
    """

    gain: float
    seeds: int
    p_value: float | None

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the test supports it, else `open`."""
        if self.p_value is None or self.p_value >= LEVEL:
            return "open"
        return "better" if self.gain > 0 else "worse"


def entries(records: Iterable[Record]) -> list[Entry]:
    """Finished cells with all training labels, grouped over seeds."""
    groups: dict[tuple[str, str, str], dict[int, Record]] = {}
    for record in records:
        settings = record.settings
        if record.status == "done" and record.kind in ("finetune", "classical") and settings["fraction"] >= 1:
            if record.result.get("test") is None:
                continue
            key = (settings["dataset"], settings["system"], settings["pooling"])
            groups.setdefault(key, {})[settings["seed"]] = record
    found = []
    for (dataset, system, pooling), by_seed in groups.items():
        first = next(iter(by_seed.values())).result
        found.append(
            Entry(
                dataset, system, pooling, first["metric"],
                {seed: float(record.result["test"]) for seed, record in sorted(by_seed.items())},
                tuple(first["molecules"][part] for part in PARTS), tuple(first["available"][part] for part in PARTS),
                paper_value(dataset, system, pooling),
            )
        )  # fmt: skip
    return found


def compare(first: Entry, second: Entry) -> Comparison:
    """`first` against `second`, paired by seed."""
    from scipy.stats import ttest_rel

    seeds = sorted(first.by_seed.keys() & second.by_seed.keys())
    ours, others = np.array([first.by_seed[s] for s in seeds]), np.array([second.by_seed[s] for s in seeds])
    sign = 1.0 if first.metric in LARGER_IS_BETTER else -1.0
    gain = sign * float((ours.mean() - others.mean()) / abs(others.mean())) if seeds else math.nan
    if len(seeds) < 2 or np.ptp(ours - others) < 1e-12:
        return Comparison(gain, len(seeds), None)
    return Comparison(gain, len(seeds), float(ttest_rel(ours, others).pvalue))


_FEWEST_RANKED = 5  # data sets: of four, all alike have p = 0.12


def sign_test(gains: Sequence[float]) -> tuple[int, int, float]:
    """Wins, comparisons that are no tie, and the two-sided p-value that a fair coin would give as many."""
    from scipy.stats import binomtest

    decided = [gain for gain in gains if gain != 0 and math.isfinite(gain)]
    wins = sum(gain > 0 for gain in decided)
    return wins, len(decided), float(binomtest(wins, len(decided)).pvalue) if decided else 1.0


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
        "dataset", "metric", "system", "pooling", "mean", "deviation", "seeds", "paper_mean", "paper_deviation",
        "train", "valid", "test", "full_train", "full_valid", "full_test",
    ]  # fmt: skip
    rows = []
    for entry in found:
        paper = entry.paper or (None, None)
        values = [entry.dataset, entry.metric, entry.system, entry.pooling, entry.mean, entry.deviation]
        rows.append([*values, len(entry.by_seed), *paper, *entry.sizes, *entry.full])
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
