"""Shared by the fault tests: the nursery."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import training
from outcomes import outcome

from nursery import Nursery

_MEMORY = Path("/dev/shm")


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder in memory where there is such a thing: these tests make thousands of calls of fsync."""
    folder = Path(tempfile.mkdtemp(prefix="dnd-faults-", dir=_MEMORY if _MEMORY.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(Path(__file__).parent / "children.py", tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Outcome of the toy training that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    training(folder)
    return outcome(folder)
