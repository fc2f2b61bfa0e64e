"""`best`, `fast` and a single student (`small`) beside random forests, gradient boosting and chemprop 2.

All learn from the same splits of up to 35 data sets.

    python benchmarks/compare.py -o runs/compare --datasets esol freesolv --seeds 1 2 3 --chemprop /path/to/python
    python benchmarks/compare.py -o runs/compare --table docs/results/predictor.md

The 14 sets of the paper are the default; `--datasets CHEMBL1871_Ki biogen-hlm` names some of the 21 further ones
(`dnd.reproduction.further_sets`). Where activity cliffs are marked, the error on them is in the line too.
A cell is a data set, a system and a seed. Each runs in a process of its own, whose wall time and peak memory are those
that are reported, and ends as a line of `results.jsonl`; cells that are there are not run again, so a run that was
stopped goes on. Every system learns from the training and validation part (chemprop and the students stop early by
part of it) and is judged by the same metric on the same test part. Systems without an own choice of settings have
their defaults.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from dnd.common.files import package_versions
from dnd.predictor.metrics import score
from dnd.reproduction.benchmarks import BENCHMARKS, PARTS, load_benchmark
from dnd.reproduction.further_sets import FURTHER_SETS, load_further
from dnd.reproduction.labelled_table import labelled_csv, reduced

DATASETS = (*BENCHMARKS, *FURTHER_SETS)
OURS = ("best", "fast", "small")
CLASSICAL = ("rf-counts", "rf-descriptors", "rf-both", "gb-both")
RIVALS = ("maplight", "svm-ecfp")  # `rivals.py`; MapLight needs the package catboost
CHEMPROP = "chemprop"
SYSTEMS = (*OURS, *CLASSICAL, *RIVALS, CHEMPROP)
RESULTS = "results.jsonl"
BEGIN, END = "<!-- table of benchmarks/compare.py -->", "<!-- end of the table -->"
_CHEMPROP_MAIN = "from chemprop.cli.main import main; main()"


def main() -> None:
    """Run the cells that are missing and print the table; with `--cell`, one cell in this process."""
    arguments = _arguments()
    if arguments.cell:
        _run_cell(json.loads(arguments.cell))
        return
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in arguments.datasets if arguments.table is None else ():
        for seed in arguments.seeds:
            for system in arguments.systems:
                _run_if_missing(out, name, system, seed, arguments)
    lines = table(_results(out))
    print("\n".join(lines))
    if arguments.table is not None:
        _write_between_markers(Path(arguments.table), lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", default="runs/compare", help="folder of the results")
    parser.add_argument("--datasets", nargs="+", default=list(BENCHMARKS), choices=DATASETS, metavar="SET")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--encoder", default="dnd-base", help="of best, fast and small: a name, a folder, or random")
    parser.add_argument("--settings", nargs="*", default=[], help="further key=value settings of best, fast and small")
    parser.add_argument("--most", type=int, default=10_000, help="molecules of a data set; larger ones are subsampled")
    parser.add_argument("--chemprop", help="python of an environment with chemprop 2; without it chemprop is skipped")
    parser.add_argument("--table", help="run nothing; write the table into this Markdown file, between its markers")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    return parser.parse_args()


@dataclass(frozen=True)
class DataSet:
    """One of the sets: `cliff_B` says which molecules are on activity cliffs, where that is known."""

    smiles: list[str]
    targets_BC: np.ndarray
    names: tuple[str, ...]
    parts: Mapping[str, np.ndarray]
    task: str
    metric: str
    cliff_B: np.ndarray


def load(name: str) -> DataSet:
    """A set of the paper, or a further one."""
    if name in BENCHMARKS:
        data, entry = load_benchmark(name), BENCHMARKS[name]
        none = np.zeros(len(data.smiles), dtype=bool)
        return DataSet(data.smiles, data.targets_BC, data.names, data.parts, entry.task, entry.metric, none)
    found = load_further(name)
    return DataSet(
        found.smiles, found.target_B[:, None], (found.target,), found.parts, "regression", "rmse", found.cliff_B
    )


def _run_if_missing(out: Path, name: str, system: str, seed: int, arguments: argparse.Namespace) -> None:
    cell = {"dataset": name, "system": system, "seed": seed, "most": arguments.most}
    if system in OURS:
        cell |= {"encoder": arguments.encoder, "settings": arguments.settings}
    if any({key: line.get(key) for key in cell} == cell for line in _results(out)):
        return
    if system == CHEMPROP and not arguments.chemprop:
        print(f"{name} {system} seed {seed}: skipped, no --chemprop")
        return
    folder = out / f"{name}-{system}-{seed}"
    work = {**cell, "folder": str(folder), "chemprop": arguments.chemprop}
    started = time.monotonic()
    with open(out / f"{folder.name}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "--cell", json.dumps(work)], stdout=log, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
    seconds, value_file = time.monotonic() - started, folder / "value.json"
    if status or not value_file.is_file():
        print(f"{name} {system} seed {seed}: failed, see {out / folder.name}.log")
        return
    line = {
        **cell,
        **json.loads(value_file.read_text()),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": package_versions(),
        "commit": _commit(),
    }
    with open(out / RESULTS, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
    print(f"{name} {system} seed {seed}: {line['metric']} {line['value']:.4f}, {seconds:.0f} s, {line['peak_mb']} MB")


def _commit() -> str:
    """The commit of the code that ran; `+` stands for changes that are not in it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _results(out: Path) -> list[dict]:
    path = out / RESULTS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _run_cell(work: dict) -> None:
    folder = Path(work["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    data = load(work["dataset"])
    parts = reduced(data.parts, work["most"])
    run = _runner(work["system"])
    rows, predictions = run(work, data, parts, folder)
    metric, scale = data.metric, 1.0
    if metric == "mae_z":  # in standard deviations of the training labels, as in the paper
        metric, scale = "mae", float(np.nanstd(data.targets_BC[parts["train"]]))
    found = score(metric, data.targets_BC[rows], predictions)
    assert found.value is not None, "the test part has labels"
    result = {"metric": data.metric, "value": found.value / scale, "test": len(rows), "most": work["most"]}
    if (cliffs := data.cliff_B[rows]).any():
        on_cliffs = score(metric, data.targets_BC[rows][cliffs], predictions[cliffs])
        result |= {"cliff_value": on_cliffs.value, "cliff_test": int(cliffs.sum())}
    sizes = {part: len(parts[part]) for part in PARTS}
    (folder / "value.json").write_text(json.dumps({**result, "molecules": sizes, "available": len(data.smiles)}))


def _runner(system: str) -> Callable[[dict, DataSet, dict, Path], tuple[np.ndarray, np.ndarray]]:
    if system in OURS:
        return _run_ours
    if system in RIVALS:
        return _run_rival
    return _run_chemprop if system == CHEMPROP else _run_classical


def _run_ours(work: dict, data: DataSet, parts: dict, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    from dnd.common.config import load_config
    from dnd.finetuning.finetune import finetune
    from dnd.finetuning.settings import FinetuneConfig

    table, places = _write_table(folder / "table.csv", data, parts)
    words = [f"loop.seed={work['seed']}", f"task={data.task}", "split=column:split", *work["settings"]]
    config = load_config(FinetuneConfig, f"finetune-{work['system']}", words)
    finetune(table, folder / "model", list(data.names), config, encoder=work["encoder"], resume=True)
    with open(folder / "model/test_predictions.csv", encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    rows = np.array([places[int(row["row"])] for row in found])
    return rows, np.array([[float(row[f"{name}_pred"]) for name in data.names] for row in found])


def _run_classical(work: dict, data: DataSet, parts: dict, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    from dnd.predictor.classical.features import COUNTS, DESCRIPTORS, Layout, features_of
    from dnd.reproduction.frozen_models import predict

    rows = np.concatenate([parts[part] for part in PARTS])
    features = features_of([data.smiles[row] for row in rows], None, jobs=0).x_BF
    sets = {name: features[:, Layout().columns(name)] for name in (COUNTS, DESCRIPTORS)}
    train = np.arange(len(rows) - len(parts["test"]))
    predictions, _ = predict(work["system"], sets, data.targets_BC[rows], train, data.task, work["seed"])
    return parts["test"], predictions[len(train) :]


def _run_rival(work: dict, data: DataSet, parts: dict, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    from rivals import maplight, support_vectors

    rows = np.concatenate([parts[part] for part in PARTS])
    test = np.arange(len(rows) - len(parts["test"]), len(rows))
    smiles = [data.smiles[row] for row in rows]
    predict = maplight if work["system"] == "maplight" else support_vectors
    return parts["test"], predict(smiles, data.targets_BC[rows], np.arange(test[0]), test, data.task, work["seed"])


def _run_chemprop(work: dict, data: DataSet, parts: dict, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    from rdkit import Chem

    # A SMILES that RDKit refuses stops chemprop: none is for training, and one in the test part gets the mean label.
    readable = {
        part: [Chem.MolFromSmiles(data.smiles[row]) is not None for row in rows] for part, rows in parts.items()
    }
    kept = {part: rows[readable[part]] for part, rows in parts.items()}
    table, _ = _write_table(folder / "table.csv", data, kept)
    options = ["--data-path", table, "--task-type", data.task, "--output-dir", folder / "chemprop"]
    options += ["--smiles-columns", "smiles", "--target-columns", *data.names, "--splits-column", "split"]
    options += ["--pytorch-seed", work["seed"], "--data-seed", work["seed"], "--num-workers", 0]
    if data.task == "classification":  # of its report; ROC-AUC stops at a target without test labels
        options += ["--metrics", "binary-mcc"]
    subprocess.run([work["chemprop"], "-c", _CHEMPROP_MAIN, "train", *map(str, options)], check=True)
    (path,) = (folder / "chemprop").rglob("test_predictions.csv")
    with open(path, encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    assert len(found) == len(kept["test"]), "chemprop predicts the test part, in its order"
    means_C = np.nanmean(data.targets_BC[kept["train"]], axis=0)
    predictions = np.tile(means_C, (len(parts["test"]), 1))
    predictions[readable["test"]] = [[float(row[name]) for name in data.names] for row in found]
    return parts["test"], predictions


def _write_table(path: Path, data: DataSet, parts: dict) -> tuple[Path, np.ndarray]:
    """The molecules of the parts as a CSV, and for each of its rows the row of the data set."""
    rows = np.concatenate([parts[part] for part in PARTS])
    split = [{"valid": "val"}.get(part, part) for part in PARTS for _ in parts[part]]  # as chemprop calls it
    path.write_text(labelled_csv([data.smiles[row] for row in rows], data.targets_BC[rows], data.names, split))
    return path, rows


def table(results: Iterable[dict]) -> list[str]:
    """Mean ± deviation over seeds per data set and system, ranks and paired tests, as Markdown."""
    found: dict[str, dict[str, dict[int, dict]]] = {}
    for line in results:
        found.setdefault(line["dataset"], {}).setdefault(line["system"], {})[line["seed"]] = line
    systems = [name for name in SYSTEMS if any(name in own for own in found.values())]
    lines = ["| set (metric, molecules) | " + " | ".join(systems) + " |", "|---" * (len(systems) + 1) + "|"]
    close = dict.fromkeys(systems, 0)
    for name in (name for name in DATASETS if name in found):
        own = found[name]
        metric = BENCHMARKS[name].metric if name in BENCHMARKS else "rmse"
        larger = metric == "rocauc"
        means = {system: float(np.mean([line["value"] for line in own[system].values()])) for system in own}
        first = (max if larger else min)(means, key=lambda system: means[system])
        cells = []
        for system in systems:
            cells.append(_cell(own.get(system, {}), bold=system == first))
            close[system] += system in own and not _clearly_behind(own[system], own[first], larger)
        some = next(iter(next(iter(own.values())).values()))
        used = sum(some["molecules"].values())
        count = f"{used}" if used == some["available"] else f"{used} of {some['available']}"
        lines.append(f"| {name} ({metric}, {count}) | " + " | ".join(cells) + " |")
    lines.append("| first, or not significantly behind it | " + " | ".join(f"{close[name]}" for name in systems) + " |")
    lines += ["", *_costs(found, systems)]
    return lines


def _cell(seeds: dict[int, dict], *, bold: bool) -> str:
    if not seeds:
        return "–"
    values = [line["value"] for line in seeds.values()]
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    text = f"{np.mean(values):.3f}{spread} ({len(values)})"
    return f"**{text}**" if bold else text


def _clearly_behind(own: dict[int, dict], first: dict[int, dict], larger: bool) -> bool:
    """A paired t-test over shared seeds, one-sided at 5 %; with fewer than two of them any difference counts."""
    shared = sorted(set(own) & set(first))
    differences = np.array([own[seed]["value"] - first[seed]["value"] for seed in shared]) * (-1 if larger else 1)
    if len(shared) < 2 or np.ptp(differences) == 0:
        return bool(len(differences) and differences.mean() > 0)
    return bool(stats.ttest_1samp(differences, 0, alternative="greater").pvalue < 0.05)


def _costs(found: dict[str, dict[str, dict[int, dict]]], systems: list[str]) -> list[str]:
    lines = ["Wall seconds / CPU seconds / peak memory in MB of a run, mean over seeds:", ""]
    lines += ["| set | " + " | ".join(systems) + " |", "|---" * (len(systems) + 1) + "|"]
    for name in (name for name in DATASETS if name in found):
        cells = []
        for system in systems:
            own = list(found[name].get(system, {}).values())
            keys = ("seconds", "cpu_seconds", "peak_mb") if own else ()
            cells.append(" / ".join(f"{np.mean([line[key] for line in own]):.0f}" for key in keys) or "–")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _write_between_markers(path: Path, lines: list[str]) -> None:
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise SystemExit(f"{path} has no markers {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
