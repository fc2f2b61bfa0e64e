"""Numbers for the paper's claims from the cells and figures of one `dnd reproduce` folder.

The paper counts the better of D&D-GRAPH and D&D-NODE, chosen by the test score, against the better row of another
system. That favours the side with more rows, so each variant's own gain stands beside it. p-values are over
pretrainings (`dnd.reproduction.significance`) and corrected (Holm) for the cells of a table; the better of two is not
tested, since the test part chose it. Data sets share molecules, so how many of them are won is a count and no test.

    python benchmarks/claims.py runs/reproduce-cpu
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from result_lines import read_records

from dnd.reproduction.benchmarks import BENCHMARKS, QM9_PREFIX
from dnd.reproduction.significance import Significance, holm, mean_over_sets
from dnd.reproduction.systems import CLASSICAL
from dnd.reproduction.tables import LARGER_IS_BETTER, Entry, entries, gain_by_pretraining

Scores = dict[str, dict[str, Entry]]  # data set → system → its scores
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
    path = next(one for one in (folder / "results.jsonl", folder / "results.jsonl.gz") if one.is_file())
    print("\n".join(gains(path)))
    for figure in ("fig3", "fig4", "fig5"):
        if (folder / f"{figure}.txt").is_file():
            print(f"\n## {figure}\n\n{(folder / f'{figure}.txt').read_text(encoding='utf-8').strip()}")


def gains(path: Path) -> list[str]:
    """The tables of gains of a results file, and GRAPH against NODE, as lines of Markdown."""
    scores = read_scores(path)
    lines = []
    for title, datasets in groups(scores).items():
        lines += [f"{title}: {', '.join(datasets)}.", ""]
        lines += [*gain_table({dataset: scores[dataset] for dataset in datasets}).splitlines(), ""]
    return [*lines, graph_or_node(scores)]


def read_scores(path: Path) -> Scores:
    """The finished cells of a results file by data set and system, mean pooling or the protocol's."""
    scores: Scores = {}
    for entry in entries(read_records(path)):
        if entry.pooling != "virtual_node":
            scores.setdefault(entry.dataset, {})[entry.system] = entry
    return scores


def groups(scores: Scores) -> dict[str, list[str]]:
    """Data sets by the heading under which the paper counts them."""
    qm9 = [dataset for dataset in scores if dataset.startswith(QM9_PREFIX)]
    found = {
        title: [dataset for dataset in BENCHMARKS if dataset in scores and BENCHMARKS[dataset].group == group]
        for title, group in (("OGB", "ogb"), ("curated", "physchem"))
    }
    return {title: datasets for title, datasets in {**found, "QM9": qm9}.items() if datasets}


def gain_table(scores: Scores) -> str:
    """Mean relative gain over the data sets, on how many of them it is one, and its test over pretrainings."""
    known = {
        label: rivals for label, rivals in RIVALS.items() if any(set(rivals) & set(own) for own in scores.values())
    }
    tests = {
        (label, name): gain_over_sets(scores, name, rivals) for label, rivals in known.items() for name in VARIANTS
    }
    corrected = dict(zip(tests, holm([test.p_value for _, test in tests.values()]), strict=True))
    lines = ["| against | better of the two | D&D-GRAPH | D&D-NODE |", "|---|---|---|---|"]
    for label, rivals in known.items():
        cells = [describe(scores, VARIANTS, rivals)]
        for name in VARIANTS:
            p_value, count = corrected[label, name], tests[label, name][1].count
            test = "one pretraining" if p_value is None else f"p = {p_value:.2g} over {count} pretrainings"
            cells.append(f"{describe(scores, (name,), rivals)} ({test})")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def describe(scores: Scores, ours: tuple[str, ...], rivals: tuple[str, ...]) -> str:
    """Mean gain and number of data sets on which the best of `ours` is ahead of the best of `rivals`."""
    gains = [gain(systems, ours, rivals) for systems in scores.values()]
    wins = sum(one > 0 for one in gains)
    return f"{100 * float(np.mean(gains)):+.1f} %, better on {wins} of {len(gains)}"


def gain(systems: dict[str, Entry], ours: tuple[str, ...], rivals: tuple[str, ...]) -> float:
    """Relative gain of the best of `ours` over the best of `rivals`, positive = better."""
    own, other = best(systems, ours).mean, best(systems, rivals).mean
    return (own - other) / other * (1 if best(systems, ours).metric in LARGER_IS_BETTER else -1)


def best(systems: dict[str, Entry], names: Iterable[str]) -> Entry:
    """The system with the best test score."""
    held = [systems[name] for name in names if name in systems]
    return (max if held[0].metric in LARGER_IS_BETTER else min)(held, key=lambda entry: entry.mean)


def gain_over_sets(scores: Scores, name: str, rivals: tuple[str, ...]) -> tuple[float, Significance]:
    """The mean gain of one system over the best of `rivals`, tested over pretrainings."""
    return mean_over_sets([gain_by_pretraining(own[name], best(own, rivals)) for own in scores.values() if name in own])


def graph_or_node(scores: Scores) -> str:
    """Gain of NODE over GRAPH by data set."""
    datasets = [dataset for own in groups(scores).values() for dataset in own]
    node = {
        dataset: gain(scores[dataset], ("dnd-node",), ("dnd-graph",))
        for dataset in datasets
        if set(VARIANTS) <= set(scores[dataset])
    }
    listed = ", ".join(f"{dataset} {100 * one:+.1f} %" for dataset, one in node.items())
    return f"NODE against GRAPH: better on {sum(one > 0 for one in node.values())} of {len(node)}: {listed}."


if __name__ == "__main__":
    main()
