"""The long commands on tiny real data, killed at random and resumed; also the tasks of a nursery.

Everything that the commands import is imported here once, so that a forked child starts at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from forked_worker import ForkedWorker

from dnd.cli.main import build_app
from dnd.common.files import sha256_file
from nursery import Child, Nursery, end_like_the_command

DATA = Path(__file__).parents[1] / "data" / "qm9_300.npz"
MODULES = (
    *("store.prepare", "store.convert", "pretraining.denoise", "pretraining.distill", "finetuning.finetune"),
    *("prediction.screen.screen", "reproduction.reproduce", "reproduction.cell_runners", "reproduction.multitask"),
)
# What a run says about itself and not about its result: when it ran, how long it took, which run it was, where it is.
PRIVATE = {"manifest.json", "run.json", "cell.json", "outcome.json", "log.txt"}
PRIVATE_ENTRIES = {"started", "command", "machine", "peak_memory_mb", "check"}  # the checksum is of the others too
REPRODUCE = ("table1", "--systems", "dnd-node", "--datasets", "freesolv", "--seeds", "1")


def run(task: str, arguments: dict[str, Any]) -> NoReturn:
    os.setpgid(0, 0)  # so that a kill can take the workers along
    tasks = {"command": command, "prepare": small_shards, "grid": forking_grid}
    end_like_the_command(lambda: tasks[task](**arguments))


def command(words: list[str]) -> None:
    """What the installed command does, up to its exit."""
    try:
        build_app(words[0])(args=words, prog_name="dnd")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"exit code {end.code}") from end


def small_shards(words: list[str]) -> None:
    """`dnd prepare` with several shards of few molecules, which the command has no option for."""
    settings = import_module("dnd.store.settings")
    config = settings.PrepareConfig(hydrogens="all_both", jobs=2, limit=120, shard_size=16)
    import_module("dnd.store.prepare").prepare([DATA], words[words.index("-o") + 1], config, resume=True)


def forking_grid(words: list[str]) -> None:
    """`dnd reproduce` whose workers are forked: a fresh one would import for seconds after each kill."""
    grid: Any = import_module("dnd.reproduction.grid")
    grid.subprocess = SimpleNamespace(Popen=ForkedWorker, PIPE=-1, TimeoutExpired=subprocess.TimeoutExpired)
    command(words)


def preload() -> None:
    for name in MODULES:
        import_module(f"dnd.{name}")


@dataclass(frozen=True)
class Stage:
    """A verb, what it reads and its settings; `name` is also that of the folder of the undisturbed run."""

    name: str
    verb: str
    words: tuple[str, ...]
    task: str = "command"
    resume: tuple[str, ...] = ("--resume",)

    def start(self, nursery: Nursery, out: Path) -> Child:
        """Begin, or go on: both are the same command."""
        return nursery.start(self.task, words=[self.verb, *self.words, "-o", str(out), *self.resume])

    def finish(self, nursery: Nursery, out: Path) -> float:
        """Run to the end; the seconds it took."""
        begin = time.monotonic()
        child = self.start(nursery, out)
        code = child.wait()
        assert code == 0, child.output
        return time.monotonic() - begin


def stages(folder: Path, student: tuple[str, ...] = ()) -> Iterator[Stage]:
    """The stages in order; each reads what those before left in `folder/<name>`.

    Args:
        folder: see above.
        student: settings of the student that is distilled, instead of the recipe's.
    """
    save = ("loop.checkpoint_every=1", "loop.epochs=2", "loop.device=cpu")
    yield Stage("prepare", "prepare", (), task="prepare")
    store = str(folder / "prepare")
    yield Stage("denoise", "denoise", (store, "--recipe", "tiny", *save))
    yield Stage(
        "distill", "distill", (store, "--teacher", str(folder / "denoise"), "--recipe", "tiny", *student, *save)
    )
    table = folder / "labels.csv"
    chains = [f"{'C' * n}{end}" for n in range(1, 9) for end in ("O", "N", "Cl", "C(=O)O", "c1ccccc1", "C#N")]
    table.write_text("smiles,y\n" + "".join(f"{smiles},{len(smiles) / 3}\n" for smiles in chains))
    settings = ("--target-columns", "y", "--encoder", str(folder / "distill"), "--split", "random")
    settings += ("--recipe", "small")
    yield Stage("finetune", "finetune", (str(table), *settings, *save))
    yield Stage("ensemble", "finetune", (str(table), *settings, *save, "--ensemble", "2"))
    library = folder / "library.smi"
    library.write_text("".join(f"{'C' * n}{end}\n" for n in range(1, 60) for end in ("O", "N", "Cl", "C(=O)O", "?")))
    size = ("--jobs", "1", "--chunk", "2", "--top", "7")
    yield Stage("screen", "screen", (str(library), "-m", str(folder / "finetune"), *size))
    yield Stage("reproduce", "reproduce", REPRODUCE, task="grid", resume=())


def result(folder: Path, without: tuple[str, ...] = ()) -> dict[str, str]:
    """SHA-256 of every file of a finished folder, what it says about itself and the time it took left out.

    Args:
        folder: folder of the run.
        without: names of files that are not looked at.
    """
    private = (*PRIVATE, *without)
    return {
        str(path.relative_to(folder)): _digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.name not in private and path.suffix != ".html"
    }


def kill_and_resume(nursery: Nursery, stage: Stage, out: Path, *, kills: int, seconds: float, seed: int) -> int:
    """Run `stage` into `out`, killed up to `kills` times within `seconds` of a start each; the number that landed.

    Every other kill takes the workers along, as the end of a machine does; the others leave them to notice.
    """
    draw, landed = random.Random(seed), 0
    for number in range(kills):
        child = stage.start(nursery, out)
        time.sleep(draw.uniform(0.05, 1.0) * seconds)
        if number % 2:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        code = child.kill()
        assert code in (0, -9), child.output
        landed += code == -9
        if code == 0:
            return landed
    stage.finish(nursery, out)
    return landed


def _digest(path: Path) -> str:
    if path.suffix not in {".json", ".jsonl", ".md"}:
        return sha256_file(path)
    text = path.read_text()
    if path.suffix == ".md":
        plain = [line for line in text.splitlines() if "process hours" not in line]
    else:
        plain = [_without_times(json.loads(line)) for line in ([text] if path.suffix == ".json" else text.splitlines())]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = [key for key in value if "seconds" not in key and key not in PRIVATE_ENTRIES]
        return {key: _without_times(value[key]) for key in kept}
    return [_without_times(entry) for entry in value] if isinstance(value, list) else value
