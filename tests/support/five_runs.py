"""Five tiny runs whose weights and metrics a change of structure must leave as they are, bit for bit.

    python tests/support/five_runs.py OUT.json [DND]

prepares a store of 300 QM9 molecules, trains a teacher and a student on it, and finetunes ESOL molecules with the
recipes small, best and fast, all through the installed command. OUT.json then has the SHA-256 of every weight file and
the metrics of each run. Run it before and after; equal files mean that nothing moved. The digests hold for one machine
and one set of library versions, so they are compared, not kept.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

DATA = Path(__file__).parents[1] / "data" / "qm9_300.npz"
ROWS = 160
TEACHER = ["teacher.width=16", "teacher.num_layers=2", "teacher.num_rbf=8", "loop.epochs=2", "loop.batch_size=32"]
STUDENT = ["student.width=16", "student.num_layers=2", "loop.epochs=2", "loop.batch_size=32"]
FINETUNE = ["loop.epochs=3"]


def five_runs(out: Path, dnd: str) -> None:
    """Run all five in a temporary folder and write what came out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with gzip.open(str(files("dnd.data") / "esol.csv.gz"), "rt") as source:
            (folder / "esol.csv").write_text("".join(source.readlines()[: ROWS + 1]))
        commands = {
            "store": ["prepare", str(DATA), "--hydrogens", "all_both", "--conformers", "file"],
            "denoise": ["denoise", "store", "--recipe", "tiny", *TEACHER],
            "distill": ["distill", "store", "--teacher", "denoise", "--student", "gine", "--recipe", "tiny", *STUDENT],
            **{recipe: _finetune(recipe) for recipe in ("small", "best", "fast")},
        }
        for output, words in commands.items():
            subprocess.run([dnd, *words, "-o", output], cwd=folder, check=True, capture_output=True, text=True)
        found = {output: _contents(folder / output) for output in commands if output != "store"}
    out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def _finetune(recipe: str) -> list[str]:
    words = ["finetune", "esol.csv", "--recipe", recipe, "--target-columns", _target(), "--smiles-column", "smiles"]
    return words if recipe == "fast" else [*words, *FINETUNE]


def _target() -> str:
    with gzip.open(str(files("dnd.data") / "esol.csv.gz"), "rt") as source:
        return next(name for name in source.readline().strip().split(",") if name != "smiles")


def _contents(folder: Path) -> dict[str, object]:
    weights = sorted(folder.rglob("*.safetensors"))
    return {
        "weights": {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in weights
            if not path.parent.name.startswith("step-")
        },
        "metrics": _timeless([json.loads(path.read_text()) for path in sorted(folder.glob("metrics.json"))]),
    }


def _timeless(value: object) -> object:
    """The same without the seconds that each part took."""
    if isinstance(value, dict):
        return {name: _timeless(entry) for name, entry in value.items() if name != "seconds"}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


if __name__ == "__main__":
    five_runs(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else str(Path(sys.executable).with_name("dnd")))
