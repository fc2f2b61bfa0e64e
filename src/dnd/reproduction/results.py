"""Cells of a grid, what each is given, and the results file: a JSON line per finished cell."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.common.files import open_own, sha256_file, storage_errors
from dnd.common.runs import append_line, read_lines, read_record

# What a cell of a grid is given, and the names of what it leaves in its folder.


STORE, TEACHER, ENCODER, MODEL, TABLE = "store", "teacher", "encoder", "model", "data.csv"
"""What a cell writes into its own folder."""


@dataclass(frozen=True)
class Work:
    """One cell at work.

    Attributes:
        settings: settings of the cell.
        paths: files and folders that it reads; not part of its digest.
        needs: kind of need to the folder of the cell that made it.
        folder: its own.
    """

    settings: Mapping[str, Any]
    paths: Mapping[str, Any]
    needs: Mapping[str, Path]
    folder: Path

    def need(self, *kinds: str) -> Path:
        """Folder of the needed cell whose key ends in one of `kinds`."""
        return next(folder for key, folder in self.needs.items() if key.rsplit("/", 1)[-1] in kinds)

    def file_of(self, folder: Path, name: str) -> Path:
        """A file of a needed cell's folder that lies in no sealed folder, as the outcome of that cell vouches for it.

        Raises:
            CorruptFileError: the outcome or the file is missing or damaged.
        """
        known = read_record(folder / OUTCOME_FILE).get("files")  # none in a cell of version 0.1.0
        if known is not None and sha256_file(folder / name) != known.get(name):
            raise CorruptFileError(
                f"{folder / name} was altered",
                expected="what the cell that made it wrote",
                next_step=f"Remove {folder}, and the same command makes it again",
            )
        return folder / name

    def inputs(self) -> list[str]:
        """The input files.

        Raises:
            InputError: they were not found when the grid was planned.
        """
        if self.paths["problem"]:
            raise InputError(self.paths["problem"])
        return list(self.paths["inputs"])


# Cells of a grid and the results file: a JSON line per finished cell, appended so that a kill loses one at most.


RESULTS = "results.jsonl"
# In the folder of a cell.
CELL_FILE, OUTCOME_FILE, LOG_FILE, CELL_LOCK = "cell.json", "outcome.json", "log.txt", ".cell.lock"
Status = Literal["done", "failed"]


@dataclass(frozen=True)
class Cell:
    """One piece of work of a grid.

    Attributes:
        key: its name, unique in a grid and fit for a path, such as `finetune/esol/dnd-node/mean/seed-1`.
        kind: which function does it; see `stages.STAGES`.
        settings: all it depends on beside `needs`, plain values.
        needs: keys of the cells whose results it uses.
        paths: files and folders it reads; they may differ from machine to machine and are not part of its identity.
    """

    key: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    paths: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """The outcome of a cell, a line of the results file.

    Attributes:
        key: key of the cell.
        digest: digest of the cell's settings and of all it needs; it identifies the cell.
        status: `done` or `failed`.
        kind: kind of the cell.
        settings: settings of the cell.
        result: what the stage reports: metrics, counts.
        reason: why it failed.
        seconds: wall time.
        peak_memory_mb: largest resident memory of its process, MiB.
        started: UTC.
        command: that repeats this one cell.
        versions: versions of the packages.
        machine: processor count and accelerator.
    """

    key: str
    digest: str
    status: Status
    kind: str
    settings: Mapping[str, Any]
    result: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    started: str = ""
    command: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""


def digests(cells: Iterable[Cell]) -> dict[str, str]:
    """Digest of every cell by key; those that a cell needs come before it.

    Raises:
        ConfigError: two cells share a key, or a need comes later or not at all.
    """
    found: dict[str, str] = {}
    for cell in cells:
        missing = [key for key in cell.needs if key not in found]
        if cell.key in found or missing:
            raise ConfigError(f"cell {cell.key} is out of place", found=missing or "twice", expected="needs first")
        value = {"kind": cell.kind, "settings": cell.settings, "needs": {key: found[key] for key in cell.needs}}
        text = json.dumps(value, sort_keys=True, ensure_ascii=False)
        found[cell.key] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def digests_of_files(folder: Path) -> dict[str, str]:
    """SHA-256 of what a finished cell leaves beside its sealed folders, by name."""
    own = {CELL_FILE, OUTCOME_FILE, LOG_FILE}
    return {
        path.name: sha256_file(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in own and not path.name.startswith(".")
    }


class ResultsFile:
    """`results.jsonl` of a folder, with one writer at a time (the grid holds the folder's lock).

    A line is appended with one write on a descriptor opened with O_APPEND and synced. A torn last line, from a kill or
    a full disk, is cut off when the file is opened for writing; a line that is damaged otherwise is left out.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RESULTS

    def read(self) -> dict[tuple[str, str], Record]:
        """The newest record of every (key, digest)."""
        found: dict[tuple[str, str], Record] = {}
        if not self.path.is_file():
            return found
        for values in read_lines(self.path)[0]:
            with contextlib.suppress(TypeError):  # a sound line of another version
                record = Record(**values)
                found[record.key, record.digest] = record
        return found

    def open(self) -> None:
        """Cut a torn last line off."""
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with storage_errors(self.path), os.fdopen(open_own(self.path, os.O_RDWR), "r+b") as stream:
                stream.truncate(len(whole))
                os.fsync(stream.fileno())

    def append(self, record: Record) -> None:
        """Append one line durably.

        Raises:
            StorageError: the disk is full or read-only; earlier lines are intact.
        """
        append_line(self.path, asdict(record))
