"""The main job, small, on data that ships with the package: every stage for real, and a report that says what came out.

QM9's DFT conformers → store → teacher → student; what the student knows: ridge regression of QM9's labels on its frozen
representations and on those of random weights; ESOL with its OGB split → the student finetuned, beside forests.
"""

from __future__ import annotations

import csv
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TextIO

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dnd.chemistry.parse import parse_smiles
from dnd.chemistry.splits import column_split
from dnd.common.config import load_config
from dnd.common.files import write_text
from dnd.common.log import LOGGER, PROGRESS, RESULT, is_shown, muted, raw_stream
from dnd.finetuning.evaluation import Features, baselines
from dnd.finetuning.finetune import finetune
from dnd.finetuning.labelled_data import LabelledMolecules, read_labelled
from dnd.finetuning.settings import FinetuneConfig
from dnd.finetuning.students import initial_student
from dnd.models.students.encoders import RANDOM, load_encoder
from dnd.prediction.files import predict_file
from dnd.predictor.classical.features import count_fingerprints, descriptors_2d
from dnd.predictor.ensemble import FrozenEncoder
from dnd.predictor.predictor import Predictor
from dnd.pretraining.denoise import DenoiseConfig, denoise
from dnd.pretraining.distill import distill
from dnd.pretraining.settings import DistillConfig
from dnd.report.model_report import write_missing_report
from dnd.reproduction.demo_report import (
    FINETUNED,
    Knowledge,
    System,
    compare,
    knowledge_sentence,
    table_lines,
    write_demo_report,
)
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.settings import PrepareConfig
from dnd.training.logs import LOG, read_log

# One line that moves while a stage of the demo runs: rewritten in place on a terminal, a new one elsewhere.

TERMINAL_EVERY_S, ELSEWHERE_EVERY_S = 0.5, 4.5
_CLEAR = "\r\x1b[K"


class Progress:
    """Shows how long a stage has run and how far its training is, from a thread of its own.

    Args:
        stream: receives the line that moves; standard error when None.
        every_s: seconds between two of them; by the kind of stream when None.
    """

    def __init__(self, stream: TextIO | None = None, every_s: float | None = None) -> None:
        self._stream, self._lock = stream or raw_stream(sys.stderr), threading.Lock()
        self._terminal = self._stream.isatty()
        self._every_s = every_s or (TERMINAL_EVERY_S if self._terminal else ELSEWHERE_EVERY_S)

    def say(self, line: str) -> None:
        """A line that stays."""
        with self._lock:
            self._write(_CLEAR if self._terminal else "")
            LOGGER.info(line)

    @contextmanager
    def stage(self, name: str, folder: Path | None = None, epochs: int | None = None) -> Iterator[None]:
        """Show the stage `name` and nothing else of it until the block ends.

        Of a training in `folder` the line has its epoch, of `epochs`, and loss.
        """
        if not is_shown(PROGRESS):
            with muted(progress=True):
                yield
            return
        done, started = threading.Event(), time.monotonic()

        def show() -> None:
            while not done.wait(self._every_s):
                line = f"   {name}  {time.monotonic() - started:.0f} s{_position(folder, epochs)}"
                with self._lock:
                    self._write(f"{_CLEAR}{line}" if self._terminal else f"{line}\n")

        thread = threading.Thread(target=show, name="dnd-progress", daemon=True)
        thread.start()
        try:
            with muted(progress=True):
                yield
        finally:
            done.set()
            thread.join()
            if self._terminal:
                self._write(_CLEAR)

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # that nobody can read it any more is no reason to stop a training
            self._stream.write(text)
            self._stream.flush()


def _position(folder: Path | None, epochs: int | None) -> str:
    """Where a training is, from its log."""
    if folder is None or not (folder / LOG).is_file():
        return ""
    steps = [record for record in read_log(folder / LOG) if record.get("kind") == "step"]
    if not steps:
        return ""
    last = steps[-1]
    loss = f"  loss {last['loss']:.3f}" if isinstance(last.get("loss"), float) else ""
    return f"  epoch {last['epoch'] + 1} of {epochs}  step {last['step']}{loss}"


