"""Runs that a kill ended, the damages that their files take, and what a resumed run may then do."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dnd.common.errors import DndError
from dnd.common.files import MANIFEST, damaged_files, read_manifest, sha256_file
from dnd.common.runs import read_lines, read_record
from dnd.common.workers import Here, Work, load_function

Run = Callable[[Path], object]
Damaged = tuple[str, int, Path]
"""What was done to a copy of a run, for how many damages it stands, and the copy."""
EACH = 200
"""Flipped bits in every file, or all bits that it has."""
LONGEST_MESSAGE = 2000


def flipped(content: bytes, draw: random.Random) -> bytes:
    """`content` with one bit turned over."""
    return turned(content, draw.randrange(8 * len(content)))


def turned(content: bytes, place: int) -> bytes:
    """`content` with the bit at `place` turned over."""
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def files_of(folder: Path) -> list[Path]:
    """Every file with something in it, of folders in it too."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def as_read(file: Path) -> str | None:
    """What the one reader of a file of a stopped run makes of it; None where there is no such reader.

    Lines and records carry checksums, kept work has that of its arrays beside it, and a sealed folder one of each file.
    """
    beside, manifest = file.with_suffix(".json"), file.parent / MANIFEST
    try:
        if file.suffix == ".jsonl":
            return repr(read_lines(file))
        if manifest.is_file():
            damaged = [line for line in damaged_files(file.parent, read_manifest(file.parent)) if str(file) in line]
            return "refused" if damaged else None
        if file.suffix == ".json":
            return repr(read_record(file))
        if beside.is_file() and "sha256" in (record := read_record(beside)):
            return repr(sha256_file(file) == record["sha256"])
    except DndError:
        return "refused"
    return None


def flips_by_reading(
    stopped: Path, scratch: Path, each: int
) -> tuple[dict[tuple[str, str], list[int]], dict[str, list[int]]]:
    """Distinct bits of each file of a stopped run, those together that its reader answers alike.

    To everything that comes after the reader these are one damage, so that one resumed run shows what comes of all.

    Args:
        stopped: the run.
        scratch: gets a copy of it.
        each: bits of each file, or all that it has.

    Returns:
        Places of bits by the name of the file and what was read, and by the name of the file those that no reader
        answers for or sees.
    """
    shutil.copytree(stopped, scratch)
    draw = random.Random(2)
    alike: dict[tuple[str, str], list[int]] = {}
    unseen: dict[str, list[int]] = {}
    for file in files_of(scratch):
        content, name, sound = file.read_bytes(), str(file.relative_to(scratch)), as_read(file)
        for place in draw.sample(range(8 * len(content)), min(each, 8 * len(content))):
            file.write_bytes(turned(content, place))
            read = as_read(file)
            if read is None or read == sound:
                unseen.setdefault(name, []).append(place)
            else:
                alike.setdefault((name, read), []).append(place)
        file.write_bytes(content)
    shutil.rmtree(scratch)
    return alike, unseen


def runs_with_each_flip(stopped: Path, again: Path, each: int) -> Iterator[Damaged]:
    """Copies of a stopped run that show what comes of `each` flipped bits in every file.

    One copy stands for all bits of a file that its reader answers alike. Bits that no reader sees are all tried, one of
    every such file in each copy: what reads none of these files takes no harm from all of them.
    """
    alike, unseen = flips_by_reading(stopped, again / "probe", each)
    deeds = [({name: places[-1]}, len(places)) for (name, _), places in alike.items()]
    for number in range(max(map(len, unseen.values()), default=0)):
        bits = {name: places[number] for name, places in unseen.items() if number < len(places)}
        deeds.append((bits, len(bits)))
    for number, (bits, stands_for) in enumerate(deeds):
        folder = again / f"flip-{number}"
        shutil.copytree(stopped, folder)
        for name, place in bits.items():
            (folder / name).write_bytes(turned((stopped / name).read_bytes(), place))
        yield f"bits {bits}", stands_for, folder
        shutil.rmtree(folder)


def damaged_runs(stopped: Path, again: Path, flips: int, losses: int = 3) -> Iterator[Damaged]:
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
            yield f"{name} {deed}", 1, folder
            shutil.rmtree(folder)


def all_damages(stopped: Path, again: Path, each: int) -> Iterator[Damaged]:
    """`each` flipped bits in every file, and every file cut, emptied and gone."""
    yield from runs_with_each_flip(stopped, again, each)
    yield from damaged_runs(stopped, again, 0)


def same_or_noticed(run: Run, result: Run, damaged: Iterable[Damaged], whole: object) -> dict[str, int]:
    """Resume a stopped run with each damage: it ends as the undisturbed one, or is refused with one clear line.

    Returns:
        How many damages came out the `same`, and how many were `refused`; `pytest -rP` shows them.
    """
    counts, runs = {"same": 0, "refused": 0}, 0
    for what, damages, folder in damaged:
        runs += 1
        try:
            run(folder)
        except DndError as error:
            text = str(error)
            assert "\n" not in text, what
            assert len(text) < LONGEST_MESSAGE, what
            assert "internal error" not in text, what
            counts["refused"] += damages
        else:
            assert result(folder) == whole, what
            counts["same"] += damages
    print(f"{sum(counts.values())} damages: {counts}, in {runs} resumed runs")
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
