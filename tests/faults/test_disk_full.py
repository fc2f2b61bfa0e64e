"""3.3: a file size limit, a full log, a full stderr, paths that can't be: one line each, nothing written is lost."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path

import pytest
from children import training
from outcomes import outcome, scraps

from dnd.common.errors import InputError, StorageError
from dnd.common.log import told
from nursery import Nursery


@pytest.mark.parametrize("limit_bytes", [400, 900, 1500])
def test_a_file_size_limit_ends_the_run_with_74_and_the_path(
    nursery: Nursery, scratch: Path, uninterrupted: dict[str, str], limit_bytes: int
) -> None:
    """The operating system's own refusal, in the real command's process."""
    training(scratch, stop_after_s=0.0)
    before = outcome(scratch)
    child = nursery.start("limited_run", folder=str(scratch), limit_bytes=limit_bytes)
    assert child.wait() == 74, child.output
    assert f"dnd: cannot write {scratch}" in child.output
    assert "File too large" in child.output
    assert not scraps(scratch)
    assert outcome(scratch)["model.safetensors"] == before["model.safetensors"]
    training(scratch)
    assert outcome(scratch) == uninterrupted


def test_a_full_log_disk_does_not_stop_the_training(
    scratch: Path,
    uninterrupted: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dnd.training.logs.open_own", lambda path, flags: os.open("/dev/full", flags))
    assert training(scratch).finished
    assert "the log" in (said := caplog.text)
    assert said.count("any more: No space left on device") == 1
    assert {**outcome(scratch), "metrics.jsonl": ""} == {**uninterrupted, "metrics.jsonl": ""}


def test_a_full_disk_behind_stderr_does_not_stop_the_training(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from children import Toy, config

    from dnd.training.loop import train

    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        with told(logging.DEBUG):
            assert train(Toy(), config(), scratch, resume=False, settings={}).finished
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space"):
            full.write("\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # so that closing it is quiet


def test_a_run_that_would_fill_the_disk_does_not_begin(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(StorageError, match=r"not enough disk space.*found 0 bytes free"):
        training(scratch / "run")
    assert not (scratch / "run" / "run.json").exists()


def test_a_file_in_place_of_the_run_folder_is_the_users_input(scratch: Path) -> None:
    (scratch / "file").write_text("x")
    for path in (scratch / "file", scratch / "file" / "run", scratch / ("x" * 300)):
        with pytest.raises(InputError, match="cannot write"):
            training(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(scratch: Path) -> None:
    scratch.chmod(0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        training(scratch / "run")
    scratch.chmod(0o700)
