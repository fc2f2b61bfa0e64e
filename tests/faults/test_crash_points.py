"""K2: the process dies before every single call that changes the disk, one after the other; nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from children import model, training
from crash_points import CrashPoints
from outcomes import outcome, scraps

from dnd.common.errors import InputError, StorageError
from dnd.common.model_folder import read_model
from nursery import Nursery

pytestmark = pytest.mark.timeout(600)  # thousands of small waits: a busy machine may stretch them

# Four saves: the first, one at the end of an epoch, two that drop an older one; the last but one carries best weights.
SHORT = {"epochs": 2, "rows": 16}


def calls_of(action: object, *arguments: object, **options: object) -> list[str]:
    with CrashPoints(None, "abort") as points:
        action(*arguments, **options)
    return points.calls


def test_the_counter_sees_every_kind_of_call(scratch: Path) -> None:
    calls = calls_of(training, scratch / "run", **SHORT)
    assert set(calls) == {"open", "write", "flush", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir"}


def test_a_training_that_dies_at_any_call_resumes_to_the_same_bits(scratch: Path, nursery: Nursery) -> None:
    total = len(calls_of(training, scratch / "whole", **SHORT))
    expected = outcome(scratch / "whole")
    assert "best.safetensors" in expected
    for at in range(1, total + 1):
        folder = scratch / f"run-{at}"
        assert nursery.start("crashing_run", folder=str(folder), at=at, **SHORT).wait() == 9
        training(folder, **SHORT)
        assert outcome(folder) == expected, f"call {at}"
        assert not scraps(folder), f"call {at}"


def test_a_model_folder_that_dies_at_any_call_is_whole_or_no_model(scratch: Path, nursery: Nursery) -> None:
    total = len(calls_of(model, scratch / "whole"))
    for at in range(1, total + 1):
        folder = scratch / f"model-{at}"
        assert nursery.start("crashing_model", folder=str(folder), at=at).wait() == 9
        try:
            read_model(folder, kind="encoder").tensors()
        except InputError:
            model(folder)
        assert float(read_model(folder, kind="encoder").tensors()["weight"].sum()) == sum(range(300)), f"call {at}"


def run_on_a_full_disk(folder: Path, at: int, mode: str) -> StorageError | None:
    try:
        with CrashPoints(at, mode):
            training(folder, **SHORT)
    except StorageError as error:
        return error
    return None


@pytest.mark.parametrize("mode", ["full", pytest.param("once", marks=pytest.mark.slow)])
def test_a_training_on_a_disk_that_is_full_from_any_call_on_resumes_to_the_same_bits(scratch: Path, mode: str) -> None:
    total = len(calls_of(training, scratch / "whole", **SHORT))
    expected = outcome(scratch / "whole")
    stopped = 0
    for at in range(1, total + 1):
        folder = scratch / f"run-{at}"
        error = run_on_a_full_disk(folder, at, mode)
        if error is not None:
            stopped += 1
            assert error.exit_code == 74
            assert f"cannot write {folder}" in str(error)
            assert "No space left on device" in str(error)
            assert not scraps(folder), f"call {at}"
            training(folder, **SHORT)
        found = outcome(folder)
        differing = {name for name in expected if found.get(name) != expected[name]}
        # A log that could not be written once stays incomplete: that is no reason to stop.
        assert differing <= ({"metrics.jsonl"} if mode == "once" else set()), f"call {at}"
    assert stopped > total // 2
