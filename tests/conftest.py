"""Shared set-up: one OpenMP thread, shape annotations checked, and the network closed."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).parent))
# Every annotated tensor function of the package is checked at each call of the test run; users never pay for it.
install_import_hook(
    [
        *("dnd.pretraining", "dnd.predictor", "dnd.finetuning", "dnd.graphs", "dnd.chemistry.molecule"),
        *("dnd.models.students", "dnd.models.teachers"),
    ],
    "beartype.beartype",
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for another machine fails."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and not str(address[0] if isinstance(address, tuple) else address).startswith(
            "127."
        ):
            raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
