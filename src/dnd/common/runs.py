"""What a run was, in `run.json` of its folder; records with a checksum and the journal of them; watched inputs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from dnd.common.errors import CorruptFileError, InputError
from dnd.common.files import (
    LIMIT_JSON_BYTES,
    MANIFEST,
    called,
    json_text,
    open_own,
    package_versions,
    parse_json,
    read_manifest,
    read_plain_file,
    sha256_file,
    storage_errors,
    told_names,
    verify_folder,
    write_bytes,
)

# Records that carry their own checksum: what a run that stopped left behind is believed only with one.
#
# A record is a JSON object with an entry `check`, the first digits of the SHA-256 of the object without it, written in
# one form only; a file of version 0.1.0 has none and is known by its other form. So a flipped bit anywhere in it is
# seen, and so is a line that a kill cut off. A folder that is finished has a manifest for that; these are the journals,
# logs and progress files of one that is not.

_CHECK = "check"
_DIGITS = 16
LIMIT_LOG_BYTES = 2**31


def sealed_line(record: Mapping[str, Any]) -> bytes:
    """One line with `record` and its checksum; NaN and infinity are refused."""
    with told_names():
        return _text({**record, _CHECK: _digest(record)})


def read_line(line: bytes) -> dict[str, Any] | None:
    """The record of a line, with its end; None where the line is not, byte for byte, what `sealed_line` makes."""
    try:
        value = json.loads(line)
        if not isinstance(value, dict) or _text(value) != line or value.pop(_CHECK, None) != _digest(value):
            return None
    except (ValueError, RecursionError):
        return None
    return value


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write one record as a file of its own, atomically."""
    write_bytes(path, sealed_line(record))


def read_record(path: Path) -> dict[str, Any]:
    """The record of a file that `write_record` wrote.

    Raises:
        CorruptFileError: the file is missing or is not, byte for byte, what was written.
    """
    content = read_plain_file(path, LIMIT_JSON_BYTES)
    record = read_line(content)
    if record is not None:
        return record
    old = parse_json(content, path)  # says more where it is no JSON at all
    if _CHECK in old or json_text(old).encode() != content:
        raise CorruptFileError(f"{path} was altered", expected="contents that match its checksum")
    return old


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The sound records of a file of lines, in order, and the number of lines that are damaged; none without a file."""
    if not path.exists():
        return [], 0
    lines = read_plain_file(path, LIMIT_LOG_BYTES).splitlines(keepends=True)
    records = [record for line in lines if (record := read_line(line)) is not None]
    if not records:
        records = [record for line in lines if (record := _read_old_line(line)) is not None]
    return records, len(lines) - len(records)


def _read_old_line(line: bytes) -> dict[str, Any] | None:
    """A line of version 0.1.0, which had no checksums; it is believed only where no line of the file has one."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _CHECK not in value else None


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record durably, with one write.

    Raises:
        StorageError: the disk is full or read-only; earlier lines are intact.
        InputError: the file is a link.
    """
    line = sealed_line(record)
    with storage_errors(path):
        descriptor = open_own(path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lines_of(records: Iterable[Mapping[str, Any]]) -> bytes:
    """The content of a file of lines."""
    return b"".join(map(sealed_line, records))


def _text(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(record)).hexdigest()[:_DIGITS]


# What an unfinished folder already has: its files in order, so that a killed run goes on where it stopped.

PROGRESS = ".progress"


@dataclass(frozen=True, kw_only=True)
class SealedFile:
    """Entry of a journal; a subclass adds what is counted in the file.

    Attributes:
        sha256: SHA-256 of the file.
    """

    sha256: str

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The entry of a record that `asdict` gave.

        Raises:
            TypeError: a field is missing or unknown.
        """
        return cls(**record)


Entry = TypeVar("Entry", bound=SealedFile)


