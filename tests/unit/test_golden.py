"""Artefacts of every format that was ever written open with the current code and say what they said then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dnd.common.about import diagnose
from make_golden import ANSWERS, GOLDEN, answers

VERSIONS = sorted(path.parent.name for path in GOLDEN.glob(f"*/{ANSWERS}"))
FOLDERS = ("store", "teacher", "run", "encoder", "predictor", "screen")


def same(found: Any, expected: Any, path: str = "") -> None:
    """Equal, numbers to 1e-5: a processor may sum in another order."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key in expected:
            same(found[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for index, value in enumerate(expected):
            same(found[index], value, f"{path}[{index}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5), path
    else:
        assert found == expected, path


@pytest.mark.parametrize("version", VERSIONS)
def test_old_files_say_what_they_said(version: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / version
    shutil.copytree(GOLDEN / version, folder)
    same(answers(folder), json.loads((GOLDEN / version / ANSWERS).read_text()))
    assert "computed again" not in caplog.text  # the cached targets were taken as they are
    for name in FOLDERS:
        facts, damage = diagnose(folder / name)
        assert facts, name
        assert damage == [], name


def test_there_is_a_version_and_all_together_are_small() -> None:
    assert VERSIONS
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 2**20
