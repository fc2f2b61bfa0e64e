"""Runs the cells of a grid as parallel processes; what is finished stays, and one bad cell stops no other.

A cell runs in a process of its own (`python -m dnd.analysis.cell_process`), so a crash, a kill by the system or a
memory leak costs that cell only. The parent is the only writer of the results file.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnd.analysis.results import Cell, Record, ResultsFile, digests
from dnd.common.errors import ConfigError
from dnd.common.files import read_json, write_json
from dnd.common.folder_lock import folder_lock
from dnd.common.versions import package_versions

CELL_FILE, OUTCOME_FILE, LOG_FILE = "cell.json", "outcome.json", "log.txt"
_POLL_S = 0.05
Command = Callable[[Path], Sequence[str]]


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


def cell_command(folder: Path) -> list[str]:
    """The command that runs the cell described in `folder`."""
    return [sys.executable, "-m", "dnd.analysis.cell_process", str(folder)]


def run_grid(
    cells: Sequence[Cell],
    folder: Path,
    *,
    jobs: int = 1,
    say: Callable[[str], None] = print,
    command: Command = cell_command,
) -> GridSummary:
    """Run all cells that have no finished record with the same digest.

    Args:
        cells: those that a cell needs come before it.
        folder: results file, and a folder per cell.
        jobs: processes at a time.
        say: receives a line per cell.
        command: that runs a cell's folder; another one in tests.

    Raises:
        ConfigError: cells that don't fit each other, or `jobs` below 1.
        InputError: another process works in `folder`.
        StorageError: the disk is full; finished cells stay.
    """
    if jobs < 1:
        raise ConfigError("jobs must be at least 1", found=jobs)
    keys = digests(cells)
    with folder_lock(folder):
        run = _Run(cells, keys, folder, jobs, say, command)
        return run.finish()


class _Run:
    def __init__(
        self,
        cells: Sequence[Cell],
        keys: dict[str, str],
        folder: Path,
        jobs: int,
        say: Callable[[str], None],
        command: Command,
    ) -> None:
        self.cells, self.digests, self.folder, self.jobs = cells, keys, folder, jobs
        self.say, self.command = say, command
        self.results = ResultsFile(folder)
        self.results.open()
        known = self.results.read()
        old = {cell.key: known.get((cell.key, keys[cell.key])) for cell in cells}
        self.records = {key: record for key, record in old.items() if record and record.status == "done"}
        self.reused, self.ran = len(self.records), 0
        self.waiting = [cell for cell in cells if cell.key not in self.records]
        self.running: dict[str, _Process] = {}

    def finish(self) -> GridSummary:
        if self.waiting:
            self.say(f"{len(self.waiting)} cells to run, {self.reused} finished before, {self.jobs} at a time")
        with self._stopping_children():
            while self.waiting or self.running:
                self._start_ready()
                self._collect()
                time.sleep(_POLL_S if self.running else 0)
        failed = tuple(cell.key for cell in self.cells if self.records[cell.key].status == "failed")
        return GridSummary(self.records, self.ran, self.reused, failed)

    def _start_ready(self) -> None:
        for cell in list(self.waiting):
            lost = [key for key in cell.needs if key in self.records and self.records[key].status == "failed"]
            if lost:
                self.waiting.remove(cell)
                self._record(cell, {"status": "failed", "reason": f"needs {lost[0]}, which failed"}, 0.0)
            elif len(self.running) < self.jobs and all(key in self.records for key in cell.needs):
                self.waiting.remove(cell)
                self.running[cell.key] = _Process(cell, self._cell_folder(cell), self.command)

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
        write_json(folder / CELL_FILE, value)
        (folder / OUTCOME_FILE).unlink(missing_ok=True)
        return folder

    def _folder_of(self, key: str) -> Path:
        return self.folder / "cells" / f"{key}-{self.digests[key]}"

    def _collect(self) -> None:
        for key, process in list(self.running.items()):
            if process.ended():
                del self.running[key]
                self.ran += 1
                self._record(process.cell, process.outcome(), process.seconds())

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
            command=("python", "-m", "dnd.analysis.cell_process", str(self._folder_of(cell.key))),
            versions=package_versions(),
            machine=outcome.get("machine", ""),
        )
        self.records[cell.key] = record
        self.results.append(record)
        done = len(self.records)
        text = f"failed: {record.reason}" if record.status == "failed" else _short(record.result)
        self.say(f"[{done}/{len(self.cells)}] {cell.key}  {seconds:.0f} s  {text}".rstrip())

    @contextlib.contextmanager
    def _stopping_children(self) -> Iterator[None]:
        """However the parent ends, its children are asked to stop and save, and are waited for."""
        try:
            yield
        finally:
            for process in self.running.values():
                process.stop()


class _Process:
    """A running cell."""

    def __init__(self, cell: Cell, folder: Path, command: Command) -> None:
        self.cell, self.folder, self._started = cell, folder, time.monotonic()
        with open(folder / LOG_FILE, "ab") as log:
            self._child = subprocess.Popen(list(command(folder)), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ended(self) -> bool:
        return self._child.poll() is not None

    def seconds(self) -> float:
        return time.monotonic() - self._started

    def outcome(self) -> dict[str, Any]:
        """What the cell left; its death where it left nothing."""
        code = self._child.returncode
        if (self.folder / OUTCOME_FILE).is_file():
            return read_json(self.folder / OUTCOME_FILE)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        last = _last_line(self.folder / LOG_FILE)
        return {"status": "failed", "reason": f"its process ended with {how}{': ' + last if last else ''}"}

    def stop(self) -> None:
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()


def _last_line(path: Path) -> str:
    with open(path, "rb") as stream:
        stream.seek(max(0, os.path.getsize(path) - 2000))
        lines = stream.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def _short(result: Any) -> str:
    return str(result.get("summary", "")) if isinstance(result, dict) else ""
