"""Files of conformers as one stream of records: SDF, `.npz` arrays, XYZ, QM9's and PCQM4Mv2's own files.

Over 500 lines, since the formats share how a file is known, how its labels are read and what a record is.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from dnd.chemistry.identity import connectivity_key
from dnd.chemistry.molecule import LIMITS
from dnd.chemistry.parse import parse_smiles
from dnd.common.errors import CorruptFileError, InputError
from dnd.conformers.records import (
    ATOMIC_NUMBERS,
    Record,
    RecordSource,
    TargetReader,
    method_of,
    open_table,
    read_arrays,
)
from dnd.tables.molecules import field_names, standard_input_head
from dnd.tables.readers import Row, TableReader, column_by_name, kind_of, read_plain_table, require_columns
from dnd.tables.sdf import SdfBlock, parse_molblock, read_sdf_blocks
from dnd.tables.streams import SAVE_AS_CSV, STANDARD_INPUT, is_counts_line, is_sdf, is_workbook, open_bytes, text_lines

# SDF files as records: any SDF, QM9's `gdb9.sdf` with its table, PCQM4Mv2's training SDF with its table.
#
# `pcqm4m-v2-train.sdf` has heavy atoms only, in an order that is not the SMILES' one; record i belongs to row i of
# `data.csv.gz`, whose SMILES are what OGB's graphs are made of. So the graph comes from the table and the coordinates
# from the SDF, and row i stays row i.


_ROWS_TO_SETTLE, _RECORDS_TO_SETTLE = 1000, 100  # that settle how numbers are written
_IDS = {"mol_id", "molecule_id", "compound_id", "id", "name", "title", "mol", "molecule", "compound", "identifier"}
_PCQM_TABLES = ("data.csv.gz", "data.csv", "raw/data.csv.gz", "pcqm4m-v2/raw/data.csv.gz")


def open_sdf(path: Path, target_columns: Sequence[str] = (), stream: BinaryIO | None = None) -> RecordSource:
    """Open an SDF; targets are its data fields, or the columns of `NAME.csv` beside it (as `gdb9.sdf.csv`).

    Args:
        path: the file.
        target_columns: data fields or columns.
        stream: where to read instead, once only; then the fields of the first records are those there are.

    Raises:
        InputError: no record, or a target there is not; records and rows beside it that don't belong together; or a
            target that some records lack and both files have.
    """
    wanted = tuple(target_columns)
    blocks, first = _peeked(path, read_sdf_blocks(path, stream), _RECORDS_TO_SETTLE if wanted else 1)
    fields = list(dict.fromkeys(name for block in first for name in block.properties))
    table = _table_beside(path)
    missing = [name for name in wanted if name not in fields]
    sample = [block.properties for block in first]
    if missing and stream is None:
        fields = field_names(path, open_bytes(path))
        told = (block.properties for block in read_sdf_blocks(path) if set(wanted) & set(block.properties))
        sample = list(itertools.islice(told, _ROWS_TO_SETTLE)) or sample
    if stream is None and table.is_file():
        _refuse_two_places(path, table, [name for name in wanted if name in fields])
    if missing and not set(wanted) & set(fields) and stream is None and table.is_file():
        return RecordSource(path.name, _with_labels_beside(path, table, blocks, first, wanted), True)
    require_columns(path.name, fields, wanted)
    reader = TargetReader(sample, wanted)
    return RecordSource(path.name, (_sdf_record(path.name, block, reader, block.properties) for block in blocks), True)


def _table_beside(path: Path) -> Path:
    """`NAME.sdf.csv` of `NAME.sdf`, and of `NAME.sdf.gz` too, which may also be called `NAME.sdf.gz.csv`.

    Raises:
        InputError: a packed file has both.
    """
    own, unpacked = (path.with_name(f"{name}.csv") for name in (path.name, path.name.removesuffix(".gz")))
    if own != unpacked and own.is_file() and unpacked.is_file():
        raise InputError(
            f"two tables may hold the labels of {path.name}", found=f"{own.name} and {unpacked.name}",
            expected="one of them", next_step="Rename the other",
        )  # fmt: skip
    return own if own.is_file() else unpacked


def _refuse_two_places(path: Path, table: Path, fields: Sequence[str]) -> None:
    """Refuse a label that is a data field of some records and a column beside them too.

    Raises:
        InputError: a record lacks a field that the table beside has as a column.
    """
    with read_plain_table(table) as rows:
        shared = [name for name in fields if name in rows.columns]
    for block in read_sdf_blocks(path) if shared else ():
        lacking = [name for name in shared if name not in block.properties]
        if lacking:
            raise InputError(
                f"{lacking[0]!r} is a data field of {path.name} and a column of {table.name}",
                found=f"record {block.number} lacks the field",
                expected="the labels in one place",
                next_step=f"Rename {table.name}, or take the field out of the SDF",
            )


def is_pcqm4mv2(path: Path) -> bool:
    """Whether this is PCQM4Mv2's training SDF, packed or not, by its name."""
    return path.name.lower().startswith("pcqm4m-v2-train.sdf")


