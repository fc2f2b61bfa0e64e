"""SDF records as a stream: V2000 and V3000, gzipped or not, one outcome per record.

Records are split by `sdf_blocks.py` and parsed one block at a time. RDKit's own reader gives a single failure for a
torn record and the good one after it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float, Int

from dnd.chemistry.molblock import Dimension, parse_molblock
from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.sdf_blocks import SdfBlock, read_sdf_blocks
from dnd.common.errors import InputError
from dnd.common.row_errors import internal_reason


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


def read_sdf(path: str | Path, stream: IO[bytes] | None = None) -> Iterator[SdfRecord]:
    """Read the records of an SDF (or of a single mol file) in order, in constant memory.

    Args:
        path: the file, gzipped or not; `-` is standard input.
        stream: where to read instead of opening `path`, which then only serves messages.

    Raises:
        InputError: no such file, or no record in it; at the first step of the iteration.
        CorruptFileError: damaged gzip, after the records before the damage.
    """
    blocks = read_sdf_blocks(path, stream)
    first = next(blocks, None)
    if first is None:
        raise InputError(f"{path} holds no record", next_step="Check how it was made or copied")
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
