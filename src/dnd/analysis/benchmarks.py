"""Reads the data sets of the paper with their splits: this repository's copies, and official archives as they come.

Legend: N molecules, C targets.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dnd.analysis.benchmark_list import BENCHMARKS, Benchmark
from dnd.common.errors import CorruptFileError, InputError
from dnd.common.registry import look_up
from dnd.common.seeds import numpy_generator

__all__ = ["BENCHMARKS", "PARTS", "BenchmarkData", "load_benchmark", "random_parts", "search_path"]

PARTS = ("train", "valid", "test")
LIMIT_TABLE_BYTES = 512 * 2**20
SPLIT_SEED = 0  # of the random 8:1:1 split of the physical properties; run seeds never change a split
_NOT_TARGETS = frozenset({"smiles", "mol_id"})


@dataclass(frozen=True)
class BenchmarkData:
    """A data set in memory.

    Attributes:
        benchmark: its entry in the registry.
        smiles: N SMILES as written in the file.
        targets_NC: labels, NaN = missing.
        names: of the C targets.
        parts: `train`, `valid`, `test` → row numbers, ascending.
        path: the file that was read.
        as_shipped: whether the table's content is that of the repository's copy.
    """

    benchmark: Benchmark
    smiles: list[str]
    targets_NC: Float[np.ndarray, "molecules targets"]
    names: tuple[str, ...]
    parts: Mapping[str, np.ndarray] = field(repr=False)
    path: Path
    as_shipped: bool


def load_benchmark(name: str, data_dir: Path | str | None = None) -> BenchmarkData:
    """Read a data set with its split.

    Args:
        name: see `BENCHMARKS`.
        data_dir: looked at first; then `data/` here and the repository's own `data/`. OGB's folders, with or without
            an `ogb/` above them, and OGB's zip archives are read as they come.

    Raises:
        ConfigError: there is no such data set; the message holds the nearest names.
        InputError: a file is missing; the message says which and where it is to be had.
        CorruptFileError: a file is damaged, or its rows and its split do not fit each other.

    Example:
        >>> load_benchmark("esol").parts["test"].size  # doctest: +SKIP
        113
    """
    benchmark = look_up(BENCHMARKS, name, "data set")
    path, files = _open(benchmark, data_dir)
    content = files[benchmark.table if benchmark.group == "physchem" else "mapping/mol.csv.gz"]
    smiles, targets_NC, names = _read_table(path, content, benchmark.targets)
    if benchmark.group == "ogb":
        parts = {part: _read_indices(path, part, files[f"split/scaffold/{part}.csv.gz"]) for part in PARTS}
        used = np.sort(np.concatenate([parts[part] for part in PARTS]))
        if len(used) != len(smiles) or (used != np.arange(len(smiles))).any():
            raise CorruptFileError(
                f"{path}: the split does not cover each row once", found=len(used), expected=len(smiles)
            )
    else:
        parts = random_parts(len(smiles))
    as_shipped = hashlib.sha256(content).hexdigest() == benchmark.sha256
    return BenchmarkData(benchmark, smiles, targets_NC, names, parts, path, as_shipped)


def random_parts(count: int, seed: int = SPLIT_SEED) -> dict[str, np.ndarray]:
    """The random 8:1:1 split of `count` rows: parts of ascending row numbers, a function of `count` and `seed`."""
    order = numpy_generator(seed, "benchmark split").permutation(count)
    first, second = int(0.8 * count), int(0.9 * count)
    pieces = (order[:first], order[first:second], order[second:])
    return {part: np.sort(rows) for part, rows in zip(PARTS, pieces, strict=True)}


def search_path(data_dir: Path | str | None) -> list[Path]:
    """Folders that are looked at for data: the given one, `data/` here, and that of a source checkout."""
    folders = [Path(data_dir)] if data_dir is not None else []
    folders += [Path("data"), Path(__file__).resolve().parents[3] / "data"]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _open(benchmark: Benchmark, data_dir: Path | str | None) -> tuple[Path, dict[str, bytes]]:
    """The first place that holds the data set, and the decompressed content of its files by name."""
    if data_dir is not None and not Path(data_dir).is_dir():
        raise InputError(f"{data_dir} is not a folder", expected="a folder with data sets (--data-dir)")
    for folder in search_path(data_dir):
        if benchmark.group == "physchem":
            for path in (folder / benchmark.table, folder / Path(benchmark.table).name):
                if path.is_file():
                    return path, {benchmark.table: _decompress(path, path.read_bytes())}
            continue
        for name in benchmark.folder:
            for path in (folder / "ogb" / name, folder / name):
                if (path / "mapping" / "mol.csv.gz").is_file():
                    return path, dict(_folder_files(path, benchmark))
                archive = path.with_name(f"{name}.zip")
                if archive.is_file():
                    return archive, dict(_archive_files(archive))
    raise InputError(
        f"data set {benchmark.name} is missing",
        found=f"no {benchmark.table} in {', '.join(map(str, search_path(data_dir))) or 'any data folder'}",
        next_step=f"Get it from {benchmark.source} and point --data-dir at the folder that holds it",
    )


_OGB_FILES = ("mapping/mol.csv.gz", *(f"split/scaffold/{part}.csv.gz" for part in PARTS))


def _folder_files(folder: Path, benchmark: Benchmark) -> Iterator[tuple[str, bytes]]:
    for name in _OGB_FILES:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name} is missing",
                expected="the whole folder of the data set",
                next_step=f"Get {benchmark.source}",
            )
        yield name, _decompress(folder / name, (folder / name).read_bytes())


def _archive_files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Files of an OGB download: a zip with one folder on top."""
    try:
        with zipfile.ZipFile(archive) as content:
            for name in _OGB_FILES:
                found = [entry for entry in content.infolist() if entry.filename.endswith(f"/{name}")]
                if len(found) != 1:
                    raise CorruptFileError(f"{archive} holds no {name}", expected="an archive of OGB as downloaded")
                if found[0].file_size > LIMIT_TABLE_BYTES:
                    raise CorruptFileError(f"{archive}: {name} is too large", found=found[0].file_size)
                yield name, _decompress(archive, content.read(found[0]))
    except (zipfile.BadZipFile, OSError) as error:
        raise CorruptFileError(f"{archive} is not a readable zip archive", found=str(error)) from error


