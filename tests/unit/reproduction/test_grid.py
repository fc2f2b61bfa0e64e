import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dnd.common.errors import ConfigError, InputError
from dnd.common.files import folder_lock
from dnd.reproduction.grid import run_grid
from dnd.reproduction.results import Cell, Record, ResultsFile, digests
from support.said import said

FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


def run(cells: list[Cell], folder: Path, jobs: int = 2):
    lines: list[str] = []
    with said(lines):
        return run_grid(cells, folder, jobs=jobs, worker=FAKE), lines


def runs_of(folder: Path, key: str) -> int:
    return sum(len(path.read_text().split()) for path in (folder / "cells").glob(f"{key}-*/runs.txt"))


def test_cells_run_after_their_needs_and_only_once(tmp_path: Path) -> None:
    cells = [
        Cell("store", "ok", {"value": 1}),
        Cell("teacher", "ok", {"value": 10}, ("store",)),
        Cell("esol/a/seed-1", "ok", {"value": 100}, ("teacher",), {"data_dir": "x"}),
    ]
    summary, lines = run(cells, tmp_path)
    assert summary.records["esol/a/seed-1"].result["value"] == 111
    assert (summary.ran, summary.reused, summary.failed) == (3, 0, ())
    assert lines[-1].startswith("[3/3] esol/a/seed-1")
    again, _ = run([*cells, Cell("new", "ok", {}, ("store",))], tmp_path)
    assert (again.ran, again.reused) == (1, 3)
    moved = [*cells[:2], Cell("esol/a/seed-1", "ok", {"value": 100}, ("teacher",), {"data_dir": "y"})]
    assert run(moved, tmp_path)[0].ran == 0
    record = summary.records["teacher"]
    assert record.versions["python"]
    assert record.seconds >= 0
    assert record.peak_memory_mb > 1
    assert record.settings == {"value": 10}
    assert record.command[1:3] == ("-m", "dnd.reproduction.cells")


def test_another_setting_upstream_is_another_cell(tmp_path: Path) -> None:
    def cells(value: int) -> list[Cell]:
        return [Cell("a", "ok", {"value": value}), Cell("b", "ok", {}, ("a",)), Cell("c", "ok", {})]

    run(cells(1), tmp_path)
    summary, _ = run(cells(2), tmp_path)
    assert (summary.ran, summary.reused) == (2, 1)
    assert summary.records["b"].result["value"] == 3


def test_a_bad_cell_stops_no_other_and_is_tried_again(tmp_path: Path) -> None:
    cells = [
        Cell("killed", "killed"),
        Cell("after", "ok", {}, ("killed",)),
        Cell("broken", "broken"),
        Cell("refused", "refused"),
        *(Cell(f"good/{number}", "ok") for number in range(4)),
    ]
    summary, _ = run(cells, tmp_path)
    assert summary.failed == ("killed", "after", "broken", "refused")
    reasons = {key: summary.records[key].reason for key in summary.failed}
    assert "signal 9" in reasons["killed"]
    assert reasons["after"] == "needs killed, which failed"
    assert "RuntimeError: the cell broke" in reasons["broken"]
    assert reasons["refused"] == "data set x is missing. Get it"
    assert all(summary.records[f"good/{number}"].status == "done" for number in range(4))
    again, _ = run(cells, tmp_path)
    assert again.reused == 4
    assert runs_of(tmp_path, "killed") == 2
    assert runs_of(tmp_path, "good/0") == 1


def test_jobs_run_in_parallel(tmp_path: Path) -> None:
    cells = [Cell(f"c{number}", "ok", {"seconds": 0.6}) for number in range(4)]
    started = time.monotonic()
    summary, _ = run(cells, tmp_path, jobs=4)
    assert time.monotonic() - started < 4 * 0.6 + 5  # workers start one after the other on a busy machine
    assert len({record.result["pid"] for record in summary.records.values()}) == 4


def test_a_torn_line_is_cut_off_and_a_damaged_one_left_out(tmp_path: Path) -> None:
    cells = [Cell("a", "ok"), Cell("b", "ok")]
    run(cells, tmp_path)
    path = tmp_path / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"key": 1}\nnot json\n' + lines[1][:-20])
    summary, _ = run(cells, tmp_path)
    assert (summary.ran, summary.reused) == (1, 1)
    assert path.read_bytes().startswith(lines[0])
    assert all(json.loads(line) for line in path.read_bytes().splitlines() if line.startswith(b"{"))
    assert len(ResultsFile(tmp_path).read()) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_grid_leaves_no_cell_behind_and_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parents[1])]\n"
        "from test_grid import *\n"
        "cells = [Cell('first', 'ok'), Cell('slow', 'ok', {'seconds': 60}, ('first',))]\n"
        "run(cells, Path(sys.argv[2]))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)])
    pids = wait_for(lambda: [text for path in tmp_path.glob("cells/slow-*/pid.txt") if (text := path.read_text())])
    child.send_signal(number)
    assert child.wait(timeout=30) != 0
    assert wait_for(lambda: not Path(f"/proc/{pids[0]}").exists())
    records = ResultsFile(tmp_path).read()
    assert [key for key, _ in records] == ["first"]
    with folder_lock(tmp_path):  # nobody holds it any more
        pass


def wait_for(condition: Callable[[], Any]) -> Any:
    for _ in range(600):
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen within 30 seconds")


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
        run([Cell("a", "ok")], tmp_path)


def test_cells_out_of_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="out of place"):
        digests([Cell("b", "ok", {}, ("a",)), Cell("a", "ok")])
    with pytest.raises(ConfigError, match="out of place"):
        digests([Cell("a", "ok"), Cell("a", "ok")])
    with pytest.raises(ConfigError, match="jobs"):
        run_grid([Cell("a", "ok")], tmp_path, jobs=0)


def test_records_survive_the_file(tmp_path: Path) -> None:
    record = Record("a", "0" * 16, "done", "finetune", {"seed": 1}, {"test": 0.5}, versions={"dnd": "0"})
    results = ResultsFile(tmp_path)
    results.append(record)
    results.append(Record("a", "0" * 16, "failed", "finetune", {"seed": 1}, reason="later"))
    assert results.read()["a", "0" * 16].reason == "later"
