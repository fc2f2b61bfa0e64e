"""The streams and limits that a command is started with: closed, left by their reader, set already."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from finetuning_toys import tiny_model, write_regression


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("fifth"))


def started(line: str, *, limits: str = "", folder: Path) -> subprocess.CompletedProcess[str]:
    """A command line of `dnd` in a shell of its own, `dnd` standing for the command."""
    command = line.replace("dnd ", f"{shlex.quote(sys.executable)} -P -m dnd ")
    shell = ["bash", "-o", "pipefail", "-c", f"{limits}\n{command}"]
    return subprocess.run(shell, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_a_closed_stream_is_named_or_not_missed(tmp_path: Path, model: Path) -> None:
    """Each was an internal error; a file might take the place of the closed stream."""
    said = started(f"dnd predict CCO -m {model} >&-", folder=tmp_path)
    assert said.returncode == 2
    assert "standard output is closed" in said.stderr
    said = started(f"dnd predict - -m {model} <&-", folder=tmp_path)
    assert said.returncode == 2
    assert "standard input is closed" in said.stderr
    (tmp_path / "in.csv").write_text("smiles\nCCO\n")
    said = started(f"dnd screen in.csv -m {model} -o out --jobs 1 <&- >&- 2>&-", folder=tmp_path)
    assert said.returncode == 0
    assert (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("words", ["predict in.smi -m {model}", "--help", "info"])
def test_a_reader_that_leaves_is_no_error(tmp_path: Path, model: Path, words: str) -> None:
    """`| head` gave the exit code of an internal error, without a word."""
    (tmp_path / "in.smi").write_text("CCO\n" * 3000)
    said = started(f"dnd {words.format(model=model)} | true", folder=tmp_path)
    assert said.returncode == 0, said.stderr


def test_a_training_goes_on_when_nobody_reads(tmp_path: Path) -> None:
    """The first line that could not be written ended it."""
    write_regression(tmp_path)
    words = "--recipe small baselines=false student.name=gine student.width=16 student.num_layers=2 loop.epochs=1"
    line = f"dnd finetune toy.csv -o out --target-columns size {words} --encoder random --split random | true"
    said = started(line, folder=tmp_path)
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "out" / "manifest.json").exists()


def test_a_limit_on_memory_that_is_set_already_stays(tmp_path: Path, model: Path) -> None:
    """Workers tried to raise it and did not start."""
    (tmp_path / "in.csv").write_text("smiles\nCCO\n")
    said = started(f"dnd screen in.csv -m {model} -o out --jobs 1", limits="ulimit -v 3000000", folder=tmp_path)
    assert said.returncode == 0, said.stderr
