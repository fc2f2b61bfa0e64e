"""SDF records as a stream, V2000 and V3000: text to records, records to mol blocks, mol blocks to molecules."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, Literal, cast

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem

from dnd.chemistry.molecule import LIMITS, InvalidMolecule, Molecule
from dnd.chemistry.parse import conformer_order, logged_reason, molecule_from_mol, relax
from dnd.common.errors import InputError, internal_reason
from dnd.tables.streams import byte_lines, is_counts_line, open_bytes

# SDF text split into records, without RDKit: a torn record can't swallow the next one.
#
# A record ends at `$$$$`, at the end of the file, or where the header of the next one begins.


_DELIMITER = b"$$$$"
_HEADER_LINES = 3  # title, program, comment; the counts line is the fourth
LIMIT_FIELD_NAME = 1024


@dataclass(frozen=True)
class SdfBlock:
    """One record of an SDF as text.

    Attributes:
        number: place in the file, from 0.
        title: first line of the record.
        molblock: text from the title to `M  END`, empty if there is a problem.
        properties: data fields by name, as text.
        problem: why the record can't be parsed, if its form shows it; None for a good one.
    """

    number: int
    title: str = ""
    molblock: str = ""
    properties: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


def read_sdf_blocks(path: str | Path, stream: IO[bytes] | None = None) -> Iterator[SdfBlock]:
    """Split an SDF (or a single mol file) into records, in order, in constant memory.

    Args:
        path: the file, gzipped or not; `-` is standard input.
        stream: stream to read instead of opening `path`, which is then used in messages only.

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


def _has_counts_line(lines: list[bytes]) -> bool:
    return any(map(is_counts_line, lines[: _HEADER_LINES + 2]))


def _is_end(line: bytes) -> bool:
    return line.rstrip() == b"M  END"


def _size_problem(size: int) -> str | None:
    limit = LIMITS.molblock_bytes
    return f"record of {size:,} bytes, at most {limit:,} are read" if size > limit else None


def _block(number: int, raw_lines: list[bytes], problem: str | None) -> SdfBlock:
    lines = [line.decode("utf-8", errors="dnd_latin_1").rstrip("\r\n") for line in raw_lines]
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

    It searches from both ends; a regular expression would take hours for a million `<` in a line.
    """
    start, end = line.find("<"), line.rfind(">")
    if not line.startswith(">") or not 0 < start < end or end - start > LIMIT_FIELD_NAME:
        return None
    return line[start + 1 : end]


def _properties(lines: list[str]) -> dict[str, str]:
    """Data fields: a line `> <name>`, then lines of text up to a blank one, or to the next such line.

    A name that a record has twice keeps both values, a line each: none is chosen, and as a label they are refused.
    """
    properties: dict[str, str] = {}
    name, text = None, list[str]()
    for line in [*lines, ""]:
        found = field_name(line)
        if name is not None and line.strip() and found is None:
            text.append(line)
            continue
        if name is not None:
            value = "\n".join(text)
            before = properties.get(name, value)
            properties[name] = value if before == value else f"{before}\n{value}"
        name, text = found, []
    return properties


# One mol block, V2000 or V3000, to a molecule in canonical order with its coordinates.


Dimension = Literal["3d", "2d", "none"]

LIMIT_COORDINATE = 1e4
"""Largest coordinate in angstrom, either sign; a molecule of 2,048 atoms in a line is 3,000 long."""

_FLAT = 1e-4  # angstrom; mol files carry four decimals
_V3000_COUNTS = re.compile(r"M  V30 COUNTS {1,8}(\d{1,9}) {1,8}(\d{1,9})(?!\d)")


@dataclass(frozen=True)
class ParsedBlock:
    """The content of a mol block.

    Attributes:
        outcome: the molecule, or the reason why there is none.
        dimension: `3d`, `2d` or `none`.
        positions_A3: `(atoms, 3)` in angstrom, or None where `dimension` isn't `3d`; graph atoms first, then hydrogens.
        atomic_numbers_A: `(atoms,)`, the element of each position.
    """

    outcome: Molecule | InvalidMolecule
    dimension: Dimension = "none"
    positions_A3: Float[np.ndarray, "atoms 3"] | None = None
    atomic_numbers_A: Int[np.ndarray, "atoms"] | None = None


def parse_molblock(block: str) -> ParsedBlock:
    """Parse the text of a mol file, from the title to `M  END`.

    Stereochemistry comes from the coordinates when they're 3D, else from the wedges and parities of the drawing.

    Args:
        block: the text, lines ended by newlines.
    """
    problem = _shape_problem(block)
    if problem is not None:
        return ParsedBlock(InvalidMolecule(problem, "limits", _title(block)))
    try:
        return _parse(block)
    except (RuntimeError, ValueError, IndexError, OverflowError) as error:  # conditions of RDKit's own
        reason = f"RDKit gave up: {' '.join(str(error).split())[:150]}"
        return ParsedBlock(InvalidMolecule(reason, "parse", _title(block)))


def _parse(block: str) -> ParsedBlock:
    mol = Chem.MolFromMolBlock(block, removeHs=False)
    if mol is None:
        mol = _read_relaxed(block)
    if isinstance(mol, InvalidMolecule):
        return ParsedBlock(mol)
    positions_A3 = mol.GetConformer().GetPositions()
    if not (np.abs(positions_A3) <= LIMIT_COORDINATE).all():  # not-a-number fails every comparison
        reason = f"a coordinate is not a number within {LIMIT_COORDINATE:g} angstrom"
        return ParsedBlock(InvalidMolecule(reason, "limits", _title(block)))
    outcome, order = molecule_from_mol(mol)
    if isinstance(outcome, InvalidMolecule):
        return ParsedBlock(InvalidMolecule(outcome.reason, outcome.stage, _title(block)))
    dimension = _dimension(block, positions_A3)
    if dimension != "3d":
        return ParsedBlock(outcome, dimension)
    order_A = conformer_order(mol, order)
    numbers_A = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64)
    return ParsedBlock(outcome, dimension, positions_A3[order_A], numbers_A[order_A])


def _title(block: str) -> str:
    return block.partition("\n")[0].strip()


def _shape_problem(block: str) -> str | None:
    """Why the counts and the number of lines can't belong together: a lying header costs RDKit seconds and memory."""
    lines = block.splitlines()
    if len(lines) < 4:
        return "mol block of fewer than 4 lines"
    if "\0" in block:
        return "mol block holds a null character"
    counts = _counts(lines)
    if counts is None:
        return f"counts line not understood: {lines[3][:40]!a}"
    atoms, bonds = counts
    if atoms > LIMITS.molblock_atoms:
        return f"{atoms} atoms announced, at most {LIMITS.molblock_atoms} are read"
    if atoms + bonds > len(lines) - 4:
        return f"{atoms} atoms and {bonds} bonds announced, {len(lines) - 5} lines follow: the record is cut off"
    return "no atom in the molecule" if atoms == 0 else None


