"""SDF records as a stream: V2000 and V3000, gzipped or not, one outcome per record.

Records are split here and parsed one block at a time. RDKit's own reader gives a single failure for a torn record and
the good one after it, so a record also ends where the header of the next begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Int

from dnd.chemistry.limits import LIMITS
from dnd.chemistry.molblock import Dimension, parse_molblock
from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.streams import byte_lines, open_bytes
from dnd.common.errors import InputError

_DELIMITER = b"$$$$"
_COUNTS_LINE = re.compile(rb"^[ \d]{3}[ \d]{3}.{27,}V[23]000\s*$")
_HEADER_LINES = 3  # title, program, comment; the counts line is the fourth
_DATA_HEADER = re.compile(r"^>.*?<(.*)>")


@dataclass(frozen=True)
class SdfRecord:
    """One record of an SDF.

    Attributes:
        number: place in the file, from 0.
        outcome: the molecule, or why there is none.
        title: first line of the record.
        properties: data fields by name, as text.
        dimension: `3d`, `2d` (a drawing: every z is 0) or `none` (no or coinciding coordinates).
        positions_A3: `(atoms, 3)` in angstrom, or None where `dimension` isn't `3d`. Atom `i` is atom `i` of
            `outcome.mol` as far as that goes; then the hydrogens of the file, grouped by the atom they're bound to.
        atomic_numbers_A: `(atoms,)`, the element of each position.
    """

    number: int
    outcome: Molecule | InvalidMolecule
    title: str = ""
    properties: dict[str, str] = field(default_factory=dict)
    dimension: Dimension = "none"
    positions_A3: Float[np.ndarray, "atoms 3"] | None = None
    atomic_numbers_A: Int[np.ndarray, "atoms"] | None = None


def read_sdf(path: str | Path) -> Iterator[SdfRecord]:
    """Read the records of an SDF (or of a single mol file) in order, in constant memory.

    Args:
        path: the file, gzipped or not; `-` is standard input.

    Raises:
        InputError: no such file, or no record in it; at the first step of the iteration.
        CorruptFileError: damaged gzip, after the records before the damage.
    """
    number = -1
    for number, (lines, problem) in enumerate(_split(open_bytes(path), path)):  # counts the records
        yield _record(number, lines, problem)
    if number < 0:
        raise InputError(f"{path} holds no record", expected="at least one molecule")


def _split(stream: BinaryIO, path: str | Path) -> Iterator[tuple[list[bytes], str | None]]:
    """Lines of each record, and why it can't be parsed when that is seen from its shape."""
    lines: list[bytes] = []
    size = 0
    for line in byte_lines(stream, path):
        if line.rstrip() == _DELIMITER:
            yield lines, _size_problem(size)
            lines, size = [], 0
            continue
        if _COUNTS_LINE.match(line) and _has_counts_line(lines):
            start = max(len(lines) - _HEADER_LINES, 0)
            yield lines[:start], "record is cut off: the header of the next one follows"
            lines = lines[start:]
            size = sum(map(len, lines))
        size += len(line)
        if size <= LIMITS.molblock_bytes:
            lines.append(line)
    if any(line.strip() for line in lines):
        yield lines, _size_problem(size)


def _has_counts_line(lines: list[bytes]) -> bool:
    return any(map(_COUNTS_LINE.match, lines[: _HEADER_LINES + 2]))


def _size_problem(size: int) -> str | None:
    limit = LIMITS.molblock_bytes
    return f"record of {size:,} bytes, at most {limit:,} are read" if size > limit else None


def _record(number: int, raw_lines: list[bytes], problem: str | None) -> SdfRecord:
    lines = [line.decode("utf-8", errors="replace").rstrip("\r\n") for line in raw_lines]
    title = lines[0].strip() if lines else ""
    end = next((index for index, line in enumerate(lines) if line.rstrip() == "M  END"), None)
    if problem is None and not any(line.strip() for line in lines):
        problem = "empty record"
    if problem is None and end is None:
        problem = "record has no line 'M  END'; it's cut off or no mol block"
    if problem is not None or end is None:
        return SdfRecord(number, InvalidMolecule(problem or "", "reader", title), title)
    block = parse_molblock("\n".join(lines[: end + 1]) + "\n")
    return SdfRecord(
        number, block.outcome, title, _properties(lines[end + 1 :]), block.dimension, block.positions_A3,
        block.atomic_numbers_A,
    )  # fmt: skip


def _properties(lines: list[str]) -> dict[str, str]:
    """Data fields: a line `> <name>`, then lines of text up to a blank one. A repeated name keeps its first value."""
    properties: dict[str, str] = {}
    name, text = None, list[str]()
    for line in [*lines, ""]:
        header = _DATA_HEADER.match(line)
        if name is None and header is not None:
            name, text = header.group(1), []
        elif name is not None and line.strip():
            text.append(line)
        elif name is not None:
            properties.setdefault(name, "\n".join(text))
            name = None
    return properties
