"""A run killed between any two of its last steps (files, card, seal, cleaning, report) is completed by --resume.

The narrow tests end it before each file takes its place and before each removal; the wide ones before every call that
changes the disk. The kill before a seal and after it, with damaged files besides, is in test_stopped_runs.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import stage_runs
from crash_points import CrashPoints
from stopped_runs import Killed, Run, stop_before, work_in_this_process
from test_stopped_runs import WorkerAtHome, grid_cells, sums_of_counts

import dnd.common.model_folder
import dnd.finetuning.compress
import dnd.finetuning.outcome
import dnd.prediction.screen.screen as screening
import dnd.reproduction.pretrain_base as making_bases
import dnd.reproduction.reproduce as reproducing
import dnd.store.prepare as preparing
import screen_toys
from distillation_toys import TEACHER, toy_config, toy_store, toy_teacher_folder
from dnd.cli.finetuning import compress as compress_verb
from dnd.cli.finetuning import finetune as finetune_verb
from dnd.common.config import load_config
from dnd.common.files import MANIFEST, damaged_files, read_json, read_manifest
from dnd.prediction.screen.screen import ScreenConfig, screen
from dnd.pretraining.denoise import DenoiseConfig, denoise
from dnd.pretraining.distill import distill
from dnd.reproduction import frozen_models, grid
from dnd.reproduction.budgets import budget
from dnd.reproduction.pretraining_labels import BaseConfig
from dnd.reproduction.protocol import Request
from dnd.store.prepare import prepare
from dnd.store.settings import PrepareConfig
from dnd.training.settings import LoopConfig
from finetuning_toys import TINY, quietly, write_csv, write_regression

pytestmark = pytest.mark.timeout(600)  # whole commands, many times
WIDE = [pytest.mark.slow, pytest.mark.timeout(3600)]
EVERY_CALL = [False, pytest.param(True, marks=WIDE)]
STEPS = {"replace", "rename", "rmdir"}
TIMED = ("measured.json", "card.md")  # how long the stages took, which a card of an encoder says too
LOOP = LoopConfig(epochs=1, batch_size=8, device="cpu", learning_rate=1e-3, checkpoint_every=1, threads=1)


def finished(folder: Path) -> dict[str, object]:
    """Numbers of a run, names of all its files, and what its seal vouches for."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    seals = {str(path.relative_to(folder)): sorted(read_json(path)["files"]) for path in folder.rglob(MANIFEST)}
    assert not [line for path in folder.rglob(MANIFEST) for line in damaged_files(path.parent, read_json(path))]
    return {"numbers": stage_runs.result(folder, TIMED), "names": names, "sealed": seals}


def die_in_the_last_steps(run: Run, scratch: Path, stop: Callable[[pytest.MonkeyPatch], None], every: bool) -> int:
    """End a run before each of its last calls, resume it, and compare; returns how often that was done.

    Args:
        run: begins or resumes a run in a folder.
        scratch: an empty folder.
        stop: ends it where its last steps begin.
        every: whether to end it before all calls that change the disk.
    """
    with pytest.MonkeyPatch.context() as patch:
        stop(patch)
        with pytest.raises(Killed):
            run(scratch / "stopped")
    shutil.copytree(scratch / "stopped", scratch / "whole")
    with CrashPoints(None, "killed") as points:
        run(scratch / "whole")
    expected = finished(scratch / "whole")
    places = [at for at, call in enumerate(points.calls, 1) if every or call in STEPS]
    for at in places:
        folder = scratch / f"run-{at}"
        shutil.copytree(scratch / "stopped", folder)
        with pytest.raises(Killed), CrashPoints(at, "killed"):
            run(folder)
        run(folder)
        assert finished(folder) == expected, f"before call {at}, {points.calls[at - 1]}"
        shutil.rmtree(folder)
    print(f"{len(places)} places")
    return len(places)


@pytest.mark.parametrize("every", EVERY_CALL)
@pytest.mark.parametrize("recipe", ["student", pytest.param("ensemble", marks=pytest.mark.slow), "fast"])
def test_finetune_with_its_report(scratch: Path, recipe: str, every: bool) -> None:
    table = write_regression(scratch)
    words = {
        "student": [*TINY, "loop.batch_size=16", "loop.epochs=1"],
        "ensemble": [*TINY, "loop.batch_size=16", "loop.epochs=1", "ensemble=2"],
        "fast": ["split=random", "baselines=false", "jobs=1", "blend.classical=ridge", "blend.folds=2"],
    }[recipe]

    def run(folder: Path) -> None:
        finetune_verb(
            str(table), [*words, "loop.threads=1"], out=folder, target_columns=["size"], encoder="random",
            recipe="fast" if recipe == "fast" else "small", resume=True,
        )  # fmt: skip

    def stop(patch: pytest.MonkeyPatch) -> None:
        stop_before(patch, dnd.finetuning.outcome, "calibrate")

    assert die_in_the_last_steps(run, scratch, stop, every) >= 14
    assert "report.html" in read_manifest(scratch / "whole")["files"]


