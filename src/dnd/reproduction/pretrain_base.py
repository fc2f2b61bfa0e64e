"""The encoders that ship, from data to weights: stores → teacher → students → encoders with their cards."""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnd.common.config import from_dict, look_up, to_dict
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import MANIFEST, folder_lock, read_json, write_text
from dnd.common.randomness import set_threads
from dnd.common.runs import RUN_RECORD, require_same_run, write_run_record
from dnd.common.sealed_records import read_record, write_record
from dnd.conformers.formats import label_names
from dnd.conformers.records import PERIODIC_TABLE
from dnd.models.students.base import Student
from dnd.models.students.encoders import half_precision, load_encoder, save_encoder
from dnd.models.teachers.teachers import load_noise_head, load_teacher
from dnd.pretraining.denoise import DenoiseConfig, DenoisingObjective, denoise
from dnd.pretraining.distill import distill
from dnd.pretraining.settings import AUXILIARY, DistillConfig
from dnd.report.figures import table_text
from dnd.reproduction.benchmarks import BENCHMARKS, load_benchmark
from dnd.reproduction.statistics import statistics_of_store
from dnd.store.prepare import prepare
from dnd.store.quantum_columns import words_of_sources
from dnd.store.reader import Store, union
from dnd.store.schema import FURTHER_FIELDS, QUANTUM_FIELDS, HydrogenSetting
from dnd.store.settings import PrepareConfig
from dnd.tables.readers import kind_of
from dnd.training.device import choose_device

# Settings of `dnd pretrain-base`: what is learned from, by which teacher, and by which students.


NO_BENCHMARKS = "none"


@dataclass(frozen=True)
class BaseConfig:
    """Settings of the pretraining of the shipped encoders.

    Attributes:
        hydrogens: of all stores.
        auxiliary: auxiliary columns of the stores.
        quantum: `gfn2`, files of quantum labels, or both; see `PrepareConfig`. A file concerns the input that it names.
        labels: target columns, taken from the inputs that have them.
        most_molecules: largest number of molecules of one input; none = all.
        benchmarks: data sets whose validation and test molecules are left out; `none` for none of them.
        conformer_backend: of inputs without coordinates: `rdkit`, `nvmolkit` or `auto`.
        jobs: processes of `prepare`.
        seed: of the drawing of molecules and of generated conformers.
        denoise: the teacher.
        base: the student `dnd-base`.
        tokengt: the student `dnd-tokengt`.
    """

    hydrogens: HydrogenSetting = "teacher_all_student_heavy"
    auxiliary: tuple[str, ...] = ("descriptors", "fingerprints", "charges", "surface")
    quantum: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    most_molecules: int | None = None
    benchmarks: tuple[str, ...] = tuple(BENCHMARKS)
    conformer_backend: str = "auto"
    jobs: int = 2
    seed: int = 0
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    base: DistillConfig = field(default_factory=DistillConfig)
    tokengt: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        """Refuse names that there are not, before any work starts."""
        for name in self.excluded_benchmarks():
            look_up(BENCHMARKS, name, "data set")
        columns = {*self.auxiliary, *(QUANTUM_FIELDS if self.quantum else ())}
        for student, config in self.students().items():
            for name in config.weights().keys() & FURTHER_FIELDS.keys() - columns:
                setting = "quantum" if name in QUANTUM_FIELDS else "auxiliary"
                raise ConfigError(
                    f"the term {name} of {student} has a weight and the stores will have no such column",
                    found=f"{setting} = {list(getattr(self, setting))}",
                    next_step=f"Add it to {setting}, or set its weight to 0",
                )

    def excluded_benchmarks(self) -> tuple[str, ...]:
        """The data sets whose validation and test molecules are left out."""
        return () if self.benchmarks == (NO_BENCHMARKS,) else self.benchmarks

    def students(self) -> dict[str, DistillConfig]:
        """Settings of each student by the name it ships under."""
        return {"dnd-base": self.base, "dnd-tokengt": self.tokengt}


# The card of a shipped encoder, from what was measured: data, compute, held-out numbers, and what it can't do.


# What the known files hold and under which licence, by the beginning of their name; see docs and data/README.md.
_SOURCES = {
    "qm9": ("QM9, DFT geometries (B3LYP/6-31G(2df,p))", "CC0 (original data set)"),
    "cascade_dft": ("CASCADE, DFT geometries (M06-2X/def2-TZVP)", "MIT"),
    "equireact_dft": ("EquiReact, DFT geometries of reactants and products", "not stated"),
    "conformer_benchmark": ("conformer benchmark, optimised geometries", "MIT"),
    "druglike_etkdg": (
        "drug-like SMILES of ChEMBL, ZINC, MOSES and MUV lists, ETKDGv3 + MMFF94s geometries",
        "MIT and not stated, by list",
    ),
    "druglike": ("drug-like SMILES of ChEMBL, ZINC, MOSES and MUV lists", "MIT and not stated, by list"),
}


