"""RDKit writes the reason of a failed parse to its log; here it's caught and handed on as a value."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable

from rdkit import rdBase

_LOCK = threading.Lock()
_LOGGER = logging.getLogger("rdkit")
_TIME_STAMP = re.compile(r"^\[\d\d:\d\d:\d\d\]\s*")
_PREFIX = re.compile(r"^SMILES Parse Error:\s*")
_NO_REASON = "RDKit refuses it and gives no reason"

# Choosing where the log goes also switches it on, so this comes first. From here on RDKit is silent.
rdBase.LogToPythonLogger()
rdBase.DisableLog("rdApp.*")


class _Keep(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += record.getMessage().splitlines()


def logged_reason(action: Callable[[], object]) -> str:
    """Run `action`, a call of RDKit that fails, and return in one line the error it logs.

    Failures are rare, so running the call a second time under capture costs little.
    """
    keep = _Keep()
    with _LOCK:
        handlers, _LOGGER.handlers = _LOGGER.handlers, [keep]
        rdBase.EnableLog("rdApp.error")
        try:
            action()
        finally:
            rdBase.DisableLog("rdApp.*")
            _LOGGER.handlers = handlers
    lines = [_PREFIX.sub("", _TIME_STAMP.sub("", line)).strip() for line in keep.lines]
    return next((line for line in lines if line and not line.startswith("*")), _NO_REASON)
