"""The only place that writes durable files, and the lock of a run folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import platform
import shutil
import stat
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from dnd import __version__
from dnd.common.errors import CorruptFileError, InputError, StorageError

# Which versions made an artefact; recorded in every store, checkpoint, model and result.


_PACKAGES = ("torch", "rdkit", "pyarrow", "numpy", "safetensors", "scikit-learn")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result; read from metadata, so nothing heavy is imported."""
    return {"python": platform.python_version(), "dnd": __version__, **{name: version_of(name) for name in _PACKAGES}}


@cache
def version_of(package: str) -> str:
    """The version of a package that is installed, else `not installed`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a machine without RDKit
        return "not installed"


# The only place that writes durable files.
#
# Each write goes to a temporary file beside the target, then flush, fsync, rename, fsync of the folder. A folder that
# must be trusted later carries `manifest.json` with the size and SHA-256 of each of its files, because neither Arrow
# IPC nor safetensors notices a flipped bit.


MANIFEST = "manifest.json"
LIMIT_JSON_BYTES = 64 * 2**20
_AGAIN = "then run the command again, with --resume if it has that option"
_SPACE = f"Free space or choose another folder, {_AGAIN}"
_RIGHTS = f"Choose a folder that you may write to, {_AGAIN}"
_REMEDIES = {
    errno.EACCES: _RIGHTS, errno.EPERM: _RIGHTS, errno.EROFS: _RIGHTS,
    errno.EIO: f"Check the disk or choose another folder, {_AGAIN}",
}  # fmt: skip
_LONGEST_NAME = 255
"""Bytes of the name of a file, beyond which no disk has one."""

STORAGE_ERRNO = {errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES, errno.EPERM}
_PATH_ERRNO = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's write failures on `path` into errors that name it.

    Raises:
        StorageError: the disk is full, read-only or failing.
        InputError: the path can't be: a file where a folder must be or the reverse, a name too long.
    """
    try:
        yield
    except OSError as error:
        if error.errno in STORAGE_ERRNO:
            raise StorageError(
                f"cannot write {path}",
                found=os.strerror(error.errno or 0),
                next_step=_REMEDIES.get(error.errno or 0, _SPACE),
            ) from error
        if error.errno in _PATH_ERRNO:
            raise InputError(
                f"cannot write {path}", found=os.strerror(error.errno or 0), next_step="Choose another path"
            ) from error
        raise


def _make_folder(folder: Path) -> None:
    """Create `folder` and its parents so that they survive a power cut."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part.

    Raises:
        StorageError: the disk is full, read-only or failing; no temporary file is left.
    """
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; renames it over `path` on success, removes it on failure.

    For writers that want a path or a stream of their own (Arrow, Parquet, safetensors).
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with storage_errors(path):
        _make_folder(path.parent)
        _require_plain_target(path)
        try:
            temporary.unlink(missing_ok=True)
            os.close(open_own(temporary, os.O_WRONLY | os.O_EXCL))
            yield temporary
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def open_own(path: Path, flags: int) -> int:
    """Open a file of ours for writing, made if it is missing, and return its descriptor.

    Nothing is followed: a link in a folder that somebody sent could lead to any file of the user's.

    Raises:
        InputError: `path` is a link, hard or symbolic, or no regular file.
    """
    no_wait = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_CREAT | no_wait, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _not_plain(path) from error
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise _not_plain(path)
    return descriptor


def _require_plain_target(path: Path) -> None:
    """Refuse to put a file in the place of a link, a device or a pipe."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a folder fails later, in words of its own
            raise _not_plain(path)


def _not_plain(path: Path) -> InputError:
    return InputError(
        f"{path} is a link or not a regular file, so dnd does not write to it",
        next_step="Remove it or choose another path",
    )


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; see `write_bytes`."""
    with told_names():
        content = text.encode("utf-8")
    write_bytes(path, content)


@contextlib.contextmanager
def told_names() -> Iterator[None]:
    """Text that can't be written is the name of a file in an unknown encoding, which no file of ours can hold.

    Raises:
        InputError: there is such a name.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        name = error.object[: error.start].rpartition('"')[2] + error.object[error.start :].partition('"')[0]
        raise InputError(
            "a name can't be written down",
            found=repr(name[:200]),
            expected="names in UTF-8",
            next_step="Rename the file or folder",
        ) from None


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON with sorted keys; NaN and infinity are refused."""
    write_text(path, json_text(value))


def json_text(value: object) -> str:
    """`value` as `write_json` writes it."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CorruptFileError: the file is missing, larger than 64 MiB, not JSON or not an object.
    """
    return parse_json(read_plain_file(path, LIMIT_JSON_BYTES), path)


