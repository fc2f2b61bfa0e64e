"""`dnd prepare` in a fresh process: counts on standard output, one line and an exit code for bad input."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dnd.store.reader import Store

DATA = Path(__file__).parents[1] / "data" / "qm9_300.npz"


def run(*words: str | Path, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dnd", "prepare", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=before, timeout=100)


def test_a_store_from_the_command_line(tmp_path: Path) -> None:
    done = run(DATA, "-o", tmp_path / "s", "--hydrogens", "all_both", "--target-columns", "gap,mu", "--limit", "50")
    assert done.returncode == 0, done.stderr
    assert "50 molecules, 50 conformers" in done.stdout
    assert "rejected 0" in done.stdout
    assert "prepare  50 of 50 records" in done.stderr
    store = Store.open(tmp_path / "s")
    assert (store.hydrogens, store.target_columns, len(store)) == ("all_both", ["gap", "mu"], 50)


def test_neither_the_command_nor_its_workers_load_torch(tmp_path: Path) -> None:
    """Loading it takes longer than the work on a thousand molecules."""
    (tmp_path / "a.csv").write_text("smiles\nCCO\n")
    (tmp_path / "torch.py").write_text("raise AssertionError('torch is loaded')")
    code = "from dnd.cli.main import main; main(['prepare', 'a.csv', '-o', 's', '--jobs', '1'])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    workers = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import dnd.store.convert"
    subprocess.run([sys.executable, "-c", workers], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    ("name", "content", "words", "code", "message"),
    [
        ("a.csv", "", [], 2, "a.csv is empty"),
        ("a.csv", "smile,y\nCC,1\n", [], 2, "no column 'smiles'"),
        ("a.csv", "smiles,y\nCC,1\n", ["--target-columns", "z"], 2, "no target column 'z'"),
        ("a.csv", "smiles\nxx\n", [], 2, "no valid molecule"),
        ("a.sdf", "title\n\n\n  3  2  0  0  0  0  0  0  0  0999 V2000\n", [], 2, "no valid molecule"),
        ("a.csv", "smiles\nCC\n", ["--hydrogens", "some"], 2, "hydrogens has an unknown value 'some'"),
        ("a.csv", "smiles\nCC\n", ["--conformers", "file"], 2, "has no coordinates"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, name: str, content: str, words: list[str], code: int, message: str
) -> None:
    (tmp_path / name).write_text(content)
    done = run(tmp_path / name, "-o", tmp_path / "s", *words)
    lines = [line for line in done.stderr.splitlines() if line.startswith("dnd: ")]
    assert done.returncode == code
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in done.stderr


def test_a_full_disk_exits_with_74(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = run(DATA, "-o", tmp_path / "s", before=limit)
    assert done.returncode == 74, done.stderr
    assert "cannot write" in done.stderr.splitlines()[-1]
    assert "--resume" in done.stderr.splitlines()[-1]
    done = run(DATA, "-o", tmp_path / "s", "--resume")
    assert done.returncode == 0, done.stderr
    assert "300 molecules" in done.stdout
