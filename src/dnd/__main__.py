"""The command `dnd`, also as `python -m dnd` for a source tree that is not installed."""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line; Ctrl-C while it is imported ends it with one line, as later on."""
    _fill_standard_streams()
    _show_any_text()
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # where Ctrl-C is ignored, it stays so
        signal.signal(signal.SIGINT, _end)
    from dnd.cli.main import main as run

    signal.signal(signal.SIGINT, handler)
    run()


def _fill_standard_streams() -> None:
    """Open the closed ones of the standard streams to nowhere: the next file opened would take the place of one.

    What a library prints would then go into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, for workers too
    if sys.stderr is None:  # progress and messages are written there without a look whether it is
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _show_any_text() -> None:
    """Show what the encoding of a terminal lacks as its escape, where it would end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end(number: int, frame: FrameType | None) -> None:
    """Nothing has begun, so nothing has to be closed; an exception might be caught by what is being imported."""
    try:
        os.write(2, b"dnd: stopped before the start; run the command again\n")
    finally:
        os._exit(128 + number)


if __name__ == "__main__":
    main()
