"""Ratios to a named reference of the same run: the repetitions of all variants alternate, and medians are compared.

CPU time, not the clock: on a shared machine it is the steadier of the two, and whatever still disturbs it disturbs the
reference of the same repetition too.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata, resources
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from dnd.common.compute import derive_seed, numpy_generator
from dnd.common.errors import InputError
from dnd.common.files import package_versions
from dnd.common.processes import processors, threads_asked_for
from dnd.models.students.base import Student, StudentConfig, preset
from dnd.models.students.encoders import build_student, load_encoder, shipped_encoders
from dnd.predictor.ensemble import PropertyNetwork
from dnd.predictor.model_folder import Member, PredictorParts, predictor_config
from dnd.predictor.targets import Target
from dnd.reproduction.benchmarks import load_benchmark
from dnd.store.featurize import as_store, featurize_smiles
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.settings import PrepareConfig

# Molecules, networks and stores to measure with; all made from data that ships.

SEED = 0


def drug_like_smiles(count: int) -> tuple[list[str], str]:
    """`count` SMILES drawn at random, again and again where there are fewer, and where they are from.

    The lipophilicity set (27 heavy atoms on average) where the data of the repository are at hand, else the solubility
    set that ships with the package (13).
    """
    try:
        texts, name = load_benchmark("lipo").smiles, "ogbg-mollipo"
    except InputError:
        texts, name = [row["smiles"] for row in solubility_rows()], "esol"
    order = numpy_generator(SEED, "bench").permutation(len(texts))
    return [texts[order[number % len(texts)]] for number in range(count)], name


def solubility_rows() -> list[dict[str, str]]:
    """The rows of the solubility set that ships with the package."""
    packed = (resources.files("dnd.data") / "esol.csv.gz").read_bytes()
    return list(csv.DictReader(io.StringIO(gzip.decompress(packed).decode())))


def graph_store(smiles: list[str]) -> Store:
    """The valid ones of `smiles` as a store in memory."""
    molecules = featurize_smiles(smiles, "heavy_both")
    return as_store([molecule for molecule in molecules if molecule.graph is not None], "heavy_both")


def qm9_store(folder: Path, count: int) -> Store:
    """The first molecules of the QM9 slice as a store on disk, hydrogens in the conformers only."""
    config = PrepareConfig(hydrogens="teacher_all_student_heavy", limit=count)
    with resources.as_file(resources.files("dnd.data") / "qm9_slice.npz") as path:
        prepare([path], folder, config)
    return Store.open(folder)


def drug_store(folder: Path, count: int) -> Store:
    """Drug-like molecules with generated conformers and all hydrogens, about 50 atoms each, as a store on disk."""
    table = folder.with_suffix(".smi")
    table.write_text("\n".join(drug_like_smiles(count)[0]), encoding="utf-8")
    prepare([table], folder, PrepareConfig(hydrogens="teacher_all_student_heavy", conformers="etkdg"))
    return Store.open(folder)


def student_config(name: str) -> StudentConfig:
    """The settings of a preset or of an encoder that ships with the package."""
    return load_encoder(name)[0].config if name in shipped_encoders() else preset(name)


def random_student(name: str) -> Student:
    """The student of `student_config(name)` with random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(derive_seed(SEED, "student"))
        return build_student(student_config(name)).eval()


def random_predictor(name: str) -> PredictorParts:
    """A predictor of one target with random weights, as `dnd finetune` would leave it."""
    network = PropertyNetwork(random_student(name), "mean", "mlp", 1).eval()
    targets = (Target("y"),)
    members = (Member(network, targets, SEED, 1.0, network.student.config, "mlp"),)
    config = predictor_config(members, targets, "heavy_both", {})
    return PredictorParts(members, targets, "regression", "heavy_both", config)


def tokens_of(store: Store) -> np.ndarray:
    """TokenGT's tokens of each molecule: atoms, directed bonds, [graph] and [null]."""
    tokens: np.ndarray = store.atom_counts[:] + 2 * store.bond_counts[:] + 2
    return tokens


_REFERENCES = ("ogb", "torchmd-net", "chemprop", "torch-geometric")


