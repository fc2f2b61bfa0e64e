"""How time and memory grow with the atoms of a molecule, the molecules of a store, the rows of a file, and threads."""

from __future__ import annotations

import csv
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from dnd.bench.measure import SEED, drug_like_smiles, graph_store, qm9_store, random_predictor, random_student
from dnd.bench.startup import added_memory, memory_mb, peak_mb
from dnd.common.compute import numpy_generator, set_threads
from dnd.common.files import MANIFEST, read_json, write_manifest, write_text
from dnd.common.processes import processors
from dnd.graphs.batch import ConformerBatch
from dnd.models.teachers.base import TeacherConfig
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer
from dnd.prediction.files import predict_file
from dnd.predictor.predictor import Predictor
from dnd.pretraining.denoise import DenoiseConfig, DenoisingObjective
from dnd.report.figures import MARKERS, drawing, save_figure
from dnd.report.plots import LINES, PALETTE
from dnd.store.reader import Store
from dnd.store.schema import SCHEMA_VERSION
from dnd.training.settings import LoopConfig, Objective

ATOMS = (10, 30, 100, 300)
NETWORKS = ("gine-small", "tokengt-small", "teacher 64x4")
ROWS = (4_000, 16_000, 64_000)
SHARD = 1000  # molecules of the shard that is repeated
STEPS = 20
_BATCH_ATOMS = 600
_VOLUME = 10.0  # cubic angstrom per atom of an organic crystal, hydrogens counted
_HERE = "dnd.bench.scaling:"


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        what: the curve.
        axis: `atoms`, `molecules`, `rows` or `threads`.
        value: on that axis.
        cpu_ms: CPU time per `per`.
        wall_ms: the same by the clock.
        per: `molecule`, `step` or `row`.
        peak_mb: MiB; of a batch above the process before it, of the whole process for `molecules` and `rows`.
        own_mb: the same at the end without mapped files, which the system may drop; for `molecules` and `rows`.
    """

    what: str
    axis: str
    value: int
    cpu_ms: float
    wall_ms: float
    per: str
    peak_mb: float | None = None
    own_mb: float | None = None


def bench_scaling(sizes: Sequence[int], repetitions: int) -> Iterator[list[Point]]:
    """The curves of the axes, each as it is ready.

    Args:
        sizes: molecules of the synthetic stores.
        repetitions: number of repetitions of every measurement; the median is kept.
    """
    for network in NETWORKS:
        yield [Point(**point) for point in added_memory(f"{_HERE}atoms_work", network=network, repetitions=repetitions)]
    yield from _stores(sizes)
    yield from _files()
    yield [
        Point(**added_memory(f"{_HERE}threads_work", network="tokengt-small", threads=threads, repetitions=repetitions))
        for threads in range(1, processors() + 1)
    ]


def atoms_work(network: str, repetitions: int) -> Callable[[], list[dict[str, object]]]:
    """For a fresh process: a step on molecules of each size, about 600 atoms in all, the small ones first."""
    set_threads()
    counts = {atoms: max(1, _BATCH_ATOMS // atoms) for atoms in ATOMS}
    steps = {atoms: (step_of(network, atoms, count), count) for atoms, count in counts.items()}
    step_of(network, 5, 1)()  # what is loaded once is loaded now
    before = memory_mb().get("VmRSS", 0.0)

    def work() -> list[dict[str, object]]:
        points = []
        for atoms, (step, molecules) in steps.items():
            cpu, wall = _timed(step, repetitions, molecules)
            point = Point(network, "atoms", atoms, cpu, wall, "molecule", (peak_mb() - before) / molecules)
            points.append(vars(point))
        return points

    return work


def threads_work(network: str, threads: int, repetitions: int) -> Callable[[], dict[str, object]]:
    """For a fresh process: the step of 30-atom molecules with `threads` threads."""
    set_threads(threads)
    molecules = _BATCH_ATOMS // 30
    step = step_of(network, 30, molecules)

    def work() -> dict[str, object]:
        step()
        return vars(Point(network, "threads", threads, *_timed(step, repetitions, molecules), "molecule"))

    return work


def step_of(network: str, atoms: int, molecules: int) -> Callable[[], None]:
    """Forward and backward on a batch of equal molecules: chains for the students, a random packing for the teacher."""
    if network.startswith("teacher"):
        width, layers = (int(word) for word in network.split()[1].split("x"))
        teacher, conformers = (
            EquivariantTransformer(TeacherConfig(width=width, num_layers=layers)),
            packing(atoms, molecules),
        )
        teacher.closest_approach = 1e-3

        def step() -> None:
            teacher(conformers).scalars_AD.sum().backward()

        return step
    student, store = random_student(network), graph_store([chain(atoms)] * molecules)
    graph = store.read(np.arange(len(store))).graph

    def student_step() -> None:
        student(graph).atoms_ND.sum().backward()

    return student_step


def chain(atoms: int) -> str:
    """A chain of amides with that many heavy atoms."""
    return "CC(=O)N" * (atoms // 4) + "C" * (atoms % 4)


def packing(atoms: int, molecules: int) -> ConformerBatch:
    """Carbon atoms at the density of a crystal in a cube: the number of neighbours is that of a folded molecule."""
    side = (atoms * _VOLUME) ** (1 / 3)
    positions = numpy_generator(SEED, "packing", atoms).uniform(0, side, (atoms * molecules, 3)).astype(np.float32)
    offsets = torch.arange(0, atoms * molecules + 1, atoms)
    numbers = torch.full((atoms * molecules,), 6)
    return ConformerBatch(numbers, torch.from_numpy(positions), offsets, torch.arange(len(numbers)))


def _stores(sizes: Sequence[int]) -> Iterator[list[Point]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        qm9_store(folder / "one", SHARD)
        for size in sizes:
            repeat_store(folder / "one", folder / str(size), size // SHARD)
            yield [Point(**added_memory(f"{_HERE}store_work", store=str(folder / str(size))))]


def repeat_store(source: Path, target: Path, times: int) -> None:
    """A store with the first shard of `source` repeated as hard links, which take no further space."""
    manifest = read_json(source / MANIFEST)
    target.mkdir()
    for number in range(times):
        os.link(source / "shard-00000.arrow", target / f"shard-{number:05d}.arrow")
    extra = {name: manifest[name] for name in ("settings", "target_columns", "feature_version")}
    counts = {name: times * value for name, value in manifest["counts"].items() if isinstance(value, int)}
    write_manifest(target, kind="store", format_version=SCHEMA_VERSION, extra={**extra, "counts": counts})


def store_work(store: str) -> Callable[[], dict[str, object]]:
    """For a fresh process: open a store, plan an epoch of denoising and take its first steps."""
    set_threads()

    def work() -> dict[str, object]:
        opened = Store.open(store)
        config = DenoiseConfig(teacher=TeacherConfig(width=32, num_layers=2), loop=LoopConfig(batch_size=64))
        objective: Objective = DenoisingObjective(opened, config)
        plan = objective.plan_epoch(0)[:STEPS]
        cpu, wall = _timed(lambda: _steps(objective, plan), 1, len(plan))
        own = memory_mb().get("RssAnon")
        return vars(Point("denoising 32x2", "molecules", len(opened), cpu, wall, "step", peak_mb(), own))

    return work


def _files() -> Iterator[list[Point]]:
    with tempfile.TemporaryDirectory() as name:
        for rows in ROWS:
            table = Path(name) / f"{rows}.csv"
            write_text(table, "\n".join(["smiles", *drug_like_smiles(rows)[0]]))
            yield [Point(**added_memory(f"{_HERE}rows_work", table=str(table), network="gine-small"))]


def rows_work(table: str, network: str) -> Callable[[], dict[str, object]]:
    """For a fresh process: predict a file with a network of random weights, as `dnd predict` does."""
    set_threads()
    predictor, rows = Predictor(random_predictor(network), device="cpu"), Path(table).read_text().count("\n")

    def work() -> dict[str, object]:
        out = str(Path(table).with_suffix(".out.csv"))
        cpu, wall = _timed(lambda: predict_file(predictor, table, out), 1, rows)
        own = memory_mb().get("RssAnon")
        return vars(Point(f"{network}, prediction", "rows", rows, cpu, wall, "row", peak_mb(), own))

    return work


def _steps(objective: Objective, plan: Sequence[np.ndarray]) -> None:
    for rows in plan:
        objective(objective.load_batch(rows, 0), SEED).loss.backward()


def _timed(work: Callable[[], object], repetitions: int, items: int) -> tuple[float, float]:
    """Median CPU and wall milliseconds per item."""
    cpu, wall = [], []
    for _ in range(repetitions):
        start, started = time.process_time(), time.monotonic()
        work()
        cpu.append(1e3 * (time.process_time() - start) / items)
        wall.append(1e3 * (time.monotonic() - started) / items)
    return median(cpu), median(wall)


def points_csv(points: Sequence[Point]) -> str:
    """One line per point."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [field.name for field in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(vars(point) for point in points)
    return stream.getvalue()


