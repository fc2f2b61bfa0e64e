"""Uploads that nobody wants any more leave nothing on the disk, whenever they are removed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dnd.serve import jobs as module
from dnd.serve.guard import Limits
from dnd.serve.jobs import Job, Jobs

MODEL = SimpleNamespace(name="toy", predictor=SimpleNamespace(columns=[], smiles_column=None, digits={}))


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    line = Jobs(tmp_path, Limits())
    yield line
    line.close()


def add(jobs: Jobs) -> Job:
    return jobs.add("in.csv", b"smiles\nCCO\n", MODEL, None)  # type: ignore[arg-type]


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_file_that_is_removed_after_its_last_look_at_the_clock_leaves_nothing(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_its_end, go_on = threading.Event(), threading.Event()

    def finished(recorder: object, source: Path, result: str, **_: object) -> None:
        at_its_end.set()
        assert go_on.wait(20)
        Path(result).write_text("done")

    monkeypatch.setattr(module, "predict_file", finished)
    job = add(jobs)
    assert at_its_end.wait(20)
    jobs.remove(job)
    assert job.folder.exists()  # the worker still writes there
    go_on.set()
    wait_for(lambda: job.ended is not None)
    wait_for(lambda: not job.folder.exists())


def test_a_file_that_leaves_the_line_while_it_is_removed_is_not_begun(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Path] = []
    monkeypatch.setattr(module, "predict_file", lambda _, source, result, **__: begun.append(source))
    with jobs._lock:
        job = add_unlocked(jobs)
        wait_for(jobs._line.empty)  # the worker has it in its hand and can't begin
        job.unwanted.set()
    other = add(jobs)
    wait_for(lambda: other.ended is not None)
    assert begun == [other.source]
    assert job.state == "waiting"


def add_unlocked(jobs: Jobs) -> Job:
    """As `Jobs.add`, by whoever has the lock."""
    job = Job("own", "in.csv", MODEL, None, jobs._folder / "own")  # type: ignore[arg-type]
    jobs._line.put(job)
    return job
