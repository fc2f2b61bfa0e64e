"""What a row must hold before it is written, and how a shard reaches the disk."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dnd.chemistry.molecule import Conformers
from dnd.common.errors import StorageError
from dnd.store.schema import StoreRow
from dnd.store.writer import row_problem, write_shard

HYDROGENS = "teacher_all_student_heavy"


def changed(row: StoreRow, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> StoreRow:
    assert row.conformers is not None
    numbers, positions = change(row.conformers.atomic_numbers_A.copy(), row.conformers.positions_JA3.copy())
    return dataclasses.replace(row, conformers=Conformers(numbers, positions))


def move(atom: int, to: object) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    def change(numbers: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positions[0, atom] = positions[0, to] + 0.01 if isinstance(to, int) else to
        return numbers, positions

    return change


def test_real_rows_pass(qm9_rows: list[StoreRow]) -> None:
    assert [row_problem(row, HYDROGENS) for row in qm9_rows] == [None] * len(qm9_rows)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (move(-1, np.nan), "not finite"),
        (move(-1, np.inf), "not finite"),
        (move(0, 100.0), "bonded atoms"),
        (move(-1, -2), "angstrom apart"),
        (lambda numbers, positions: (np.where(numbers == 8, 7, numbers), positions), "is element"),
        (lambda numbers, positions: (np.where(numbers == 1, 2, numbers), positions), "not a hydrogen"),
        (lambda numbers, positions: (numbers[:-1], positions[:, :-1]), "expected 6 hydrogens"),
        (lambda numbers, positions: (numbers, positions[:0]), "positions of shape"),
    ],
)
def test_broken_conformers_have_a_reason(qm9_rows: list[StoreRow], change: Callable, reason: str) -> None:
    row = qm9_rows[0]
    assert row.conformers is not None
    assert len(row.conformers.atomic_numbers_A) - row.graph.num_atoms == 6
    problem = row_problem(changed(row, change), HYDROGENS)
    assert problem is not None
    assert reason in problem


def test_hydrogen_settings_are_checked(qm9_rows: list[StoreRow]) -> None:
    row = qm9_rows[0]
    heavy = changed(row, lambda numbers, xyz: (numbers[: row.graph.num_atoms], xyz[:, : row.graph.num_atoms]))
    assert row_problem(heavy, "heavy_both") is None
    assert "expected 0 hydrogens" in str(row_problem(row, "heavy_both"))
    assert "expected 6 hydrogens" in str(row_problem(heavy, HYDROGENS))


def test_equal_rows_give_equal_bytes_and_plain_arrow(tmp_path: Path, qm9_rows: list[StoreRow]) -> None:
    write_shard(tmp_path / "one.arrow", qm9_rows)
    write_shard(tmp_path / "two.arrow", qm9_rows)
    assert (tmp_path / "one.arrow").read_bytes() == (tmp_path / "two.arrow").read_bytes()
    table = pa.ipc.open_file(tmp_path / "one.arrow").read_all()
    assert table.num_rows == 60
    assert table["smiles"][0].as_py() == qm9_rows[0].smiles
    assert np.array_equal(table["node_features"][0].as_py(), qm9_rows[0].graph.node_features_NF.ravel())


def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tmp_path: Path, qm9_rows: list[StoreRow]) -> None:
    path = tmp_path / "shard.arrow"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StorageError, match="cannot write"):
            write_shard(path, qm9_rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
