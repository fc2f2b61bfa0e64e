"""Real molecules for the store's tests: 300 of QM9 with their DFT conformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dnd.conformers.formats import open_arrays
from dnd.store.convert import make_converter
from dnd.store.schema import StoreRow

QM9 = Path(__file__).parents[2] / "data" / "qm9_300.npz"


@pytest.fixture(scope="session")
def qm9_path() -> Path:
    return QM9


@pytest.fixture(scope="session")
def qm9_arrays() -> dict[str, np.ndarray]:
    with np.load(QM9) as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture(scope="session")
def qm9_rows() -> list[StoreRow]:
    """The first 60, teacher with hydrogens, student without, one target."""
    convert = make_converter("teacher_all_student_heavy", "file", 1, 0, False)
    outcomes = [convert(record)[0] for record in open_arrays(QM9, ["gap"]).records][:60]
    assert all(isinstance(outcome, StoreRow) for outcome in outcomes)
    return outcomes  # type: ignore[return-value]