def open_pcqm4mv2(
    path: Path, table: Path | None = None, target_columns: Sequence[str] = (), smiles_column: str | None = None
) -> RecordSource:
    """Open `pcqm4m-v2-train.sdf` or its .tar.gz together with `data.csv(.gz)`.

    Args:
        path: the SDF.
        table: the CSV; looked for beside the SDF when None.
        target_columns: columns of the CSV.
        smiles_column: the CSV's column of SMILES; None = found.

    Raises:
        InputError: no CSV, no record, more records than rows, a row of another record, or a column there is not.
    """
    table = table or next((path.parent / name for name in _PCQM_TABLES if (path.parent / name).is_file()), None)
    if table is None:
        raise InputError(
            f"{path} needs its table of SMILES", expected="data.csv.gz beside it or among the inputs",
            next_step="Its records have no SMILES of their own",
        )  # fmt: skip
    blocks, _ = _peeked(path, _archive_blocks(path) if is_archive(path) else read_sdf_blocks(path), 1)
    reader = open_table(table, smiles_column, target_columns)
    records = _joined(path, table, blocks, iter(reader), tuple(target_columns))
    return RecordSource(path.name, records, True)


def _peeked(path: Path, blocks: Iterator[SdfBlock], count: int) -> tuple[Iterator[SdfBlock], list[SdfBlock]]:
    first = list(itertools.islice(blocks, count))
    if not first:
        raise InputError(f"{path} contains no record", next_step="Check how it was made or copied")
    return itertools.chain(first, blocks), first


def _sdf_record(
    name: str, block: SdfBlock, reader: TargetReader, values: Mapping[str, str], problem: str | None = None
) -> Record:
    targets, own = reader.read(values)
    return Record(
        row=block.number,
        source=name,
        layout="molblock",
        molblock=block.molblock,
        method=method_of(name),
        targets=targets,
        problem=block.problem or problem or own,
    )


def _joined(
    path: Path, table: Path, blocks: Iterator[SdfBlock], rows: Iterator[Row], wanted: tuple[str, ...]
) -> Iterator[Record]:
    """Record i with row i, which says so itself where the table numbers its rows in a column `idx`."""
    sample = list(itertools.islice(rows, _ROWS_TO_SETTLE))
    reader, rows = TargetReader([row.values for row in sample], wanted), itertools.chain(sample, rows)
    for block in blocks:
        row = next(rows, None)
        if row is None:
            raise InputError(f"{path} has more records than {table} has rows", found=f"record {block.number}")
        if row.values.get("idx", str(block.number)) != str(block.number):
            raise InputError(
                f"row {row.place} of {table} does not belong to record {block.number} of {path}",
                found=f"idx {row.values['idx']}",
                expected="the rows in the order of the records, none left out",
            )
        targets, problem = reader.read(row.values)
        yield Record(
            row=block.number,
            source=path.name,
            layout="molblock_for_smiles",
            smiles=(row.smiles,),
            molblock=block.molblock,
            method=method_of(path.name),
            targets=targets,
            problem=block.problem or row.problem or problem,
        )


