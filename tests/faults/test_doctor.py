"""`dnd doctor` says what a folder is, whether it is sound and, if not, what is wrong with which file."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from children import model, training

from dnd.common.about import diagnose
from dnd.common.errors import InputError
from dnd.common.files import write_bytes, write_manifest
from dnd.common.runs import write_run_record


@pytest.fixture
def run_folder(scratch: Path) -> Path:
    """An unfinished run with two checkpoints."""
    for _ in range(3):
        training(scratch / "run", stop_after_s=0.0)
    return scratch / "run"


def test_sound_folders_are_described(scratch: Path, run_folder: Path) -> None:
    model(scratch / "model")
    facts, damage = diagnose(scratch / "model")
    assert damage == []
    assert len(facts) == 1
    assert "model: encoder, format 1, 3 files, by dnd" in facts[0]
    facts, damage = diagnose(run_folder)
    assert damage == []
    assert ["checkpoint, format 1" in line for line in facts] == [True, True, False]
    assert "an unfinished run" in facts[-1]
    assert diagnose(run_folder / "checkpoints" / "step-00000003")[1] == []


def test_a_run_that_was_killed_before_its_first_checkpoint_is_no_damage(scratch: Path) -> None:
    write_run_record(scratch / "run", {})
    facts, damage = diagnose(scratch / "run")
    assert damage == []
    assert "an unfinished run" in facts[0]


def swap_seals(folder: Path) -> None:
    first, second = sorted((folder / "checkpoints").glob("step-*"))
    shutil.copy(first / "manifest.json", second / "manifest.json")


def link(folder: Path) -> None:
    path = max((folder / "checkpoints").glob("step-*")) / "model.safetensors"
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere")


def unknown_file(folder: Path) -> None:
    (max((folder / "checkpoints").glob("step-*")) / "extra.pkl").write_bytes(pickle.dumps([1]))


def file_for_a_checkpoint(folder: Path) -> None:
    (folder / "checkpoints" / "step-00000009").write_text("x")


def newer_kind(folder: Path) -> None:
    path = max((folder / "checkpoints").glob("step-*"))
    write_manifest(path, kind="checkpoint", format_version=1, extra={"run": "another"})


def outside(folder: Path) -> None:
    path = max((folder / "checkpoints").glob("step-*"))
    (path / "manifest.json").write_text('{"files": {"../../x": {}}}')


DEEDS: dict[Callable[[Path], None], str] = {
    swap_seals: "was altered",
    link: "is a symbolic link",
    unknown_file: "extra.pkl was not written by dnd and is never opened",
    file_for_a_checkpoint: "step-00000009",
    newer_kind: "belongs to another run",
    outside: "manifest.json was altered",
}


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
def test_damage_to_a_run_is_named(run_folder: Path, deed: Callable[[Path], None]) -> None:
    deed(run_folder)
    damage = diagnose(run_folder)[1]
    assert any(DEEDS[deed] in line for line in damage), damage


def test_all_damage_is_listed_not_only_the_first(scratch: Path) -> None:
    model(scratch / "model")
    os.truncate(scratch / "model" / "config.json", 3)
    (scratch / "model" / "card.md").unlink()
    damage = diagnose(scratch / "model")[1]
    assert len(damage) == 2
    assert any("config.json has another size" in line for line in damage)
    assert any("card.md is missing" in line for line in damage)


def test_a_result_that_lost_its_seal_is_no_unfinished_run(scratch: Path) -> None:
    write_run_record(scratch, {})
    model(scratch)
    assert diagnose(scratch)[1] == []
    (scratch / "manifest.json").unlink()
    assert "has lost its manifest.json" in diagnose(scratch)[1][0]


@pytest.mark.parametrize("name", ["nowhere", "file", "empty"])
def test_what_dnd_never_wrote_is_refused(scratch: Path, name: str) -> None:
    write_bytes(scratch / "file", b"x")
    (scratch / "empty").mkdir()
    with pytest.raises(InputError):
        diagnose(scratch / name)
