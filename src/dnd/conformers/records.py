"""What every input becomes before chemistry sees it: a numbered record with its text, coordinates and targets.

RDKit is not imported here: records are read in the main process and turned into molecules in worker processes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
from jaxtyping import Float, Int

from dnd.common.errors import CorruptFileError, InputError
from dnd.tables.labels import LabelRules, NumberReader
from dnd.tables.readers import TableReader, read_table, require_columns

if TYPE_CHECKING:
    from dnd.conformers.quantum import QuantumLabel

Layout = Literal["smiles", "smiles_with_hydrogens", "coordinates", "molblock", "molblock_for_smiles"]


@dataclass(frozen=True)
class Record:
    """One entry of an input.

    Attributes:
        row: place in its source, from 0.
        source: file name of the source.
        layout: which data there are and how atoms correspond. `smiles`: no coordinates. `smiles_with_hydrogens`: row i
            of the coordinates is atom i of `AddHs(MolFromSmiles(smiles))`. `coordinates`: elements and positions in any
            order, SMILES perhaps. `molblock`: graph and conformer are both in the block. `molblock_for_smiles`: the
            graph is the SMILES', the block holds its coordinates in another atom order.
        smiles: one SMILES, or several, of which the first that fits the coordinates is used.
        molblock: mol block of an SDF record.
        atomic_numbers_A: elements, for the layouts with coordinates of their own.
        positions_A3: positions in angstrom, for the same layouts.
        charge: net charge that the file states; without one, coordinates without a SMILES are neutral.
        method: how the coordinates were made, for the store's `conformer_method`.
        targets: C values, NaN = missing.
        generated_JA3: J conformers that were generated beforehand, angstrom, atoms as `AddHs(canonical molecule)`.
        quantum: quantum label of the conformer, or the reason why there is none; None = not requested.
        problem: why the record can't be used, found while reading; None for a good one.
    """

    row: int
    source: str
    layout: Layout
    smiles: tuple[str, ...] = ()
    molblock: str = ""
    atomic_numbers_A: Int[np.ndarray, "atoms"] | None = None
    positions_A3: Float[np.ndarray, "atoms 3"] | None = None
    charge: int | None = None
    method: str = "file"
    targets: tuple[float, ...] = ()
    generated_JA3: Float[np.ndarray, "conformers atoms 3"] | None = None
    quantum: QuantumLabel | str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class RecordSource:
    """Records of one input.

    Attributes:
        name: file name.
        records: the records, read once, in order.
        has_coordinates: whether the format holds geometries.
        total: number of records where it's known without reading them.
    """

    name: str
    records: Iterator[Record]
    has_coordinates: bool
    total: int | None = None


def open_table(
    path: Path,
    smiles_column: str | None,
    wanted: Sequence[str],
    stream: BinaryIO | None = None,
    remembered: str | None = None,
) -> TableReader:
    """`read_table`, and `require_columns` of it; the file is closed again where a column is missing or repeated.

    Raises:
        InputError: see both.
    """
    reader = read_table(path, smiles_column=smiles_column, stream=stream, remembered=remembered)
    try:
        require_columns(path, reader.columns, wanted)
        for name in wanted:
            if name in reader.repeated:
                raise InputError(f"{path} has more than one column named {name!r}", next_step="Rename all but one")
    except InputError:
        reader.close()
        raise
    return reader


class TargetReader:
    """Numbers of the wanted columns, row by row, read as every verb reads labels; see `tables.labels`.

    Args:
        sample: the first rows, which settle how each column is written.
        wanted: names of the columns.
        comma_file: cells are separated by semicolons.

    Raises:
        InputError: a column may be read in two ways.
    """

    def __init__(self, sample: Sequence[Mapping[str, str]], wanted: Sequence[str], *, comma_file: bool = False) -> None:
        rules = LabelRules()
        self._readers = {
            name: NumberReader([row.get(name, "") for row in sample], name, rules, comma_file=comma_file)
            for name in wanted
        }

    def read(self, values: Mapping[str, str]) -> tuple[tuple[float, ...], str | None]:
        """The numbers, NaN where a cell is empty or says so, and what is wrong with them if anything."""
        targets, problem = [], None
        for name, reader in self._readers.items():
            value, own = reader.read(values.get(name, ""))
            if own is None and _is_rounded(value):
                own = f"target {name} has more digits than a store keeps: {values[name].strip()[:40]!r}"
            problem = problem or own
            targets.append(value)
        return tuple(targets), problem


def _is_rounded(value: float) -> bool:
    """Whether 32 bits change a number of more than 7 digits above 2^24, such as 16777217."""
    if not abs(value) >= 2**24 or float(np.float32(value)) == value:
        return False
    return len(repr(value).partition("e")[0].replace(".", "").lstrip("-").rstrip("0")) > 7


def method_of(name: str) -> str:
    """`dft` for the quantum-chemical data sets, which are known by their file names, else `file`."""
    return "dft" if name.lower().startswith(("qm9", "gdb9", "dsgdb9", "pcqm4m")) else "file"


PERIODIC_TABLE = (
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K",
    "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb",
    "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe", "Cs",
    "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta",
    "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa",
    "U", "Np", "Pu", "Am", "Cm", "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs", "Mt",
    "Ds", "Rg", "Cn", "Nh", "Fl", "Mc", "Lv", "Ts", "Og",
)  # fmt: skip
ATOMIC_NUMBERS = {symbol: number for number, symbol in enumerate(PERIODIC_TABLE, start=1)}


# Arrays in an .npz, packed or not.

_MOST_UNPACKED, _UNPACKED = 50, 256 * 2**20
"""How often the size of a file its arrays may be together, and what they may be whatever its size is."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file.

    Raises:
        CorruptFileError: it is no .npz, holds objects, or announces far more than it holds: zeros pack a thousandfold.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            unpacked = sum(entry.file_size for entry in archive.zip.infolist())
            if unpacked > max(_UNPACKED, _MOST_UNPACKED * path.stat().st_size):
                raise CorruptFileError(
                    f"{path} unpacks to far more than it holds", found=f"{unpacked:,} bytes",
                    expected=f"at most {_MOST_UNPACKED} times its size", next_step="Write it with np.savez",
                )  # fmt: skip
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, AttributeError, MemoryError) as error:
        raise CorruptFileError(f"{path} is not a readable .npz file", found=str(error)[:200]) from error
