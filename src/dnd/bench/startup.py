"""Start-up in fresh processes. Nothing heavy is imported here: see `run_command`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from dnd.bench.fresh import Finished, added_memory, run_command
from dnd.bench.measure import Line, Table

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
    from dnd.bench.molecules import random_predictor
    from dnd.common.files import write_text
    from dnd.predictor.model_folder import write_predictor

    parts = random_predictor("gine-small")
    write_text(Path(folder) / "one.csv", "smiles\nCCO\n")

    def work() -> None:
        write_predictor(
            Path(folder) / "model", parts.members, parts.config, card="", metrics={}, splits={}, tables={}
        )  # fmt: skip

    return work