TARGET = "logS"
STRENGTHS = tuple(10.0**power for power in range(-2, 5))  # of a ridge regression's penalty, chosen within each fold
FOLDS = 5
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
        systems: the finetuned student first, then the classical models.
        knowledge: what frozen representations say of QM9's labels.
        sentence: what the numbers say, whichever way they went.
        report: the HTML file.
    """

    folder: Path
    systems: list[System]
    knowledge: list[Knowledge]
    sentence: str
    report: Path


def run_demo(out: Path | str, *, jobs: int = 2) -> DemoResult:
    """Run every stage into `out`; a second run resumes where the first one stopped.

    Args:
        out: folder for the store, the models and the report.
        jobs: number of processes that prepare the molecules.
    """
    out, progress = Path(out), Progress()
    with ExitStack() as stack:
        data = resources.files("dnd.data")
        qm9 = stack.enter_context(resources.as_file(data / "qm9_slice.npz"))
        esol = stack.enter_context(resources.as_file(data / "esol.csv.gz"))
        progress.say("1. prepare: 2,500 QM9 molecules with their DFT conformers")
        labels = tuple(str(name) for name in np.load(qm9, allow_pickle=False)["names"])
        settings = PrepareConfig(hydrogens="teacher_all_student_heavy", target_columns=labels, jobs=jobs)
        with progress.stage("prepare"):
            prepare([qm9], out / "store", settings, resume=True)
        progress.say("2. denoise: a 3D teacher learns which way each atom was pushed")
        noise = load_config(DenoiseConfig, "denoise-demo")
        with progress.stage("denoise", out / "teacher", noise.loop.epochs):
            denoised = denoise(out / "store", out / "teacher", noise, resume=True)
        progress.say(_denoising_line(denoised.metrics))
        progress.say("3. distill: a 2D student learns the teacher's representation of every atom (D&D-NODE)")
        teach = load_config(DistillConfig, "distill-demo")
        with progress.stage("distill", out / "encoder", teach.loop.epochs):
            distilled = distill(out / "store", out / "teacher", out / "encoder", teach, resume=True)
        progress.say(_distillation_line(distilled.metrics))
        with progress.stage("ridge regression on frozen representations"):
            knowledge = _knowledge(out)
        progress.say(f"   {knowledge_sentence(knowledge)}")
        progress.say("4. finetune: the student learns the solubility of ESOL's 902 training molecules")
        _finetune(out, esol, progress)
        progress.say("   compared with random forests on fingerprints and on descriptors")
        with progress.stage("classical models"):
            systems = _systems(out, esol)
    for line in table_lines(systems):
        progress.say(line)
    progress.say(f"   {compare(systems)}")
    sentence = f"{knowledge_sentence(knowledge)} {compare(systems)}"
    progress.say("5. predict: five drugs and a broken SMILES")
    with progress.stage("predict and report"):
        predictions = _predict(out)
        report = write_demo_report(out, systems, knowledge, sentence, predictions, denoised.metrics, distilled.metrics)
    LOGGER.log(RESULT, f"report: {report}")
    return DemoResult(out, systems, knowledge, sentence, report)


def _finetune(out: Path, esol: Path, progress: Progress) -> None:
    config = load_config(FinetuneConfig, "finetune-demo")
    folder = out / "model"
    with progress.stage("finetune", folder, config.loop.epochs):
        finetune(esol, folder, [TARGET], config, encoder=str(out / "encoder"), resume=True)
        write_missing_report(folder)


def _knowledge(out: Path) -> list[Knowledge]:
    """How well QM9's labels follow from frozen representations, of the distilled student and of random weights."""
    store = Store.open(out / "store")
    random = initial_student(load_config(FinetuneConfig, "finetune-demo"), RANDOM, seed=1).eval()
    networks = (load_encoder(out / "encoder")[0], random)
    distilled_BD, untrained_BD = (FrozenEncoder(network, "mean").embed(store) for network in networks)
    return [
        Knowledge(name, _explained(distilled_BD, labels_B), _explained(untrained_BD, labels_B))
        for name, labels_B in zip(store.target_columns, store.targets.T.astype(np.float64), strict=True)
    ]


def _explained(x_BD: Float[np.ndarray, "molecules dim"], labels_B: Float[np.ndarray, "molecules"]) -> float:
    """R² of a ridge regression, predicted out of fold, over the molecules whose label is known."""
    known = np.isfinite(labels_B)
    model = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS))
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    return float(r2_score(labels_B[known], cross_val_predict(model, x_BD[known], labels_B[known], cv=folds)))


def _systems(out: Path, esol: Path) -> list[System]:
    """The finetuned student, and every classical model, on the same split."""
    molecules = read_labelled(esol, [TARGET], "heavy_both", extra_column="split", jobs=1)
    split, labels_B = column_split(molecules.extra), molecules.targets_BC[:, 0]
    model = Predictor.load(out / "model", device="cpu")
    values = {FINETUNED: model.predict_store(molecules.store)[0][:, 0]}
    found = baselines(_features(molecules), model.targets, molecules.targets_BC, split.train)
    values |= {name.replace("_", " "): fitted.predictions_BC[:, 0] for name, fitted in found.items()}
    return [System.of(name, own_B, labels_B, split) for name, own_B in values.items()]


def _features(molecules: LabelledMolecules) -> Features:
    parsed = [outcome.mol for text in molecules.smiles if (outcome := parse_smiles(text)).ok]
    sets = {"counts": count_fingerprints(parsed), "descriptors": descriptors_2d(parsed)}
    return Features(sets, np.arange(len(parsed)))


def _predict(out: Path) -> list[dict[str, str]]:
    write_text(out / "new.csv", "name,smiles\n" + "".join(f"{name},{text}\n" for name, text in NEW_MOLECULES.items()))
    predict_file(Predictor.load(out / "model", device="cpu"), out / "new.csv", str(out / "predictions.csv"))
    with open(out / "predictions.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _denoising_line(metrics: dict[str, float]) -> str:
    return (
        f"   held-out loss {metrics['held_out_loss']:.3f}; predicting zero gives {metrics['trivial']:.3f}, rigid "
        f"motion allows no model below {metrics['floor']:.3f}"
    )


def _distillation_line(metrics: dict[str, float]) -> str:
    return (
        f"   held-out R² of the teacher's atom representations {metrics['valid_node_r2']:.3f}; a lookup by element, "
        f"degree and ring reaches {metrics['valid_lookup_r2']:.3f}"
    )
