"""The paper's data sets: files, targets, splits, metrics, checksums, licences, and how they are read."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from dnd.common.compute import numpy_generator
from dnd.common.config import look_up
from dnd.common.errors import CorruptFileError, InputError
from dnd.conformers.formats import open_sources

# The registry of the paper's data sets: files, targets, metric, unit, checksum, licence and source of each.


_OGB_URL = "http://snap.stanford.edu/ogb/data/graphproppred/csv_mol_download/{}.zip"


@dataclass(frozen=True)
class Benchmark:
    """One data set of the paper.

    Attributes:
        name: as on the command line.
        paper_name: as in the tables of the paper.
        group: `ogb` or `physchem`.
        folder: names under which its folder or archive may lie; empty for a single table.
        table: its file in the repository's `data/`.
        task: kind of targets.
        metric: the one the paper reports: `rmse`, `rocauc`, or `mae_z`, the MAE in standard deviations of the labels.
        targets: target columns; empty = every column but SMILES and identifiers.
        unit: unit of the targets.
        split: rule that made the parts.
        molecules: rows of the table.
        sha256: SHA-256 of the decompressed table that ships with this repository.
        licence: what its source states.
        source: where to get it.
        paper_molecules: rows that the paper's Table 4 gives.
    """

    name: str
    paper_name: str
    group: Literal["ogb", "physchem"]
    folder: tuple[str, ...]
    table: str
    task: Literal["regression", "classification"]
    metric: Literal["rmse", "rocauc", "mae_z"]
    targets: tuple[str, ...]
    unit: str
    split: str
    molecules: int
    sha256: str
    licence: str
    source: str
    paper_molecules: int


# SHA-256 of the decompressed tables in this repository's data/.
_SHA256 = {
    "esol": "e0e44dadd39f6e354e2e90069ed180a8283dd636cd74f7331d34e308c52714b1",
    "freesolv": "d97c77b3ffafba0b1002bdab2b2ecf5f5b4783e12eb8d519031b3684ac2d1742",
    "lipo": "9cc2ab0aab44259ab2ef6d04d234f92df599066c6af7aeca2b1cc0290a564fe6",
    "bace": "b60661da634240472d147509f7d56330e1f3179115e84b69350e9df5827e67d4",
    "bbbp": "5d9d6309781d6f981afca1bb4c764876017e65a83b8cc3d307358955b534b7b9",
    "clintox": "e525bf2f9b6ce710e8c3ae8c10a6c667e4866ec94d5f117de3a27fc39897108b",
    "hiv": "6b19c03f3ce433b3ecc36c0ef6184d5c93cf721444dd906c914d991c1d9c1dd9",
    "sider": "acb46946b2f1611100d20199a61c6c52ecf2d7ce08e09a02baee78814ef4bb3a",
    "tox21": "7a98419f81e817d062d4d4c844af6e8b25d173532641ea3e43a35f1ebb1400b8",
    "toxcast": "ef12b200c1e727f46dda0c4c7071ed3503e378daaacfa78ecc4ff7c8d3556ae5",
    "bp": "77a47a9fcf616b11e0f1f03f7785f3d19ec08085ba73f5262ac947e29f5a6280",
    "mp": "34b11c5c30be9002edfd686d1821fecf130df86b06da26fb76a26d4a710dbd2b",
    "ri": "b99d589e91824493f15234c3a1b7ad2cf4fc88f40e5347137f83afc058f7d94a",
    "logp": "fe83082922b9d21a51115b74e0b43c2fca2b436a5b664fe1f80a0d1dccd28ece",
}


def _ogb(
    name: str, paper_name: str, archive: str, metric: Literal["rmse", "rocauc"], unit: str, molecules: int
) -> Benchmark:
    folder = f"ogbg_mol{name}"
    return Benchmark(
        name=name, paper_name=paper_name, group="ogb", folder=(folder, folder.replace("_", "-"), archive),
        table=f"ogb/{folder}/mapping/mol.csv.gz", task="regression" if metric == "rmse" else "classification",
        metric=metric, targets=(), unit=unit, split="OGB scaffold 8:1:1", molecules=molecules, sha256=_SHA256[name],
        licence="MIT (OGB, MoleculeNet)", source=_OGB_URL.format(archive), paper_molecules=molecules,
    )  # fmt: skip


def _physchem(
    name: str, paper_name: str, target: str, unit: str, molecules: int, paper_molecules: int, licence: str
) -> Benchmark:
    return Benchmark(
        name=name, paper_name=paper_name, group="physchem", folder=(), table=f"physchem/{name}.csv.gz",
        task="regression", metric="mae_z", targets=(target,), unit=unit, split="random 8:1:1", molecules=molecules,
        sha256=_SHA256[name], licence=licence, source="the folder data/physchem of the source repository of dnd",
        paper_molecules=paper_molecules,
    )  # fmt: skip


_ENTRIES = (
    _ogb("esol", "ESOL", "esol", "rmse", "log10(mol/L)", 1128),
    _ogb("freesolv", "FreeSolv", "freesolv", "rmse", "kcal/mol", 642),
    _ogb("lipo", "Lipo", "lipophilicity", "rmse", "log D at pH 7.4", 4200),
    _ogb("bace", "BACE", "bace", "rocauc", "", 1513),
    _ogb("bbbp", "BBBP", "bbbp", "rocauc", "", 2039),
    _ogb("clintox", "ClinTox", "clintox", "rocauc", "", 1477),
    _ogb("hiv", "HIV", "hiv", "rocauc", "", 41127),
    _ogb("sider", "SIDER", "sider", "rocauc", "", 1427),
    _ogb("tox21", "Tox21", "tox21", "rocauc", "", 7831),
    _ogb("toxcast", "ToxCast", "toxcast", "rocauc", "", 8576),
    _physchem("bp", "BP", "bp_C", "°C", 9037, 7111, "BSD-3-Clause (OPERA copy), MIT (chemicals)"),
    _physchem("mp", "MP", "mp_C", "°C", 19945, 21744, "CC0 (Bradley Open Melting Point Dataset)"),
    _physchem("ri", "RI", "refractive_index", "1", 3044, 7304, "MIT (chemicals)"),
    _physchem("logp", "logP", "logP", "log10", 17601, 29458, "BSD-3-Clause (OPERA copy), not stated (JBR copy)"),
)
BENCHMARKS: dict[str, Benchmark] = {entry.name: entry for entry in _ENTRIES}


# Reads the data sets of the paper with their splits: this repository's copies, and official archives as they come.
#


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
        targets_BC: labels, NaN = missing.
        names: names of the C targets.
        parts: `train`, `valid`, `test` → row numbers, ascending.
        path: the file that was read.
        as_shipped: whether the table's content is that of the repository's copy.
    """

    benchmark: Benchmark
    smiles: list[str]
    targets_BC: Float[np.ndarray, "molecules targets"]
    names: tuple[str, ...]
    parts: Mapping[str, np.ndarray] = field(repr=False)
    path: Path
    as_shipped: bool


