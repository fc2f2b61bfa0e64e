"""One mol block, V2000 or V3000, to a molecule in canonical order with its coordinates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem

from dnd.chemistry.limits import LIMITS
from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.parse import conformer_order, molecule_from_mol
from dnd.chemistry.rdkit_log import logged_reason
from dnd.chemistry.relaxed import relax

Dimension = Literal["3d", "2d", "none"]

LIMIT_COORDINATE = 1e4
"""Largest coordinate in angstrom, either sign; a molecule of 2,048 atoms in a line is 3,000 long."""

_FLAT = 1e-4  # angstrom; mol files carry four decimals
_V3000_COUNTS = re.compile(r"M  V30 COUNTS {1,8}(\d{1,9}) {1,8}(\d{1,9})(?!\d)")


@dataclass(frozen=True)
class ParsedBlock:
    """What a mol block holds.

    Attributes:
        outcome: the molecule, or why there is none.
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
