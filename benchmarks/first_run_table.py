"""The tables of docs/results/first-run.md from the folder that `first_run.sh` filled.

usage: python benchmarks/first_run_table.py OUT
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from dnd.chemistry.parse import parse_smiles
from dnd.reproduction.demo_report import paired_change

SETS = {"esol": "ESOL", "freesolv": "FREESOLV", "lipo": "LIPO"}
STUDENTS = ("tokengt", "gine")
STARTS = {"RandInit": "random", "D&D-GRAPH": "graph", "D&D-NODE": "node"}
SEEDS = (1, 2, 3)


def read(file: Path) -> dict[str, Any]:
    """The JSON object of a file."""
    return json.loads(file.read_text(encoding="utf-8"))


def scores(out: Path, start: str, name: str, part: str = "test") -> dict[int, float]:
    """RMSE of a part by seed, of the finished runs."""
    files = {seed: out / "models" / f"{start}-{name}-seed{seed}" / "metrics.json" for seed in SEEDS}
    return {seed: read(file)["parts"][part]["rmse"] for seed, file in files.items() if file.exists()}


def print_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a Markdown table."""
    head = list(head)
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def distillation_row(out: Path, level: str, student: str) -> list[str]:
    """Held-out and training numbers of one encoder."""
    metrics = read(out / f"{level}-{student}" / "config.json")["metrics"]
    keys = [
        f"valid_{level}_loss",
        f"valid_{level}_variance",
        f"valid_{level}_r2",
        f"train_{level}_r2",
        "valid_lookup_r2",
    ]
    return [level, student, *(f"{metrics[key]:.4f}" if key in metrics else "–" for key in keys)]


def score_row(out: Path, system: str, student: str) -> list[str]:
    """Mean ± sample deviation, and the number of seeds."""
    cells = []
    for name in SETS:
        values = list(scores(out, f"{STARTS[system]}-{student}", name).values())
        spread = f" ± {np.std(values, ddof=1):.3f} ({len(values)})" if len(values) > 1 else ""
        cells.append(f"{np.mean(values):.3f}{spread}" if values else "–")
    return [f"{system}, {student}", *cells]


def baseline_rows(out: Path) -> list[list[str]]:
    """Test RMSE of the classical baselines, from the model that fitted them."""
    found = {name: read(out / "models" / f"node-gine-{name}-seed1" / "metrics.json")["baselines"] for name in SETS}
    return [
        [kind.replace("_", " "), *(f"{found[name][kind]['parts']['test']['rmse']:.3f}" for name in SETS)]
        for kind in found["esol"]
    ]


def paper_row(method: str) -> list[str]:
    """The paper's mean pooling row of a method."""
    table = (resources.files("dnd.reproduction") / "paper" / "table1.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(table.splitlines()) if (row["method"], row["pooling"]) == (method, "MP")]
    cells = {row["dataset"]: f"{float(row['mean']):.3f} ± {float(row['std']):.3f}" for row in rows}
    return [f"paper: {method} +MP", *(cells[label] for label in SETS.values())]


def change_row(out: Path, system: str, student: str, part: str) -> list[str]:
    """Paired over seeds against RandInit: mean change ± half-width of the 95 % interval."""
    cells = []
    for name in SETS:
        ours, theirs = (scores(out, f"{start}-{student}", name, part) for start in (STARTS[system], "random"))
        seeds = sorted(ours.keys() & theirs.keys())
        if len(seeds) < 2:
            cells.append("–")
            continue
        change, half = paired_change([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
        cells.append(f"{change:+.3f} ± {half:.3f}{' *' if abs(change) > half else ''}")
    return [f"{system}, {student}", *cells]


def known_to_pretraining(smiles: str) -> bool:
    """Whether every element was in the store (this QM9 file has H, C, N and O only)."""
    molecule = parse_smiles(smiles)
    return molecule.ok and {atom.GetSymbol() for atom in molecule.mol.GetAtoms()} <= {"H", "C", "N", "O"}


def errors_by_elements(out: Path, start: str, name: str) -> tuple[list[float], list[float]]:
    """Test RMSE per seed on molecules of known elements, and on the others."""
    known, others = [], []
    for seed in SEEDS:
        file = out / "models" / f"{start}-{name}-seed{seed}" / "test_predictions.csv"
        if file.exists():
            with open(file, encoding="utf-8", newline="") as stream:
                rows = list(csv.reader(stream))[1:]
            errors = np.array([float(row[2]) - float(row[3]) for row in rows])
            mask = np.array([known_to_pretraining(row[1]) for row in rows])
            known.append(float(np.sqrt(np.mean(errors[mask] ** 2))))
            others.append(float(np.sqrt(np.mean(errors[~mask] ** 2))))
    return known, others


def elements_row(out: Path, system: str, student: str) -> list[str]:
    """Mean over seeds of both errors of `errors_by_elements`."""
    cells = []
    for name in SETS:
        known, others = errors_by_elements(out, f"{STARTS[system]}-{student}", name)
        cells.append(f"{np.mean(known):.3f} / {np.mean(others):.3f}" if known else "–")
    return [f"{system}, {student}", *cells]


def main(out: Path) -> None:
    """Print the distillation table, the test scores, the paired changes and the errors by elements."""
    head = ["level", "student", "held-out loss", "teacher's variance", "held-out R²", "training R²", "lookup R²"]
    print_table(head, [distillation_row(out, level, student) for level in ("node", "graph") for student in STUDENTS])
    rows = [score_row(out, system, student) for student in STUDENTS for system in STARTS] + baseline_rows(out)
    print_table(["test RMSE", *SETS], rows + [paper_row(method) for method in ("RandInit", "D&D-Graph", "D&D-Node")])
    for part in ("test", "valid"):
        changes = [
            change_row(out, system, student, part) for student in STUDENTS for system in ("D&D-GRAPH", "D&D-NODE")
        ]
        print_table([f"{part} RMSE, change against RandInit", *SETS], changes)
    rows = [elements_row(out, system, student) for student in STUDENTS for system in STARTS]
    print_table(["test RMSE, only H C N O / other elements too", *SETS], rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
