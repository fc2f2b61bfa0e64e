"""Every file of a stopped run of every training verb is damaged: the resumed run gives the same numbers, or refuses.

`prepare`, `screen` and the bare training loop are in test_sealed_records.py.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import stage_runs
from stopped_runs import (
    EACH,
    Killed,
    Run,
    all_damages,
    damaged_runs,
    files_of,
    same_or_noticed,
    stop_after,
    stop_before,
)

import dnd.common.model_folder
import dnd.finetuning.search
from distillation_toys import TEACHER, toy_config, toy_store, toy_teacher_folder
from dnd.common.errors import DndError
from dnd.finetuning import classical
from dnd.pretraining.denoise import DenoiseConfig, denoise
from dnd.pretraining.distill import distill
from dnd.reproduction import frozen_models, grid
from dnd.reproduction.cells import run_and_write
from dnd.reproduction.results import Cell
from dnd.training.logs import Checkpoints
from dnd.training.settings import LoopConfig
from finetuning_toys import quietly, write_regression

WIDE = [pytest.mark.slow, pytest.mark.timeout(3600)]
FLIPS = [1, pytest.param(EACH, marks=WIDE)]
"""Flipped bits in each file. The narrow test loses each file in one way of three, the wide one in all."""
LOOP = LoopConfig(epochs=2, batch_size=8, device="cpu", learning_rate=1e-3, checkpoint_every=1, threads=1)
Stop = Callable[[pytest.MonkeyPatch], None]


def in_training(saves: int) -> Stop:
    return lambda patch: stop_after(patch, Checkpoints, "save", saves)


def in_fits(fits: int) -> Stop:
    return lambda patch: stop_after(patch, classical.FoldData, "fit", fits)


def before_the_seal(patch: pytest.MonkeyPatch) -> None:
    stop_before(patch, dnd.common.model_folder, "write_manifest")


def after_the_seal(patch: pytest.MonkeyPatch) -> None:
    stop_after(patch, dnd.common.model_folder, "write_manifest", 1)


def numbers(folder: Path) -> dict[str, str]:
    """What a finished run is worth: everything but its log, which may have lost lines, and what it needed meanwhile."""
    return stage_runs.result(folder, without=("metrics.jsonl",))


def damage_all(run: Run, scratch: Path, stop: Stop, flips: int, result: Run = numbers) -> dict[str, int]:
    """Counts of `same_or_noticed` for a run that `stop` ends."""
    whole, stopped, again = scratch / "whole", scratch / "stopped", scratch / "again"
    run(whole)
    with pytest.MonkeyPatch.context() as patch:
        stop(patch)
        with pytest.raises(Killed):
            run(stopped)
    damaged = damaged_runs(stopped, again, flips, losses=1) if flips == 1 else all_damages(stopped, again, flips)
    print(f"{len(files_of(stopped))} files")
    return same_or_noticed(run, result, damaged, result(whole))


@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("stop", [in_training(5), before_the_seal, after_the_seal])
def test_denoise(scratch: Path, stop: Stop, flips: int) -> None:
    store, config = toy_store(24), DenoiseConfig(teacher=TEACHER, loop=LOOP, holdout_fraction=0.2)

    def run(folder: Path) -> None:
        denoise(store, folder, config, resume=True)

    counts = damage_all(run, scratch, stop, flips)
    assert counts["same"] > counts["refused"] or stop is after_the_seal


@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("stop", [in_training(5), pytest.param(before_the_seal, marks=WIDE), after_the_seal])
def test_distill(scratch: Path, stop: Stop, flips: int) -> None:
    store, config = toy_store(24), toy_config(loop=LOOP)
    teacher = toy_teacher_folder(scratch / "teacher")

    def run(folder: Path) -> None:
        distill(store, teacher, folder, config, resume=True)

    counts = damage_all(run, scratch, stop, flips)
    assert counts["same"] > counts["refused"] or stop is after_the_seal


FAST = ("blend.students=false", "blend.classical=ridge,gaussian_process", "blend.folds=2")
FINETUNINGS: dict[str, tuple[tuple[str, ...], dict[str, Any], Stop]] = {
    "student": ((), {}, in_training(3)),
    "student, before the seal": ((), {}, before_the_seal),
    "student, after the seal": ((), {}, after_the_seal),
    "ensemble": (("ensemble=2",), {}, in_training(5)),
    "blend": (("ensemble=1", "blend.classical=ridge", "blend.folds=2"), {}, in_training(2)),
    "fast": (FAST, {}, in_fits(4)),
    "fast, before the seal": (FAST, {}, before_the_seal),
    "search": ((), {"search": 2}, in_training(5)),
    "search, then a training": ((), {"search": 1}, in_training(5)),
}


@pytest.mark.parametrize(
    ("name", "flips"),
    [("blend", 1), ("fast", 1), *(pytest.param(name, EACH, marks=WIDE) for name in FINETUNINGS)],
)
def test_finetune(scratch: Path, name: str, flips: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical, "KEEP_FROM_S", 0.0)
    words, options, stop = FINETUNINGS[name]
    if "search" in options:
        pytest.importorskip("optuna")
    table = write_regression(scratch)

    def run(folder: Path) -> None:
        settings = ("loop.epochs=3", "loop.batch_size=16", "loop.checkpoint_every=2", "loop.threads=1", *words)
        quietly(table, folder, ["size"], *settings, resume=True, **options)

    counts = damage_all(run, scratch, stop, flips)
    assert counts["same"] > counts["refused"] or stop is after_the_seal


class WorkerAtHome(io.RawIOBase):
    """A worker of the grid, as much of it as the grid uses, that runs its cells in this process."""

    returncode = None

    def __init__(self, command: list[str], **options: Any) -> None:
        own, self._answers = os.pipe()
        self.stdin, self.stdout = self, os.fdopen(own, "rb", 0)

    def write(self, line: bytes) -> None:  # type: ignore[override]
        status = run_and_write(Path(os.fsdecode(line.rstrip(b"\n"))))
        os.write(self._answers, f"{status}\n".encode())

    def poll(self) -> None:
        return None

    def wait(self, timeout: float) -> int:
        os.close(self._answers)
        return 0


def grid_cells(molecules: Path) -> list[Cell]:
    """A store and its teacher, features of a shipped data set and a model of them."""
    data = {"dataset": "freesolv", "most_molecules": 30, "seed": 0}
    store = {"targets": [], "hydrogens": "heavy_both", "conformers": "file", "seed": 0, "molecules": 24}
    paths = {"inputs": [str(molecules)], "problem": ""}
    width = ["teacher.width=16", "teacher.num_layers=2", "teacher.num_heads=2", "teacher.num_rbf=8"]
    loop = ["loop.epochs=2", "loop.batch_size=8", "loop.device=cpu", "loop.checkpoint_every=1", "holdout_fraction=0.2"]
    return [
        Cell("features", "features", data),
        Cell("prepare", "prepare", store, (), paths),
        Cell("denoise", "denoise", {"config": [*width, *loop]}, ("prepare",)),
        Cell("model", "classical", {**data, "system": "rf-descriptors"}, ("features",)),
    ]


def sums_of_counts(
    name: str, features: dict[str, np.ndarray], targets_BC: np.ndarray, *rest: object
) -> tuple[Any, Any]:
    """In place of a forest, which takes a second."""
    return features["counts"].sum(axis=1, dtype=np.float64)[:, None] * np.ones(targets_BC.shape[1]), {}


@pytest.mark.parametrize("flips", FLIPS)
def test_reproduce(scratch: Path, flips: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "subprocess", SimpleNamespace(Popen=WorkerAtHome, PIPE=-1, TimeoutExpired=TimeoutError))
    monkeypatch.setattr(frozen_models, "predict", sums_of_counts)
    molecules = scratch / "molecules.npz"
    shutil.copy(stage_runs.DATA, molecules)
    cells = grid_cells(molecules)
    found: dict[Path, dict[str, Any]] = {}

    def run(folder: Path) -> None:
        summary = grid.run_grid(cells, folder)
        failed = [record.reason for record in summary.records.values() if record.status == "failed"]
        if failed:
            raise DndError(failed[0])
        found[folder] = {key: record.result for key, record in summary.records.items()}

    damage_all(run, scratch, in_training(3), flips, found.get)