def _with_labels_beside(
    path: Path, table: Path, blocks: Iterator[SdfBlock], first: Sequence[SdfBlock], wanted: tuple[str, ...]
) -> Iterator[Record]:
    """Records with the rows of a table beside them: by id where titles are ids of the table, else one by one.

    Where the table has a column of SMILES, a record and its row are one molecule, or the record is rejected.

    Raises:
        InputError: a column there is not, an id that two rows have; or no ids, and other numbers of rows and records.
    """
    with read_plain_table(table) as rows:
        require_columns(table.name, rows.columns, wanted)
        named = [name for name in rows.columns if name.lower() in _IDS and name not in wanted]
        (told, *_) = [*(rows.columns[place] for place in column_by_name(rows.columns)), ""]
        read = [*wanted, *([told] if told else [])]
        kept = [([row.values[name] for name in named], {name: row.values[name] for name in read}) for row in rows]
        comma_file = rows.style.delimiter == ";"
    reader = TargetReader([values for _, values in kept[:_ROWS_TO_SETTLE]], wanted, comma_file=comma_file)
    ids = _id_column(table, named, [own for own, _ in kept], [block.title for block in first])
    if ids is not None:
        by_id = {own[named.index(ids)]: values for own, values in kept if own[named.index(ids)]}
        if len(by_id) < len(kept):
            raise InputError(f"{table} has a repeated or an empty id", found=f"{len(kept)} rows, column {ids}")
        return (
            _sdf_record(
                path.name, block, reader, row := by_id[block.title], _other_molecule(block, row.get(told), table)
            )
            if block.title in by_id
            else _sdf_record(path.name, block, reader, {}, f"{table.name} has no row {block.title[:40]!r}")
            for block in blocks
        )
    count = sum(1 for _ in read_sdf_blocks(path))
    if count != len(kept):
        raise InputError(
            f"{path.name} and {table.name} can't be joined", found=f"{count} records and {len(kept)} rows",
            expected="titles of the records in a column of ids, or as many rows as records",
        )  # fmt: skip
    places: dict[str, set[int]] = {}
    for number, (own, _) in enumerate(kept):
        for one in filter(None, own):
            places.setdefault(_loose(one), set()).add(number)
    return (
        _sdf_record(
            path.name, block, reader, row,
            _other_row(block, number, places, table) or _other_molecule(block, row.get(told), table),
        )
        for number, (block, (_, row)) in enumerate(zip(blocks, kept, strict=True))
    )  # fmt: skip


def _id_column(table: Path, named: Sequence[str], rows: Sequence[Sequence[str]], titles: Sequence[str]) -> str | None:
    """The column of ids that has the titles of records; None where there is none.

    Raises:
        InputError: two columns have them, and say of a title that it belongs to different rows.
    """
    found: dict[str, dict[str, int]] = {}
    for column, name in enumerate(named):
        places = {own[column]: number for number, own in enumerate(rows) if own[column]}
        if any(title in places for title in titles if title):
            found[name] = places
    for one, other in itertools.pairwise(found):
        differing = [title for title in titles if found[one].get(title) != found[other].get(title)]
        if differing:
            raise InputError(
                f"two columns of {table} have titles of the records as ids", found=f"{one} and {other}",
                expected=f"one row for {differing[0][:40]!r}", next_step="Rename the column that is not the id",
            )  # fmt: skip
    return next(iter(found), None)


def _loose(text: str) -> str:
    """An id as programs change it on the way: letter case, signs between, leading zeros and `.0` don't count."""
    plain = re.sub(r"\.0$", "", text.strip().casefold())
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\W_]+", "-", plain))