class Journal(Generic[Entry]):
    """Numbered files of a folder under construction; the entry of each is written after it.

    A file counts only where its entry matches its own checksum and the file matches the digest in the entry. What a
    kill tore or a disk altered is cut off, with all that came after it, and is made again.

    Args:
        folder: under construction.
        kind: class of the entries.
        file: name of a file in the folder, with a place for its number.
        entry: the same for its entry.

    Attributes:
        folder: as above.
        entries: those of the intact files from number 0 on.
    """

    def __init__(self, folder: Path, kind: type[Entry], *, file: str, entry: str = PROGRESS + "/{:05d}.json") -> None:
        self.folder, self._kind, self._file, self._entry = folder, kind, file, entry
        self.entries: list[Entry] = []
        while (found := self._read(len(self.entries))) is not None:
            self.entries.append(found)

    def file(self, number: int) -> Path:
        """Where file `number` lies."""
        return self.folder / self._file.format(number)

    @property
    def next_file(self) -> Path:
        """Where to write the next file."""
        return self.file(len(self.entries))

    def append(self, entry: Entry) -> None:
        """Write the entry of the next file, which is in its place."""
        number = len(self.entries)
        with storage_errors(self.folder):  # what lay behind a cut need not go on from this file
            self._path(number + 1).unlink(missing_ok=True)
        write_record(self._path(number), asdict(entry))
        self.entries.append(entry)

    def remove(self) -> None:
        """Forget all entries, after the folder is sealed or given up."""
        with storage_errors(self.folder):
            shutil.rmtree(self.folder / PROGRESS, ignore_errors=True)

    def _path(self, number: int) -> Path:
        """Where the entry of file `number` lies."""
        return self.folder / self._entry.format(number)

    def _read(self, number: int) -> Entry | None:
        """The entry of an intact file."""
        path, file = self._path(number), self.file(number)
        if not path.is_file() or not file.is_file():
            return None
        try:
            entry = self._kind.from_record(read_record(path))
        except (CorruptFileError, KeyError, TypeError):
            return None
        return entry if sha256_file(file) == entry.sha256 else None


# Inputs that must not change while they are read: what is sealed under their digests has to be what came of them.

_State = tuple[int, int, int]


class WatchedInputs:
    """Files and what describes each, taken at the start of a run and compared at its end.

    Args:
        paths: files or folders; of a folder nothing is watched.
        describe: gives name, size and digest of one.

    Attributes:
        descriptions: descriptions of all inputs, in order.

    Raises:
        InputError: one is a named pipe or a device, or changes already.
    """

    def __init__(self, paths: Sequence[Path], describe: Callable[[Path], dict[str, Any]]) -> None:
        self._paths, self._describe = paths, describe
        for path in paths:
            require_file(path)
        self._states = [_state(path) for path in paths]
        self.descriptions = [describe(path) for path in paths]
        self.require_unchanged()

    def require_unchanged(self) -> None:
        """Raise an error if a file was written to since the beginning.

        Raises:
            InputError: a file has another size or time of change; which one.
        """
        for path, before, description in zip(self._paths, self._states, self.descriptions, strict=True):
            now = _state(path)
            # The time of the inode changes with rights and links as well; then the content decides.
            if now == before or (now and before and now[:2] == before[:2] and self._describe(path) == description):
                continue
            raise InputError(
                f"{path} changed while it was read",
                next_step="Wait until nothing writes to it, then start again in another folder",
            )


class MappedFile:
    """A file whose verified content is mapped into memory, and which somebody may write to meanwhile.

    Another file in its place changes nothing, since a map keeps the one that it was made of. One that is cut short in
    place would end the process by a signal when the lost part is read, and one that is overwritten would change what
    was verified; so the state of the file is compared before each batch is read from it.

    Args:
        path: before its content is verified.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._before = path, _place_and_state(path)

    def require_mapped(self) -> None:
        """Make sure that what was mapped is what was verified.

        Raises:
            CorruptFileError: there is another file now, or it was written to.
        """
        if self._before is None or _place_and_state(self._path) != self._before:
            raise self._changed()

    def require_unchanged(self) -> None:
        """Refuse to read on from a file that was written to; one that was removed or replaced is still as it was.

        Raises:
            CorruptFileError: it has another size or time of change.
        """
        now = _place_and_state(self._path)
        if now != self._before and now and self._before and now[:2] == self._before[:2]:
            raise self._changed()

    def _changed(self) -> CorruptFileError:
        return CorruptFileError(
            f"{self._path} changed while it was read",
            next_step="Restore it or make it again, then continue with --resume",
        )


def require_file(path: Path) -> None:
    """Refuse what can be read once only, where it has to be read more than once.

    Raises:
        InputError: `path` is a named pipe, a device or a socket.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(
            f"{path} is a named pipe or a device",
            expected="a file, which can be read more than once",
            next_step="Save it to a file first",
        )


