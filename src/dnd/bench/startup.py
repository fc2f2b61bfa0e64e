"""Start-up and memory in fresh processes. Nothing heavy is imported here: see `run_command`."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from dnd.bench.measure import Line, Table
from dnd.common.errors import DndError
from dnd.common.processes import child_environment, code_command

# Work in a fresh process, so that its memory is its own and its start-up counts.
#
# Such a process calls the function MODULE:FUNCTION with arguments from JSON; it prepares the work and returns it as
# a function without arguments; the memory that this second part adds is printed.

_ROOM = "dnd.bench."


@dataclass(frozen=True)
class Finished:
    """A process that ended.

    Attributes:
        cpu_seconds: user and system time.
        wall_seconds: by the clock.
        peak_mb: largest resident memory, MiB.
    """

    cpu_seconds: float
    wall_seconds: float
    peak_mb: float


def run_command(command: Sequence[str], folder: Path | None = None) -> Finished:
    """Run a command to its end.

    Its peak is not below what this process itself had reached when it started the command, for the kernel counts the
    moment before the new program is loaded: call it from a process that is small.

    Raises:
        DndError: it failed.
    """
    start = time.monotonic()
    environment = child_environment()
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = output.decode(errors="replace").strip().splitlines()
        raise DndError(f"{' '.join(command)[:200]} failed", found=lines[-1] if lines else f"{process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return Finished(cpu, time.monotonic() - start, usage.ru_maxrss / 1024)


def added_memory(function: str, **arguments: Any) -> Any:
    """What the work that `function` prepares adds to a fresh process.

    Args:
        function: `MODULE:FUNCTION` in this package.
        arguments: its keywords, plain values.

    Returns:
        MiB at the peak above what there was before the work (None where the system does not say); for work that
        returns something other than None, that instead.
    """
    command = [*code_command(f"from {_ROOM}startup import main; main(*sys.argv[1:])"), function, json.dumps(arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment())
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        raise DndError(f"{function} failed in a fresh process", found=lines[-1] if lines else result.returncode)
    return json.loads(result.stdout.strip().splitlines()[-1])


def memory_mb() -> Mapping[str, float]:
    """`VmRSS`, `VmHWM` (its peak) and `RssAnon` (without mapped files) of this process, MiB; empty if unknown."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    pairs = [line.split()[:2] for line in lines if line.startswith(("VmRSS:", "VmHWM:", "RssAnon:"))]
    return {name.rstrip(":"): int(value) / 1024 for name, value in pairs}


def peak_mb() -> float:
    """Largest resident memory of this process so far, MiB."""
    return memory_mb().get("VmHWM", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main(function: str, arguments: str) -> None:
    """Do the work of `added_memory` and print what it found."""
    module, _, name = function.partition(":")
    if not module.startswith(_ROOM):
        raise SystemExit(f"{module} is not of {_ROOM}")
    work: Callable[[], Any] = getattr(import_module(module), name)(**json.loads(arguments))
    before = memory_mb().get("VmRSS")
    result = work()
    if result is None and before is not None:
        result = max(0.0, peak_mb() - before)
    print(json.dumps(result))


_BARE = "python, nothing imported"
_PREDICT = "dnd predict, one molecule"


def bench_startup(repetitions: int) -> Iterator[Table]:
    """CPU time, clock and memory of whole processes.

    Args:
        repetitions: number of repetitions of every command, after one that fills the caches.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        added_memory("dnd.bench.startup:write_example", folder=name)
        commands = _commands()
        runs: dict[str, list[Finished]] = {label: [] for label in commands}
        for _ in range(repetitions + 1):
            for label, command in commands.items():
                runs[label].append(run_command(command, folder))
    chemprop = _CHEMPROP in commands
    lines = tuple(
        Line(
            label,
            tuple(run.cpu_seconds for run in kept),
            tuple(run.wall_seconds for run in kept),
            max(run.peak_mb for run in kept),
        )
        for label, kept in ((label, finished[1:]) for label, finished in runs.items())
    )
    notes = [f"{repetitions} repetitions, peak of the whole process"]
    if not chemprop:
        notes.append("chemprop is not installed here: no ratio to it")
    yield Table("whole processes", "run", _CHEMPROP if chemprop else _BARE, lines, notes=tuple(notes))


_CHEMPROP = "chemprop --help"


def _commands() -> dict[str, list[str]]:
    python = [sys.executable, "-c"]
    dnd = [sys.executable, "-m", "dnd"]
    commands = {
        _BARE: [*python, "pass"],
        "import dnd": [*python, "import dnd"],
        "dnd --help": [*dnd, "--help"],
        "import numpy": [*python, "import numpy"],
        "import rdkit.Chem": [*python, "from rdkit import Chem"],
        "import torch": [*python, "import torch"],
        _PREDICT: [*dnd, "predict", "one.csv", "-m", "model", "-o", "predicted.csv"],
    }
    chemprop = shutil.which("chemprop")
    return {**commands, _CHEMPROP: [chemprop, "--help"]} if chemprop else commands


def write_example(folder: str) -> Callable[[], object]:
    """For a fresh process: a table of one molecule and a MODEL folder with random weights."""
    from dnd.bench.measure import random_predictor
    from dnd.common.files import write_text
    from dnd.predictor.model_folder import write_predictor

    parts = random_predictor("gine-small")
    write_text(Path(folder) / "one.csv", "smiles\nCCO\n")

    def work() -> None:
        write_predictor(
            Path(folder) / "model", parts.members, parts.config, card="", metrics={}, splits={}, tables={}
        )  # fmt: skip

    return work
