"""RDKit writes the reason of a failed parse to its log; here it's caught and handed on as a value."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable

from rdkit import rdBase

LIMIT_REASON = 160
"""Longest reason in characters."""

_LOCK = threading.Lock()
_LOGGER = logging.getLogger("rdkit")
_TIME_STAMP = re.compile(r"^\[\d\d:\d\d:\d\d\]\s*")
_PREFIX = re.compile(r"^SMILES Parse Error:\s*")
_CLEARER = {"Range Error": "a number points outside the molecule, such as a bond to an atom that is not there"}
_NO_REASON = "RDKit refuses it and gives no reason"
_TORN_REASON = "RDKit refuses it where there are characters that are not ASCII"

# Choosing where the log goes also switches it on, so this comes first. From here on RDKit is silent.
rdBase.LogToPythonLogger()
rdBase.DisableLog("rdApp.*")


class _Keep(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def logged_reason(action: Callable[[], object]) -> str:
    """Run `action`, a call of RDKit that fails, and return in one line the error it logs, else the first warning.

    Failures are rare, so running the call a second time under capture costs little.
    """
    keep = _Keep()
    with _LOCK:
        handlers, _LOGGER.handlers = _LOGGER.handlers, [keep]
        for name in ("rdApp.error", "rdApp.warning"):
            rdBase.EnableLog(name)
        try:
            action()
        except SystemError:  # RDKit's message quotes half of a character, which Python can't decode
            return _TORN_REASON
        finally:
            rdBase.DisableLog("rdApp.*")
            _LOGGER.handlers = handlers
    worst_first = sorted(keep.records, key=lambda record: -record.levelno)
    lines = [line for record in worst_first for line in record.getMessage().splitlines()]
    cleaned = [_PREFIX.sub("", _TIME_STAMP.sub("", line)).strip() for line in lines]
    told = [line for line in cleaned if line and not line.startswith("*") and not line.endswith("Violation")]
    reason = _CLEARER.get(told[0], told[0]) if told else _NO_REASON
    return reason if len(reason) <= LIMIT_REASON else reason[: LIMIT_REASON - 1] + "…"  # RDKit repeats the input