def load_benchmark(name: str, data_dir: Path | str | None = None) -> BenchmarkData:
    """Read a data set with its split.

    Args:
        name: see `BENCHMARKS`.
        data_dir: searched first; then `data/` here and the repository's own `data/`. OGB's folders, with or without
            an `ogb/` above them, and OGB's zip archives are read as they come.

    Raises:
        ConfigError: there is no such data set; the message names the nearest ones.
        InputError: a file is missing; the message says which and where it is to be had.
        CorruptFileError: a file is damaged, or its rows and its split do not fit each other.

    Example:
        >>> load_benchmark("esol").parts["test"].size  # doctest: +SKIP
        113
    """
    benchmark = look_up(BENCHMARKS, name, "data set")
    path, files = _open(benchmark, data_dir)
    content = files[benchmark.table if benchmark.group == "physchem" else "mapping/mol.csv.gz"]
    smiles, targets_BC, names = _read_table(path, content, benchmark.targets)
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
    return BenchmarkData(benchmark, smiles, targets_BC, names, parts, path, as_shipped)


def random_parts(count: int, seed: int = SPLIT_SEED) -> dict[str, np.ndarray]:
    """The random 8:1:1 split of `count` rows: parts of ascending row numbers, a function of `count` and `seed`."""
    order = numpy_generator(seed, "benchmark split").permutation(count)
    first, second = int(0.8 * count), int(0.9 * count)
    pieces = (order[:first], order[first:second], order[second:])
    return {part: np.sort(rows) for part, rows in zip(PARTS, pieces, strict=True)}


