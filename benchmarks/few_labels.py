"""What a tenth of the labels gives: the frozen encoder with classical models (`fast`), with `dnd-base` and without.

    python benchmarks/few_labels.py -o runs/few-labels --seeds 1 2 3

Seven regression sets, at most 1,200 molecules of each, the same that `encoder_ablation.py --most-molecules 1200` takes.
A tenth of the training part and a tenth of the validation part have labels, so that no label beyond the tenth is seen;
the test part is whole. Subsets are drawn by seed. A run ends as a line of `results.jsonl` and is not repeated; the
table has the mean over seeds, with the paired change that the representation of `dnd-base` makes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dnd.common.config import load_config
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig
from dnd.reproduction.benchmarks import BENCHMARKS, load_benchmark
from dnd.reproduction.demo_report import paired_change
from dnd.reproduction.encoder_ablation import REGRESSION_SETS
from dnd.reproduction.multitask import labelled_csv, nested_subset, reduced

ENCODERS = ("dnd-base", "random")
KEYS = ("data", "encoder", "seed")


def main() -> None:
    """Run what is missing, and print the table."""
    arguments = _arguments()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    for name in arguments.datasets:
        for seed in arguments.seeds:
            for encoder in ENCODERS:
                cell = dict(zip(KEYS, (name, encoder, seed), strict=True))
                if any(all(line[key] == cell[key] for key in KEYS) for line in done):
                    continue
                done.append({**cell, **_run(name, encoder, seed, arguments)})
                with open(path, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps(done[-1]) + "\n")
                print(done[-1], flush=True)
    print("\n".join(table(done)))


def table(lines: list[dict[str, Any]]) -> list[str]:
    """One row per data set: labels seen, mean error of each encoder over seeds, paired change."""
    found = ["| data set | labels | without an encoder | `dnd-base` | change |", "|---" * 5 + "|"]
    for name in dict.fromkeys(line["data"] for line in lines):
        own = [line for line in lines if line["data"] == name]
        by_seed = {one: {line["seed"]: line["test"] for line in own if line["encoder"] == one} for one in ENCODERS}
        seeds = sorted(set.intersection(*map(set, by_seed.values())))
        ours, control = ([by_seed[encoder][seed] for seed in seeds] for encoder in ENCODERS)
        change = "–"
        if len(seeds) > 1:
            mean, half = paired_change(ours, control)
            scale = 100 / float(np.mean(control))
            change = f"{scale * mean:+.1f} ± {scale * half:.1f} %"
        cells = [f"{np.mean(values):.3f} ({len(values)})" for values in (control, ours)]
        found.append(f"| {name} | {own[0]['labels']} | {cells[0]} | {cells[1]} | {change} |")
    return found


def _run(name: str, encoder: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    data, started = load_benchmark(name), time.process_time()
    parts = reduced(data.parts, arguments.most)
    scale = float(np.nanstd(data.targets_BC[parts["train"]])) if BENCHMARKS[name].metric == "mae_z" else 1.0
    for part in ("train", "valid"):
        kept = nested_subset(data.targets_BC[parts[part]], arguments.fraction, seed, "regression")
        parts[part] = parts[part][kept]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        rows, split = np.concatenate(list(parts.values())), [part for part in parts for _ in parts[part]]
        path.write_text(labelled_csv([data.smiles[row] for row in rows], data.targets_BC[rows], data.names, split))
        words = ["task=regression", "split=column:split", "jobs=1", f"loop.seed={seed}"]
        config = load_config(FinetuneConfig, "finetune-fast", words)
        summary = finetune(path, Path(folder) / "model", list(data.names), config, encoder=encoder)
    metric = BENCHMARKS[name].metric.removesuffix("_z")
    test = summary.metrics["parts"]["test"][metric] / scale
    labels = len(parts["train"]) + len(parts["valid"])
    return {"test": test, "labels": labels, "cpu_s": round(time.process_time() - started, 1)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", required=True)
    parser.add_argument("--datasets", nargs="+", default=list(REGRESSION_SETS), choices=REGRESSION_SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--most", type=int, default=1200, help="molecules of a data set")
    parser.add_argument("--fraction", type=float, default=0.1, help="of the labels of training and validation part")
    return parser.parse_args()


if __name__ == "__main__":
    main()
