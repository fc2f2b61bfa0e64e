"""Checks a folder that `dnd` wrote without opening anything that could run: sizes, digests, links, strangers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnd.common.errors import CorruptFileError, InputError
from dnd.common.files import MANIFEST, damaged_files, read_json
from dnd.common.run_record import RUN_RECORD

KINDS = ("store", "teacher", "encoder", "predictor", "checkpoint")


def diagnose(folder: Path) -> tuple[list[str], list[str]]:
    """What a folder is and what is wrong with it.

    Args:
        folder: a store, a model, a checkpoint, or a run folder with `checkpoints/`.

    Returns:
        Lines that describe it and lines that name damage; no damage means it is fit for use.

    Raises:
        InputError: `folder` is no folder, or nothing in it was written by `dnd`.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    sealed = [folder] if (folder / MANIFEST).exists() else []
    checkpoints = sorted(path for path in (folder / "checkpoints").glob("*-*") if path.is_dir())
    if not sealed and not checkpoints and not (folder / RUN_RECORD).exists():
        raise InputError(
            f"{folder} was not written by dnd", found="no manifest.json", expected="a store, a model or a run"
        )
    facts: list[str] = []
    damage: list[str] = []
    for part in sealed + checkpoints:
        try:
            manifest = read_json(part / MANIFEST)
            facts.append(_describe(part, manifest))
            damage.extend(damaged_files(part, manifest))
            damage.extend(_strangers(part, manifest))
        except CorruptFileError as error:
            damage.append(str(error))
    if not sealed:
        facts.append(f"{folder}: a run that has not finished; the command that started it goes on with --resume")
    return facts, damage


def _describe(part: Path, manifest: dict[str, Any]) -> str:
    versions = manifest.get("versions", {})
    files = manifest.get("files", {})
    kind = manifest.get("kind")
    named = kind if kind in KINDS else f"unknown kind {kind!r}"
    return f"{part}: {named}, format {manifest.get('format_version')}, {len(files)} files, by dnd {versions.get('dnd')}"


def _strangers(part: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """Files that no manifest vouches for and that could carry code."""
    for path in sorted(part.iterdir()):
        if path.is_symlink():
            yield f"{path} is a symbolic link"
        elif (
            path.suffix in {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".py", ".so"}
            and path.name not in manifest["files"]
        ):
            yield f"{path} was not written by dnd and is never opened"
