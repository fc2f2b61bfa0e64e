"""Records that carry their own checksum: what a run that stopped left behind is believed only with one.

A record is a JSON object with an entry `check`, the first digits of the SHA-256 of the object without it, written in
one form only; a file of version 0.1.0 has none and is known by its other form. So a flipped bit anywhere in it is seen,
and so is a line that a kill cut off. A folder that is finished has a manifest for that; these are the journals, logs
and progress files of one that is not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dnd.common.errors import CorruptFileError
from dnd.common.files import (
    LIMIT_JSON_BYTES,
    json_text,
    open_own,
    parse_json,
    read_plain_file,
    storage_errors,
    write_bytes,
)

_CHECK = "check"
_DIGITS = 16
LIMIT_LOG_BYTES = 2**31


def sealed_line(record: Mapping[str, Any]) -> bytes:
    """One line with `record` and its checksum; NaN and infinity are refused."""
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
