"""Inputs that must not change while they are read: what is sealed under their digests has to be what came of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dnd.common.errors import CorruptFileError, InputError

_State = tuple[int, int, int]


class WatchedInputs:
    """Files and what describes each, taken at the start of a run and compared at its end.

    Args:
        paths: files or folders; of a folder nothing is watched.
        describe: gives name, size and digest of one.

    Attributes:
        descriptions: descriptions of all inputs, in order.

    Raises:
        InputError: one is a named pipe or a device, or changes already.
    """

    def __init__(self, paths: Sequence[Path], describe: Callable[[Path], dict[str, Any]]) -> None:
        self._paths, self._describe = paths, describe
        for path in paths:
            require_file(path)
        self._states = [_state(path) for path in paths]
        self.descriptions = [describe(path) for path in paths]
        self.require_unchanged()

    def require_unchanged(self) -> None:
        """Raise an error if a file was written to since the beginning.

        Raises:
            InputError: a file has another size or time of change; which one.
        """
        for path, before, description in zip(self._paths, self._states, self.descriptions, strict=True):
            now = _state(path)
            # The time of the inode changes with rights and links as well; then the content decides.
            if now == before or (now and before and now[:2] == before[:2] and self._describe(path) == description):
                continue
            raise InputError(
                f"{path} changed while it was read",
                next_step="Wait until nothing writes to it, then start again in another folder",
            )


class MappedFile:
    """A file whose verified content is mapped into memory, and which somebody may write to meanwhile.

    Another file in its place changes nothing, since a map keeps the one that it was made of. One that is cut short in
    place would end the process by a signal when the lost part is read, and one that is overwritten would change what
    was verified; so the state of the file is compared before each batch is read from it.

    Args:
        path: before its content is verified.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._before = path, _place_and_state(path)

    def require_mapped(self) -> None:
        """Make sure that what was mapped is what was verified.

        Raises:
            CorruptFileError: there is another file now, or it was written to.
        """
        if self._before is None or _place_and_state(self._path) != self._before:
            raise self._changed()

    def require_unchanged(self) -> None:
        """Refuse to read on from a file that was written to; one that was removed or replaced is still as it was.

        Raises:
            CorruptFileError: it has another size or time of change.
        """
        now = _place_and_state(self._path)
        if now != self._before and now and self._before and now[:2] == self._before[:2]:
            raise self._changed()

    def _changed(self) -> CorruptFileError:
        return CorruptFileError(
            f"{self._path} changed while it was read",
            next_step="Restore it or make it again, then continue with --resume",
        )


def require_file(path: Path) -> None:
    """Refuse what can be read once only, where it has to be read more than once.

    Raises:
        InputError: `path` is a named pipe, a device or a socket.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(
            f"{path} is a named pipe or a device",
            expected="a file, which can be read more than once",
            next_step="Save it to a file first",
        )


def _state(path: Path) -> _State | None:
    """Size, time of the content and time of the inode; None where there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns) if stat.S_ISREG(found.st_mode) else (0, 0, 0)


def _place_and_state(path: Path) -> tuple[int, int, int, int] | None:
    """Device, inode, size and time of the content; None where there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
