"""Processes that run cells: `python -m dnd.reproduction.cells FOLDER` repeats one cell by hand.

With `--serve` it is a worker of the grid: it imports the heavy packages once, then forks a process for every folder
that it reads from its input, so that starting a cell costs milliseconds and a crash costs that cell only. It answers
each folder with the exit status of its process.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from dnd.common.errors import DndError, Interrupted
from dnd.common.files import open_own
from dnd.common.log import PROGRESS, told
from dnd.common.processes import processors
from dnd.common.runs import read_record, write_record
from dnd.reproduction.results import CELL_FILE, CELL_LOCK, LOG_FILE, OUTCOME_FILE, digests_of_files

_POLL_S = 0.02
# What the stages import; imported before the fork. Nothing is computed there, so no thread pool exists yet.
_PRELOAD = (
    "dnd.finetuning.finetune",
    "dnd.store.prepare",
    "dnd.pretraining.denoise",
    "dnd.pretraining.distill",
    "dnd.reproduction.frozen_models",
    "dnd.reproduction.multitask",
    # Imported by the first optimizer and the first metric: four seconds that every cell would pay.
    "torch._dynamo",
    "sklearn.metrics",
)


def run_cell(folder: Path) -> dict[str, Any]:
    """Run the cell in `folder` and return its outcome; errors of any kind become its reason."""
    from dnd.reproduction.cell_runners import STAGES
    from dnd.reproduction.results import Work

    cell = read_record(folder / CELL_FILE)
    needs = {key: Path(path) for key, path in cell["needs"].items()}
    outcome: dict[str, Any] = {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": _machine()}
    try:
        work = Work(cell["settings"], cell["paths"], needs, folder)
        outcome |= {"status": "done", "result": STAGES[cell["kind"]](work)}
    except Interrupted:
        raise
    except DndError as error:
        outcome |= {"status": "failed", "reason": str(error)}
    except Exception as error:  # one bad cell never stops the others, whatever is wrong with it
        traceback.print_exc()
        outcome |= {"status": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return outcome


def run_and_write(folder: Path, run: Callable[[Path], dict[str, Any]] = run_cell) -> int:
    """Run the cell in `folder`, write its outcome and return the exit status; an interrupted cell leaves none."""
    try:
        with _alone(folder), told(PROGRESS):
            outcome = run(folder)
    except (DndError, KeyboardInterrupt):  # a signal: the state is saved, the next run of the grid resumes it
        return 130
    outcome["files"] = digests_of_files(folder)
    outcome["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    write_record(folder / OUTCOME_FILE, outcome)
    return 0


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until the cell of a grid that was killed, asked to stop and save, has left the folder."""
    with os.fdopen(open_own(folder / CELL_LOCK, os.O_WRONLY), "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def serve(run: Callable[[Path], dict[str, Any]] = run_cell) -> None:
    """Fork a process per folder read from the input until it ends; answer each with its exit status.

    The status is 0, an exit code, or minus the number of the signal that killed the process. The input ends when the
    grid does, however it ended: a cell at work is then asked to save and stop, so that none is left behind.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the cells as well; they save and end
    signal.signal(signal.SIGTERM, _leave)
    while folder := _next_folder():
        try:
            status = _run_forked(folder, run)
        except SystemExit:
            break
        print(status, flush=True)


def _next_folder() -> Path | None:
    """The folder of the next line, read byte by byte: what lies behind it stays in the pipe, where `select` sees it."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return None
        line += byte
    return Path(os.fsdecode(line[:-1]))


def _run_forked(folder: Path, run: Callable[[Path], dict[str, Any]]) -> int:
    """Run a cell in a process of its own and wait for it.

    Raises:
        SystemExit: the input ended, or a signal asked for it; the cell has saved and is gone.
    """
    child = os.fork()
    if child == 0:
        _become_cell(folder, run)
    try:
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if select.select([0], [], [], _POLL_S)[0]:  # no folder comes before the answer, so this is the end
                _leave()
    except SystemExit:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise


def _become_cell(folder: Path, run: Callable[[Path], dict[str, Any]]) -> NoReturn:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _log_to(folder / LOG_FILE)
    status = 1
    try:
        status = run_and_write(folder, run)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _leave(number: int = signal.SIGTERM, frame: object = None) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> None:
    """Serve, or run the one cell of the command line."""
    if sys.argv[1:] == ["--serve"]:
        for module in _PRELOAD:
            importlib.import_module(module)
        serve()
    elif len(sys.argv) == 2:
        sys.exit(run_and_write(Path(sys.argv[1])))
    else:
        sys.exit("usage: python -m dnd.reproduction.cells FOLDER")


def _log_to(path: Path) -> None:
    descriptor = open_own(path, os.O_WRONLY | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, null), (1, descriptor), (2, descriptor)):
        os.dup2(source, target)


def _machine() -> str:
    cores = f"{processors()} cores"
    import torch

    return f"{cores}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else cores


if __name__ == "__main__":
    main()
