"""Which molecules a pretraining must not see, and the measured labels it may: one table of all data sets by molecule.

A molecule is recognised by the connectivity block of its InChIKey, whatever its stereochemistry.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from dnd.chemistry.identity import molecule_identity
from dnd.chemistry.molecule import Molecule
from dnd.chemistry.parse import parse_smiles
from dnd.common.config import look_up
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import write_text
from dnd.common.processes import process_count
from dnd.conformers.records import Record
from dnd.models.students.encoders import LearnedLabels, PropertyHeads
from dnd.pretraining.denoise import DenoiseConfig
from dnd.pretraining.settings import DistillConfig
from dnd.report.figures import table_text
from dnd.reproduction.benchmarks import BENCHMARKS, BenchmarkData, load_benchmark, search_path
from dnd.store.prepare import key_digests
from dnd.store.schema import FURTHER_FIELDS, QUANTUM_FIELDS, HydrogenSetting
from dnd.tables.molecules import key_list_text, read_key_list

# Settings of `dnd pretrain-base`: what is learned from, by which teacher, and by which students.

NO_BENCHMARKS = "none"


@dataclass(frozen=True)
class BaseConfig:
    """Settings of the pretraining of the shipped encoders.

    Attributes:
        hydrogens: hydrogen setting of all stores.
        auxiliary: auxiliary columns of the stores.
        quantum: `gfn2`, files of quantum labels (or their names in the folder of the data sets), or both; see
            `PrepareConfig`. A file concerns the input that it names.
        labels: target columns, taken from the inputs that have them.
        measured: data sets whose training molecules and measured labels are one more input.
        held_out: lists of digests (`tables.molecules.key_digest`), files or names in the folder of the data sets: these
            molecules are left out of every input that has labels.
        most_molecules: largest number of molecules of one input file; none = all.
        most_smiles: the same for a table of SMILES, which costs less; none = as `most_molecules`.
        benchmarks: data sets whose validation and test molecules are left out; `none` for none of them.
        table_conformers: conformers of inputs without coordinates: `etkdg` generates them; with `none` these inputs
            teach nothing in 3D.
        conformer_backend: what generates them: `rdkit`, `nvmolkit` or `auto`.
        teacher_first: the teacher learns from stores of conformers alone, so that it need not wait for slow columns.
        jobs: processes of `prepare`.
        seed: random seed of the drawn molecules and of generated conformers.
        encoders: the students that are made.
        denoise: the teacher.
        base: the student `dnd-base`.
        large: the student `dnd-large`.
        tokengt: the student `dnd-tokengt`.
    """

    hydrogens: HydrogenSetting = "teacher_all_student_heavy"
    auxiliary: tuple[str, ...] = ("descriptors", "fingerprints", "charges", "surface")
    quantum: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    most_molecules: int | None = None
    most_smiles: int | None = None
    benchmarks: tuple[str, ...] = tuple(BENCHMARKS)
    table_conformers: Literal["etkdg", "none"] = "etkdg"
    conformer_backend: str = "auto"
    teacher_first: bool = False
    jobs: int = 2
    seed: int = 0
    encoders: tuple[str, ...] = ("dnd-base", "dnd-tokengt")
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    base: DistillConfig = field(default_factory=DistillConfig)
    large: DistillConfig = field(default_factory=DistillConfig)
    tokengt: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        """Refuse names that there are not and numbers that leave nothing to read, before any work starts."""
        for name in ("most_molecules", "most_smiles"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} must be above 0", found=value)
        process_count(self.jobs)
        for name in (*self.excluded_benchmarks(), *self.measured):
            look_up(BENCHMARKS, name, "data set")
        known = {"dnd-base": self.base, "dnd-large": self.large, "dnd-tokengt": self.tokengt}
        for name in self.encoders:
            look_up(known, name, "encoder")
        if tested := sorted(set(self.measured) - set(self.excluded_benchmarks())):
            raise ConfigError(
                "measured labels of a data set are learned, but its validation and test molecules are not left out",
                found=", ".join(tested),
                next_step="Add it to benchmarks",
            )
        columns = {*self.auxiliary, *(QUANTUM_FIELDS if self.quantum else ())}
        for student, config in self.students().items():
            for name in config.weights().keys() & FURTHER_FIELDS.keys() - columns:
                setting = "quantum" if name in QUANTUM_FIELDS else "auxiliary"
                raise ConfigError(
                    f"the term {name} of {student} has a weight, but the stores will have no such column",
                    found=f"{setting} = {list(getattr(self, setting))}",
                    next_step=f"Add it to {setting}, or set its weight to 0",
                )

    def excluded_benchmarks(self) -> tuple[str, ...]:
        """The data sets whose validation and test molecules are left out."""
        return () if self.benchmarks == (NO_BENCHMARKS,) else self.benchmarks

    def students(self) -> dict[str, DistillConfig]:
        """Settings of each student that is made by the name it ships under."""
        known = {"dnd-base": self.base, "dnd-large": self.large, "dnd-tokengt": self.tokengt}
        return {name: known[name] for name in self.encoders}


EXCLUDED, EXCLUDED_KEYS, MEASURED = "excluded.csv", "excluded.txt", "measured.csv"


def excluded_table(path: Path, benchmarks: Sequence[str], data_dir: Path | str | None) -> list[str]:
    """A table of the validation and test molecules of `benchmarks`, written once: `[path]`, or nothing for none."""
    if not benchmarks:
        return []
    if not path.is_file():
        rows = []
        for name in benchmarks:
            data = load_benchmark(name, data_dir)
            parts = np.concatenate([data.parts["valid"], data.parts["test"]])
            rows += [[data.smiles[row], name] for row in parts]
        write_text(path, table_text(["smiles", "data_set"], rows))
    return [str(path)]


def excluded_keys(folder: Path, benchmarks: Sequence[str], data_dir: Path | str | None, jobs: int) -> list[str]:
    """`excluded_table` and the list of its digests, so that not every store computes them: `[list]`, or nothing."""
    if not excluded_table(folder / EXCLUDED, benchmarks, data_dir):
        return []
    path = folder / EXCLUDED_KEYS
    if not path.is_file():
        with open(folder / EXCLUDED, encoding="utf-8", newline="") as stream:
            smiles = [row["smiles"] for row in csv.DictReader(stream)]
        write_text(path, key_list_text(filter(None, key_digests(_records(smiles, EXCLUDED), jobs=jobs))))
    return [str(path)]


def find_files(names: Sequence[str], data_dir: Path | str | None, what: str) -> list[str]:
    """The files of `names`: as they are, or in the folders where data sets are looked for.

    Raises:
        InputError: there is no such file.
    """
    found = []
    for name in names:
        places = [Path(name), *(folder / name for folder in search_path(data_dir))]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise InputError(f"there is no {what} {name}", found=f"none in {', '.join(map(str, places))}")
        found.append(str(path))
    return found


@dataclass
class _Molecule:
    """What the data sets say of one molecule: its first SMILES, and every value by column."""

    smiles: str
    values: dict[int, list[float]] = field(default_factory=dict)


def measured_table(
    path: Path, names: Sequence[str], forbidden: Sequence[Path | str], data_dir: Path | str | None, *, jobs: int
) -> list[str]:
    """Write the training parts of data sets as one table, a row per molecule and a column per target.

    A column is called `SET/TARGET`. Of several values of a molecule the mean counts; of classes that disagree half and
    half, none. A molecule that has no key could not be recognised, so it's left out like a forbidden one.

    Args:
        path: the table, CSV; left as it is where there is one.
        names: data sets, see `BENCHMARKS`.
        forbidden: lists of digests of molecules that must not come in.
        data_dir: where the data sets are looked for first.
        jobs: worker processes.

    Returns:
        The columns, in order.
    """
    if path.is_file():
        with open(path, encoding="utf-8", newline="") as stream:
            return next(csv.reader(stream))[1:]
    digests = frozenset[str]().union(*(read_key_list(Path(one)) for one in forbidden))
    columns: list[str] = []
    molecules: dict[str, _Molecule] = {}
    classes: set[int] = set()
    for data in (load_benchmark(name, data_dir) for name in names):
        first = len(columns)
        columns += [f"{data.benchmark.name}/{name}" for name in data.names]
        if data.benchmark.task != "regression":
            classes |= set(range(first, len(columns)))
        _collect(data, first, digests, molecules, jobs)
    write_text(path, "".join(_lines(columns, molecules, classes)))
    return columns


def _collect(
    data: BenchmarkData, first: int, forbidden: frozenset[str], molecules: dict[str, _Molecule], jobs: int
) -> None:
    """Take in the training part of one data set, whose columns begin at `first`."""
    rows = data.parts["train"].tolist()
    smiles = [data.smiles[row] for row in rows]
    keys = key_digests(_records(smiles, data.benchmark.name), jobs=jobs)
    for row, text, key in zip(rows, smiles, keys, strict=True):
        if not key or key in forbidden:
            continue
        molecule = molecules.setdefault(key, _Molecule(text))
        for place in np.flatnonzero(np.isfinite(data.targets_BC[row])).tolist():
            molecule.values.setdefault(first + place, []).append(float(data.targets_BC[row, place]))


def _lines(columns: Sequence[str], molecules: dict[str, _Molecule], classes: set[int]) -> Iterator[str]:
    yield _csv_line(["smiles", *columns])
    for molecule in molecules.values():
        cells = [""] * len(columns)
        for place, values in molecule.values.items():
            mean = float(np.mean(values))
            if place not in classes:
                cells[place] = f"{mean:.7g}"
            elif mean != 0.5:
                cells[place] = str(round(mean))
        if any(cells):
            yield _csv_line([molecule.smiles, *cells])


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _records(smiles: Sequence[str], source: str) -> Iterator[Record]:
    for row, text in enumerate(smiles):
        yield Record(row, source, "smiles", (text,))


def learned_labels(path: Path, heads: PropertyHeads) -> LearnedLabels:
    """The molecules of a `measured_table` by data set, of the columns that are properties in `heads`."""
    columns = {one.name: one.data_set for one in heads.properties if one.data_set}
    identities: dict[str, set[str]] = {name: set() for name in columns.values()}
    with open(path, encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            sets = {columns[name] for name, cell in row.items() if cell and name in columns}
            molecule = parse_smiles(row["smiles"]) if sets else None
            if isinstance(molecule, Molecule):
                for name in sets:
                    identities[name].add(molecule_identity(molecule.smiles))
    return LearnedLabels.of_sets(identities)