def read_plain_file(path: Path, limit_bytes: int) -> bytes:
    """The content of a regular file, read once.

    Raises:
        CorruptFileError: the file is missing, larger than `limit_bytes`, a named pipe or a device, or not readable.
    """
    try:
        # Not blocking, so that a named pipe is seen to be one and not waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise CorruptFileError(f"{path} is not a regular file")
            content = stream.read(limit_bytes + 1)
    except FileNotFoundError as error:
        raise CorruptFileError(
            f"{path} is missing", next_step=f"Check the folder with `dnd doctor {path.parent}`"
        ) from error
    except OSError as error:
        raise CorruptFileError(f"{path} cannot be read", found=error.strerror) from error
    if len(content) > limit_bytes:
        raise CorruptFileError(f"{path} is too large", expected=f"at most {limit_bytes} bytes")
    return content


def _finite(text: str) -> float:
    """A number of a JSON file; `NaN` and `1e999` are rejected, since we never write them."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _one_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two entries of one name each reader would take another, so they are rejected."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)[:40]!r} twice in one object")
    return value


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """A JSON object from the content of `path`.

    Raises:
        CorruptFileError: it is not JSON or not an object, or one of its objects has an entry twice.
    """
    try:
        value = json.loads(
            content.decode("utf-8"), parse_float=_finite, parse_constant=_finite, object_pairs_hook=_one_of_each
        )
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} is not valid JSON", found=str(error)) from error
    if not isinstance(value, dict):
        raise CorruptFileError(f"{path} is not a JSON object", found=type(value).__name__)
    return value


def sha256_file(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        CorruptFileError: the file can't be read.
    """
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CorruptFileError(f"{path} cannot be read", found=error.strerror) from error


def safe_join(folder: Path, name: str) -> Path:
    """`folder / name` for a file that lies in `folder` itself.

    Raises:
        CorruptFileError: `name` is absolute, names another folder, is too long, has control characters, or is a link.
    """
    if Path(name).name != name or name in ("", ".."):
        raise CorruptFileError(f"{folder} names a file outside itself", found=repr(name[:100]))
    if not name.isprintable() or len(os.fsencode(name)) > _LONGEST_NAME:
        raise CorruptFileError(f"{folder} names a file that dnd does not write", found=repr(name[:100]))
    path = folder / name
    if path.is_symlink():
        raise CorruptFileError(f"{path} is a symbolic link", expected="a plain file")
    return path


def write_manifest(folder: Path, *, kind: str, format_version: int, extra: Mapping[str, object] | None = None) -> None:
    """Seal `folder`: record size and SHA-256 of every file in it (`checkpoints/` and logs excluded).

    The manifest carries a digest of itself, because its own entries (hydrogens, counts) are read and trusted too.

    Args:
        folder: a folder whose files are complete.
        kind: what it is: `store`, `checkpoint`, `teacher`, `encoder`, `predictor`.
        format_version: raised when the layout of this kind changes.
        extra: further entries, such as counts.
    """
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST and path.suffix != ".jsonl" and not path.name.startswith(".")
    }
    entry = {"kind": kind, "format_version": format_version, "files": files, "versions": package_versions()}
    write_text(folder / MANIFEST, _with_digest({**(extra or {}), **entry}))


def _with_digest(manifest: Mapping[str, object]) -> str:
    content = {name: value for name, value in manifest.items() if name != "digest"}
    digest = hashlib.sha256(json_text(content).encode()).hexdigest()
    return json_text({**content, "digest": digest})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed folder, checked against its own digest to the last byte.

    Raises:
        CorruptFileError: it is missing, linked or altered.
    """
    path = safe_join(folder, MANIFEST)
    manifest = read_json(path)
    try:
        intact = path.read_bytes() == _with_digest(manifest).encode()
    except ValueError:  # it holds what no JSON of ours holds, such as a lone surrogate or 1e999
        intact = False
    if not intact:
        raise CorruptFileError(f"{path} was altered", expected="contents that match its digest")
    return manifest


def read_sealed(folder: Path, manifest: Mapping[str, Any], name: str) -> bytes:
    """The content of a file of a sealed folder as its manifest vouches for it, whatever happens to the file later.

    Raises:
        CorruptFileError: the manifest does not list the file, or the file has changed.
    """
    entry = manifest["files"].get(name)
    if not isinstance(entry, dict) or not isinstance(entry.get("bytes"), int):
        raise CorruptFileError(f"the manifest of {folder} does not list {name}")
    content = read_plain_file(safe_join(folder, name), entry["bytes"])
    if hashlib.sha256(content).hexdigest() != entry.get("sha256"):
        raise CorruptFileError(
            f"{folder / name} changed while it was read", next_step="Wait until it is copied, then try again"
        )
    return content


def verify_folder(folder: Path, *, kind: str, format_version: int) -> dict[str, Any]:
    """Check every file of a sealed folder against its manifest and return the manifest.

    Raises:
        InputError: there is no such folder.
        CorruptFileError: another kind or a newer format, a file missing, resized, altered or linked.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", expected=f"a {called(kind)} folder", next_step=_where_from(kind))
    if not (folder / MANIFEST).is_file():
        raise CorruptFileError(
            f"{folder} is not a finished {called(kind)}",
            found="no manifest.json",
            next_step=f"{_where_from(kind)}; resume an interrupted run with --resume",
        )
    manifest = read_manifest(folder)
    if manifest.get("kind") != kind:
        raise CorruptFileError(
            f"{folder} is of another kind",
            found=called(str(manifest.get("kind"))),
            expected=called(kind),
            next_step=_where_from(kind),
        )
    version = manifest.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= format_version:
        newer = isinstance(version, int) and version > format_version
        raise CorruptFileError(
            f"{folder} has an unknown format",
            found=version,
            expected=f"1 to {format_version}",
            next_step="Upgrade dnd" if newer else _where_from(kind),
        )
    for problem in damaged_files(folder, manifest):
        raise CorruptFileError(problem, next_step=f"`dnd doctor {folder}` lists all damage")
    return manifest


