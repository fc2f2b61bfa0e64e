"""Shared by the fault tests: the nursery, and what a run comes down to."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import training

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


def outcome(folder: Path) -> dict[str, str]:
    """SHA-256 of the log and of every file of the last checkpoint but its manifest, which names the run."""
    last = max((folder / "checkpoints").glob("step-*"))
    files = [path for path in last.iterdir() if path.name != "manifest.json"] + [folder / "metrics.jsonl"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.exists()}


def scraps(folder: Path) -> list[Path]:
    """Temporary files and folders left behind."""
    return [path for path in folder.rglob("*") if ".tmp-" in path.name]
