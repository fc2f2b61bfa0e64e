"""Durable files: all or nothing, sealed folders, names that leave the folder."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

from dnd.common import files
from dnd.common.errors import CorruptFileError, InputError, StorageError
from dnd.common.files import folder_lock


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    files.write_bytes(folder / "weights.bin", bytes(range(256)))
    files.write_json(folder / "config.json", {"width": 8})
    files.write_manifest(folder, kind="encoder", format_version=1, extra={"note": "x"})
    return folder


def verify(folder: Path) -> dict:
    return files.verify_folder(folder, kind="encoder", format_version=1)


def test_a_sealed_folder_verifies_and_returns_its_manifest(sealed: Path) -> None:
    manifest = verify(sealed)
    assert manifest["note"] == "x"
    assert set(manifest["files"]) == {"weights.bin", "config.json"}
    assert manifest["versions"]["torch"].startswith("2.")


@pytest.mark.parametrize("position", range(0, 256, 15))
def test_every_flipped_bit_is_found(sealed: Path, position: int) -> None:
    data = bytearray((sealed / "weights.bin").read_bytes())
    data[position] ^= 1 << (position % 8)
    (sealed / "weights.bin").write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"weights\.bin was altered"):
        verify(sealed)


@pytest.mark.parametrize("length", [0, 1, 100, 255])
def test_every_truncation_is_found(sealed: Path, length: int) -> None:
    os.truncate(sealed / "weights.bin", length)
    with pytest.raises(CorruptFileError, match="another size"):
        verify(sealed)


def test_missing_foreign_and_newer_folders_are_named(sealed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(CorruptFileError, match="found encoder, expected teacher"):
        files.verify_folder(sealed, kind="teacher", format_version=1)
    files.write_manifest(sealed, kind="encoder", format_version=2)
    with pytest.raises(CorruptFileError, match="Upgrade dnd"):
        verify(sealed)
    (sealed / files.MANIFEST).unlink()
    with pytest.raises(CorruptFileError, match="not a finished encoder"):
        verify(sealed)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a\0b"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorruptFileError):
        files.safe_join(tmp_path, name)


def test_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(CorruptFileError, match="symbolic link"):
        files.safe_join(tmp_path, "link")


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": ', "nan", "[" * 100_000])
def test_json_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(CorruptFileError):
        files.read_json(tmp_path / "x.json")


def test_a_pickle_is_not_opened_as_a_model(tmp_path: Path) -> None:
    from dnd.common.model_folder import read_tensors

    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {canary}",)

    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CorruptFileError, match="safetensors"):
        read_tensors(tmp_path / "model.safetensors")
    assert not canary.exists()


def test_a_full_disk_keeps_the_old_file_and_leaves_no_scraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    files.write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"state\.json.*No space left"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_a_folder_in_use_names_its_holder(tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path),
        pytest.raises(InputError, match=f"in use by process {os.getpid()}"),
        folder_lock(tmp_path),
    ):
        pass
