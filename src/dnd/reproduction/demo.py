"""The main job, small, on data that ships with the package: every stage for real, and a report that says what came out.

QM9's DFT conformers → store → teacher → student; ESOL with its OGB split → the student finetuned from the distilled and
from random weights; both beside random forests on the same split.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from dnd.common.config import load_config
from dnd.common.files import write_text
from dnd.common.processes import process_pool
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig
from dnd.models.students.encoders import RANDOM
from dnd.prediction.files import predict_file
from dnd.predictor.predictor import Predictor
from dnd.pretraining.denoise import DenoiseConfig, denoise
from dnd.pretraining.distill import distill
from dnd.pretraining.settings import DistillConfig
from dnd.reproduction.demo_report import System, compare, table_lines, write_demo_report
from dnd.store.prepare import prepare
from dnd.store.settings import PrepareConfig

SEEDS = (1, 2, 3)
TARGET = "logS"
NEW_MOLECULES = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "caffeine": "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "glucose": "OCC1OC(O)C(O)C(O)C1O",
    "cholesterol": "CC(C)CCCC(C)C1CCC2C1(CCC3C2CC=C4C3(CCC(C4)O)C)C",
    "not a molecule": "C1CC(",
}


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        folder: everything it wrote.
        systems: D&D-NODE, RandInit, then the classical baselines.
        sentence: what the numbers say, whichever way they went.
        report: the HTML file.
    """

    folder: Path
    systems: list[System]
    sentence: str
    report: Path


def run_demo(out: Path | str, *, jobs: int = 2, say: Callable[[str], None] = print) -> DemoResult:
    """Run every stage into `out`; a second run goes on where the first one stopped.

    Args:
        out: folder for the store, the models and the report.
        jobs: processes for preparing and for finetunings that don't depend on each other.
        say: receives one line at a time.
    """
    out = Path(out)
    with ExitStack() as stack:
        data = resources.files("dnd.data")
        qm9 = stack.enter_context(resources.as_file(data / "qm9_slice.npz"))
        esol = stack.enter_context(resources.as_file(data / "esol.csv.gz"))
        say("1. prepare: 2,500 QM9 molecules with their DFT conformers")
        settings = PrepareConfig(hydrogens="teacher_all_student_heavy", jobs=jobs)
        prepare([qm9], out / "store", settings, resume=True, quiet=True)
        say("2. denoise: a 3D teacher learns which way each atom was pushed")
        denoised = denoise(out / "store", out / "teacher", load_config(DenoiseConfig, "denoise-demo"), resume=True)
        say(_denoising_line(denoised.metrics))
        say("3. distill: a 2D student learns the teacher's representation of every atom (D&D-NODE)")
        teach = load_config(DistillConfig, "distill-demo")
        distilled = distill(out / "store", out / "teacher", out / "encoder", teach, resume=True)
        say(_distillation_line(distilled.metrics))
        say(f"4. finetune on ESOL: from the distilled student and from random weights, {len(SEEDS)} seeds each")
        metrics = _finetune_all(out, esol, jobs)
    systems = _systems(metrics)
    for line in table_lines(systems):
        say(line)
    sentence = compare(systems)
    say(sentence)
    say("5. predict: five drugs and a broken SMILES")
    predictions = _predict(out)
    report = write_demo_report(out, systems, sentence, predictions, denoised.metrics, distilled.metrics)
    say(f"report: {report}")
    return DemoResult(out, systems, sentence, report)


def _finetune_all(out: Path, esol: Path, jobs: int) -> dict[str, list[dict[str, Any]]]:
    encoders = {"D&D-NODE": str(out / "encoder"), "RandInit": RANDOM}
    work = [
        (name, (str(esol), str(out / "models" / f"{name.replace('&', '')}-seed{seed}"), encoder, seed))
        for seed in SEEDS
        for name, encoder in encoders.items()
    ]
    with process_pool(jobs, fresh=True) as pool:
        pending = [(name, pool.submit(_finetune_one, *words)) for name, words in work]
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in encoders}
        for name, future in pending:
            found[name].append(future.result())
    return found


def _finetune_one(esol: str, folder: str, encoder: str, seed: int) -> dict[str, Any]:
    config = load_config(FinetuneConfig, "finetune-demo")
    config = replace(config, loop=replace(config.loop, seed=seed), baselines=seed == SEEDS[0] and encoder != RANDOM)
    return finetune(esol, folder, [TARGET], config, encoder=encoder, resume=True, say=_silent, quiet=True).metrics


def _silent(line: str) -> None:
    """Several finetunings at once would mix their lines."""


def _systems(metrics: dict[str, list[dict[str, Any]]]) -> list[System]:
    systems = [_system(name, runs) for name, runs in metrics.items()]
    baselines = metrics["D&D-NODE"][0]["baselines"]
    return systems + [_system(name.replace("_", " "), [values]) for name, values in baselines.items()]


def _system(name: str, runs: list[dict[str, Any]]) -> System:
    valid, test = ([run["parts"][part]["rmse"] for run in runs] for part in ("valid", "test"))
    return System(name, valid, test)


def _predict(out: Path) -> list[dict[str, str]]:
    write_text(out / "new.csv", "name,smiles\n" + "".join(f"{name},{text}\n" for name, text in NEW_MOLECULES.items()))
    predictor = Predictor.load(out / "models" / f"DD-NODE-seed{SEEDS[0]}", device="cpu")
    predict_file(predictor, out / "new.csv", str(out / "predictions.csv"))
    with open(out / "predictions.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _denoising_line(metrics: dict[str, float]) -> str:
    return (
        f"   held-out loss {metrics['held_out_loss']:.3f}; predicting zero has {metrics['trivial']:.3f}, rigid motion "
        f"allows none below {metrics['floor']:.3f}"
    )


def _distillation_line(metrics: dict[str, float]) -> str:
    return (
        f"   held-out R² of the teacher's atom representations {metrics['valid_node_r2']:.3f}; a lookup by element, "
        f"degree and ring has {metrics['valid_lookup_r2']:.3f}"
    )