def _state(path: Path) -> _State | None:
    """Size, time of the content and time of the inode; None where there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns) if stat.S_ISREG(found.st_mode) else (0, 0, 0)


def _place_and_state(path: Path) -> tuple[int, int, int, int] | None:
    """Device, inode, size and time of the content; None where there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


RUN_RECORD = "run.json"
# Settings that change neither the data, the order nor the arithmetic, so a resumed run may have others.
_FREE = {
    *("checkpoint_every", "checkpoint_seconds", "stop_after_s", "threads", "device", "log_every", "jobs"),
    *("skip_nonfinite", "allow_change"),
}

# What only the making of a folder needs: states of its trainings, teacher outputs, the levels that are compared.
_SCAFFOLDING = ("checkpoints", "member-*/checkpoints", "targets", "levels", ".work", PROGRESS)


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
        InputError: the run is one of another verb, or there are differences and they are not allowed.
        CorruptFileError: the record is missing or damaged.
    """
    record = _read_record(folder)
    own, others = _names_of(settings), _names_of(record["settings"])
    if 2 * len(own & others) < max(len(own), len(others)):  # a version or two may add some
        made_by = record.get("command")
        raise InputError(
            f"{folder} contains a run of another command",
            found=" ".join(map(str, made_by[:2])) if isinstance(made_by, list) else None,
            next_step="Choose another folder with --out",
        )
    differences = list(_differences(record["settings"], dict(settings), ""))
    for name, version in package_versions().items():
        if name in ("dnd", "torch") and record["versions"].get(name) != version:
            differences.append(f"{name} {record['versions'].get(name)} → {version}")
    if differences and not allow_change:
        raise InputError(
            f"{folder} contains a run with other settings",
            found="; ".join(differences[:8]),
            next_step="Use the settings it was started with, or another folder; "
            "the training of one student or teacher accepts others with --allow-change",
        )
    return differences


def _names_of(settings: Mapping[str, Any]) -> set[str]:
    """Names of settings, by which the verbs differ, those under `settings` too."""
    inner = settings.get("settings")
    return {*settings, *(f"settings.{name}" for name in inner)} if isinstance(inner, Mapping) else set(settings)


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


def count_changes(folder: Path) -> int:
    """How often the run in `folder` went on with other settings; see `record_change`."""
    return len(_read_record(folder).get("changes", []))


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
        raise InputError(f"{folder} is a file", expected=f"a folder to make or a {called(kind)} to resume")
    names = {path.name for path in folder.iterdir()} - {*beside, ".lock"} if folder.is_dir() else set()
    if MANIFEST in names:
        return
    if RUN_RECORD in names and not resume:
        raise InputError(
            f"{folder} contains an unfinished {called(kind)}", next_step="Add --resume, or choose another folder"
        )
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
    if read_manifest(folder).get("kind") != kind:
        refuse_finished(folder)
    verify_folder(folder, kind=kind, format_version=format_version)
    if not resume:
        refuse_finished(folder)
    drop_scaffolding(folder)
    return True


def refuse_finished(folder: Path) -> None:
    """Refuse a folder that holds a finished result, whatever its kind and state: a result is never overwritten.

    Raises:
        InputError: it does.
        CorruptFileError: its manifest can't be read.
    """
    if (folder / MANIFEST).exists():
        kind = called(str(read_manifest(folder).get("kind")))
        raise InputError(f"{folder} already contains a finished {kind}", next_step="Choose another folder")


def drop_scaffolding(folder: Path) -> None:
    """Remove what only the making of a sealed folder needed, also where a kill came between the seal and this."""
    for pattern in _SCAFFOLDING:
        for path in folder.glob(pattern):
            if path.parent == folder or not path.parent.is_symlink():  # what a link leads to is not ours
                shutil.rmtree(path, ignore_errors=True)