def _counts(lines: list[str]) -> tuple[int, int] | None:
    """Atoms and bonds that a block announces; of V3000 the largest of all such lines, whichever RDKit believes."""
    line = lines[3]
    if line.rstrip().endswith("V3000"):
        announced = [one for one in lines[4:] if "COUNTS" in one.upper()]
        found = [match for one in announced if (match := _V3000_COUNTS.match(one)) is not None]
        if not found or len(found) < len(announced):
            return None
        return max(int(one[1]) for one in found), max(int(one[2]) for one in found)
    atoms, bonds = line[:3].strip(), line[3:6].strip()
    return (int(atoms), int(bonds)) if atoms.isdecimal() and bonds.isdecimal() else None


def _read_relaxed(block: str) -> Chem.Mol | InvalidMolecule:
    raw = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False)
    if raw is None:
        reason = logged_reason(lambda: Chem.MolFromMolBlock(block, sanitize=False, removeHs=False))
        return InvalidMolecule(reason, "parse", _title(block))
    relaxed = relax(raw, lambda: Chem.MolFromMolBlock(block, removeHs=False))
    if isinstance(relaxed, str):
        return InvalidMolecule(relaxed, "chemistry", _title(block))
    if raw.GetConformer().Is3D():
        Chem.AssignStereochemistryFrom3D(raw)
    return raw


def _dimension(block: str, positions_A3: Float[np.ndarray, "atoms 3"]) -> Dimension:
    """Coordinates are a drawing when every z is 0, unless the header says that a flat molecule is meant."""
    if len(positions_A3) > 1 and (np.ptp(positions_A3, axis=0) <= _FLAT).all():
        return "none"
    flat = bool((np.abs(positions_A3[:, 2]) <= _FLAT).all())
    says_3d = block.split("\n", 2)[1][20:22].upper() == "3D"
    return "2d" if flat and not says_3d and len(positions_A3) > 1 else "3d"


# SDF records as a stream: V2000 and V3000, gzipped or not, one outcome per record.
#
# The stream is split into blocks first, and parsed one block at a time. RDKit's own reader gives a single failure for a
# torn record and the good one after it.


@dataclass(frozen=True)
class SdfRecord:
    """One record of an SDF.

    Attributes:
        number: place in the file, from 0.
        outcome: the molecule, or the reason why there is none.
        title: first line of the record.
        properties: data fields by name, as text.
        dimension: `3d`, `2d` (a drawing: every z is 0) or `none` (no or coinciding coordinates).
        positions_A3: `(atoms, 3)` in angstrom, or None where `dimension` isn't `3d`. The first atoms are those of
            `outcome.mol`, in its order; then come the hydrogens of the file, grouped by the atom they're bound to.
        atomic_numbers_A: `(atoms,)`, the element of each position.
    """

    number: int
    outcome: Molecule | InvalidMolecule
    title: str = ""
    properties: dict[str, str] = field(default_factory=dict)
    dimension: Dimension = "none"
    positions_A3: Float[np.ndarray, "atoms 3"] | None = None
    atomic_numbers_A: Int[np.ndarray, "atoms"] | None = None


def read_sdf(path: str | Path, stream: IO[bytes] | None = None) -> Iterator[SdfRecord]:
    """Read the records of an SDF (or of a single mol file) in order, in constant memory.

    Args:
        path: the file, gzipped or not; `-` is standard input.
        stream: stream to read instead of opening `path`, which is then used in messages only.

    Raises:
        InputError: no such file, or no record in it; at the first step of the iteration.
        CorruptFileError: damaged gzip, after the records before the damage.
    """
    blocks = read_sdf_blocks(path, stream)
    first = next(blocks, None)
    if first is None:
        raise InputError(f"{path} contains no record", next_step="Check how it was made or copied")
    for block in itertools.chain([first], blocks):
        yield _record(block)


def _record(block: SdfBlock) -> SdfRecord:
    if block.problem is not None:
        return SdfRecord(block.number, InvalidMolecule(block.problem, "reader", block.title), block.title)
    try:
        parsed = parse_molblock(block.molblock)
    except Exception as error:  # one record never ends a file
        return SdfRecord(block.number, InvalidMolecule(internal_reason(error), "reader", block.title), block.title)
    return SdfRecord(
        block.number, parsed.outcome, block.title, block.properties, parsed.dimension, parsed.positions_A3,
        parsed.atomic_numbers_A,
    )  # fmt: skip
