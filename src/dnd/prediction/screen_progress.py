"""How far a screen is, on standard error: rows, rate, time left."""

from __future__ import annotations

import sys
import time

_EVERY_S = 10.0


class ScreenProgress:
    """Says where the run stands, at most every ten seconds.

    Args:
        total: about how many rows there are.
        done: rows of shards that were there before.
        quiet: say nothing.
    """

    def __init__(self, total: int, *, done: int, quiet: bool) -> None:
        self._total, self._first, self._rows, self._quiet = total, done, done, quiet
        self._started = self._said = time.monotonic()

    def advance(self, rows: int) -> None:
        """So many more rows are done."""
        self._rows += rows
        if time.monotonic() - self._said > _EVERY_S:
            self.say()

    def say(self) -> None:
        """Say it now."""
        self._said = time.monotonic()
        if not self._quiet:
            print(self.line(self._said - self._started), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """Where the run stands after `seconds` of this call."""
        rate = (self._rows - self._first) / max(seconds, 1e-3)
        left = max(self._total - self._rows, 0)
        time_left = f"  {_duration(left / rate)} left" if rate and left else ""
        return f"screen  {self._rows:,} of about {self._total:,} rows  {rate:,.0f} per second{time_left}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
