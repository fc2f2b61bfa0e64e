"""`--time-limit`: how much of it is left, and what fits into that."""

from __future__ import annotations

import math
import re
import time

from dnd.common.errors import ConfigError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|)")


def read_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m` or `1.5h`.

    Raises:
        ConfigError: `text` is not one of these, or is zero.
    """
    found = _FORM.fullmatch(text.strip().lower())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds < math.inf:
        raise ConfigError("not a time limit", found=text, expected="a duration such as 90s, 10m or 1.5h")
    return seconds


class Clock:
    """Counts a time limit down from when it is made.

    Args:
        limit_s: seconds; None = no limit.
    """

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s = limit_s
        self._started = time.monotonic()

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self.limit_s is not None

    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def left(self) -> float:
        """Seconds until the limit, infinite without one; negative once it is over."""
        return math.inf if self.limit_s is None else self.limit_s - self.spent()

    def share(self, fraction: float) -> float:
        """A fraction of what is left, at least nothing."""
        return max(0.0, fraction * self.left())
