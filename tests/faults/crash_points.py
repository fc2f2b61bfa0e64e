"""Every system call that changes the disk, counted, and one of them made the last.

While it is entered, `CrashPoints(n, mode)` sits under `open`, `os.fsync`, `os.replace`, `os.rename`, `os.unlink`,
`os.rmdir` and `os.mkdir`. Before call `n` the process ends ("abort"), or everything does but the process, so that
nothing changes the disk any more ("killed"), or call `n` and all later ones that need space fail as on a full disk
("full"), or only call `n` fails ("once"). A write that dies leaves half of its bytes.
"""

from __future__ import annotations

import builtins
import errno
import os
from types import TracebackType
from typing import Any, Literal

from stopped_runs import Killed

_FREEING = {"unlink", "rmdir"}
_OS_CALLS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")


class CrashPoints:
    def __init__(self, at: int | None, mode: Literal["abort", "killed", "full", "once"]) -> None:
        self.at, self.mode, self.count = at, mode, 0
        self.calls: list[str] = []

    def __enter__(self) -> CrashPoints:
        self._originals = {name: getattr(os, name) for name in _OS_CALLS}
        self._open = builtins.open
        for name in _OS_CALLS:
            setattr(os, name, self._guarded(name))
        builtins.open = self._guarded_open
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        builtins.open = self._open
        for name, original in self._originals.items():
            setattr(os, name, original)

    def reached(self, call: str) -> bool:
        """Count a call; whether it must not succeed."""
        self.count += 1
        self.calls.append(call)
        if self.at is None or self.count < self.at:
            return False
        if self.mode == "killed":
            return True
        return self.count == self.at if self.mode != "full" else call not in _FREEING

    def end(self) -> None:
        if self.mode == "abort":
            os._exit(9)
        if self.mode == "killed":
            raise Killed
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _guarded(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.reached(name):
                self.end()
            return self._originals[name](*arguments, **options)

        return call

    def _guarded_open(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+"):
            return self._open(file, mode, *arguments, **options)
        if self.reached("open"):
            self.end()
        return _Stream(self._open(file, mode, *arguments, **options), self)


class _Stream:
    """A file whose writes count; everything else is the file's own."""

    def __init__(self, stream: Any, points: CrashPoints) -> None:
        self._stream, self._points = stream, points

    def write(self, data: Any) -> Any:
        if self._points.reached("write"):
            self._stream.write(data[: len(data) // 2])
            self._stream.flush()
            self._points.end()
        return self._stream.write(data)

    def flush(self) -> None:
        if self._points.reached("flush"):
            self._points.end()
        self._stream.flush()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *details: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