def search_path(data_dir: Path | str | None) -> list[Path]:
    """Folders that are searched for data: the given one, `data/` here, and that of a source checkout."""
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


# Where the molecules with conformers for a reproduction come from: the user's files, QM9, or the shipped slice.


QM9_FILES = ("qm9_3d.npz", "dsgdb9nsd.xyz.tar.bz2", "dsgdb9nsd.xyz.tar", "dsgdb9nsd.xyz", "gdb9.sdf", "gdb9.sdf.gz")
PCQM4MV2_FILES = ("pcqm4m-v2-train.sdf", "pcqm4m-v2-train.sdf.gz", "pcqm4m-v2-train.sdf.tar.gz")
QM9_SOURCE = "https://doi.org/10.6084/m9.figshare.c.978904.v5 (dsgdb9nsd.xyz.tar.bz2)"
PCQM4MV2_SOURCE = "https://ogb.stanford.edu/docs/lsc/pcqm4mv2/ (pcqm4m-v2-train.sdf.tar.gz)"
_FOLDERS = ("", "qm9", "QM9", "pcqm4m-v2", "PCQM4Mv2")
# Energy label for ProPred, by what the file has.
_ENERGIES = {".npz": "g4mp2_atomization", ".sdf": ""}


def qm9_slice() -> Path:
    """The slice of QM9 that ships with the package: 2,500 molecules with DFT conformers and some labels."""
    return Path(str(resources.files("dnd.data") / "qm9_slice.npz"))


def find_pretraining(given: Sequence[Path | str], data_dir: Path | str | None, *, full_size: bool) -> list[Path]:
    """Files to pretrain on.

    Args:
        given: those the user names; taken as they are.
        data_dir: where to look otherwise.
        full_size: whether the budget is that of the paper, which wants PCQM4Mv2 and takes nothing less.

    Raises:
        InputError: a named file is missing, or PCQM4Mv2 where it is wanted; the message says where it is to be had.
    """
    if given:
        missing = [path for path in map(Path, given) if not path.exists()]
        if missing:
            raise InputError(f"there is no file {missing[0]}", next_step="Check --pretraining")
        return [Path(path) for path in given]
    if full_size:
        found = _find(PCQM4MV2_FILES, data_dir)
        if found is None:
            raise InputError(
                "PCQM4Mv2 is missing",
                found=f"no {PCQM4MV2_FILES[0]}",
                next_step=f"Get it from {PCQM4MV2_SOURCE} and point --data-dir at its folder, or name other files with "
                "--pretraining",
            )
        return [found]
    return [_find(QM9_FILES, data_dir) or qm9_slice()]


def find_qm9(data_dir: Path | str | None, *, fewest: int) -> Path:
    """QM9 with labels, for Tables 2 and 6; the shipped slice where `fewest` labelled molecules are in it.

    Raises:
        InputError: there is no QM9 that large; the message says where it is to be had.
    """
    labelled = tuple(name for name in QM9_FILES if not name.startswith("gdb9"))  # the SDF holds no labels
    found = _find(labelled, data_dir)
    if found is not None:
        return found
    if fewest <= 400:  # molecules of the slice with all eight labels
        return qm9_slice()
    raise InputError(
        "QM9 is missing",
        found=f"none of {', '.join(labelled)}",
        next_step=f"Get it from {QM9_SOURCE} and point --data-dir at its folder",
    )


