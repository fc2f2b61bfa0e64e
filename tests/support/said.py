"""Lines of the logger `dnd`, for tests of what a run says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from dnd.common.log import LOGGER


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def said(lines: list[str], level: int = logging.INFO) -> Iterator[list[str]]:
    """Append every line from `level` on to `lines`, until the block ends."""
    handler, before = _Lines(lines), LOGGER.level
    LOGGER.setLevel(level)
    LOGGER.addHandler(handler)
    try:
        yield lines
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)