@dataclass(frozen=True)
class StoreFacts:
    """What one input gave.

    Attributes:
        name: file name.
        counts: of its store's manifest.
        conformers: where its conformers come from.
    """

    name: str
    counts: Mapping[str, Any]
    conformers: str

    @property
    def molecules(self) -> int:
        """Rows of the store."""
        return int(self.counts["molecules"])

    @property
    def left_out(self) -> int:
        """Records that gave no row."""
        return sum(self.counts["rejected"].values())


def encoder_card(
    name: str,
    description: Mapping[str, Any],
    facts: Sequence[StoreFacts],
    measured: Mapping[str, Any],
    store: Store,
    config: BaseConfig,
) -> str:
    """The card as Markdown.

    Args:
        name: that the encoder ships under.
        description: `config.json` of its student.
        facts: of each input.
        measured: wall seconds by stage, the machine, and the teacher's held-out loss by source.
        store: that everything was trained on.
        config: settings of the run.
    """
    student, metrics = description["settings"]["student"], description["metrics"]
    lines = [
        f"# {name}",
        "",
        f"A {student['name']} of width {student['width']} and {student['num_layers']} layers that reads a molecular "
        "graph and has what a 3D denoiser and further teachers know of it. It needs no conformer. Weights are kept in "
        "half precision and computed with in float32.",
        "",
        *_data(facts, config),
        *_teacher(measured),
        *_student(metrics, description["terms"]),
        *_limits(store, chiral=config.denoise.teacher.chiral),
        "## Compute",
        "",
        f"- machine: {measured.get('machine', 'not recorded')}",
        *(f"- {stage}: {seconds / 60:.1f} min wall" for stage, seconds in measured["seconds"].items()),
    ]
    return "\n".join(lines) + "\n"


def _data(facts: Sequence[StoreFacts], config: BaseConfig) -> Iterator[str]:
    yield from ("## Data", "", "| file | what | licence | conformers | molecules | left out |")
    yield "|---|---|---|---|---|---|"
    for one in facts:
        what, licence = next(
            (entry for start, entry in _SOURCES.items() if one.name.startswith(start)), ("user's file", "not known")
        )
        yield (
            f"| {one.name} | {what} | {licence} | {one.conformers} | {one.molecules:,} | {one.left_out:,}"
            f"{_excluded(one)} |"
        )
    yield ""
    names = ", ".join(config.excluded_benchmarks()) or "none"
    yield (
        "Molecules of the validation and test parts of these data sets are left out, compared by the connectivity "
        f"block of the InChIKey: {names}. Molecules that are in several files are not merged. Hydrogens: "
        f"`{config.hydrogens}`."
    )
    yield ""


def _excluded(one: StoreFacts) -> str:
    count = sum(number for reason, number in one.counts["rejected"].items() if "--exclude" in reason)
    return f" ({count:,} as test molecules)" if count else ""


