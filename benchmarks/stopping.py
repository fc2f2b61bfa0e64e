"""Is a student of `best` taken at its best epoch or at its last? Measured on molecules that are no test molecules.

    python benchmarks/stopping.py -o runs/stopping [--epochs 30] [--seeds 1 2]

`dnd-base` learns from the training part as in `best`, to the end of its schedule, and predicts the validation part
after every epoch. The validation part is then halved at random, many times: one half chooses the epoch, the other
judges it. Beside it stand the last epoch, which nothing chose, and the epoch that the judging half itself prefers: as a
fold would judge a student that it stopped. Its distance to the first is how much stopping flatters.

A run ends as a line of `stopping.jsonl` and is not repeated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from predictor_choices import BEST, write_table

from dnd.common.config import load_config
from dnd.finetuning.finetune import finetune
from dnd.finetuning.objective import SupervisedObjective
from dnd.finetuning.settings import FinetuneConfig
from dnd.predictor.metrics import LARGER_IS_BETTER, metric_names, score

DATA_SETS = ("freesolv", "esol", "ri", "bp", "bace", "bbbp", "clintox")
DRAWS = 50
WAYS = ("stopped by the other half", "last epoch", "stopped by itself")


def main() -> None:
    """Run what is missing, and print the table."""
    arguments = _arguments()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    lines = out / "stopping.jsonl"
    done = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    keys = ("data", "seed", "epochs")
    for name in arguments.datasets:
        for seed in arguments.seeds:
            cell = dict(zip(keys, (name, seed, arguments.epochs), strict=True))
            if any(all(line[key] == cell[key] for key in keys) for line in done):
                continue
            done.append({**cell, **_run(name, seed, arguments.epochs)})
            with open(lines, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(done[-1]) + "\n")
    print("\n".join(table(done)))


def table(lines: list[dict[str, Any]]) -> list[str]:
    """One row per data set and number of epochs: means over seeds."""
    found = ["| data (metric, seeds) | epochs | " + " | ".join(WAYS) + " |", "|---" * (2 + len(WAYS)) + "|"]
    for data, epochs in dict.fromkeys((line["data"], line["epochs"]) for line in lines):
        own = [line for line in lines if (line["data"], line["epochs"]) == (data, epochs)]
        means = [np.mean([line["scores"][way] for line in own]) for way in WAYS]
        cells = " | ".join(f"{mean:.4g}" for mean in means)
        found.append(f"| {data} ({own[0]['metric']}, {len(own)}) | {epochs} | {cells} |")
    return found


def judge_halves(labels_VC: np.ndarray, epochs_XVC: np.ndarray, metric: str, seed: int) -> dict[str, float]:
    """Mean score of a half of the molecules at the epoch that each way chooses.

    Args:
        labels_VC: of the validation molecules.
        epochs_XVC: their predictions after each epoch.
        metric: by which an epoch is chosen and judged.
        seed: of the halving; a draw where the metric is not defined for both halves is left out.
    """
    rng, sign = np.random.default_rng(seed), 1 if metric in LARGER_IS_BETTER else -1
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(DRAWS):
        halves = np.array_split(rng.permutation(len(labels_VC)), 2)
        curves = [[score(metric, labels_VC[half], epoch[half]).value for epoch in epochs_XVC] for half in halves]
        if any(value is None for curve in curves for value in curve):
            continue
        for own, other in ((0, 1), (1, 0)):
            judged, chosen = np.array(curves[own]), int(np.argmax(sign * np.array(curves[other])))
            values = (judged[chosen], judged[-1], sign * (sign * judged).max())
            for way, value in zip(WAYS, values, strict=True):
                found[way].append(float(value))
    return {way: float(np.mean(values)) for way, values in found.items()}


def _run(name: str, seed: int, epochs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, _recorded() as record:
        source, targets = write_table(Path(folder), name)
        words = [
            f"loop.seed={seed}",
            f"loop.epochs={epochs}",
            "split=column:split",
            "jobs=1",
            "loop.learning_rate=1e-3",
            *BEST,
        ]
        config = load_config(FinetuneConfig, "finetune-small", words)
        finetune(source, Path(folder) / "model", targets, config, encoder="dnd-base")
        objective, epochs_XVC = record
        labels_VC = objective[0].targets_BC[objective[0].partition.valid]
        metric = metric_names(objective[0].kinds)[0]
    return {"metric": metric, "scores": judge_halves(labels_VC, np.stack(epochs_XVC), metric, seed)}


@contextmanager
def _recorded() -> Iterator[tuple[list[SupervisedObjective], list[np.ndarray]]]:
    """Keeps what every evaluation predicts for the validation part."""
    objectives: list[SupervisedObjective] = []
    predictions: list[np.ndarray] = []
    evaluate = SupervisedObjective.evaluate

    def recording(self: SupervisedObjective) -> dict[str, float]:
        objectives.append(self)
        predictions.append(self.predict(self.partition.valid)[self.partition.valid])
        return evaluate(self)

    SupervisedObjective.evaluate = recording  # type: ignore[method-assign]
    try:
        yield objectives, predictions
    finally:
        SupervisedObjective.evaluate = evaluate  # type: ignore[method-assign]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", required=True)
    parser.add_argument("--datasets", nargs="+", default=DATA_SETS, choices=DATA_SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--epochs", type=int, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    main()
