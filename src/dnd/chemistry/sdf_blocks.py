"""SDF text split into records, without RDKit: a torn record can't swallow the next one.

A record ends at `$$$$`, at the end of the file, or where the header of the next one begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, cast

from dnd.chemistry.limits import LIMITS
from dnd.chemistry.streams import byte_lines, open_bytes

SDF_ENDINGS = (".sdf", ".sd", ".mol", ".mdl")
_DELIMITER = b"$$$$"
_COUNTS = frozenset(b" 0123456789")
_SHORTEST_COUNTS_LINE = 38  # two counts of three places, others, and the version
_HEADER_LINES = 3  # title, program, comment; the counts line is the fourth
LIMIT_FIELD_NAME = 1024


@dataclass(frozen=True)
class SdfBlock:
    """One record of an SDF as text.

    Attributes:
        number: place in the file, from 0.
        title: first line of the record.
        molblock: text from the title to `M  END`, empty where there is a problem.
        properties: data fields by name, as text.
        problem: why the record can't be parsed, where that is seen from its shape; None for a good one.
    """

    number: int
    title: str = ""
    molblock: str = ""
    properties: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


def is_sdf(path: str | Path) -> bool:
    """Whether the name of a file says that it's an SDF or mol file, gzipped or not."""
    return str(path).lower().removesuffix(".gz").endswith(SDF_ENDINGS)


def read_sdf_blocks(path: str | Path, stream: IO[bytes] | None = None) -> Iterator[SdfBlock]:
    """Split an SDF (or a single mol file) into records, in order, in constant memory.

    Args:
        path: the file, gzipped or not; `-` is standard input.
        stream: where to read instead of opening `path`, which then only serves messages.

    Raises:
        InputError: no such file; at the first step of the iteration.
        CorruptFileError: damaged gzip, after the records before the damage.
    """
    for number, (lines, problem) in enumerate(_split(cast(BinaryIO, stream or open_bytes(path)), path)):
        yield _block(number, lines, problem)


def _split(stream: BinaryIO, path: str | Path) -> Iterator[tuple[list[bytes], str | None]]:
    """Lines of each record, and why it can't be parsed when that is seen from its shape."""
    lines: list[bytes] = []
    size = 0
    for line in byte_lines(stream, path):
        if line.rstrip() == _DELIMITER:
            yield lines, _size_problem(size)
            lines, size = [], 0
            continue
        if is_counts_line(line) and _has_counts_line(lines):
            start = max(len(lines) - _HEADER_LINES, 0)
            whole = any(map(_is_end, lines[:start]))  # only its $$$$ is missing
            yield lines[:start], None if whole else "record is cut off: the header of the next one follows"
            lines = lines[start:]
            size = sum(map(len, lines))
        size += len(line)
        if size <= LIMITS.molblock_bytes:
            lines.append(line)
    if any(line.strip() for line in lines):
        yield lines, _size_problem(size)


def is_counts_line(line: bytes) -> bool:
    """Whether a line is the fourth of a mol block, by which an SDF is known."""
    text = line.rstrip()
    known = text.endswith((b"V2000", b"V3000")) and len(text) >= _SHORTEST_COUNTS_LINE
    return known and _COUNTS.issuperset(text[:6])


def _has_counts_line(lines: list[bytes]) -> bool:
    return any(map(is_counts_line, lines[: _HEADER_LINES + 2]))


def _is_end(line: bytes) -> bool:
    return line.rstrip() == b"M  END"


def _size_problem(size: int) -> str | None:
    limit = LIMITS.molblock_bytes
    return f"record of {size:,} bytes, at most {limit:,} are read" if size > limit else None


def _block(number: int, raw_lines: list[bytes], problem: str | None) -> SdfBlock:
    lines = [line.decode("utf-8", errors="replace").rstrip("\r\n") for line in raw_lines]
    title = lines[0].strip() if lines else ""
    end = next((index for index, line in enumerate(lines) if line.rstrip() == "M  END"), None)
    if problem is None and not any(line.strip() for line in lines):
        problem = "empty record"
    if problem is None and end is None:
        problem = "record has no line 'M  END'; it's cut off or no mol block"
    if problem is not None or end is None:
        return SdfBlock(number, title, problem=problem)
    return SdfBlock(number, title, "\n".join(lines[: end + 1]) + "\n", _properties(lines[end + 1 :]))


def field_name(line: str) -> str | None:
    """The name of the data field that a line `> 1 <name>` begins: between its first `<` and its last `>`; else None.

    By searches from both ends and not by a regular expression, which takes hours for a million `<` in a line.
    """
    start, end = line.find("<"), line.rfind(">")
    if not line.startswith(">") or not 0 < start < end or end - start > LIMIT_FIELD_NAME:
        return None
    return line[start + 1 : end]


def _properties(lines: list[str]) -> dict[str, str]:
    """Data fields: a line `> <name>`, then lines of text up to a blank one. A repeated name keeps its first value."""
    properties: dict[str, str] = {}
    name, text = None, list[str]()
    for line in [*lines, ""]:
        found = field_name(line)
        if name is None and found is not None:
            name, text = found, []
        elif name is not None and line.strip():
            text.append(line)
        elif name is not None:
            properties.setdefault(name, "\n".join(text))
            name = None
    return properties
