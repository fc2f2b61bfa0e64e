"""One line that moves while a stage of the demo runs: rewritten in place on a terminal, a new one elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from dnd.common.log import LOGGER, PROGRESS, is_shown, muted
from dnd.common.terminal import raw_stream
from dnd.training.logs import LOG, read_log

TERMINAL_EVERY_S, ELSEWHERE_EVERY_S = 0.5, 4.5
_CLEAR = "\r\x1b[K"


class Progress:
    """Shows how long a stage has run and how far its training is, from a thread of its own.

    Args:
        stream: receives the line that moves; standard error when None.
        every_s: seconds between two of them; by the kind of stream when None.
    """

    def __init__(self, stream: TextIO | None = None, every_s: float | None = None) -> None:
        self._stream, self._lock = stream or raw_stream(sys.stderr), threading.Lock()
        self._terminal = self._stream.isatty()
        self._every_s = every_s or (TERMINAL_EVERY_S if self._terminal else ELSEWHERE_EVERY_S)

    def say(self, line: str) -> None:
        """A line that stays."""
        with self._lock:
            self._write(_CLEAR if self._terminal else "")
            LOGGER.info(line)

    @contextmanager
    def stage(self, name: str, folder: Path | None = None, epochs: int | None = None) -> Iterator[None]:
        """Show the stage `name` and nothing else of it until the block ends.

        Of a training in `folder` the line has its epoch, of `epochs`, and loss.
        """
        if not is_shown(PROGRESS):
            with muted(progress=True):
                yield
            return
        done, started = threading.Event(), time.monotonic()

        def show() -> None:
            while not done.wait(self._every_s):
                line = f"   {name}  {time.monotonic() - started:.0f} s{_position(folder, epochs)}"
                with self._lock:
                    self._write(f"{_CLEAR}{line}" if self._terminal else f"{line}\n")

        thread = threading.Thread(target=show, name="dnd-progress", daemon=True)
        thread.start()
        try:
            with muted(progress=True):
                yield
        finally:
            done.set()
            thread.join()
            if self._terminal:
                self._write(_CLEAR)

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # that nobody can read it any more is no reason to stop a training
            self._stream.write(text)
            self._stream.flush()


def _position(folder: Path | None, epochs: int | None) -> str:
    """Where a training is, from its log."""
    if folder is None or not (folder / LOG).is_file():
        return ""
    steps = [record for record in read_log(folder / LOG) if record.get("kind") == "step"]
    if not steps:
        return ""
    last = steps[-1]
    loss = f"  loss {last['loss']:.3f}" if isinstance(last.get("loss"), float) else ""
    return f"  epoch {last['epoch'] + 1} of {epochs}  step {last['step']}{loss}"
