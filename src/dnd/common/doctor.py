"""Checks a folder that `dnd` wrote without opening anything that could run: sizes, digests, links, strangers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnd.common.errors import CorruptFileError, InputError
from dnd.common.files import MANIFEST, damaged_files, read_manifest
from dnd.common.runs import RUN_RECORD, run_id

KINDS = ("store", "teacher", "targets", "encoder", "predictor", "checkpoint", "screen")
_CODE = {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".py", ".so"}


def diagnose(folder: Path) -> tuple[list[str], list[str]]:
    """What a folder is and what is wrong with it.

    Args:
        folder: a store, a model, a checkpoint, or a run folder with `checkpoints/`.

    Returns:
        Lines that describe it and lines that name damage; no damage means it is fit for use.

    Raises:
        InputError: `folder` is not a folder, or `dnd` wrote nothing in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    is_sealed, is_run = (folder / MANIFEST).exists(), (folder / RUN_RECORD).exists()
    checkpoints = sorted((folder / "checkpoints").glob("*"))
    if not is_sealed and not checkpoints and not is_run:
        raise InputError(
            f"{folder} was not written by dnd", found="no manifest.json", expected="a store, a model or a run"
        )
    facts: list[str] = []
    damage: list[str] = []
    if is_sealed:
        _check_sealed(folder, facts, damage)
    own_id = _own_id(folder, damage) if is_run else None
    for part in checkpoints:
        if ".tmp-" in part.name:
            facts.append(f"{part}: incomplete, from a run that was killed; it is never read")
            continue
        manifest = _check_sealed(part, facts, damage)
        if own_id is not None and manifest is not None and manifest.get("run") != own_id:
            damage.append(f"{part} belongs to another run: found {manifest.get('run')}, expected {own_id}")
    unfinished = checkpoints or (folder / ".progress").is_dir() or not _results(folder)
    if not is_sealed and unfinished:
        facts.append(f"{folder}: an unfinished run; add --resume to the command that started it")
    elif not is_sealed:
        damage.append(f"{folder} has lost its {MANIFEST}, so these can't be checked: {', '.join(_results(folder))}")
    return facts, damage


def _results(folder: Path) -> list[str]:
    """Files that only a finished stage leaves behind when it has removed its checkpoints."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in {".safetensors", ".arrow", ".parquet"})


def _check_sealed(part: Path, facts: list[str], damage: list[str]) -> dict[str, Any] | None:
    try:
        manifest = read_manifest(part)
        facts.append(_describe(part, manifest))
        damage.extend(_strangers(part, manifest))
        damage.extend(damaged_files(part, manifest))
    except CorruptFileError as error:
        damage.append(str(error))
        return None
    return manifest


def _own_id(folder: Path, damage: list[str]) -> str | None:
    try:
        return run_id(folder)
    except CorruptFileError as error:
        damage.append(str(error))
        return None


def _describe(part: Path, manifest: dict[str, Any]) -> str:
    """One line of a manifest whose own digest is right, so its entries have the types that we wrote."""
    version, files, kind = manifest["versions"].get("dnd"), manifest["files"], manifest["kind"]
    named = kind if kind in KINDS else f"unknown kind {kind!r}"
    return f"{part}: {named}, format {manifest['format_version']}, {len(files)} files, by dnd {version}"


def _strangers(part: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """Links, and files that no manifest vouches for and that could carry code."""
    for path in sorted(part.iterdir()):
        if path.is_symlink():
            yield f"{path} is a symbolic link"
        elif path.suffix in _CODE and path.name not in manifest["files"]:
            yield f"{path} was not written by dnd and is never opened"
