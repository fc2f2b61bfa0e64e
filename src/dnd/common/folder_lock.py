"""One process per run folder; what a killed one left half-written in it goes when the next one comes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from dnd.common.errors import InputError
from dnd.common.files import open_own, storage_errors

_held: list[TextIO] = []
"""What this process holds."""


def _let_go() -> None:
    """In a forked child: close what the parent holds, or a child that outlives it would hold the folder."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in _held:  # still open for Python, which closes it once more
        os.dup2(nothing, stream.fileno())
    os.close(nothing)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def _require_no_links(folder: Path) -> None:
    """Refuse a folder with links to folders in it: what is written or removed through one lies elsewhere.

    A link to a file is found where it is opened: none is followed for writing, and none is taken for a sealed file.
    """
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(parent, name)
            if path.is_symlink():
                raise InputError(
                    f"{path} is a symbolic link", expected="a folder without links, since it is written to",
                    next_step="Remove it, or put in its place what it leads to",
                )  # fmt: skip


def _is_scrap(name: str) -> bool:
    """Whether it is one of the temporary names of `common.files.replacing`."""
    before, _, number = name.rpartition(".tmp-")
    return len(before) > 1 and before.startswith(".") and number.isdecimal()


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; a second run on it is refused with the holder's process number.

    The lock goes with the process, however it ends. Temporary files in the folder are then nobody's and are removed.

    Raises:
        InputError: another process holds the folder, or there is a link to a folder in it.
        StorageError: the folder can't be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _require_no_links(folder)
        stream = os.fdopen(open_own(folder / ".lock", os.O_RDWR), "r+")
    _held.append(stream)
    try:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            raise InputError(f"{folder} is in use by process {stream.read().strip() or 'unknown'}") from error
        with storage_errors(folder):
            stream.seek(0)
            stream.truncate()
            stream.write(str(os.getpid()))
            stream.flush()
            for path in folder.iterdir():
                if _is_scrap(path.name) and path.is_file():
                    path.unlink()
        yield
    finally:
        _held.remove(stream)
        fcntl.flock(stream, fcntl.LOCK_UN)  # also for forked children that have not let go yet
        with contextlib.suppress(OSError):  # a full disk: the number that could not be written is tried again
            stream.close()
