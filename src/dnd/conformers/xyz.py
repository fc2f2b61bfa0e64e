"""XYZ files, single or with many molecules, and QM9's raw files with their own number format.

A frame is the number of atoms, a comment, one line per atom. A comment may hold `smiles=...` and `charge=...`. QM9's
frames (`dsgdb9nsd_NNNNNN.xyz`) have 15 properties in the comment, then the frequencies, the SMILES before and after
relaxation, and the InChIs; numbers may read `1.2*^-6`.
"""

from __future__ import annotations

import itertools
import math
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dnd.chemistry.limits import LIMITS
from dnd.chemistry.streams import open_bytes, text_lines
from dnd.common.errors import CorruptFileError, InputError
from dnd.conformers.records import ATOMIC_NUMBERS, Record, RecordSource, method_of, require_columns

QM9_PROPERTIES = (
    "A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u298", "h298", "g298", "cv",
)  # fmt: skip
"""Columns of a raw QM9 frame: GHz x3, Debye, Bohr^3, Hartree x3, Bohr^2, Hartree x5, cal/mol/K."""

_SMILES = re.compile(r"\bsmiles\s*[=:]\s*[\"']?([^\s\"']+)", re.IGNORECASE)
_CHARGE = re.compile(r"\bcharge\s*[=:]\s*([+-]?\d{1,3})\b", re.IGNORECASE)
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2")


def is_archive(path: Path) -> bool:
    """Whether the name is that of a tar archive."""
    return path.name.lower().endswith(_ARCHIVES)


def open_xyz(path: Path, target_columns: Sequence[str] = ()) -> RecordSource:
    """Open an XYZ file, a folder of them, or a tar archive of them (read as a stream).

    Args:
        path: the input.
        target_columns: names of `QM9_PROPERTIES`; other XYZ files have no targets.

    Raises:
        InputError: no frame, or a target column there is not.
        CorruptFileError: a damaged archive, or a file in it that is no XYZ.
    """
    frames = _frames_of(path)
    first = next(frames, None)
    if first is None:
        raise InputError(f"{path} holds no XYZ frame", expected="a line with the number of atoms, a comment, the atoms")
    is_qm9 = _is_qm9(first[1]) if len(first) > 1 else False
    require_columns(path.name, QM9_PROPERTIES if is_qm9 else (), target_columns)
    return RecordSource(path.name, _records(path.name, first, frames, tuple(target_columns)), True)


def parse_number(text: str) -> float:
    """A number in C's format or in Mathematica's (`1.2*^-6`); NaN for anything else."""
    try:
        return float(text.replace("*^", "e"))
    except ValueError:
        return math.nan


def _records(name: str, first: list[str], rest: Iterator[list[str]], wanted: tuple[str, ...]) -> Iterator[Record]:
    yield _record(0, name, first, wanted)
    for row, frame in enumerate(rest, start=1):
        yield _record(row, name, frame, wanted)


def _record(row: int, name: str, frame: list[str], wanted: tuple[str, ...]) -> Record:
    problem, num_atoms = _frame_problem(frame)
    if problem:
        return Record(row, name, "coordinates", targets=(math.nan,) * len(wanted), problem=problem)
    comment = frame[1]
    atoms = [line.split() for line in frame[2 : 2 + num_atoms]]
    is_qm9 = _is_qm9(comment)
    smiles: tuple[str, ...] = tuple(_SMILES.findall(comment)[:1])
    targets: tuple[float, ...] = ()
    if is_qm9:
        before, after = (*frame[num_atoms + 3].split(), "", "")[:2]
        smiles = tuple(
            dict.fromkeys(text for text in (after, before) if text)
        )  # the relaxed one has the geometry's stereo
        values = dict(zip(QM9_PROPERTIES, map(parse_number, comment.split()[2:]), strict=False))
        targets = tuple(values.get(column, math.nan) for column in wanted)
    charge = _CHARGE.search(comment)
    return Record(
        row=row,
        source=name,
        layout="coordinates",
        smiles=smiles,
        atomic_numbers_A=np.array([_atomic_number(atom[0]) for atom in atoms], dtype=np.int64),
        positions_A3=np.array([[parse_number(text) for text in atom[1:4]] for atom in atoms], dtype=np.float32),
        charge=int(charge.group(1)) if charge else 0,
        method="dft" if is_qm9 else method_of(name),
        targets=targets,
    )


def _frame_problem(frame: list[str]) -> tuple[str | None, int]:
    num_atoms = int(frame[0]) if frame[0].strip().isdecimal() else 0
    if not 1 <= num_atoms <= LIMITS.molblock_atoms:
        return f"number of atoms is {frame[0].strip()[:20]!r}, expected 1 to {LIMITS.molblock_atoms}", num_atoms
    if len(frame) < 2 + num_atoms + (2 if len(frame) > 1 and _is_qm9(frame[1]) else 0):
        return f"frame is cut off: {len(frame)} lines for {num_atoms} atoms", num_atoms
    for number, line in enumerate(frame[2 : 2 + num_atoms]):
        cells = line.split()
        if len(cells) < 4 or not _atomic_number(cells[0]):
            return f"atom {number} is not an element and three numbers: {line.strip()[:40]!r}", num_atoms
    return None, num_atoms


def _atomic_number(text: str) -> int:
    if text.isdecimal() and len(text) <= 3:
        return int(text) if int(text) <= len(ATOMIC_NUMBERS) else 0
    return ATOMIC_NUMBERS.get(text.capitalize(), 0)


def _is_qm9(comment: str) -> bool:
    return comment.startswith("gdb ") and len(comment.split()) == 2 + len(QM9_PROPERTIES)


def _frames_of(path: Path) -> Iterator[list[str]]:
    if path.is_dir():
        for file in sorted(path.glob("*.xyz")):
            yield from _frames(text_lines(open_bytes(file), file))
    elif is_archive(path):
        yield from _archive_frames(path)
    else:
        yield from _frames(text_lines(open_bytes(path), path))


def _frames(lines: Iterable[str]) -> Iterator[list[str]]:
    """Split lines into frames; lines where a number of atoms should be make one frame, up to the next number."""
    stream = (line.rstrip("\r\n") for line in lines)
    stray = ""
    for line in stream:
        num_atoms = int(line) if line.strip().isdecimal() and len(line.strip()) < 8 else 0
        if not num_atoms:
            stray = stray or line.strip()
            continue
        if stray:
            yield [stray]
            stray = ""
        frame = [line, next(stream, "")]
        rest = num_atoms + 3 if _is_qm9(frame[1]) else num_atoms
        yield frame + list(itertools.islice(stream, rest if num_atoms <= LIMITS.molblock_atoms else 0))
    if stray:
        yield [stray]


def _archive_frames(path: Path) -> Iterator[list[str]]:
    try:
        with tarfile.open(path, mode="r|*") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() and member.name.endswith(".xyz") else None
                if stream is not None:
                    text = stream.read(LIMITS.molblock_bytes).decode("utf-8", "replace")
                    yield from _frames(text.splitlines())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorruptFileError(f"{path} is a damaged archive", found=str(error)) from error
