"""Functions that misbehave on request, run in worker processes by `test_workers.py`."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable


def misbehave(item: str | int) -> str | int:
    match item:
        case "hang":
            time.sleep(1000)
        case "segfault":
            ctypes.string_at(0)
        case "memory":
            return len(bytearray(8 * 2**30))
        case "raise":
            raise ValueError("two\nlines")
    return item


def make_adder(amount: int) -> Callable[[int], int]:
    return lambda item: item + amount


def make_list() -> Callable[[list[str | int]], list[str | int]]:
    return lambda items: [misbehave(item) for item in items]


def broken(**_: object) -> None:
    raise RuntimeError("no such device")


def die_once(path: str) -> str:
    """Dies on the first call with `path`, works on the next, as after a kill from outside."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "alive"
    os.kill(os.getpid(), 9)
    return "never"


def echo(item: bytes) -> bytes:
    return item
