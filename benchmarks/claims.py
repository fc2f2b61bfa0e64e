"""Numbers for the paper's claims from the tables and figures of one `dnd reproduce` folder.

The paper counts the better of D&D-GRAPH and D&D-NODE, chosen by the test score, against the better row of another
system. That favours the side with more rows, so each variant's own gain stands beside it.

    python benchmarks/claims.py runs/reproduce-cpu
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from dnd.reproduction.benchmarks import BENCHMARKS
from dnd.reproduction.tables import CLASSICAL, LARGER_IS_BETTER

Scores = dict[str, dict[str, tuple[str, float]]]  # data set → system → metric and mean
VARIANTS = ("dnd-graph", "dnd-node")
RIVALS = {
    "RandInit, layer decay 0.65": ("randinit-0.65",),
    "RandInit, layer decay 1.0": ("randinit-1.0",),
    "3DInfomax": ("3dinfomax",),
    "the best classical model": CLASSICAL,
}


def main() -> None:
    """Print the tables of gains and the sentences of the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the output folder of dnd reproduce")
    folder = parser.parse_args().folder
    for name in ("table1", "table6"):
        scores = read_scores(folder / f"{name}.csv")
        for title, datasets in groups(name, scores).items():
            print(f"\n## {name}, {title}: {', '.join(datasets)}\n")
            print(gain_table({dataset: scores[dataset] for dataset in datasets}))
    print(f"\n## GRAPH or NODE\n\n{graph_or_node(read_scores(folder / 'table1.csv'))}")
    for figure in ("fig3", "fig4", "fig5"):
        print(f"\n## {figure}\n\n{(folder / f'{figure}.txt').read_text(encoding='utf-8').strip()}")


def read_scores(path: Path) -> Scores:
    """The means of a table that `dnd reproduce` wrote as CSV."""
    scores: Scores = {}
    with open(path, newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            scores.setdefault(row["dataset"], {})[row["system"]] = (row["metric"], float(row["mean"]))
    return scores


def groups(table: str, scores: Scores) -> dict[str, list[str]]:
    """Data sets by the heading under which the paper counts them."""
    if table == "table6":
        return {"QM9": list(scores)}
    return {
        title: [dataset for dataset in scores if BENCHMARKS[dataset].group == group]
        for title, group in (("OGB", "ogb"), ("curated", "physchem"))
    }


def gain_table(scores: Scores) -> str:
    """Mean relative gain over the data sets, and on how many of them it is one."""
    lines = ["| against | better of the two | D&D-GRAPH | D&D-NODE |", "|---|---|---|---|"]
    for label, rivals in RIVALS.items():
        cells = [describe(scores, ours, rivals) for ours in (VARIANTS, *((one,) for one in VARIANTS))]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def describe(scores: Scores, ours: tuple[str, ...], rivals: tuple[str, ...]) -> str:
    """Mean gain, wins and a two-sided sign test of `ours` against `rivals` over data sets."""
    gains = [gain(systems, ours, rivals) for systems in scores.values()]
    wins = sum(one > 0 for one in gains)
    p_value = binomtest(wins, len(gains)).pvalue
    return f"{100 * float(np.mean(gains)):+.1f} %, better on {wins} of {len(gains)} (sign test p = {p_value:.2g})"


def gain(systems: dict[str, tuple[str, float]], ours: tuple[str, ...], rivals: tuple[str, ...]) -> float:
    """Relative gain of the best of `ours` over the best of `rivals`, positive = better."""
    metric = systems[ours[0]][0]
    best = max if metric in LARGER_IS_BETTER else min
    own, other = (best(systems[name][1] for name in names if name in systems) for names in (ours, rivals))
    return (own - other) / other * (1 if metric in LARGER_IS_BETTER else -1)


def graph_or_node(scores: Scores) -> str:
    """Gain of NODE over GRAPH by data set."""
    node = {dataset: gain(systems, ("dnd-node",), ("dnd-graph",)) for dataset, systems in scores.items()}
    listed = ", ".join(f"{dataset} {100 * one:+.1f} %" for dataset, one in node.items())
    return f"NODE against GRAPH: better on {sum(one > 0 for one in node.values())} of {len(node)}: {listed}."


if __name__ == "__main__":
    main()
