"""Whole `dnd predict` beside whole `chemprop predict`: CPU time and peak memory of the same 4,200 molecules.

    python benchmarks/beside_chemprop.py OUT --chemprop /path/to/chemprop/bin/python
    python benchmarks/beside_chemprop.py OUT --chemprop PYTHON --repetitions 5 --models fast properties

Models are made first, from 1,000 of the molecules (Lipo, whose files are in the repository), unless OUT has them: one
per recipe, and chemprop's with its default network and three epochs, since training time is not what is asked. Then
every command runs in turn, REPETITIONS times, on one thread. A line of OUT/beside_chemprop.csv is one command:
CPU seconds of the process and its children, seconds by the clock, peak memory. The ratio of a model is the median over
repetitions of chemprop's CPU time by its own in the same repetition.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dnd.common.files import package_versions
from dnd.reproduction.benchmarks import load_benchmark

FIELDS = ("model", "repetition", "molecules", "cpu_seconds", "seconds", "peak_mb", "load", "versions")
MODELS = ("fast", "best", "student", "properties")
CHEMPROP = "chemprop"
TRAINING = 1000
_DND = [sys.executable, "-P", "-m", "dnd"]
_CHEMPROP_MAIN = "from chemprop.cli.main import main; main()"
_RECIPES = {"fast": [], "best": ["--recipe", "best"], "student": ["--recipe", "small"]}


def main() -> None:
    """Make the models that are missing, run all commands in turn, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--chemprop", required=True, help="python of an environment with chemprop 2")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    molecules, training = write_tables(options.out)
    commands = {CHEMPROP: chemprop_command(options.out, options.chemprop, molecules, training)}
    for name in options.models:
        commands[name] = dnd_command(options.out, name, molecules, training)
    lines = list(measured(commands, options.repetitions, len(molecules.read_text().splitlines()) - 1))
    with open(options.out / "beside_chemprop.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    for name, (ratio, low, high) in ratios(lines).items():
        print(f"{name}: {ratio:.2f} times chemprop's CPU rate ({low:.2f} to {high:.2f})")


def write_tables(out: Path) -> tuple[Path, Path]:
    """All molecules without labels, and the first thousand of them with their label."""
    data = load_benchmark("lipo")
    molecules, training = out / "molecules.csv", out / "training.csv"
    molecules.write_text("smiles\n" + "".join(f"{text}\n" for text in data.smiles))
    rows = zip(data.smiles[:TRAINING], data.targets_BC[:TRAINING, 0], strict=True)
    training.write_text("smiles,y\n" + "".join(f"{text},{label:.4f}\n" for text, label in rows))
    return molecules, training


def dnd_command(out: Path, name: str, molecules: Path, training: Path) -> list[str]:
    """`dnd predict` by a model of this recipe, which is made unless it is there."""
    predict = [*_DND, "predict", str(molecules), "-o", str(out / f"{name}.csv")]
    if name == "properties":
        return predict
    model = out / f"model-{name}"
    if not (model / "manifest.json").is_file():
        words = ["finetune", str(training), "-o", str(model), "--target-columns", "y", "--jobs", "1"]
        subprocess.run([*_DND, *words, *_RECIPES[name]], check=True, capture_output=True)
    return [*predict, "-m", str(model)]


def chemprop_command(out: Path, python: str, molecules: Path, training: Path) -> list[str]:
    """`chemprop predict`, of a model that is trained for three epochs unless it is there."""
    base = [python, "-c", _CHEMPROP_MAIN]
    folder = out / CHEMPROP
    if not list(folder.rglob("*.pt")):
        words = ["train", "--data-path", training, "--smiles-columns", "smiles", "--target-columns", "y", "--epochs", 3]
        words += ["--output-dir", folder, "--num-workers", 0]
        subprocess.run([*base, *map(str, words)], check=True, capture_output=True)
    (model,) = folder.rglob("best.pt")
    words = ["predict", "--test-path", molecules, "--smiles-columns", "smiles", "--model-path", model]
    return [*base, *map(str, [*words, "--preds-path", out / "chemprop.csv", "--num-workers", 0])]


def measured(commands: dict[str, list[str]], repetitions: int, molecules: int) -> Iterator[dict[str, object]]:
    """Every command in turn, `repetitions` times."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    versions = " ".join(f"{name} {version}" for name, version in package_versions().items())
    for repetition in range(repetitions):
        for name, command in commands.items():
            started = time.monotonic()
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if status:
                raise SystemExit(f"{name} failed: {' '.join(command)}")
            yield {
                "model": name,
                "repetition": repetition,
                "molecules": molecules,
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
                "seconds": round(time.monotonic() - started, 2),
                "peak_mb": round(usage.ru_maxrss / 1024),
                "load": round(os.getloadavg()[0], 1),
                "versions": versions,
            }


def ratios(lines: Sequence[dict]) -> dict[str, tuple[float, float, float]]:
    """Model → median, least and largest ratio over the repetitions of chemprop's CPU time to its own."""
    seconds = {(line["model"], line["repetition"]): float(line["cpu_seconds"]) for line in lines}
    found = {}
    for name in dict.fromkeys(line["model"] for line in lines if line["model"] != CHEMPROP):
        own = [seconds[CHEMPROP, one] / value for (model, one), value in seconds.items() if model == name]
        found[name] = (statistics.median(own), min(own), max(own))
    return found


if __name__ == "__main__":
    main()
