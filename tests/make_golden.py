"""One of each artefact that `dnd` writes, tiny, with the numbers in it: files that every later version must open.

    python tests/make_golden.py NAME        # → tests/golden/NAME, with today's code

`tests/unit/test_golden.py` opens every folder made so and compares. Make a new one whenever a format changes, and never
change or delete an old one: people have such files.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dnd.common.compute import set_threads
from dnd.common.config import load_config
from dnd.common.runs import run_id
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig
from dnd.models.students.encoders import load_encoder
from dnd.models.teachers.teachers import load_teacher
from dnd.prediction.screen.screen import ScreenConfig, screen
from dnd.predictor.predictor import Predictor
from dnd.pretraining.denoise import DenoiseConfig, denoise
from dnd.pretraining.distill import distill
from dnd.pretraining.settings import DistillConfig
from dnd.pretraining.teacher_outputs import TargetRequest, build_cache
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.settings import PrepareConfig
from dnd.training.logs import Checkpoints

GOLDEN = Path(__file__).resolve().parent / "golden"
ANSWERS = "answers.json"
QM9 = Path(__file__).resolve().parent / "data" / "qm9_300.npz"
SMILES = ["CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O", "no molecule"]
REQUEST = TargetRequest(atom_layers=(1,), pooled_layers=(1,))
LOOP = ("loop.epochs=1", "loop.batch_size=8", "loop.device=cpu", "loop.threads=1")
TEACHER = ("teacher.width=16", "teacher.num_layers=2", "teacher.num_heads=2", "teacher.num_rbf=8", *LOOP)
STUDENT = ("student.name=gine", "student.width=16", "student.num_layers=2")


def make(folder: Path) -> None:
    """Write `store`, `teacher`, `run` (stopped, with a checkpoint), `targets`, `encoder`, `predictor` and `screen`."""
    prepare([QM9], folder / "store", PrepareConfig(limit=12, jobs=1))
    denoise(folder / "store", folder / "teacher", load_config(DenoiseConfig, None, TEACHER))
    stopped = load_config(DenoiseConfig, None, [*TEACHER, "loop.epochs=3", "loop.stop_after_s=0.0"])
    denoise(folder / "store", folder / "run", stopped)
    targets(folder)
    taught = load_config(DistillConfig, None, [*STUDENT, *LOOP, "holdout_fraction=0.2"])
    distill(folder / "store", folder / "teacher", folder / "encoder", taught)
    table = folder / "labels.csv"
    chains = [f"{'C' * length}{end}" for length in range(1, 9) for end in ("O", "N", "Cl", "C(=O)O")]
    table.write_text("smiles,size\n" + "".join(f"{text},{len(text)}\n" for text in chains))
    settings = load_config(FinetuneConfig, None, [*LOOP, "split=random", "baselines=false"])
    finetune(table, folder / "predictor", ["size"], settings, encoder=folder / "encoder")
    (folder / "library.smi").write_text("".join(f"{text}\n" for text in SMILES))
    config = ScreenConfig(jobs=1, chunk=2, top=2)
    screen([folder / "library.smi"], folder / "predictor", folder / "screen", config)


def targets(folder: Path) -> Any:
    """The cache of teacher outputs in `folder`, computed where it is not there."""
    teacher, _ = load_teacher(folder / "teacher")
    store, device = Store.open(folder / "store"), torch.device("cpu")
    return build_cache(teacher, store, REQUEST, device=device, folder=folder / "targets")


def answers(folder: Path) -> dict[str, Any]:
    """What the current code reads from each artefact, as plain numbers and texts."""
    set_threads(1)
    store = Store.open(folder / "store")
    batch = store.read(np.arange(len(store)))
    teacher, _ = load_teacher(folder / "teacher")
    student, _ = load_encoder(folder / "encoder")
    checkpoint, damage = Checkpoints(folder / "run", run_id(folder / "run")).newest()
    with torch.no_grad():
        scalars_AD, atoms_ND = teacher(batch.conformers).scalars_AD, student(batch.graph).atoms_ND
    cached = targets(folder).read(np.arange(len(store)))
    table = Predictor.load(folder / "predictor", device="cpu").predict(SMILES)
    shards = pa.concat_tables(pq.read_table(path) for path in sorted((folder / "screen").glob("part-*.parquet")))
    return {
        "store": {
            "fingerprint": store.fingerprint,
            "smiles": store.smiles(),
            "atoms": store.atom_counts[:].tolist(),
            "node_features": _sum(batch.graph.node_features_NF),
            "edges": _sum(batch.graph.edge_index_2E),
            "positions": _sum(batch.conformers.positions_A3.abs()),
        },
        "teacher": _sum(scalars_AD.abs()),
        "checkpoint": {
            "damage": damage,
            "state": {key: checkpoint.state[key] for key in ("step", "epoch", "index", "done")},
            "weights": sum(_sum(tensor.abs()) for tensor in checkpoint.weights.values()),
            "moments": sum(_sum(tensor.abs()) for tensor in checkpoint.moments.values()),
        },
        "targets": [_sum(values.float().abs()) for values in cached],
        "encoder": _sum(atoms_ND.abs()),
        "predictor": {"size": _plain(table["size_pred"]), "error": list(table["error"])},
        "screen": {"size": shards["size_pred"].to_pylist(), "error": shards["error"].to_pylist()},
    }


def _sum(values: torch.Tensor) -> float:
    return float(values.double().sum())


def _plain(values: Any) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the new folder, such as formats-2")
    target = GOLDEN.resolve() / parser.parse_args().name
    if target.exists():
        sys.exit(f"{target} exists: golden files are never changed; choose another name")
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.chdir(name),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        folder = Path("made")  # so that no path of this machine is in the files
        folder.mkdir()
        make(folder)
        for path in [*folder.rglob(".lock"), *folder.rglob("report.html")]:
            path.unlink()
        found = answers(folder)
        shutil.copytree(folder, target)
    (target / ANSWERS).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(f"{target}: {sum(path.stat().st_size for path in target.rglob('*') if path.is_file()):,} bytes")


if __name__ == "__main__":
    main()
