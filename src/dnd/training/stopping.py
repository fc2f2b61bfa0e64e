"""How a run is asked to stop before its end: SIGINT, SIGTERM, a time limit; noticed between two steps."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

# No signal that is handled has this number, and every one of them is larger: over ranks the largest reason wins.
OUT_OF_TIME = 1


class StopRequests:
    """Collects requests to stop while it is entered; the previous handlers are restored afterwards."""

    def __init__(self, limit_s: float | None) -> None:
        self._limit_s, self._started = limit_s, time.monotonic()
        self._signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():  # no other thread may handle signals
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def reason(self) -> int:
        """0 to continue, the number of a signal, or `OUT_OF_TIME`."""
        if self._signal == 0 and self._limit_s is not None and time.monotonic() - self._started > self._limit_s:
            return OUT_OF_TIME
        return self._signal

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
