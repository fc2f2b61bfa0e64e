"""The encoders that ship, from data to weights: stores → teacher → students → half-precision encoders with their cards.

Every stage resumes, so the same command goes on after a kill; a finished stage is not repeated.
"""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnd.analysis.base_card import StoreFacts, encoder_card
from dnd.analysis.base_settings import BaseConfig
from dnd.analysis.benchmarks import load_benchmark
from dnd.analysis.finding import table_text
from dnd.chemistry.readers import kind_of
from dnd.common.config import from_dict, to_dict
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import MANIFEST, read_json, write_text
from dnd.common.folder_lock import folder_lock
from dnd.common.run_record import RUN_RECORD, require_same_run, write_run_record
from dnd.common.sealed_records import read_record, write_record
from dnd.common.seeds import set_threads
from dnd.conformers.arrays import label_names
from dnd.distillation.distill import distill
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.settings import PrepareConfig
from dnd.store.union import union
from dnd.student.build import load_encoder, save_encoder
from dnd.student.contract import Student
from dnd.student.shipped import half_precision
from dnd.teacher.denoise import denoise
from dnd.teacher.denoising import DenoiseConfig, DenoisingObjective
from dnd.teacher.saved import load_noise_head, load_teacher
from dnd.training.device import choose_device

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
