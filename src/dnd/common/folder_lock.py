"""One process per run folder; what a killed one left half-written in it goes when the next one comes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dnd.common.errors import InputError
from dnd.common.files import storage_errors

_SCRAP = re.compile(r"\..+\.tmp-\d+")  # the temporary names of `common.files.replacing`


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; a second run on it is refused with the holder's process number.

    The lock goes with the process, however it ends. Temporary files in the folder are then nobody's and are removed.

    Raises:
        InputError: another process holds the folder.
        StorageError: the folder can't be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        stream = open(folder / ".lock", "a+")  # noqa: SIM115  # closed below; the lock lives as long as the stream
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
                if _SCRAP.fullmatch(path.name) and path.is_file():
                    path.unlink()
        yield
    finally:
        with contextlib.suppress(OSError):  # a full disk: the number that could not be written is tried again
            stream.close()