# The curves of `dnd bench scaling` as a picture: time above, memory below, an axis per column.


# Along this axis cost grows by orders of magnitude; elsewhere it should be level, which only an axis from 0 shows.
_GROWING = "atoms"


def write_points(points: Sequence[Point], stem: Path) -> list[Path]:
    """`stem`.csv, and the picture as .png and .svg."""
    write_text(stem.with_suffix(".csv"), points_csv(points))
    names = list(dict.fromkeys(point.axis for point in points))
    with drawing(len(names), 2, width=3.6, height=2.8) as (figure, grid):
        for column, axis in enumerate(names):
            own = [point for point in points if point.axis == axis]
            _draw(grid[0, column], own, _time, f"{_clock(axis)} per {own[0].per}")
            grid[0, column].legend()
            if any(_memory(point) is not None for point in own):
                _draw(grid[1, column], own, _memory, "MiB")
            else:
                grid[1, column].remove()
        return [stem.with_suffix(".csv"), *save_figure(figure, stem)]


def _draw(panel: Any, points: Sequence[Point], height: Any, label: str) -> None:
    axis = points[0].axis
    for number, what in enumerate(dict.fromkeys(point.what for point in points)):
        own = [point for point in points if point.what == what]
        style = {"color": PALETTE[number], "marker": MARKERS[number], "linestyle": LINES[number % len(LINES)]}
        panel.plot([point.value for point in own], [height(point) for point in own], label=what, **style)
    panel.set(xlabel=axis, ylabel=label)
    if axis != "threads":
        panel.set_xscale("log")
    if axis == _GROWING:
        panel.set_yscale("log")
    else:
        panel.set_ylim(0, 1.3 * max(height(point) for point in points))
    values = sorted({point.value for point in points})
    panel.set_xticks(values, [f"{value:,}" for value in values])
    panel.minorticks_off()


def _clock(axis: str) -> str:
    return "ms by the clock" if axis == "threads" else "CPU ms"


def _time(point: Point) -> float:
    return point.wall_ms if point.axis == "threads" else point.cpu_ms


def _memory(point: Point) -> float | None:
    return point.own_mb if point.axis == "molecules" else point.peak_mb
