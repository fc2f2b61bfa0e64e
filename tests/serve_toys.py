"""Served toys: two tiny models, a client without a network, and a real server on loopback in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetuning_toys import quietly, tiny_model, write_classes

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/")


def two_models(folder: Path) -> list[Path]:
    """`model`, which predicts `size`, and `classes`, which predicts `ring` and `hetero`."""
    quietly(write_classes(folder), folder / "classes", ["ring", "hetero"])
    return [tiny_model(folder), folder / "classes"]


@contextmanager
def served(models: list[Path], *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of `dnd serve` and its process, which is told to stop at the end; no model = the one that ships."""
    words = [word for model in models for word in ("-m", str(model))]
    command = [sys.executable, "-m", "dnd", "serve", *words, "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    hangs_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a child ignores it where the tests run under nohup
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    finally:
        signal.signal(signal.SIGHUP, hangs_up)
    try:
        lines = []
        for line in process.stdout:  # type: ignore[union-attr]
            lines.append(line)
            if found := ADDRESS.search(line):
                yield found[0], process
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()  # type: ignore[union-attr]
