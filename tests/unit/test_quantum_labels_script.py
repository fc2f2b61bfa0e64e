"""`benchmarks/quantum_labels.py`: pieces of a random order that a kill does not lose, and one file per source."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("tblite", reason="needs the extra `quantum`")

from benchmark_scripts import BENCHMARKS, load_script
from dnd.common.errors import ConfigError
from dnd.conformers.quantum import QuantumLabels

QM9 = Path(__file__).parents[1] / "data" / "qm9_300.npz"


@pytest.fixture
def script() -> ModuleType:
    return load_script("quantum_labels")


def test_a_killed_run_goes_on_and_ends_with_the_same_labels(script: ModuleType, tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    script.make(whole, [(QM9, 6)], 3, 5, 60.0)
    words = ["make", "-o", str(torn), "--source", str(QM9), "6", "--pieces", "3", "--seed", "5", "--timeout-s", "60"]
    command = [sys.executable, str(BENCHMARKS / "quantum_labels.py"), *words]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    for _ in range(3000):
        if (torn / "qm9_300-00000.npz").is_file() or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = (torn / "qm9_300-00000.npz").stat().st_mtime_ns
    assert not (torn / "qm9_300-00002.npz").exists()
    script.make(torn, [(QM9, 6)], 3, 5, 60.0)
    assert (torn / "qm9_300-00000.npz").stat().st_mtime_ns == first
    packed = [QuantumLabels.read(path) for folder in (whole, torn) for path in script.pack(folder, folder / "packed")]
    assert [len(labels.arrays["rows"]) for labels in packed] == [18, 18]
    for name, values in packed[0].arrays.items():
        assert np.array_equal(values, packed[1].arrays[name]), name
    with pytest.raises(ConfigError, match="holds other labels"):
        script.make(torn, [(QM9, 7)], 3, 5, 60.0)


def test_another_machine_makes_only_what_the_packed_file_lacks(script: ModuleType, tmp_path: Path) -> None:
    whole, kept, more = tmp_path / "whole", tmp_path / "kept", tmp_path / "more"
    script.make(whole, [(QM9, 4)], 2, 5, 60.0)
    script.pack(whole, kept)
    script.make(more, [(QM9, 4)], 3, 5, 60.0, done=kept)
    assert [path.name for path in sorted(more.glob("*.npz"))] == ["qm9_300-00002.npz"]
    (path,) = script.pack(more, more / "packed", done=kept)
    rows = [script.Source(QM9, 4, 300).rows(5, piece) for piece in range(3)]
    assert QuantumLabels.read(path).arrays["rows"].tolist() == sorted(np.concatenate(rows).tolist())


def test_pieces_are_a_random_order_of_all_molecules(script: ModuleType) -> None:
    source = script.Source(QM9, 70, 300)
    pieces = [source.rows(0, piece) for piece in range(6)]
    assert [len(rows) for rows in pieces] == [70, 70, 70, 70, 20, 0]
    assert sorted(np.concatenate(pieces)) == list(range(300))
    assert abs(pieces[0].mean() - 150) < 30
