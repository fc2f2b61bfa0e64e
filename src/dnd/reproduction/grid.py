"""Runs the cells of a grid as parallel processes; what is finished stays, and one bad cell stops no other.

A cell runs in a process of its own (see `cells.py`), so a crash, a kill by the system or a memory leak costs
that cell only. The parent is the only writer of the results file.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnd.common.errors import ConfigError, Interrupted
from dnd.common.files import folder_lock, open_own, package_versions
from dnd.common.log import LOGGER
from dnd.common.processes import child_environment, code_command
from dnd.common.runs import read_record, write_record
from dnd.reproduction.results import CELL_FILE, CELL_LOCK, LOG_FILE, OUTCOME_FILE, Cell, Record, ResultsFile, digests
from dnd.training.loop import StopRequests

_POLL_S = 0.05
WORKER = (*code_command("from dnd.reproduction.cells import main; main()"), "--serve")


@dataclass(frozen=True)
class GridSummary:
    """How a grid ended.

    Attributes:
        records: the record of each cell, by key; of the cells asked for only.
        ran: cells that ran in this call.
        reused: cells that were finished before.
        failed: keys of cells that failed or could not start.
    """

    records: dict[str, Record]
    ran: int
    reused: int
    failed: tuple[str, ...]


def run_grid(
    cells: Sequence[Cell],
    folder: Path,
    *,
    jobs: int = 1,
    worker: Sequence[str] = WORKER,
) -> GridSummary:
    """Run all cells that have no finished record with the same digest.

    Args:
        cells: those that a cell needs come before it.
        folder: results file, and a folder per cell.
        jobs: processes at a time.
        worker: command of a worker, see `cells.serve`; another one in tests.

    Raises:
        ConfigError: cells that don't fit each other, or `jobs` below 1.
        InputError: another process works in `folder`.
        StorageError: the disk is full; finished cells stay.
        Interrupted: SIGINT or SIGTERM; cells at work have saved.
    """
    if jobs < 1:
        raise ConfigError("jobs must be at least 1", found=jobs)
    keys = digests(cells)
    with folder_lock(folder):
        return _Run(cells, keys, folder, jobs, worker).finish()


class _Run:
    def __init__(
        self,
        cells: Sequence[Cell],
        keys: dict[str, str],
        folder: Path,
        jobs: int,
        worker: Sequence[str],
    ) -> None:
        self.cells, self.digests, self.folder, self.jobs = cells, keys, folder, jobs
        self.worker = worker
        self.results = ResultsFile(folder)
        self.results.open()
        known = self.results.read()
        old = {cell.key: known.get((cell.key, keys[cell.key])) for cell in cells}
        self.records = {key: record for key, record in old.items() if record and record.status == "done"}
        self.waiting = [cell for cell in cells if cell.key not in self.records]
        while lost := self._lost():
            self.waiting = [cell for cell in cells if cell in self.waiting or cell.key in lost]
            for key in lost:
                del self.records[key]
        self.reused, self.ran = len(self.records), 0
        self.workers: list[_Worker] = []
        self.running: dict[str, _Worker] = {}

    def finish(self) -> GridSummary:
        if self.waiting:
            LOGGER.info(f"{len(self.waiting)} cells to run, {self.reused} finished before, {self.jobs} at a time")
        with self._stopping_children(), StopRequests(None) as requests:
            while self.waiting or self.running:
                self._start_ready()
                time.sleep(_POLL_S if self.running else 0)
                if number := requests.reason():  # before cells that it stopped as well could look like failures
                    raise Interrupted(number)
                self._collect()
        failed = tuple(cell.key for cell in self.cells if self.records[cell.key].status == "failed")
        return GridSummary(self.records, self.ran, self.reused, failed)

    def _lost(self) -> list[str]:
        """Finished cells that a waiting one needs and whose folder was removed: they run again."""
        needed = {key for cell in self.waiting for key in cell.needs}
        return [key for key in self.records if key in needed and not (self._folder_of(key) / OUTCOME_FILE).is_file()]

    def _start_ready(self) -> None:
        for cell in list(self.waiting):
            lost = [key for key in cell.needs if key in self.records and self.records[key].status == "failed"]
            if lost:
                self.waiting.remove(cell)
                self._record(cell, {"status": "failed", "reason": f"needs {lost[0]}, which failed"}, 0.0)
            elif len(self.running) < self.jobs and all(key in self.records for key in cell.needs):
                self.waiting.remove(cell)
                self.running[cell.key] = self._idle_worker()
                self.running[cell.key].start(cell, self._cell_folder(cell))

    def _idle_worker(self) -> _Worker:
        """A worker without a cell; one that died is replaced."""
        self.workers = [worker for worker in self.workers if worker.alive()]
        idle = [worker for worker in self.workers if worker not in self.running.values()]
        if not idle:
            idle = [_Worker(self.worker)]
            self.workers += idle
        return idle[0]

    def _cell_folder(self, cell: Cell) -> Path:
        """The folder of a cell, with its description; work of an interrupted run of the same cell is still there."""
        folder = self.folder / "cells" / f"{cell.key}-{self.digests[cell.key]}"
        needs = {key: str(self._folder_of(key).resolve()) for key in cell.needs}
        value = {
            "key": cell.key,
            "kind": cell.kind,
            "settings": dict(cell.settings),
            "needs": needs,
            "paths": dict(cell.paths),
        }
        write_record(folder / CELL_FILE, value)
        (folder / OUTCOME_FILE).unlink(missing_ok=True)
        for name in (LOG_FILE, CELL_LOCK):  # a link is refused here, where there is one line for it
            os.close(open_own(folder / name, os.O_WRONLY))
        return folder

    def _folder_of(self, key: str) -> Path:
        return self.folder / "cells" / f"{key}-{self.digests[key]}"

    def _collect(self) -> None:
        for key, worker in list(self.running.items()):
            if worker.ended():
                del self.running[key]
                self.ran += 1
                self._record(worker.cell, worker.outcome(), worker.seconds())

    def _record(self, cell: Cell, outcome: dict[str, Any], seconds: float) -> None:
        record = Record(
            key=cell.key,
            digest=self.digests[cell.key],
            status=outcome["status"],
            kind=cell.kind,
            settings=dict(cell.settings),
            result=outcome.get("result", {}),
            reason=outcome.get("reason", ""),
            seconds=round(seconds, 2),
            peak_memory_mb=outcome.get("peak_memory_mb", 0.0),
            started=outcome.get("started", ""),
            command=("python", "-m", "dnd.reproduction.cells", str(self._folder_of(cell.key))),
            versions=package_versions(),
            machine=outcome.get("machine", ""),
        )
        self.records[cell.key] = record
        self.results.append(record)
        done = len(self.records)
        text = f"failed: {record.reason}" if record.status == "failed" else _short(record.result)
        LOGGER.info(f"[{done}/{len(self.cells)}] {cell.key}  {seconds:.0f} s  {text}".rstrip())

    @contextlib.contextmanager
    def _stopping_children(self) -> Iterator[None]:
        """However the parent ends, its children are asked to stop and save, and are waited for."""
        try:
            yield
        finally:
            for worker in self.workers:
                worker.stop()


class _Worker:
    """A process that runs one cell at a time."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment()
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._output.fileno(), False)

    def start(self, cell: Cell, folder: Path) -> None:
        self.cell, self.folder, self._started, self._status = cell, folder.resolve(), time.monotonic(), b""
        with contextlib.suppress(BrokenPipeError):  # it died; `ended` sees that
            self._input.write(f"{self.folder}\n".encode())
            self._input.flush()

    def ended(self) -> bool:
        self._status += self._output.read() or b""
        return self._status.endswith(b"\n") or not self.alive()

    def alive(self) -> bool:
        return self._process.poll() is None

    def seconds(self) -> float:
        return time.monotonic() - self._started

    def outcome(self) -> dict[str, Any]:
        """What the cell left; its death where it left nothing."""
        if (self.folder / OUTCOME_FILE).is_file():
            return read_record(self.folder / OUTCOME_FILE)
        code = int(self._status) if self._status else self._process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        last = _last_line(self.folder / LOG_FILE)
        return {"status": "failed", "reason": f"its process ended with {how}{': ' + last if last else ''}"}

    def stop(self) -> None:
        """End the worker by ending its input; a cell at work is asked to save and stop."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()


def _last_line(path: Path) -> str:
    if not path.is_file():
        return ""
    with open(path, "rb") as stream:
        stream.seek(max(0, os.path.getsize(path) - 2000))
        lines = stream.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def _short(result: Any) -> str:
    return str(result.get("summary", "")) if isinstance(result, dict) else ""