def _teacher(measured: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Teacher, held-out molecules", "", "| source | molecules | loss | trivial | floor | explained |")
    yield "|---|---|---|---|---|---|"
    for source, values in measured.get("teacher", {}).items():
        yield (
            f"| {source} | {values['molecules']:,.0f} | {values['held_out_loss']:.4f} | {values['trivial']:.4f} | "
            f"{values['floor']:.4f} | {100 * values['explained']:.1f} % |"
        )
    yield from (
        "",
        "Trivial: no noise is predicted. Floor: what rigid motion hides from any network. Explained: what is between.",
        "",
    )


def _student(metrics: Mapping[str, float], terms: Mapping[str, float]) -> Iterator[str]:
    yield from ("## Student, held-out molecules", "", "| target | weight | R² held out | R² training |")
    yield "|---|---|---|---|"
    for name, weight in terms.items():
        values = [metrics.get(f"{part}_{name}_r2") for part in ("valid", "train")]
        shown = ["–" if value is None else f"{value:.3f}" for value in values]
        kind = "auxiliary" if name in AUXILIARY else "3D teacher"
        yield f"| {name} ({kind}) | {weight:g} | {shown[0]} | {shown[1]} |"
    if "valid_lookup_r2" in metrics:
        yield f"| node, by a lookup of element, degree and ring | | {metrics['valid_lookup_r2']:.3f} | |"
    yield from ("", "R² of `distances` is McFadden's: 1 - cross-entropy / entropy of the bins.", "")


def _limits(store: Store, *, chiral: bool) -> Iterator[str]:
    statistics = statistics_of_store(store)
    elements = ", ".join(PERIODIC_TABLE[number - 1] for number in sorted(statistics.elements) if number <= 118)
    low, high = np.percentile(statistics.atoms_M, [1, 99])
    yield from (
        "## What it is bad at",
        "",
        f"- elements it has not seen: it was trained on {elements}",
        f"- sizes it has not seen: 98 % of its molecules have {low:.0f} to {high:.0f} atoms in the graph, the largest "
        f"{int(statistics.atoms_M.max())}",
        *([] if chiral else ["- enantiomers: what the 3D teacher says of an atom is the same for both mirror images"]),
        "- several conformers: each molecule taught one geometry",
        "",
    )


# The encoders that ship, from data to weights: stores → teacher → students → half-precision encoders with their cards.
#
# Every stage resumes, so the same command goes on after a kill; a finished stage is not repeated.


STORES, TEACHER, STUDENTS, ENCODERS, TARGETS = "stores", "teacher", "students", "encoders", "targets"
_MEASURED = "measured.json"
_COMPARED = 256  # held-out molecules on which half precision is compared with float32


@dataclass(frozen=True)
class BaseResult:
    """What a finished `pretrain-base` made.

    Attributes:
        encoders: ENCODER folder by name; empty where a time limit stopped a stage.
        finished: whether all stages are done.
    """

    encoders: dict[str, Path]
    finished: bool


def pretrain_base(
    inputs: Sequence[Path | str],
    out: Path | str,
    config: BaseConfig,
    *,
    exclude: Sequence[Path | str] = (),
    data_dir: Path | str | None = None,
    say: Callable[[str], None] = print,
    quiet: bool = False,
) -> BaseResult:
    """Train the shipped encoders, from files of molecules to ENCODER folders; a second call goes on.

    Args:
        inputs: files with conformers, which are used, and tables of SMILES, whose conformers are generated.
        out: `stores/`, `teacher/`, `students/` and, at the end, `encoders/dnd-base` and `encoders/dnd-tokengt`.
        config: settings.
        exclude: files whose molecules are left out, beside the benchmarks of `config`.
        data_dir: where the benchmarks are looked for first.
        say: receives one line at a time.
        quiet: show no progress of the stages.

    Raises:
        InputError: a file is missing, a benchmark is not found, or `out` holds a run with other settings.
        ConfigError: it is run by `torchrun`, whose processes would all prepare the same stores.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "pretrain-base runs in one process",
            next_step="Run `dnd denoise` and `dnd distill` under torchrun",
        )
    out, paths = Path(out), [Path(path) for path in inputs]
    if not paths or (missing := [path for path in paths if not path.exists()]):
        raise InputError(f"there is no file {missing[0]}" if paths else "there is no input", next_step="See --inputs")
    set_threads(config.base.loop.threads)  # the teacher's targets are computed outside the training loop
    with folder_lock(out):
        names = {"inputs": [path.name for path in paths], "exclude": [Path(path).name for path in exclude]}
        settings = {**names, "settings": to_dict(config)}
        if (out / RUN_RECORD).is_file():
            require_same_run(out, settings)
        else:
            write_run_record(out, settings)
        run = _Run(out, config, say, quiet)
        left_out = excluded_table(out / "excluded.csv", config.excluded_benchmarks(), data_dir)
        store = run.prepare(paths, [*map(str, exclude), *left_out])
        return run.train(store)


class _Run:
    def __init__(self, out: Path, config: BaseConfig, say: Callable[[str], None], quiet: bool) -> None:
        self.out, self.config, self.say, self.quiet = out, config, say, quiet
        path = out / _MEASURED
        self.measured: dict[str, Any] = read_record(path) if path.is_file() else {"seconds": {}}

    def prepare(self, paths: Sequence[Path], exclude: Sequence[str]) -> Store:
        """One store per input, so that each has its own kind of conformers, and all of them as one."""
        self.quantum = words_of_sources(self.config.quantum, [path.name for path in paths])
        folders = [self.out / STORES / f"{number}-{path.name.split('.')[0]}" for number, path in enumerate(paths)]
        for path, folder in zip(paths, folders, strict=True):
            if not (folder / MANIFEST).is_file():
                with self._timed("prepare"):
                    prepare([path], folder, self._settings_of(path, exclude), resume=True, quiet=self.quiet)
        stores = [Store.open(folder) for folder in folders]
        self.facts = [
            StoreFacts(path.name, store.manifest["counts"], store.manifest["settings"]["conformers"])
            for path, store in zip(paths, stores, strict=True)
        ]
        for facts in self.facts:
            self.say(f"store of {facts.name}: {facts.molecules:,} molecules, {facts.left_out:,} rejected")
        return union(stores)

    def train(self, store: Store) -> BaseResult:
        """Teacher, students, encoders."""
        config = self.config
        with self._timed("denoise"):
            taught = denoise(store, self.out / TEACHER, config.denoise, resume=True, quiet=self.quiet)
        if not taught.finished:
            return BaseResult({}, False)
        if "teacher" not in self.measured:
            self.measured["teacher"] = teacher_by_source(store, self.out / TEACHER, config.denoise)
            self._keep()
        for name, values in self.measured["teacher"].items():
            self.say(
                f"teacher on {name}: held-out loss {values['held_out_loss']:.3f} (trivial {values['trivial']:.3f}, "
                f"floor {values['floor']:.3f})"
            )
        for name, student in config.students().items():
            with self._timed(name):
                done = distill(
                    store, self.out / TEACHER if student.needs_teacher else None, self.out / STUDENTS / name, student,
                    resume=True, cache_folder=self.out / TARGETS, quiet=self.quiet,
                )  # fmt: skip
            if not done.finished:
                return BaseResult({}, False)
        found = {name: self._export(name, store) for name in config.students()}
        shutil.rmtree(self.out / TARGETS, ignore_errors=True)
        return BaseResult(found, True)

    def _settings_of(self, path: Path, exclude: Sequence[str]) -> PrepareConfig:
        config, flat = self.config, path.suffix != ".npz" and kind_of(path) is not None
        labels: tuple[str, ...] = ()
        count: int | None = None
        if path.suffix == ".npz":
            known = label_names(path)
            labels = tuple(name for name in config.labels if name in known)
            with np.load(path, allow_pickle=False) as arrays:
                count = len(arrays["n_atoms"])
        most = config.most_molecules
        values = {
            "target_columns": labels,
            "conformers": "etkdg" if flat else "file",
            "conformer_backend": config.conformer_backend if flat else "rdkit",
            "hydrogens": config.hydrogens,
            "auxiliary": config.auxiliary,
            "quantum": self.quantum[path.name],
            "seed": config.seed,
            "sample": most if most is not None and count is not None and most < count else None,
            "limit": most if count is None else None,
            "exclude": tuple(exclude),
            "jobs": config.jobs,
        }
        return from_dict(PrepareConfig, values)

    def _export(self, name: str, store: Store) -> Path:
        """The student in half precision with its card."""
        folder, student_folder = self.out / ENCODERS / name, self.out / STUDENTS / name
        if (folder / MANIFEST).is_file():
            return folder
        student, description = load_encoder(student_folder)
        card = encoder_card(name, description, self.facts, self.measured, store, self.config)
        held = np.array(read_json(student_folder / "holdout.json")["rows"], dtype=np.int64)[:_COMPARED]
        change = half_precision_change(student, store, held)
        card += f"- half precision changes atom representations by {change:.1e} of their deviation at most\n"
        save_encoder(folder, student, {**description, "name": name}, card, half=True)
        size = sum(path.stat().st_size for path in folder.iterdir())
        self.say(f"encoder {name}: {folder}, {size / 2**20:.1f} MiB")
        return folder

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of a stage to what earlier calls took."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = self.measured["seconds"]
            seconds[stage] = round(seconds.get(stage, 0.0) + time.monotonic() - started, 1)
            self.measured["machine"] = _machine()
            self._keep()

    def _keep(self) -> None:
        write_record(self.out / _MEASURED, self.measured)


def teacher_by_source(store: Store, teacher: Path, config: DenoiseConfig) -> dict[str, dict[str, float]]:
    """Held-out loss, trivial value, floor and explained share of a teacher, for the molecules of each source apart.

    Args:
        store: that it was trained on.
        teacher: the TEACHER folder.
        config: that it was trained with, which fixes what was held out.
    """
    objective = DenoisingObjective(store, config)
    objective.teacher.load_state_dict(load_teacher(teacher)[0].state_dict())
    objective.head.load_state_dict(load_noise_head(teacher).state_dict())
    objective.to(choose_device(config.loop.device)).eval()
    sources = np.array(store.sources(objective.held_out_rows))
    return {
        str(name): {**objective.measure(rows), "molecules": float(len(rows))}
        for name in dict.fromkeys(sources.tolist())
        if len(rows := objective.held_out_rows[sources == name])
    }


@torch.no_grad()
def half_precision_change(student: Student, store: Store, rows: np.ndarray) -> float:
    """Largest change of an atom representation by half precision, in deviations of the representations."""
    graph, rounded = store.read(rows).graph, copy.deepcopy(student)
    rounded.load_state_dict(half_precision(student.state_dict()))
    before, after = student(graph).atoms_ND, rounded(graph).atoms_ND
    return float((before - after).abs().max() / before.std())


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


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return f"{cores} CPU cores{gpu}, torch {torch.__version__}"