@pytest.mark.parametrize("every", EVERY_CALL)
def test_denoise(scratch: Path, every: bool) -> None:
    store, config = toy_store(24), DenoiseConfig(teacher=TEACHER, loop=LOOP, holdout_fraction=0.2)

    def run(folder: Path) -> None:
        denoise(store, folder, config, resume=True)

    def stop(patch: pytest.MonkeyPatch) -> None:
        stop_before(patch, dnd.common.model_folder, "save")

    assert die_in_the_last_steps(run, scratch, stop, every) >= 9


@pytest.mark.parametrize("every", EVERY_CALL)
def test_distill(scratch: Path, every: bool) -> None:
    store, config, teacher = toy_store(24), toy_config(loop=LOOP), toy_teacher_folder(scratch / "teacher")

    def run(folder: Path) -> None:
        distill(store, teacher, folder, config, resume=True)

    def stop(patch: pytest.MonkeyPatch) -> None:
        stop_before(patch, dnd.common.model_folder, "save")

    assert die_in_the_last_steps(run, scratch, stop, every) >= 9


@pytest.mark.parametrize("every", EVERY_CALL)
def test_prepare(scratch: Path, every: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    work_in_this_process(monkeypatch)
    table = scratch / "x.smi"
    table.write_text("".join(f"{'C' * (1 + number)}O\n" for number in range(9)) + "C1CC\n")

    def run(folder: Path) -> None:
        prepare([table], folder, PrepareConfig(shard_size=4), resume=True)

    def stop(patch: pytest.MonkeyPatch) -> None:
        stop_before(patch, preparing, "write_manifest")

    assert die_in_the_last_steps(run, scratch, stop, every) >= 2


@pytest.mark.parametrize("every", EVERY_CALL)
def test_screen(scratch: Path, every: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    work_in_this_process(monkeypatch)
    model = Path(__file__).parents[1] / "golden" / "predictor-regression"
    table = scratch / "x.smi"
    table.write_text("".join(f"{'C' * (1 + number % 40)}O\n" for number in range(40)))

    def run(folder: Path) -> None:
        screen([table], model, folder, ScreenConfig(jobs=1, chunk=1), resume=True, worker=screen_toys.WORKER)

    def stop(patch: pytest.MonkeyPatch) -> None:
        stop_before(patch, screening, "write_manifest")

    assert die_in_the_last_steps(run, scratch, stop, every) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("every", EVERY_CALL)
def test_compress_with_its_report(scratch: Path, every: bool) -> None:
    table, library = write_regression(scratch), scratch / "library.csv"
    heads = ("CO", "CN", "FC", "OC(=O)", "NC(=O)", "BrC", "CS", "CCC")
    rings = ("c1ccc(C)cc1", "c1ccc(F)nc1", "C1CCCCC1", "C1CCOC1", "c1ccsc1", "C1CCNCC1", "c1ccc(Cl)cc1", "C1CCC1")
    write_csv(library, {"smiles": [head + ring for head in heads for ring in rings]})
    blend = ("blend.classical=ridge,forest_descriptors", "blend.students=false", "blend.folds=2", "blend.trees=5")
    quietly(table, scratch / "blend", ["size"], *blend)
    student = ["student.name=gine", "student.width=16", "student.num_layers=2"]
    settings = ["encoder=random", *student, "jobs=1", "loop.epochs=1", "loop.device=cpu", "loop.threads=1"]

    def run(folder: Path) -> None:
        compress_verb(scratch / "blend", settings, out=folder, molecules=[str(table), str(library)], resume=True)

    def stop(patch: pytest.MonkeyPatch) -> None:
        stop_before(patch, dnd.finetuning.compress, "write_compressed")

    assert die_in_the_last_steps(run, scratch, stop, every) >= 12
    assert "report.html" in read_manifest(scratch / "whole")["files"]


@pytest.mark.parametrize("every", EVERY_CALL)
def test_reproduce(scratch: Path, every: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last cell, the records of all, and the table with its report."""
    monkeypatch.setattr(grid, "subprocess", SimpleNamespace(Popen=WorkerAtHome, PIPE=-1, TimeoutExpired=TimeoutError))
    monkeypatch.setattr(frozen_models, "predict", sums_of_counts)
    features, *_, model = grid_cells(stage_runs.DATA)
    cells = [replace(cell, settings={**cell.settings, "fraction": 1.0, "pooling": ""}) for cell in (features, model)]
    monkeypatch.setattr(reproducing, "plan", lambda request: cells)

    def run(folder: Path) -> None:
        reproducing.reproduce(Request("table1", budget("tiny")), folder)

    def stop(patch: pytest.MonkeyPatch) -> None:
        stop_before(patch, frozen_models, "predict")

    assert die_in_the_last_steps(run, scratch, stop, every) >= 5
    assert (scratch / "whole" / "table1.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("every", [False, True])
def test_pretrain_base(scratch: Path, every: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two encoders and their cards, when all stages before are done."""
    work_in_this_process(monkeypatch)
    config = load_config(BaseConfig, "base-tiny", ["most_molecules=40", "labels=gap", "benchmarks=none"])

    def run(folder: Path) -> None:
        making_bases.pretrain_base([stage_runs.DATA], folder, config)

    def stop(patch: pytest.MonkeyPatch) -> None:
        stop_before(patch, making_bases, "encoder_card")

    assert die_in_the_last_steps(run, scratch, stop, every) >= 8
