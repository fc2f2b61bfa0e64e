"""The installed command in a fresh process: help, refusals, exit codes, start-up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dnd.cli.main import VERBS
from dnd.common.files import write_bytes, write_manifest

DND = str(Path(sys.executable).with_name("dnd"))


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DND, *words], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )


def test_help_names_every_verb() -> None:
    result = run("--help", COLUMNS="120")
    assert result.returncode == 0
    assert all(verb in result.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    result = run(verb, "--help")
    assert result.returncode == 0, result.stderr
    assert f"dnd {verb}" in result.stdout


def test_an_unknown_verb_is_refused_with_the_nearest() -> None:
    result = run("finetun")
    assert result.returncode == 2
    assert "finetune" in result.stderr


def test_help_and_import_load_nothing_heavy() -> None:
    """Start-up is kept short by what is not imported; counts, not seconds."""
    code = (
        "import sys, dnd, dnd.cli.main as m\n"
        "try: m.build_app(None)(args=['--help'], prog_name='dnd')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'rdkit', 'sklearn', 'pyarrow', 'matplotlib', 'numpy', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_doctor_finds_a_flipped_bit(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write_bytes(folder / "shard-00000.arrow", b"x" * 1000)
    write_manifest(folder, kind="store", format_version=1)
    sound = run("doctor", str(folder))
    assert (sound.returncode, sound.stdout.splitlines()[-1]) == (0, "sound")
    (folder / "shard-00000.arrow").write_bytes(b"x" * 999 + b"y")
    torn = run("doctor", str(folder))
    assert torn.returncode == 1
    assert "shard-00000.arrow was altered" in torn.stderr


def test_doctor_on_a_strange_folder_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    result = run("doctor", str(tmp_path))
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "was not written by dnd" in result.stderr
