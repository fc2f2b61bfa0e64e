"""What the recipe `best` leaves to the data and what it decides once: compared on molecules that are no test molecules.

    python benchmarks/predictor_choices.py QUESTION -o runs/choices [--seeds 1 2 3]

Each question has its variants and data sets with their splits. The test part is never looked at: a student (GINE, width
64, 3 layers, random weights; for `precision` and `finetuning` `dnd-base`) is judged on the validation part, at its best
epoch; `fast` (here ridge or logistic regression, extra trees on descriptors, boosting; no encoder) out of fold, on the
training and the validation part. `transform` asks for ESOL's solubility in mol/L, which is skewed.

A run ends as a line of `<question>.jsonl` and is not repeated.
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
from dnd.reproduction.benchmarks import PARTS, load_benchmark
from dnd.reproduction.labelled_table import labelled_csv, reduced

QUESTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    # question: variants, data sets, systems
    "loss": (("l1", "huber", "mse"), ("freesolv", "esol"), ("student",)),
    "class_weights": (("none", "balanced"), ("bace", "bbbp", "clintox"), ("fast", "student")),
    "transform": (("none", "log"), ("esol",), ("fast",)),
    "precision": (("fp32", "bf16"), ("freesolv", "esol", "bace"), ("student",)),
    "finetuning": (
        ("best", "rate 5e-4", "one rate", "l1", "l1, rate 5e-4"),
        ("freesolv", "esol", "ri", "bp"),
        ("student",),
    ),
}
# How `best` finetunes a student, and what could be otherwise.
FINETUNING = {
    "best": (),
    "rate 5e-4": ("loop.learning_rate=5e-4",),
    "one rate": ("layer_decay=1.0",),
    "l1": ("loss=l1",),
    "l1, rate 5e-4": ("loss=l1", "loop.learning_rate=5e-4"),
}
BEST = ("loss=huber", "probe_steps=300", "loop.warmup_epochs=2", "loop.precision=auto", "baselines=false")
MOST = {"ri": 1200, "bp": 1200}  # molecules of a data set, drawn at random; of the others all
FAST = ("blend.classical=ridge,forest_descriptors,boosting",)
STUDENT = (
    "student.name=gine",
    "student.width=64",
    "student.num_layers=3",
    "baselines=false",
    "loop.learning_rate=1e-3",
)


def main() -> None:
    """Run what is missing, and print the table."""
    arguments = _arguments()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    variants, names, systems = QUESTIONS[arguments.question]
    lines = out / f"{arguments.question}.jsonl"
    done = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    keys = ("data", "system", "variant", "seed")
    for name in names:
        for system in systems:
            for seed in arguments.seeds:
                for variant in variants:
                    cell = dict(zip(keys, (name, system, variant, seed), strict=True))
                    if any(all(line[key] == cell[key] for key in keys) for line in done):
                        continue
                    line = {**cell, **_run(arguments.question, name, system, variant, seed, arguments)}
                    done.append(line)
                    with open(lines, "a", encoding="utf-8") as stream:
                        stream.write(json.dumps(line) + "\n")
    print("\n".join(table(done)))


def table(lines: list[dict[str, Any]]) -> list[str]:
    """One row per data set, system and metric, one column per variant: mean over seeds."""
    variants = list(dict.fromkeys(line["variant"] for line in lines))
    found = ["| data | system | metric | " + " | ".join(variants) + " |", "|---" * (3 + len(variants)) + "|"]
    for data, system in dict.fromkeys((line["data"], line["system"]) for line in lines):
        own = [line for line in lines if (line["data"], line["system"]) == (data, system)]
        for metric in own[0]["scores"]:
            values = {v: [line["scores"][metric] for line in own if line["variant"] == v] for v in variants}
            cells = [f"{np.mean(each):.4f} ({len(each)})" if each else "-" for each in values.values()]
            found.append(f"| {data} | {system} | {metric} | " + " | ".join(cells) + " |")
    return found


def _run(
    question: str, name: str, system: str, variant: str, seed: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        table, targets = write_table(Path(folder), name, power_of_ten=question == "transform")
        encoder, own = ("dnd-base", STUDENT[-2:]) if question in ("precision", "finetuning") else ("random", STUDENT)
        choice = {
            "precision": (f"loop.precision={variant}",),
            "finetuning": (*BEST, *FINETUNING.get(variant, ())),
        }.get(question, (f"{question}={variant}",))
        words = [f"loop.seed={seed}", "split=column:split", "jobs=1"]
        words += [f"loop.epochs={arguments.epochs}", *own] if system == "student" else FAST
        recipe = "finetune-small" if system == "student" else f"finetune-{system}"
        config = load_config(FinetuneConfig, recipe, [*words, *choice])
        summary = finetune(table, Path(folder) / "model", targets, config, encoder=encoder)
        scores = {
            f"{part}_{metric}": summary.metrics["parts"][part][metric]
            for part in (("valid",) if system == "student" else ("train", "valid"))
            for metric in summary.metrics["metrics"]
        }
    return {"scores": scores, "cpu_s": round(time.process_time() - started, 1)}


def write_table(folder: Path, name: str, *, power_of_ten: bool = False) -> tuple[Path, list[str]]:
    """The data set with its published split as a table, in its own order."""
    data = load_benchmark(name)
    parts = reduced(data.parts, MOST.get(name))
    part_of = {row: part for part in PARTS for row in parts[part].tolist()}
    rows = sorted(part_of)
    labels_BC = 10.0 ** data.targets_BC[rows] if power_of_ten else data.targets_BC[rows]
    split = [part_of[row] for row in rows]
    path = folder / "data.csv"
    path.write_text(labelled_csv([data.smiles[row] for row in rows], labels_BC, data.names, split))
    return path, list(data.names)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=sorted(QUESTIONS))
    parser.add_argument("-o", "--out", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--epochs", type=int, default=5, help="of a student")
    return parser.parse_args()


if __name__ == "__main__":
    main()
