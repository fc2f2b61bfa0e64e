"""Uploads leave nothing on the disk when nobody wants them any more, and little in memory while somebody does."""

from __future__ import annotations

import gzip
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dnd.chemistry.molecule import LIMITS
from dnd.predictor.targets import Target
from dnd.serve import jobs as module
from dnd.serve.guard import Limits
from dnd.serve.jobs import Job, Jobs
from dnd.serve.models import ServedModel

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


class ManyTargets:
    """A model of 40 targets that counts the letters of a text; texts with an exclamation mark are no molecules."""

    targets = tuple(Target(f"t{place}") for place in range(40))
    columns = tuple(f"{target.name}_{end}" for target in targets for end in ("pred", "low", "high"))
    smiles_column, digits = None, dict[str, int]()

    def describe(self, smiles: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
        values_B = np.array([float(len(text)) for text in smiles])
        return {name: values_B.copy() for name in self.columns}, ["bad" if "!" in text else "" for text in smiles]


@pytest.fixture
def many() -> ServedModel:
    return ServedModel("many", ManyTargets())  # type: ignore[arg-type]


def done(job: Job) -> Job:
    wait_for(lambda: job.ended is not None)
    return job


def test_a_page_of_rows_is_the_same_wherever_it_begins(jobs: Jobs, many: ServedModel) -> None:
    texts = ["!" if place % 50 == 7 else "C" * (1 + place % 9) for place in range(300)]
    rows = ["smiles", *texts[:140], "C,C", *texts[140:]]  # one with a cell too many
    job = done(jobs.add("in.csv", "\n".join(rows).encode(), many, None))
    assert job.error == ""
    told = ["bad" if text == "!" else "" for text in texts]
    told.insert(140, "row has 2 cells where the header has 1")
    every = [row for start in range(0, 301, 77) for row in jobs.page(job, start, 77).rows]
    assert [row.error for row in every] == told
    texts.insert(140, "")
    assert [(row.smiles, row.values[39].high if row.values else None) for row in every] == [
        (text, None if reason else len(text)) for text, reason in zip(texts, told, strict=True)
    ]
    assert (jobs.page(job, 127, 3).rows, jobs.page(job, 301, 5).rows) == (every[127:130], [])
    assert jobs.page(job, 10**30, 10**30).rows == []
    assert (jobs.info(job).done, jobs.page(job, 9, 1).total) == (301, 301)
    assert [(one.rows, one.first_row) for one in jobs.info(job).reasons] == [(6, 8), (1, 141)]


def test_a_row_that_is_kept_takes_little_more_than_its_numbers(jobs: Jobs, many: ServedModel) -> None:
    content = ("smiles\n" + "CCO\n" * 4_000).encode()
    done(jobs.add("in.csv", content, many, None))  # what is loaded with the first
    tracemalloc.start()
    job = done(jobs.add("in.csv", content, many, None))
    bytes_of_row = tracemalloc.get_traced_memory()[0] / 4_000
    tracemalloc.stop()
    assert job.error == ""
    assert 8 * 120 < bytes_of_row < 2_000  # with an object for each value: 40,000


def test_a_packed_file_does_not_unpack_to_any_size(tmp_path: Path, many: ServedModel) -> None:
    long = "C" * 500_000
    jobs = Jobs(tmp_path / "jobs", Limits(body_bytes=2**16))
    (tmp_path / "jobs").mkdir()
    good = done(jobs.add("in.csv.gz", gzip.compress(f"smiles\n{long}\n{long}\n".encode()), many, None))
    bad = done(jobs.add("in.csv.gz", gzip.compress(("smiles\n" + f"{long}\n" * 3).encode()), many, None))
    assert (good.error, len(jobs.page(good, 0, 1).rows[0].smiles)) == ("", LIMITS.text_bytes)
    assert "too long for the page" in bad.error
    assert not bad.result.exists()
    jobs.close()