def _other_row(block: SdfBlock, number: int, places: Mapping[str, set[int]], table: Path) -> str | None:
    """Why the row of the same number is not that of a record: the table has its title, written otherwise, elsewhere."""
    others = places.get(_loose(block.title), {number}) if block.title else {number}
    return None if number in others else f"{table.name} has its title {block.title[:40]!r}, as it seems, in another row"


def _other_molecule(block: SdfBlock, smiles: str | None, table: Path) -> str | None:
    """Why the row beside a record is not that of the record; None where both are one molecule, or one can't be read."""
    told, own = parse_smiles(smiles or ""), parse_molblock(block.molblock).outcome
    if not (told.ok and own.ok):
        return None
    if told.smiles == own.smiles or connectivity_key(told.mol) == connectivity_key(own.mol):
        return None
    return f"its row of {table.name} is another molecule: {told.smiles[:100]}"


class _Forward(io.RawIOBase):
    """A file of an archive that is read as a stream; the archive's own object can't tell that it can't seek."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _archive_blocks(path: Path) -> Iterator[SdfBlock]:
    try:
        with tarfile.open(path, mode="r|*") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() and member.name.endswith(".sdf") else None
                if stream is not None:
                    yield from read_sdf_blocks(path, io.BufferedReader(_Forward(stream)))
                    return
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorruptFileError(f"{path} is a damaged archive", found=str(error)) from error


# Conformers as flat arrays in an .npz: `Z`, `R`, `n_atoms`, `smiles`, and labels as `props` and `names`.
#
# Molecule k owns `n_atoms[k]` consecutive rows of `Z` and `R`, in the order of `AddHs(MolFromSmiles(smiles))`. `R` is
# float32 in angstrom or int16 in 0.001 angstrom. `mmff`, where there is one, says by which force field a generated
# conformer was relaxed. Labels may lie in a second file beside, `qm9_props.npz` for `qm9_3d.npz`.


_NEEDED = ("Z", "R", "n_atoms", "smiles")
_MILLI = np.float32(0.001)


def open_arrays(path: Path, target_columns: Sequence[str] = ()) -> RecordSource:
    """Open an .npz of conformers.

    Args:
        path: the file.
        target_columns: labels wanted, by name.

    Raises:
        CorruptFileError: no readable .npz, or its arrays do not fit together.
        InputError: it lacks an array or a label.
    """
    arrays = read_arrays(path)
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        raise InputError(f"{path} lacks the arrays {missing}", found=sorted(arrays), expected=list(_NEEDED))
    _require_fitting(path, arrays)
    counts = arrays["n_atoms"].astype(np.int64)
    targets = _targets(path, arrays, target_columns)
    return RecordSource(path.name, _array_records(path.name, arrays, counts, targets), True, len(counts))


def _require_fitting(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays that can't hold molecules one after another.

    Raises:
        CorruptFileError: their shapes do not fit together.
        InputError: an array has values of the wrong type.
    """
    counts, positions = arrays["n_atoms"], arrays["R"]
    if arrays["Z"].dtype.kind not in "iu" or counts.dtype.kind not in "iu":
        kinds = f"Z {arrays['Z'].dtype}, n_atoms {counts.dtype}"
        raise InputError(
            f"{path} has atomic numbers or atom counts that are not whole", found=kinds, expected="integers"
        )
    if positions.dtype != np.int16 and positions.dtype.kind != "f":
        raise InputError(f"{path} has positions of an unknown type", found=positions.dtype, expected="float32 or int16")
    if arrays["smiles"].dtype.kind not in "SU":
        raise InputError(f"{path} has SMILES that are not text", found=arrays["smiles"].dtype, expected="strings")
    total, molecules = int(counts.sum(dtype=np.int64)), counts.shape
    wanted = {"R": (total, 3), "Z": (total,), "smiles": molecules, **({"mmff": molecules} if "mmff" in arrays else {})}
    if counts.ndim != 1 or counts.min(initial=0) < 0 or any(arrays[name].shape != own for name, own in wanted.items()):
        shapes = ", ".join(f"{name} {arrays[name].shape}" for name in ("n_atoms", *wanted))
        raise CorruptFileError(
            f"the arrays of {path} do not fit together",
            found=shapes,
            expected=f"{total} atoms of {counts.size} molecules",
        )


