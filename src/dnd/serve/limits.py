"""What one visitor may ask for, and how requests take turns at the models.

A model is asked by `running` threads at a time. Further requests wait in line, and beyond the length of the line they
are told to come again; so neither memory nor the number of threads grows with the number of visitors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Bounds on what is asked.

    Attributes:
        body_bytes: largest size of a request, including an uploaded file.
        body_seconds: between two parts of a request that is being sent.
        smiles: in one request that is answered at once.
        rows: largest number of rows in a file.
        seconds: that a request may take once its turn has come.
        job_seconds: that a file may take.
        running: requests that are computed at the same time.
        waiting: requests in line.
        queued: files in line.
        kept: files that are done and whose results are kept.
        kept_seconds: for which they are kept.
        page_rows: rows of a file's results in one answer.
    """

    body_bytes: int = 8 * 2**20
    body_seconds: float = 20.0
    smiles: int = 1_000
    rows: int = 20_000
    seconds: float = 60.0
    job_seconds: float = 1_800.0
    running: int = 2
    waiting: int = 256
    queued: int = 16
    kept: int = 32
    kept_seconds: float = 3_600.0
    page_rows: int = 200


class BusyError(Exception):
    """The line is full."""


class TooSlowError(Exception):
    """The time for one request is over."""


class Turns:
    """The line in front of the models.

    Args:
        limits: `running`, `waiting` and `seconds` of them.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits, self._slots, self._waiting = limits, asyncio.Semaphore(limits.running), 0

    async def take(self, work: Callable[[], T]) -> T:
        """`work()` in a thread, when its turn has come.

        A thread can't be ended, so one that takes too long keeps its slot until it is done.

        Raises:
            BusyError: too many wait already.
            TooSlowError: it takes too long.
        """
        if self._slots.locked() and self._waiting >= self._limits.waiting:
            raise BusyError
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        task = asyncio.ensure_future(asyncio.to_thread(work))
        task.add_done_callback(self._free)
        done, _ = await asyncio.wait([task], timeout=self._limits.seconds)
        if not done:
            raise TooSlowError
        return task.result()

    def _free(self, task: asyncio.Future[T]) -> None:
        self._slots.release()
        if not task.cancelled():
            task.exception()  # an error after the time is over has been answered as being too slow