def _decompress(path: Path, data: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            content = stream.read(LIMIT_TABLE_BYTES + 1)
    except (OSError, EOFError) as error:
        raise CorruptFileError(f"{path} is not a readable gzip file", found=str(error)) from error
    if len(content) > LIMIT_TABLE_BYTES:
        raise CorruptFileError(f"{path} is too large", expected=f"at most {LIMIT_TABLE_BYTES} bytes")
    return content


def _read_table(path: Path, content: bytes, targets: Sequence[str]) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    reader = csv.reader(io.StringIO(content.decode("utf-8")))
    header = next(reader, [])
    names = tuple(targets) or tuple(name for name in header if name not in _NOT_TARGETS)
    missing = [name for name in ("smiles", *names) if name not in header]
    if missing:
        raise CorruptFileError(f"{path} has no column {missing[0]}", found=", ".join(header[:20]))
    place, columns = header.index("smiles"), [header.index(name) for name in names]
    smiles: list[str] = []
    labels: list[list[float]] = []
    for number, row in enumerate(reader):
        try:
            labels.append([float(row[column] or "nan") for column in columns])
            smiles.append(row[place].strip())
        except (IndexError, ValueError) as error:
            raise CorruptFileError(f"{path}, row {number} is damaged", found=str(error)) from error
    return smiles, np.array(labels, dtype=np.float64).reshape(len(smiles), len(names)), names


def _read_indices(path: Path, part: str, content: bytes) -> np.ndarray:
    try:
        return np.array([int(line) for line in content.split()], dtype=np.int64)
    except ValueError as error:
        raise CorruptFileError(f"{path}: the {part} split is damaged", found=str(error)) from error