@dataclass(frozen=True)
class Variant:
    """Something to measure.

    Attributes:
        name: its line in the table.
        run: does the work once.
        items: how many items that is.
    """

    name: str
    run: Callable[[], object]
    items: int


@dataclass(frozen=True)
class Line:
    """What was measured of one variant.

    Attributes:
        name: name of the variant.
        seconds: CPU seconds per item, one value per repetition.
        wall_seconds: the same by the clock, where it was read.
        peak_mb: MiB that the work added to a fresh process at its peak, where that was measured.
        note: what the reader should know of this line.
    """

    name: str
    seconds: tuple[float, ...]
    wall_seconds: tuple[float, ...] = ()
    peak_mb: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """CPU seconds per item."""
        return median(self.seconds)


@dataclass(frozen=True)
class Table:
    """Lines beside their reference.

    Attributes:
        title: what was done.
        unit: what one item is.
        reference: name of the line that the others are compared with.
        lines: in the order of printing.
        share: whether the ratio is a share of the reference's time; else it says how many times as fast a line is.
        notes: sentences below the table.
    """

    title: str
    unit: str
    reference: str
    lines: tuple[Line, ...]
    share: bool = False
    notes: tuple[str, ...] = ()

    def line(self, name: str) -> Line:
        """The line of that name."""
        return next(line for line in self.lines if line.name == name)

    def ratio(self, name: str) -> float:
        """The ratio of medians of a line and the reference."""
        ours, reference = self.line(name).median, self.line(self.reference).median
        return ours / reference if self.share else reference / ours

    def spread(self, name: str) -> tuple[float, float]:
        """The lowest and the highest ratio of a repetition."""
        pairs = zip(self.line(name).seconds, self.line(self.reference).seconds, strict=True)
        ratios = [ours / reference if self.share else reference / ours for ours, reference in pairs]
        return min(ratios), max(ratios)

    def with_peaks(self, peaks: dict[str, float | None]) -> Table:
        """The same table with the peak memory of the lines that `peaks` names."""
        return replace(self, lines=tuple(replace(line, peak_mb=peaks.get(line.name)) for line in self.lines))

    def text(self) -> str:
        """The table for a terminal."""
        head = [self.title, f"ms per {self.unit}", "per CPU-s", "share" if self.share else "x as fast", "(range)"]
        rows = [[*head, "wall ms", "peak MiB"]]
        for line in self.lines:
            low, high = self.spread(line.name)
            wall = f"{1e3 * median(line.wall_seconds):.4g}" if line.wall_seconds else ""
            peak = "" if line.peak_mb is None else f"{line.peak_mb:.0f}"
            ratio, spread = f"{self.ratio(line.name):.3g}", f"({low:.3g}-{high:.3g})"
            rows.append([line.name, f"{1e3 * line.median:.4g}", f"{1 / line.median:.4g}", ratio, spread, wall, peak])
            rows[-1] += [line.note] if line.note else []
        kept = [column for column in range(7) if any(row[column] for row in rows[1:])]
        widths = {column: max(len(row[column]) for row in rows) for column in kept}
        lines = [
            "  ".join(row[c].rjust(widths[c]) if c else row[c].ljust(widths[c]) for c in kept)
            + "  ".join(["", *row[7:]])
            for row in rows
        ]
        return "\n".join([*lines, f"reference: {self.reference}", *self.notes])

    def to_json(self) -> dict[str, Any]:
        """Every repetition, and the ratios."""
        ratios = {line.name: {"ratio": self.ratio(line.name), "range": self.spread(line.name)} for line in self.lines}
        return {**asdict(self), "ratios": ratios}


def measure(variants: Sequence[Variant], repetitions: int) -> tuple[Line, ...]:
    """CPU time of each variant; one round before the first that counts."""
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for _ in range(repetitions + 1):
        for variant in variants:
            start = time.process_time()
            variant.run()
            seconds[variant.name].append((time.process_time() - start) / variant.items)
    return tuple(Line(name, tuple(values[1:])) for name, values in seconds.items())


def machine() -> dict[str, Any]:
    """The processor, how busy it is, and the versions of everything that is compared."""
    versions = dict(package_versions())
    for name in _REFERENCES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "processor": _processor(),
        "cores": processors(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "threads": threads_asked_for(),
        "versions": versions,
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
