"""Every file of a stopped run of every training verb is damaged: the resumed run gives the same numbers, or refuses.

`prepare`, `screen` and the bare training loop are in test_sealed_records.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stage_runs
from stopped_runs import Run, files_of, flips_per_file, same_or_noticed, stop_after, stop_before

import dnd.common.model_folder
import dnd.finetuning.search
from distillation_toys import TEACHER, toy_config, toy_store, toy_teacher_folder
from dnd.pretraining.denoise import DenoiseConfig, denoise
from dnd.pretraining.distill import distill
from dnd.training.checkpoint import Checkpoints
from dnd.training.settings import LoopConfig
from finetuning_toys import quietly, write_regression

WIDE = [pytest.mark.slow, pytest.mark.timeout(3600)]
FLIPS_IN_ALL = [0, pytest.param(200, marks=WIDE)]
"""Flipped bits in all files together, at least one in each. The narrow test loses each file in one way of three."""
LOOP = LoopConfig(epochs=2, batch_size=8, device="cpu", learning_rate=1e-3, checkpoint_every=1, threads=1)
Stop = Callable[[pytest.MonkeyPatch], None]


def in_training(saves: int) -> Stop:
    return lambda patch: stop_after(patch, Checkpoints, "save", saves)


def before_the_seal(patch: pytest.MonkeyPatch) -> None:
    stop_before(patch, dnd.common.model_folder, "write_manifest")


def after_the_seal(patch: pytest.MonkeyPatch) -> None:
    stop_after(patch, dnd.common.model_folder, "write_manifest", 1)


def numbers(folder: Path) -> dict[str, str]:
    """What a finished run is worth: everything but its log, which may have lost lines, and what it needed meanwhile."""
    found = stage_runs.result(folder)
    return {name: digest for name, digest in found.items() if not name.endswith("metrics.jsonl")}


def damage_all(run: Run, scratch: Path, stop: Stop, total: int, result: Run = numbers) -> dict[str, int]:
    """Counts of `same_or_noticed` for a run that `stop` ends."""
    whole, stopped, losses = scratch / "whole", scratch / "stopped", 3 if total else 1
    run(whole)
    with pytest.MonkeyPatch.context() as patch:
        stop(patch)
        with pytest.raises(KeyboardInterrupt):
            run(stopped)
    flips = flips_per_file(stopped, total)
    counts = same_or_noticed(run, result, stopped, scratch / "again", flips, result(whole), losses)
    assert sum(counts.values()) == len(files_of(stopped)) * (flips + losses)
    return counts


@pytest.mark.parametrize("total", FLIPS_IN_ALL)
@pytest.mark.parametrize("stop", [in_training(5), before_the_seal, after_the_seal])
def test_denoise(scratch: Path, stop: Stop, total: int) -> None:
    store, config = toy_store(24), DenoiseConfig(teacher=TEACHER, loop=LOOP, holdout_fraction=0.2)

    def run(folder: Path) -> None:
        denoise(store, folder, config, resume=True, quiet=True)

    counts = damage_all(run, scratch, stop, total)
    assert counts["same"] > counts["refused"] or stop is after_the_seal


@pytest.mark.parametrize("total", FLIPS_IN_ALL)
@pytest.mark.parametrize("stop", [in_training(5), pytest.param(before_the_seal, marks=WIDE), after_the_seal])
def test_distill(scratch: Path, stop: Stop, total: int) -> None:
    store, config = toy_store(24), toy_config(loop=LOOP)
    teacher = toy_teacher_folder(scratch / "teacher")

    def run(folder: Path) -> None:
        distill(store, teacher, folder, config, resume=True, quiet=True)

    counts = damage_all(run, scratch, stop, total)
    assert counts["same"] > counts["refused"] or stop is after_the_seal


FINETUNINGS: dict[str, tuple[tuple[str, ...], dict[str, Any], Stop]] = {
    "student": ((), {}, in_training(3)),
    "student, before the seal": ((), {}, before_the_seal),
    "student, after the seal": ((), {}, after_the_seal),
    "ensemble": (("ensemble=2",), {}, in_training(5)),
    "blend": (("ensemble=1", "blend.classical=ridge", "blend.folds=2"), {}, in_training(2)),
    "search": ((), {"search": 2}, in_training(5)),
    "search, then a training": ((), {"search": 1}, in_training(5)),
}


@pytest.mark.parametrize(
    ("name", "total"), [("blend", 0), ("search", 0), *(pytest.param(name, 200, marks=WIDE) for name in FINETUNINGS)]
)
def test_finetune(scratch: Path, name: str, total: int) -> None:
    words, options, stop = FINETUNINGS[name]
    if "search" in options:
        pytest.importorskip("optuna")
    table = write_regression(scratch)

    def run(folder: Path) -> None:
        settings = ("loop.epochs=3", "loop.batch_size=16", "loop.checkpoint_every=2", "loop.threads=1", *words)
        quietly(table, folder, ["size"], *settings, resume=True, **options)

    counts = damage_all(run, scratch, stop, total)
    assert counts["same"] > counts["refused"] or stop is after_the_seal