def called(kind: str) -> str:
    """A kind of folder as messages call it: files and programs say `predictor`, people say model."""
    return "model" if kind == "predictor" else kind


def _where_from(kind: str) -> str:
    verbs = {"store": "prepare", "teacher": "denoise", "encoder": "distill", "predictor": "finetune"}
    return f"Name a folder that `dnd {verbs[kind]}` made" if kind in verbs else "Name a folder that dnd made"


def damaged_files(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line for every file of `folder` that is not what `manifest` says."""
    files = manifest.get("files")
    if not isinstance(files, dict):
        yield f"{folder / MANIFEST} lists no files"
        return
    for name, entry in files.items():
        path = safe_join(folder, name)
        if not path.is_file():
            yield f"{path} is not a regular file" if path.exists() else f"{path} is missing"
        elif not isinstance(entry, dict) or path.stat().st_size != entry.get("bytes"):
            expected = entry.get("bytes") if isinstance(entry, dict) else entry
            yield f"{path} has another size: found {path.stat().st_size} bytes, expected {expected}"
        elif (digest := sha256_file(path)) != entry.get("sha256"):
            yield f"{path} was altered: found sha256 {digest[:12]}…, expected {str(entry.get('sha256'))[:12]}…"


@contextlib.contextmanager
def building_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; renames it to `target` on success, removes it on failure."""
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    with storage_errors(target):
        shutil.rmtree(temporary, ignore_errors=True)
        _make_folder(target.parent)
        temporary.mkdir()
        try:
            yield temporary
            fsync_folder(temporary)
            os.rename(temporary, target)
            fsync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to start a run that would fill the disk.

    Raises:
        StorageError: fewer than `needed_bytes` are free where `folder` is (or will be).
    """
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise StorageError(
            f"not enough disk space for {folder}", found=f"{free:,} bytes free", expected=f"{needed_bytes:,}"
        )


# One process per run folder; what a killed one left half-written in it goes when the next one comes.


_held: list[TextIO] = []
"""What this process holds."""


def _let_go() -> None:
    """In a forked child: close what the parent holds, or a child that outlives it would hold the folder."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in _held:  # still open for Python, which closes it once more
        os.dup2(nothing, stream.fileno())
    os.close(nothing)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def _require_no_links(folder: Path) -> None:
    """Refuse a folder with links to folders in it: what is written or removed through one lies elsewhere.

    A link to a file is found where it is opened: none is followed for writing, and none is taken for a sealed file.
    """
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(parent, name)
            if path.is_symlink():
                raise InputError(
                    f"{path} is a symbolic link", expected="a real folder, since dnd writes to it",
                    next_step="Remove the link, or replace it with the folder that it points to",
                )  # fmt: skip


def _is_scrap(name: str) -> bool:
    """Whether it is one of the temporary names of `common.files.replacing`."""
    before, _, number = name.rpartition(".tmp-")
    return len(before) > 1 and before.startswith(".") and number.isdecimal()


_last_held: list[Path] = []


def last_held_folder() -> Path | None:
    """The folder that was let go last: of a command that was stopped, the one it worked in."""
    return _last_held[0] if _last_held else None


def forget_held_folder() -> None:
    """Begin a new command: folders of commands before it in this process are not its own."""
    _last_held.clear()


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; a second run on it is refused with the holder's process number.

    The lock goes with the process, however it ends. Temporary files in the folder are then nobody's and are removed.

    Raises:
        InputError: another process holds the folder, or there is a link to a folder in it.
        StorageError: the folder can't be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _require_no_links(folder)
        stream = os.fdopen(open_own(folder / ".lock", os.O_RDWR), "r+")
    _held.append(stream)
    try:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise InputError(f"{folder} is in use by process {stream.read().strip() or 'unknown'}") from error
        except OSError as error:
            raise StorageError(
                f"{folder} can't be locked", found=error.strerror, next_step="Use a folder on a disk that has locks"
            ) from error
        with storage_errors(folder):
            stream.seek(0)
            stream.truncate()
            stream.write(str(os.getpid()))
            stream.flush()
            for path in folder.iterdir():
                if _is_scrap(path.name) and path.is_file():
                    path.unlink()
        yield
    finally:
        _last_held[:] = [folder]
        _held.remove(stream)
        with contextlib.suppress(OSError):  # also for forked children that have not let go yet
            fcntl.flock(stream, fcntl.LOCK_UN)
        with contextlib.suppress(OSError):  # a full disk: the number that could not be written is tried again
            stream.close()
