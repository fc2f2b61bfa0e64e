"""Runs that a kill ended, the damages that their files take, and what a resumed run may then do."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dnd.common.errors import DndError
from dnd.common.workers import Here, Work, load_function

Run = Callable[[Path], object]
LONGEST_MESSAGE = 2000


def flipped(content: bytes, draw: random.Random) -> bytes:
    """`content` with one bit turned over."""
    place = draw.randrange(8 * len(content))
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def files_of(folder: Path) -> list[Path]:
    """Every file with something in it, of folders in it too."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def flips_per_file(stopped: Path, total: int) -> int:
    """So many in each file that they are `total` or more in all, and at least one."""
    return max(1, math.ceil(total / len(files_of(stopped))))


def damaged_runs(stopped: Path, again: Path, flips: int, losses: int = 3) -> Iterator[tuple[str, Path]]:
    """Copies of a stopped run in which one file is damaged, by a flipped bit, by a cut, or gone; one at a time.

    Args:
        stopped: the run.
        again: gets the copies.
        flips: single bits in each file, one per copy.
        losses: how many of three each file suffers, in turn: it is cut, emptied, gone.
    """
    draw = random.Random(1)
    for place, file in enumerate(files_of(stopped)):
        content, name = file.read_bytes(), str(file.relative_to(stopped))
        deeds: list[tuple[str, bytes | None]] = [("flipped", flipped(content, draw)) for _ in range(flips)]
        lost = [("cut", content[: draw.randrange(len(content))]), ("emptied", b""), ("gone", None)]
        deeds += [lost[(place + number) % 3] for number in range(losses)]
        for number, (deed, changed) in enumerate(deeds):
            folder = again / f"{name.replace('/', '-')}-{number}"
            shutil.copytree(stopped, folder)
            (folder / name).unlink() if changed is None else (folder / name).write_bytes(changed)
            yield f"{name} {deed}", folder
            shutil.rmtree(folder)


def same_or_noticed(
    run: Run, result: Run, stopped: Path, again: Path, flips: int, whole: object, losses: int = 3
) -> dict[str, int]:
    """Resume a stopped run with each damage: it ends as the undisturbed one, or is refused with one clear line.

    Returns:
        How many were the `same`, and how many were `refused`; `pytest -rP` shows them.
    """
    counts = {"same": 0, "refused": 0}
    for what, folder in damaged_runs(stopped, again, flips, losses):
        try:
            run(folder)
        except DndError as error:
            text = str(error)
            assert "\n" not in text, what
            assert len(text) < LONGEST_MESSAGE, what
            assert "internal error" not in text, what
            counts["refused"] += 1
        else:
            assert result(folder) == whole, what
            counts["same"] += 1
    print(f"{len(files_of(stopped))} files, {sum(counts.values())} damages: {counts}")
    return counts


def work_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `prepare` and `screen` start no worker processes, each of which imports for seconds."""

    def run(own: Here, work: Work, items: Iterable[Any]) -> Iterator[Any]:
        paths = {name: str(path) for name, path in work.folders.items()}
        settings = None if work.settings is None else {**work.settings, **paths}
        return map(load_function(work.function, settings), items)

    monkeypatch.setattr(Here, "run", lambda *given: (one for one in run(*given)))


class Killed(BaseException):
    """The end of a process, which nothing catches."""


def stop_after(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, times: int) -> None:
    """Let a function or method end the run when it was called so often, as a kill would."""
    real, calls = getattr(owner, name), []

    def stopping(*arguments: object, **options: object) -> object:
        done = real(*arguments, **options)
        calls.append(1)
        if len(calls) == times:
            raise Killed
        return done

    monkeypatch.setattr(owner, name, stopping)


def stop_before(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """Let a function end the run instead of doing its work."""

    def stopping(*arguments: object, **options: object) -> object:
        raise Killed

    monkeypatch.setattr(owner, name, stopping)
