"""Run logs: one JSON line per step and evaluation, a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from dnd.common.files import storage_errors, write_text

LOG = "metrics.jsonl"


class RunLog:
    """`metrics.jsonl` of a run and what the user sees meanwhile.

    A full log disk must not stop a training whose checkpoints still fit, so a failing append is reported once.
    """

    def __init__(self, folder: Path, *, total_steps: int, first_step: int, title: str, quiet: bool) -> None:
        self.path = folder / LOG
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._forget_after(first_step)
        self._stream: TextIO | None = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  # closed in close()
        terminal = sys.stderr.isatty() and not quiet
        self._bar = tqdm(total=total_steps, initial=first_step, desc=title, unit="step") if terminal else None
        self._title, self._quiet, self._started = title, quiet, time.monotonic()

    def steps(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append step records."""
        for record in records:
            self._append({"kind": "step", **record})
            if self._bar is not None:
                self._bar.update()
                self._bar.set_postfix(loss=f"{record['loss']:.4g}")

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Append an evaluation record and show it."""
        self._append({"kind": "evaluation", **record})
        numbers = "  ".join(f"{key} {value:.4g}" for key, value in record.items() if isinstance(value, float))
        elapsed = time.monotonic() - self._started
        line = f"{self._title}  epoch {record['epoch']}  step {record['step']}  {numbers}  [{elapsed:.0f} s]"
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Hand the lines so far to the operating system."""
        self._attempt(lambda stream: stream.flush())

    def close(self) -> None:
        """Flush and end the progress bar."""
        self.flush()
        if self._stream is not None:
            self._stream.close()
        if self._bar is not None:
            self._bar.close()

    def _append(self, record: Mapping[str, Any]) -> None:
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        self._attempt(lambda stream: stream.write(json.dumps(finite, sort_keys=True, allow_nan=False) + "\n"))

    def _attempt(self, write: Callable[[TextIO], object]) -> None:
        if self._stream is not None:
            try:
                write(self._stream)
            except OSError as error:
                print(f"warning: the log {self.path} stops here: {error.strerror}", file=sys.stderr)
                self._stream = None

    def _forget_after(self, step: int) -> None:
        """Drop lines of steps that a resumed run repeats, and a torn last line."""
        if not self.path.exists():
            return
        kept = [json.dumps(record, sort_keys=True) for record in read_log(self.path) if record["step"] <= step]
        write_text(self.path, "".join(line + "\n" for line in kept))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a run log; a torn last line is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