def energy_label(path: Path) -> str:
    """The energy that ProPred learns: G4MP2 atomisation energy, or U0 of the original files."""
    return _ENERGIES.get(path.suffix, "u0")


def _find(names: Sequence[str], data_dir: Path | str | None) -> Path | None:
    candidates = (folder / sub / name for name in names for folder in search_path(data_dir) for sub in _FOLDERS)
    return next((path for path in candidates if path.exists()), None)


# Labels of QM9 in the units of Table 6, drawn and split as the 3DInfomax protocol does.


QM9_PREFIX = "qm9-"
_MEV_PER_HARTREE = 27211.386245988  # CODATA 2018
# Target of Table 6 → its unit there and the factor from the unit of QM9's files.
TARGETS: dict[str, tuple[str, float]] = {
    "mu": ("D", 1.0),
    "alpha": ("a0^3", 1.0),
    "homo": ("meV", _MEV_PER_HARTREE),
    "lumo": ("meV", _MEV_PER_HARTREE),
    "gap": ("meV", _MEV_PER_HARTREE),
    "r2": ("a0^2", 1.0),
    "zpve": ("meV", _MEV_PER_HARTREE),
    "cv": ("cal/(mol K)", 1.0),
}
QM9_SPLIT_SEED = 123  # of the 3DInfomax protocol


_SPARE = 1.02  # of the molecules to pretrain on: some share their constitution with a labelled one and are left out


def draw_labelled(
    path: Path, sizes: Sequence[int], reserved: int = 0
) -> tuple[list[str], Float[np.ndarray, "molecules targets"], list[str], int]:
    """Molecules with all eight labels, drawn at random into the three parts.

    The published protocol permutes all molecules with NumPy's legacy generator and seed 123; so does this, over the
    molecules that have all labels in `path`. What is left must be enough to pretrain on, so where QM9 is too small
    for all of it, the validation part gives way, and beyond half of it all parts shrink in proportion.

    Args:
        path: QM9 with labels, in any of its forms.
        sizes: training, validation and test molecules wanted.
        reserved: molecules of the file that are needed for pretraining.

    Returns:
        SMILES, labels in the units of `TARGETS`, part of each molecule, and how many labelled molecules there are.

    Raises:
        InputError: fewer than 30 molecules have all labels.
    """
    source = open_sources([path], target_columns=list(TARGETS))[0]
    smiles: list[str] = []
    labels: list[tuple[float, ...]] = []
    readable = 0
    for record in source.records:
        readable += record.problem is None
        if record.problem is None and record.smiles and np.isfinite(record.targets).all():
            smiles.append(record.smiles[0])
            labels.append(record.targets)
    if len(smiles) < 30:
        raise InputError(f"{path} has too few labelled molecules", found=len(smiles), expected="30 or more")
    counts = _fitting(sizes, min(len(smiles), readable - math.ceil(_SPARE * reserved)))
    order = np.random.RandomState(QM9_SPLIT_SEED).permutation(len(smiles))[: sum(counts)]
    split = [part for part, count in zip(("train", "valid", "test"), counts, strict=True) for _ in range(count)]
    factors_C = np.array([factor for _, factor in TARGETS.values()])
    return [smiles[row] for row in order], np.array(labels)[order] * factors_C, split, len(smiles)


def _fitting(sizes: Sequence[int], available: int) -> list[int]:
    """Parts of at most `available` molecules in all.

    Raises:
        InputError: nothing is left for the labelled molecules.
    """
    if available < 30:
        raise InputError("too few molecules of QM9 are left to be labelled", found=available, expected="30 or more")
    train, valid, test = sizes
    missing = train + valid + test - available
    if missing <= 0:
        return [train, valid, test]
    if missing <= valid // 2:
        return [train, valid - missing, test]
    return [max(1, available * size // sum(sizes)) for size in sizes]