def label_names(path: Path) -> list[str]:
    """Names of the labels of an .npz of conformers, in it or beside it.

    Raises:
        CorruptFileError: the file is not a readable .npz, or the names of its labels are not a list.
    """
    return _names(path, _labels(path, read_arrays(path)))


def _array_records(
    name: str, arrays: dict[str, np.ndarray], counts: np.ndarray, targets: np.ndarray | None
) -> Iterator[Record]:
    offsets = np.concatenate([[0], np.cumsum(counts)])
    with np.errstate(over="ignore"):  # a record with an infinite coordinate is a misfit
        positions = arrays["R"] if arrays["R"].dtype == np.int16 else arrays["R"].astype(np.float32, copy=False)
    numbers, smiles, relaxed_by_mmff = arrays["Z"], arrays["smiles"], arrays.get("mmff")
    for row, (begin, end) in enumerate(pairwise(offsets.tolist())):
        positions_A3 = positions[begin:end]
        method = method_of(name)
        if relaxed_by_mmff is not None:
            method = "etkdg+mmff94s" if relaxed_by_mmff[row] else "etkdg+uff"
        yield Record(
            row=row,
            source=name,
            layout="smiles_with_hydrogens",
            smiles=(_text(smiles[row]),),
            atomic_numbers_A=numbers[begin:end].astype(np.int64),
            positions_A3=positions_A3 * _MILLI if positions.dtype == np.int16 else positions_A3,
            method=method,
            targets=() if targets is None else tuple(targets[row].tolist()),
        )


def _targets(path: Path, arrays: dict[str, np.ndarray], wanted: Sequence[str]) -> np.ndarray | None:
    if not wanted:
        return None
    labels = _labels(path, arrays)
    names = _names(path, labels)
    require_columns(path.name, names, wanted)
    repeated = [name for name in wanted if names.count(name) > 1]
    if repeated:
        raise InputError(f"{path} has more than one label named {repeated[0]!r}", next_step="Rename all but one")
    if labels is not arrays and not np.array_equal(labels.get("ids", ()), arrays.get("ids", ())):
        raise InputError(f"{_beside(path)} is not the label file of {path.name}", found="other ids")
    if labels["props"].shape != (len(arrays["n_atoms"]), len(names)) or labels["props"].dtype.kind not in "fiub":
        raise CorruptFileError(
            f"the labels of {path} do not fit its molecules",
            found=f"props {labels['props'].dtype} {labels['props'].shape}",
            expected=f"numbers, {len(names)} for each of {len(arrays['n_atoms'])} molecules",
        )
    columns = labels["props"][:, [names.index(name) for name in wanted]]
    with np.errstate(over="ignore"):
        stored: np.ndarray = columns.astype(np.float32)
    if np.isinf(stored).any():
        raise InputError(
            f"a label of {path} is infinite, or beyond the range of single precision", expected="finite numbers"
        )
    return stored


def _beside(path: Path) -> Path:
    return path.with_name(path.stem.removesuffix("_3d") + "_props.npz")


