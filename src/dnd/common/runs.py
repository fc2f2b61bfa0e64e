"""What a run was: its command, resolved settings, seeds and versions, in `run.json` of its folder."""

from __future__ import annotations

import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dnd.common.errors import CorruptFileError, InputError
from dnd.common.files import MANIFEST, package_versions, verify_folder
from dnd.common.sealed_records import read_record, write_record

RUN_RECORD = "run.json"
# Settings that change neither the data, the order nor the arithmetic, so a resumed run may have others.
_FREE = {
    *("checkpoint_every", "checkpoint_seconds", "stop_after_s", "threads", "device", "log_every", "jobs"),
    *("skip_nonfinite", "allow_change"),
}

# What only the making of a folder needs: states of its trainings, teacher outputs, the levels that are compared.
_SCAFFOLDING = ("checkpoints", "member-*/checkpoints", "targets", "levels", ".work")


def write_run_record(folder: Path, settings: Mapping[str, Any]) -> str:
    """Record the command, the settings and the versions in `folder/run.json`.

    Returns:
        The identity of the run, which its checkpoints carry; see `run_id`.
    """
    record = {
        "command": _command(),
        "id": uuid.uuid4().hex,
        "settings": dict(settings),
        "started": _now(),
        "versions": package_versions(),
    }
    write_record(folder / RUN_RECORD, record)
    return str(record["id"])


def run_id(folder: Path) -> str:
    """The identity of the run that `folder/run.json` records.

    Raises:
        CorruptFileError: the record is missing or damaged.
    """
    return str(_read_record(folder)["id"])


def require_same_run(folder: Path, settings: Mapping[str, Any], *, allow_change: bool = False) -> list[str]:
    """Refuse to resume a run under other settings or other package versions.

    Args:
        folder: folder of the run.
        settings: those of now.
        allow_change: return the differences instead.

    Returns:
        The differences, one by one.

    Raises:
        InputError: there are differences and they are not allowed.
        CorruptFileError: the record is missing or damaged.
    """
    record = _read_record(folder)
    differences = list(_differences(record["settings"], dict(settings), ""))
    for name, version in package_versions().items():
        if name in ("dnd", "torch") and record["versions"].get(name) != version:
            differences.append(f"{name} {record['versions'].get(name)} → {version}")
    if differences and not allow_change:
        raise InputError(
            f"{folder} contains a run with other settings",
            found="; ".join(differences[:8]),
            next_step="Use the settings it was started with, or another folder; "
            "a training accepts others with --allow-change",
        )
    return differences


def begin_or_go_on(folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Record a new run in `folder`, or make sure that the one it holds is to be resumed under the same settings.

    Raises:
        InputError: there is a run and `resume` is not set, or its settings are others.
        CorruptFileError: the record is damaged.
    """
    if not (folder / RUN_RECORD).is_file():
        write_run_record(folder, settings)
        return
    if not resume:
        raise InputError(
            f"{folder} already contains a run", next_step="Add --resume to continue it, or choose another folder"
        )
    require_same_run(folder, settings)


def record_change(folder: Path, settings: Mapping[str, Any], differences: list[str]) -> None:
    """Record that the run in `folder` continues with `settings`; the earlier settings stay in `changes`."""
    record = _read_record(folder)
    changed = {"at": _now(), "command": _command(), "differences": differences}
    record |= {"settings": dict(settings), "versions": package_versions()}
    record["changes"] = [*record.get("changes", []), changed]
    write_record(folder / RUN_RECORD, record)


def _command() -> list[str]:
    return ["dnd", *sys.argv[1:]] if Path(sys.argv[0]).name == "dnd" else sys.argv


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _read_record(folder: Path) -> dict[str, Any]:
    record = read_record(folder / RUN_RECORD)
    parts = {"id": str, "settings": dict, "versions": dict}
    wrong = [name for name, kind in parts.items() if not isinstance(record.get(name), kind)]
    if wrong:
        raise CorruptFileError(f"{folder / RUN_RECORD} is not a run record", found=f"no {wrong[0]}")
    return record


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            unknown_then = key not in old and not new[key]  # a setting that came later, and that is off
            if key not in _FREE and not unknown_then:
                yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != (list(new) if isinstance(new, tuple) else new):
        yield f"{path} {old!r} → {new!r}"


def require_free(folder: Path, *, kind: str, resume: bool, beside: frozenset[str] = frozenset()) -> None:
    """Refuse a folder that holds something else, or an unfinished run unless it is to be resumed.

    Args:
        folder: to be made, to be resumed, or finished: see `already_finished` for the last.
        kind: kind of folder that is made, for the message.
        resume: whether a run may be gone on with.
        beside: names that may be there before a run begins.

    Raises:
        InputError: see above.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file", expected=f"a folder to make or a {kind} to resume")
    names = {path.name for path in folder.iterdir()} - {*beside, ".lock"} if folder.is_dir() else set()
    if MANIFEST in names:
        return
    if RUN_RECORD in names and not resume:
        raise InputError(f"{folder} contains an unfinished {kind}", next_step="Add --resume, or choose another folder")
    if names and RUN_RECORD not in names:
        found = ", ".join(sorted(names)[:5])
        raise InputError(f"{folder} is not empty", found=found, next_step="Choose another folder")


def already_finished(folder: Path, *, kind: str, format_version: int, resume: bool) -> bool:
    """Whether `folder` holds a finished, intact result of `kind`, so that there is nothing left to do.

    What a kill after its seal left beside it is removed.

    Raises:
        InputError: it does and `resume` is not set: a result is never overwritten.
        CorruptFileError: the folder is damaged or of another kind.
    """
    if not (folder / MANIFEST).exists():
        return False
    verify_folder(folder, kind=kind, format_version=format_version)
    if not resume:
        raise InputError(f"{folder} already contains a finished {kind}", next_step="Choose another folder")
    drop_scaffolding(folder)
    return True


def drop_scaffolding(folder: Path) -> None:
    """Remove what only the making of a sealed folder needed, also where a kill came between the seal and this."""
    for pattern in _SCAFFOLDING:
        for path in folder.glob(pattern):
            if path.parent == folder or not path.parent.is_symlink():  # what a link leads to is not ours
                shutil.rmtree(path, ignore_errors=True)
