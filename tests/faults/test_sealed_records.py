"""Journals, logs and progress files: a flipped bit or a cut end in any file of a stopped run is noticed or harmless."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import training
from stopped_runs import (
    EACH,
    Damaged,
    Killed,
    all_damages,
    damaged_runs,
    files_of,
    flipped,
    same_or_noticed,
    stop_after,
    stop_before,
    work_in_this_process,
)

import screen_toys
from dnd.common.errors import CorruptFileError
from dnd.common.files import write_json
from dnd.common.runs import append_line, read_line, read_lines, read_record, sealed_line, write_record
from dnd.finetuning.search import JOURNAL, Score, search_settings
from dnd.prediction.screen.screen import ScreenConfig, screen
from dnd.reproduction.results import Record, ResultsFile
from dnd.store.prepare import prepare
from dnd.store.settings import PrepareConfig
from dnd.training.logs import read_log
from finetuning_toys import tiny_config

pytestmark = pytest.mark.timeout(600)  # whole commands, several times

RECORD = {"rows": 512, "loss": 0.1 + 0.2, "name": "µ\n", "none": None, "list": [1, {"a": -0.0}]}
BEFORE_THE_SEAL = -1
WIDE = [pytest.mark.slow, pytest.mark.timeout(3600)]


def damaged(scratch: Path, flips: int) -> Iterator[Damaged]:
    """Copies of the run `stopped` with so many flipped bits in each file, and each file lost in three ways."""
    stopped, again = scratch / "stopped", scratch / "again"
    print(f"{len(files_of(stopped))} files")
    return all_damages(stopped, again, flips) if flips == EACH else damaged_runs(stopped, again, flips)


def test_every_single_bit_of_a_line_counts() -> None:
    line = sealed_line(RECORD)
    assert read_line(line) == RECORD
    for place in range(8 * len(line)):
        changed = bytearray(line)
        changed[place // 8] ^= 1 << place % 8
        assert read_line(bytes(changed)) is None
    for end in range(len(line)):
        assert read_line(line[:end]) is None
    for other in (b"[" * 100_000, b"{}\n", b"null\n", b"", b" " + line, line + b"\n"):
        assert read_line(other) is None


def test_files_of_lines_and_of_one_record(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_lines(path) == ([], 0)
    for number in range(3):
        append_line(path, {"step": number})
    assert read_lines(path) == ([{"step": 0}, {"step": 1}, {"step": 2}], 0)
    path.write_bytes(path.read_bytes().replace(b'"step": 1', b'"step": 7') + b'{"step": 3, "check"')
    assert read_lines(path) == ([{"step": 0}, {"step": 2}], 2)
    write_record(tmp_path / "one.json", RECORD)
    assert read_record(tmp_path / "one.json") == RECORD
    (tmp_path / "one.json").write_bytes(sealed_line(RECORD).replace(b"512", b"612"))
    with pytest.raises(CorruptFileError, match="was altered"):
        read_record(tmp_path / "one.json")


def test_what_version_0_1_0_wrote_is_read_and_nothing_that_looks_like_it(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"id": "x", "settings": {"a": 1.5}})
    assert read_record(path) == {"id": "x", "settings": {"a": 1.5}}
    path.write_bytes(sealed_line(RECORD).replace(b'"check"', b'"chfck"'))
    with pytest.raises(CorruptFileError):
        read_record(path)
    log = tmp_path / "metrics.jsonl"
    lines = ['{"kind": "step", "step": 1, "loss": 2.0}', '{"kine": "step"}', '{"kind": "step", "step": 3, "loss": "x"}']
    log.write_text("\n".join(lines) + "\n")
    assert read_log(log) == [{"kind": "step", "step": 1, "loss": 2.0}]


@pytest.mark.parametrize("flips", [1, pytest.param(EACH, marks=WIDE)])
@pytest.mark.parametrize("chunks", [2, BEFORE_THE_SEAL])
def test_a_screen_that_stopped(scratch: Path, monkeypatch: pytest.MonkeyPatch, chunks: int, flips: int) -> None:
    import dnd.prediction.screen.screen as screening
    from dnd.prediction.screen.shards import ScreenJournal

    work_in_this_process(monkeypatch)
    model = Path(__file__).parents[1] / "golden" / "predictor-regression"
    table = scratch / "x.smi"
    table.write_text("".join(f"{'C' * (1 + number % 40)}O\n" for number in range(150)))
    config = ScreenConfig(jobs=1, chunk=1)

    def run(folder: Path) -> None:
        screen([table], model, folder, config, resume=True, worker=screen_toys.WORKER)

    def result(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.glob("part-*")}

    run(scratch / "whole")
    with monkeypatch.context() as patch:
        if chunks == BEFORE_THE_SEAL:
            stop_before(patch, screening, "write_manifest")
        else:
            stop_after(patch, ScreenJournal, "finish", chunks)
        with pytest.raises(Killed):
            run(scratch / "stopped")
    counts = same_or_noticed(run, result, damaged(scratch, flips), result(scratch / "whole"))
    assert counts["same"] >= counts["refused"]


@pytest.mark.parametrize("flips", [1, pytest.param(EACH, marks=WIDE)])
@pytest.mark.parametrize("shards", [1, 2, BEFORE_THE_SEAL])
def test_a_store_that_stopped(scratch: Path, monkeypatch: pytest.MonkeyPatch, shards: int, flips: int) -> None:
    import dnd.store.prepare as preparing
    from dnd.store.writer import StoreJournal

    work_in_this_process(monkeypatch)
    table = scratch / "x.smi"
    table.write_text("".join(f"{'C' * (1 + number)}O\n" for number in range(9)) + "C1CC\n")
    config = PrepareConfig(shard_size=4)

    def run(folder: Path) -> None:
        prepare([table], folder, config, resume=True)

    def result(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in [*folder.glob("shard-*"), folder / "rejects.csv"]}

    run(scratch / "whole")
    with monkeypatch.context() as patch:
        if shards == BEFORE_THE_SEAL:
            stop_before(patch, preparing, "write_manifest")
        else:
            stop_after(patch, StoreJournal, "seal", shards)
        with pytest.raises(Killed):
            run(scratch / "stopped")
    counts = same_or_noticed(run, result, damaged(scratch, flips), result(scratch / "whole"))
    assert counts["same"] >= counts["refused"]


@pytest.mark.parametrize("flips", [2, pytest.param(EACH, marks=WIDE)])
def test_a_training_that_stopped(scratch: Path, flips: int) -> None:
    def run(folder: Path) -> None:
        while not training(folder).finished:
            pass

    def result(folder: Path) -> object:
        newest = max((folder / "checkpoints").glob("step-*"))
        return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}

    run(scratch / "whole")
    for _ in range(5):
        training(scratch / "stopped", stop_after_s=0.0)
    counts = same_or_noticed(run, result, damaged(scratch, flips), result(scratch / "whole"))
    assert counts["same"] >= counts["refused"]


@pytest.mark.parametrize("flips", [6, pytest.param(EACH, marks=WIDE)])
def test_a_search_that_stopped(scratch: Path, flips: int) -> None:
    pytest.importorskip("optuna")
    config, stop = tiny_config("loop.learning_rate=2e-3"), [4]

    def trial(own: object, folder: Path) -> Score | None:
        if int(folder.name.removeprefix("trial-")) == stop[0]:
            return None
        value = abs(own.loop.learning_rate - 1e-3) * 1000 + (own.head == "linear")
        return Score("valid_rmse", value, {"valid_rmse": value}, 0.1)

    found: dict[Path, object] = {}

    def run(folder: Path) -> None:
        found[folder] = search_settings(config, 7, folder, trial, digest="d")

    assert run(scratch / "stopped") is None
    stop[0] = -1
    run(scratch / "whole")
    assert [path.name for path in files_of(scratch / "stopped")] == [JOURNAL]
    counts = same_or_noticed(run, found.get, damaged(scratch, flips), found[scratch / "whole"])
    assert counts == {"same": flips + 3, "refused": 0}


def test_results_of_a_grid(tmp_path: Path) -> None:
    for number in range(3):
        ResultsFile(tmp_path).append(Record(f"k{number}", "d", "done", "kind", {}, result={"rmse": 0.5}))
    path, draw = tmp_path / "results.jsonl", random.Random(3)
    content, whole = path.read_bytes(), ResultsFile(tmp_path).read()
    for _ in range(200):
        path.write_bytes(flipped(content, draw))
        found = ResultsFile(tmp_path).read()
        assert found.items() <= whole.items()
        assert len(found) >= 1
