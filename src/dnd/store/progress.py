"""How far a long run is: a bar on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from dnd.common.terminal import raw_stream

_LINE_EVERY_S = 10.0


class Progress:
    """Counts records on standard error.

    Args:
        title: names the work.
        total: number of records where it's known.
        first: records done before.
        quiet: show nothing.
    """

    def __init__(self, title: str, *, total: int | None, first: int = 0, quiet: bool = False) -> None:
        self._title, self._total, self._quiet = title, total, quiet
        self._first = self._count = first
        terminal = not quiet and sys.stderr.isatty()
        bar = {"total": total, "initial": first, "desc": title, "unit": "record", "file": raw_stream(sys.stderr)}
        self._bar = tqdm(**bar) if terminal else None
        self._started = self._said = time.monotonic()

    def advance(self) -> None:
        """One more record is done."""
        self._count += 1
        if self._bar is not None:
            self._bar.update()
        elif not self._quiet and time.monotonic() - self._said > _LINE_EVERY_S:
            self._say()

    def close(self) -> None:
        """End the bar, or say where the count stands."""
        if self._bar is not None:
            self._bar.close()
        elif not self._quiet:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        rate = (self._count - self._first) / max(self._said - self._started, 1e-3)
        of_all = f" of {self._total:,}" if self._total else ""
        print(f"{self._title}  {self._count:,}{of_all} records  {rate:,.0f} per second", file=sys.stderr, flush=True)
