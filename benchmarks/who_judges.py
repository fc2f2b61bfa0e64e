"""Whether molecules whose labels taught the encoder should decide the weights and the intervals of `fast`.

    python benchmarks/who_judges.py OUT [--page docs/results]     both on eight data sets: some ten minutes of a core

Of each set of the paper at most 1,500 molecules are drawn. `fast` learns from its training part twice: once all
labels judge members out of fold, once those alone that `dnd-base` did not learn from. The validation part says how
good the model is; no label of it, nor any of the test part, taught the encoder. OUT keeps the models.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from result_lines import Line, complete, show

from dnd.common.config import load_config
from dnd.common.files import read_json
from dnd.finetuning import fold_data
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig
from dnd.reproduction.benchmarks import BENCHMARKS, load_benchmark
from dnd.reproduction.labelled_table import labelled_csv, reduced

NAME = "who_judges"
SETS = ("freesolv", "esol", "lipo", "ri", "logp", "bp", "bbbp", "clintox")
MOST, SEED = 1_500, 3
JUDGES = {"all": 10**9, "others": fold_data.FEWEST_JUDGED}
"""`FEWEST_JUDGED` of each variant: with more than there are molecules, all of them judge."""


INTRODUCTION = """# Molecules that taught the encoder do not decide

Drawn from `who_judges/who_judges.csv` by `python benchmarks/who_judges.py OUT --page docs/results`.

`dnd-base` learned measured labels of public data sets. Its representation of those molecules holds some of the answer,
so their errors out of fold are too low: weights then favour the members that see it, and intervals are too narrow. Here
`fast` was fitted twice to the same molecules, at most 1,200 of the training part of each set: *all* of them judge the
members out of fold, or only *others*, those of which `dnd-base` learned no measured label. The validation part, which
taught it nothing, says how good the model is. One seed.
"""


def table_of(name: str) -> str:
    """The training part as training and validation molecules, and the validation part as the test part."""
    data = load_benchmark(name)
    parts = reduced(data.parts, MOST)
    train = np.random.default_rng(SEED).permutation(parts["train"])
    ninth = len(train) // 9
    rows = np.concatenate([train[ninth:], train[:ninth], parts["valid"]])
    words = ["train"] * (len(train) - ninth) + ["valid"] * ninth + ["test"] * len(parts["valid"])
    return labelled_csv([data.smiles[row] for row in rows], data.targets_BC[rows], data.names, words)


def measured(name: str, out: Path) -> list[Line]:
    """A line per variant and target."""
    found = []
    for judges, fewest in JUDGES.items():
        folder, table = out / judges / name, out / judges / f"{name}.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(table_of(name), encoding="utf-8")
        if not (folder / "manifest.json").is_file():
            words = ["split=column:split", "baselines=false", "jobs=1", f"task={BENCHMARKS[name].task}"]
            config = load_config(FinetuneConfig, "fast", words, stage="finetune")
            fold_data.FEWEST_JUDGED = fewest
            names = list(load_benchmark(name).names)
            finetune(table, folder, names, config, encoder="dnd-base", resume=folder.is_dir())
        found += lines_of(name, judges, folder)
    return found


def lines_of(name: str, judges: str, folder: Path) -> list[Line]:
    """What a MODEL folder says of its test part, a line per target."""
    metrics, calibration = read_json(folder / "metrics.json"), read_json(folder / "calibration.json")["calibration"]
    metric, found = metrics["metric"], []
    for target, own in zip(metrics["targets"], calibration["targets"], strict=True):
        covers = own["measured"] if metric == "rmse" else own["set_coverage"]
        error = metrics["parts"]["test"]["targets"][target["name"]][metric]
        found.append(_line(name, target["name"], judges, metric, own, error, covers))
    return found


def _line(name: str, target: str, judges: str, metric: str, own: dict[str, Any], error: float, covers: float) -> Line:
    return {
        "set": name,
        "target": target,
        "judges": judges,
        "calibrated_on": str(own["molecules"]),
        "judged_on": str(own["judged_on"]),
        "metric": metric,
        "score": f"{error:.5g}",
        "coverage": f"{covers:.4f}",
    }


def page(lines: list[Line]) -> str:
    """The page, from the lines alone."""
    pairs: dict[tuple[str, str], dict[str, Line]] = {}
    for line in lines:
        pairs.setdefault((line["set"], line["target"]), {})[line["judges"]] = line
    rows: list[list[str]] = []
    better = 0
    for (name, target), own in pairs.items():
        every, others = own["all"], own["others"]
        gain = float(every["score"]) - float(others["score"])
        better += (gain if every["metric"] == "rmse" else -gain) > 0
        covers = [f"{float(line['coverage']):.1%}" for line in (every, others)]
        label = f"{name}, {target}" if sum(other == name for other, _ in pairs) > 1 else name
        counts = [every["calibrated_on"], others["calibrated_on"], every["judged_on"]]
        rows.append([label, *counts, every["metric"], every["score"], others["score"], *covers])
    intervals = {
        judges: np.array([float(own[judges]["coverage"]) for own in pairs.values() if own[judges]["metric"] == "rmse"])
        for judges in JUDGES
    }
    mean, off = (
        {judges: f"{one:.1%}" for judges, one in zip(JUDGES, found, strict=True)}
        for found in (
            [values.mean() for values in intervals.values()],
            [np.sqrt(np.mean((values - 0.9) ** 2)) for values in intervals.values()],
        )
    )
    heads = ["set", "judge: all", "judge: others", "validation molecules", "metric"]
    heads += ["all", "others", "coverage: all", "coverage: others"]
    said = (
        f"The score hardly differs; with the others alone it is better on {better} of {len(rows)} targets. Intervals "
        f"made for 90 % cover {mean['others']} on average instead of {mean['all']}. They are off by {off['others']} "
        f"instead of {off['all']} (root mean square), because FreeSolv's, judged by 64 molecules, cover less. "
        "The others decide now, where at least 100 labels of them are known."
    )
    return "\n".join(
        [
            INTRODUCTION,
            textwrap.fill(said, 120),
            "",
            "| " + " | ".join(heads) + " |",
            "|---" * len(heads) + "|",
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
            "*coverage*: of intervals, or of sets of classes.",
            "",
        ]
    )


def main() -> None:
    """Complete the lines and show the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    lines = complete(given.out / f"{NAME}.csv", SETS, lambda line: line["set"], lambda name: measured(name, given.out))
    show(NAME, lines, page(lines), given.page)


if __name__ == "__main__":
    main()
