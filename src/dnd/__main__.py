"""The command `dnd`, also as `python -m dnd` for a source tree that is not installed."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line; Ctrl-C while it is imported ends it with one line, as later on."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # where Ctrl-C is ignored, it stays so
        signal.signal(signal.SIGINT, _end)
    from dnd.cli.main import main as run

    signal.signal(signal.SIGINT, handler)
    run()


def _end(number: int, frame: FrameType | None) -> None:
    """Nothing has begun, so nothing has to be closed; an exception might be caught by what is being imported."""
    try:
        os.write(2, b"dnd: stopped before the start; run the command again\n")
    finally:
        os._exit(128 + number)


if __name__ == "__main__":
    main()