def _labels(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return arrays if "props" in arrays or not _beside(path).is_file() else read_arrays(_beside(path))


def _names(path: Path, labels: dict[str, np.ndarray]) -> list[str]:
    if "names" not in labels or "props" not in labels:
        return []
    if labels["names"].ndim != 1:
        raise CorruptFileError(f"label names of {path} are not a list", found=f"names {labels['names'].shape}")
    return [_text(name) for name in labels["names"]]


def _text(value: object) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


# XYZ files, single or with many molecules, and QM9's raw files with their own number format.
#
# A frame is the number of atoms, a comment, one line per atom. A comment may hold `smiles=...` and `charge=...`; the
# `Properties=...` of extended XYZ must name the element and the position first, since these columns are read. QM9's
# frames (`dsgdb9nsd_NNNNNN.xyz`) have 15 properties in the comment, then the frequencies, the SMILES before and after
# relaxation, and the InChIs; numbers may read `1.2*^-6`.


QM9_PROPERTIES = (
    "A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u298", "h298", "g298", "cv",
)  # fmt: skip
"""Columns of a raw QM9 frame: GHz x3, Debye, Bohr^3, Hartree x3, Bohr^2, Hartree x5, cal/mol/K."""

_SMILES = re.compile(r"\bsmiles\s*[=:]\s*[\"']?([^\s\"']+)", re.IGNORECASE)
_CHARGE = re.compile(r"\bcharge\s*[=:]\s*[\"']?([^\s\"',;]+)", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d{1,3}(?:\.0{0,6})?")
_COLUMNS = re.compile(r"\bproperties\s*=\s*[\"']?([^\s\"']+)", re.IGNORECASE)  # of extended XYZ
_FIRST_COLUMNS = "species:s:1:pos:r:3"
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2")


def is_archive(path: Path) -> bool:
    """Whether the name is that of a tar archive."""
    return path.name.lower().endswith(_ARCHIVES)


def open_xyz(path: Path, target_columns: Sequence[str] = (), stream: BinaryIO | None = None) -> RecordSource:
    """Open an XYZ file, a folder of them, or a tar archive of them (read as a stream).

    Args:
        path: the input.
        target_columns: names of `QM9_PROPERTIES`; other XYZ files have no targets.
        stream: where to read instead.

    Raises:
        InputError: no frame, or a target column there is not.
        CorruptFileError: the archive is damaged, or a file in it is not XYZ.
    """
    frames = _frames_of(path) if stream is None else _frames(text_lines(stream, path))
    first = next(frames, None)
    if first is None:
        raise InputError(
            f"{path} contains no XYZ frame", expected="a line with the number of atoms, a comment, the atoms"
        )
    is_qm9 = _is_qm9(first[1]) if len(first) > 1 else False
    require_columns(path.name, QM9_PROPERTIES if is_qm9 else (), target_columns)
    return RecordSource(path.name, _xyz_records(path.name, first, frames, tuple(target_columns)), True)


def parse_number(text: str) -> float:
    """A number in C's format or in Mathematica's (`1.2*^-6`); NaN for anything else."""
    try:
        return float(text.replace("*^", "e"))
    except ValueError:
        return math.nan


def _xyz_records(name: str, first: list[str], rest: Iterator[list[str]], wanted: tuple[str, ...]) -> Iterator[Record]:
    yield _record(0, name, first, wanted)
    for row, frame in enumerate(rest, start=1):
        yield _record(row, name, frame, wanted)


def _record(row: int, name: str, frame: list[str], wanted: tuple[str, ...]) -> Record:
    problem, num_atoms = _frame_problem(frame)
    if problem := problem or _comment_problem(frame[1]):
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
        charge=int(float(charge.group(1))) if charge else None,
        method="dft" if is_qm9 else method_of(name),
        targets=targets,
    )


def _frame_problem(frame: list[str]) -> tuple[str | None, int]:
    num_atoms = int(frame[0]) if frame[0].strip().isdecimal() else 0
    if not 1 <= num_atoms <= LIMITS.molblock_atoms:
        return f"number of atoms is {frame[0].strip()[:20]!r}, expected 1 to {LIMITS.molblock_atoms}", num_atoms
    if len(frame) > 2 + num_atoms + 3 * _is_qm9(frame[1]):
        return f"number of atoms is {num_atoms}, but more lines of atoms follow", num_atoms
    if len(frame) < 2 + num_atoms + (2 if len(frame) > 1 and _is_qm9(frame[1]) else 0):
        return f"frame is cut off: {len(frame)} lines for {num_atoms} atoms", num_atoms
    for number, line in enumerate(frame[2 : 2 + num_atoms]):
        cells = line.split()
        are_numbers = all(text.lower() == "nan" or not math.isnan(parse_number(text)) for text in cells[1:4])
        if len(cells) < 4 or not _atomic_number(cells[0]) or not are_numbers:
            return f"atom {number} is not an element and three numbers: {line.strip()[:40]!r}", num_atoms
    return None, num_atoms


def _comment_problem(comment: str) -> str | None:
    """Why what a comment says of the molecule can't be used: passed over, it would be another molecule."""
    charges, texts = _CHARGE.findall(comment), _SMILES.findall(comment)
    unclear = [text for text in charges if not _WHOLE.fullmatch(text)]
    if unclear:
        return f"charge={unclear[0][:20]} in the comment is not a whole number, such as -1"
    if len({float(text) for text in charges}) > 1:
        return f"the comment has two charges, {' and '.join(charges[:2])}"
    if len(set(texts)) > 1:
        return f"the comment has two SMILES, {' and '.join(text[:40] for text in texts[:2])}"
    columns = _COLUMNS.search(comment)
    if columns and not f"{columns.group(1)}:".lower().startswith(f"{_FIRST_COLUMNS}:"):
        return f"Properties={columns.group(1)[:60]} in the comment: expected species:S:1:pos:R:3 first"
    return None


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
    """Split lines into frames; lines where a number of atoms should be make one frame, up to the next number.

    Lines of atoms that follow a frame belong to it: its number is too small.
    """
    stream = (line.rstrip("\r\n") for line in lines)
    stray, frame, is_sound = "", list[str](), False
    for line in stream:
        num_atoms = int(line) if line.strip().isdecimal() and len(line.strip()) < 8 else 0
        if not num_atoms:
            if is_sound and not stray and _is_atom(line):
                frame += [line][: max(0, LIMITS.molblock_atoms + 3 - len(frame))]
            else:
                stray = stray or line.strip()
            continue
        yield from filter(None, (frame, [stray] if stray else []))
        frame, stray = [line, next(stream, "")], ""
        rest = num_atoms + 3 if _is_qm9(frame[1]) else num_atoms
        frame += itertools.islice(stream, rest if num_atoms <= LIMITS.molblock_atoms else 0)
        is_sound = _frame_problem(frame)[0] is None
    yield from filter(None, (frame, [stray] if stray else []))


def _is_atom(line: str) -> bool:
    cells = line.split()
    return len(cells) >= 4 and bool(_atomic_number(cells[0])) and all(map(math.isfinite, map(parse_number, cells[1:4])))


def _archive_frames(path: Path) -> Iterator[list[str]]:
    try:
        with tarfile.open(path, mode="r|*") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() and member.name.endswith(".xyz") else None
                if stream is not None:
                    yield from _frames(text_lines(io.BufferedReader(_Forward(stream)), path))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorruptFileError(f"{path} is a damaged archive", found=str(error)) from error


# Every input that `dnd prepare` reads, as one stream of records; what a file is, is told by its name and content.


def open_sources(
    inputs: Sequence[str | Path],
    *,
    smiles_column: str | None = None,
    target_columns: Sequence[str] = (),
    remembered: str | None = None,
) -> list[RecordSource]:
    """Open inputs in the order given.

    A table named `data.csv` or `data.csv.gz` beside PCQM4Mv2's SDF among the inputs belongs to that SDF.

    Args:
        inputs: .npz of conformers; .xyz, a folder or a tar archive of them; .sdf; tables (CSV, TSV, SMI, Parquet).
        smiles_column: column of SMILES in tables; None = found by name or content.
        target_columns: columns, data fields or labels to keep as targets.
        remembered: default column of SMILES, used by the tables that have it.

    Raises:
        InputError: no such file, an unknown kind, an empty file, or a column there is not.
    """
    paths = [Path(name) for name in inputs]
    for path in paths:
        if not path.exists() and str(path) != "-":
            raise InputError(f"there is no file {path}", next_step="Check the name")
    table = None
    if any(map(is_pcqm4mv2, paths)):
        table = next((path for path in paths if path.name in ("data.csv", "data.csv.gz")), None)
    sources = []
    for path in paths:
        if is_pcqm4mv2(path):
            sources.append(open_pcqm4mv2(path, table, target_columns, smiles_column))
        elif path != table:
            sources.append(_open(path, smiles_column, target_columns, remembered))
    return sources


def have_smiles_column(inputs: Sequence[str | Path]) -> bool:
    """Whether one of the files is a table, comes with one, or may be one."""
    paths = [Path(name) for name in inputs]
    return any(kind_of(path) or str(path) == STANDARD_INPUT or is_pcqm4mv2(path) for path in paths)


def refuse_unused_column(inputs: Sequence[str | Path], smiles_column: str | None) -> None:
    """Refuse a column of SMILES that none of the files can have.

    Raises:
        InputError: one is asked for, and no file is a table or comes with one.
    """
    if smiles_column is not None and not have_smiles_column(inputs):
        raise InputError(
            "no input has a column of SMILES", found=f"--smiles-column {smiles_column}", next_step="Leave it out"
        )


def _open(
    path: Path, smiles_column: str | None, target_columns: Sequence[str], remembered: str | None = None
) -> RecordSource:
    name = path.name.lower()
    if str(path) == STANDARD_INPUT:
        return _open_standard_input(path, smiles_column, target_columns)
    if name.endswith(".npz"):
        return open_arrays(path, target_columns)
    if is_sdf(path):
        return open_sdf(path, target_columns)
    if name.endswith((".xyz", ".xyz.gz")) or path.is_dir() or is_archive(path):
        return open_xyz(path, target_columns)
    if kind_of(path) is None:
        if is_workbook(path):
            raise InputError(f"{path} is a workbook", expected="CSV, TSV, SMI or Parquet", next_step=SAVE_AS_CSV)
        known = "npz, sdf, xyz, csv, tsv, smi, parquet, tar"
        raise InputError(
            f"{path} is a file of an unknown kind", found=path.suffix or "no suffix", expected=f"one of {known}"
        )
    return _table_source(path, smiles_column, target_columns, remembered=remembered)


def _open_standard_input(path: Path, smiles_column: str | None, target_columns: Sequence[str]) -> RecordSource:
    """SDF by its counts line, XYZ by a number and atoms, else a table."""
    head, whole = standard_input_head(path)
    if any(map(is_counts_line, head)):
        return open_sdf(path, target_columns, whole)
    if len(head) > 2 and head[0].strip().isdigit() and len(head[2].split()) >= 4:
        return open_xyz(path, target_columns, whole)
    return _table_source(path, smiles_column, target_columns, whole)


def _table_source(
    path: Path,
    smiles_column: str | None,
    target_columns: Sequence[str],
    stream: BinaryIO | None = None,
    remembered: str | None = None,
) -> RecordSource:
    table = open_table(path, smiles_column, target_columns, stream, remembered)
    return RecordSource(path.name, _table_records(path.name, table, tuple(target_columns)), False)


def _table_records(name: str, table: TableReader, wanted: tuple[str, ...]) -> Iterator[Record]:
    with table:
        rows = iter(table)
        sample = list(itertools.islice(rows, _ROWS_TO_SETTLE if wanted else 0))
        comma_file = table.style.delimiter == ";"
        reader = TargetReader([row.values for row in sample], wanted, comma_file=comma_file)
        for row in itertools.chain(sample, rows):
            targets, problem = reader.read(row.values)
            yield Record(row.number, name, "smiles", (row.smiles,), targets=targets, problem=row.problem or problem)
