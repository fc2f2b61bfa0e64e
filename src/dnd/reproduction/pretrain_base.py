"""The encoders that ship, from data to weights: stores → teacher → students → half-precision encoders with their cards.

Every stage can be resumed, so the same command continues after a kill; a finished stage is not repeated.
"""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnd.common.compute import choose_device, set_threads
from dnd.common.config import from_dict, to_dict
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import MANIFEST, folder_lock, read_json
from dnd.common.log import LOGGER
from dnd.common.processes import processors
from dnd.common.runs import RUN_RECORD, read_record, record_change, require_same_run, write_record, write_run_record
from dnd.conformers.formats import label_names
from dnd.models.students.base import Student
from dnd.models.students.encoders import half_precision, load_encoder, load_heads, load_limits, save_encoder
from dnd.models.teachers.teachers import load_noise_head, load_teacher
from dnd.pretraining.denoise import DenoiseConfig, DenoisingObjective, denoise
from dnd.pretraining.distill import distill, taught_molecules
from dnd.pretraining.encoder_folder import HOLDOUT
from dnd.pretraining.settings import DistillConfig
from dnd.reproduction.encoder_card import StoreFacts, encoder_card, scored_heads
from dnd.reproduction.pretraining_labels import (
    MEASURED,
    BaseConfig,
    excluded_keys,
    find_files,
    learned_labels,
    measured_table,
)
from dnd.store.auxiliary import CALCULATE, words_of_sources
from dnd.store.prepare import prepare
from dnd.store.reader import Store, union
from dnd.store.settings import PrepareConfig
from dnd.tables.readers import kind_of
from dnd.training.logs import LOG, read_log

STORES, TEACHER, STUDENTS, ENCODERS, TARGETS = "stores", "teacher", "students", "encoders", "targets"
TEACHER_STORES = "teacher-stores"
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
    allow_change: bool = False,
) -> BaseResult:
    """Train the shipped encoders, from files of molecules to ENCODER folders; a second call resumes.

    Args:
        inputs: files with conformers, which are used, and tables of SMILES; see `BaseConfig.table_conformers`.
        out: `stores/`, `teacher/`, `students/` and, at the end, `encoders/dnd-base` and the others.
        config: settings.
        exclude: files whose molecules are left out, beside the benchmarks of `config`.
        data_dir: where the benchmarks are looked for first.
        allow_change: continue with other settings than the run was started with. Finished stages stay as they are; the
            change is recorded in `run.json`.

    Raises:
        InputError: a file is missing, a benchmark is not found, or `out` contains a run with other settings.
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
            if changes := require_same_run(out, settings, allow_change=allow_change):
                record_change(out, settings, changes)
        else:
            write_run_record(out, settings)
        if allow_change:
            config = _with_changes_allowed(config)
        left_out = excluded_keys(out, config.excluded_benchmarks(), data_dir, config.jobs)
        run = _Run(out, config, paths, [*map(str, exclude), *left_out], data_dir)
        run.held_out = find_files(config.held_out, data_dir, "list")
        if not run.teach():
            return BaseResult({}, False)
        if config.measured:
            columns = measured_table(
                out / MEASURED, config.measured, [*left_out, *run.held_out], data_dir, jobs=config.jobs
            )
            run.add_measured(columns)
        return run.train()


def _with_changes_allowed(config: BaseConfig) -> BaseConfig:
    """The same for the trainings of each stage, of which one may have been stopped with the earlier settings."""

    def allowing(stage: DistillConfig) -> DistillConfig:
        return replace(stage, loop=replace(stage.loop, allow_change=True))

    return replace(
        config,
        denoise=replace(config.denoise, loop=replace(config.denoise.loop, allow_change=True)),
        base=allowing(config.base),
        large=allowing(config.large),
        tokengt=allowing(config.tokengt),
    )


class _Run:
    """One call of `pretrain_base`: the state that its stages share."""

    def __init__(
        self,
        out: Path,
        config: BaseConfig,
        paths: Sequence[Path],
        exclude: Sequence[str],
        data_dir: Path | str | None,
    ) -> None:
        self.out, self.config, self.paths, self.exclude = out, config, list(paths), list(exclude)
        self.data_dir = data_dir
        self.held_out: list[str] = []
        self.measured_columns: tuple[str, ...] = ()
        files = find_files([word for word in config.quantum if word != CALCULATE], data_dir, "file of labels")
        words = [*files, *(word for word in config.quantum if word == CALCULATE)]
        self.quantum = words_of_sources(words, [path.name for path in paths])
        path = out / _MEASURED
        self.measured: dict[str, Any] = read_record(path) if path.is_file() else {"seconds": {}}

    def teach(self) -> bool:
        """Train the teacher on every conformer; whether it is done."""
        if not any(student.needs_teacher for student in self.config.students().values()):
            return True
        if self.config.teacher_first:
            solid = [path for path in self.paths if self._has_conformers(path)]
            store = self._prepare(solid, self.out / TEACHER_STORES, plain=True)
        else:
            store = self._prepare(self.paths, self.out / STORES).with_conformers()
        config = self.config.denoise
        with self._timed("denoise"):
            taught = denoise(store, self.out / TEACHER, config, resume=True)
        if not taught.finished:
            return False
        if "teacher" not in self.measured:
            self.measured["teacher"] = teacher_by_source(store, self.out / TEACHER, config)
            self._keep()
        for name, values in self.measured["teacher"].items():
            LOGGER.info(
                f"teacher on {name}: held-out loss {values['held_out_loss']:.3f} (trivial {values['trivial']:.3f}, "
                f"floor {values['floor']:.3f})"
            )
        return True

    def add_measured(self, columns: Sequence[str]) -> None:
        """Make the table of measured labels the last input."""
        self.paths.append(self.out / MEASURED)
        self.quantum[MEASURED] = ()
        self.measured_columns = tuple(columns)

    def train(self) -> BaseResult:
        """Stores, students, encoders."""
        store = self._prepare(self.paths, self.out / STORES)
        for name, student in self.config.students().items():
            with self._timed(name):
                done = distill(
                    store, self.out / TEACHER if student.needs_teacher else None, self.out / STUDENTS / name, student,
                    resume=True, cache_folder=self.out / TARGETS,
                )  # fmt: skip
            if not done.finished:
                return BaseResult({}, False)
        found = {
            name: self._export(name, taught_molecules(store, student))
            for name, student in self.config.students().items()
        }
        shutil.rmtree(self.out / TARGETS, ignore_errors=True)
        return BaseResult(found, True)

    def _prepare(self, paths: Sequence[Path], folder: Path, *, plain: bool = False) -> Store:
        """One store per input, so that each has its own kind of conformers, and all of them as one.

        Args:
            paths: the inputs.
            folder: gets the stores.
            plain: conformers alone, no further column and no label.
        """
        folders = [folder / f"{number}-{path.name.split('.')[0]}" for number, path in enumerate(paths)]
        for path, place in zip(paths, folders, strict=True):
            if not (place / MANIFEST).is_file():
                with self._timed("prepare"):
                    prepare([path], place, self._settings_of(path, plain), resume=True)
        stores = [Store.open(place) for place in folders]
        self.facts = [
            StoreFacts(path.name, store.manifest["counts"], store.manifest["settings"]["conformers"])
            for path, store in zip(paths, stores, strict=True)
        ]
        for facts in self.facts:
            LOGGER.info(f"store of {facts.name}: {facts.molecules:,} molecules, {facts.left_out:,} rejected")
        return union(stores)

    def _has_conformers(self, path: Path) -> bool:
        """Whether an input's molecules have conformers in the end: its own, or generated ones."""
        return not _is_table(path) or (self.config.table_conformers == "etkdg" and path.name != MEASURED)

    def _settings_of(self, path: Path, plain: bool) -> PrepareConfig:
        config, flat = self.config, _is_table(path)
        labels: tuple[str, ...] = self.measured_columns if path.name == MEASURED else ()
        count: int | None = None
        if path.suffix == ".npz":
            known = label_names(path)
            labels = () if plain else tuple(name for name in config.labels if name in known)
            with np.load(path, allow_pickle=False) as arrays:
                count = len(arrays["n_atoms"])
        most = config.most_molecules
        values = {
            "target_columns": labels,
            "conformers": "file" if not flat else "etkdg" if self._has_conformers(path) else "none",
            "conformer_backend": config.conformer_backend if flat else "rdkit",
            "hydrogens": config.hydrogens,
            "auxiliary": () if plain else config.auxiliary,
            "quantum": () if plain else self.quantum[path.name],
            "seed": config.seed,
            "sample": most if most is not None and count is not None and most < count else None,
            "limit": self._most_rows(path) if count is None else None,
            "exclude": (*self.exclude, *(self.held_out if labels else ())),
            "jobs": config.jobs,
        }
        return from_dict(PrepareConfig, values)

    def _most_rows(self, path: Path) -> int | None:
        """How many rows of an input without a known number are read; of the measured labels, which are few, all."""
        if path.name == MEASURED:
            return None
        most = self.config.most_molecules
        return most if self.config.most_smiles is None or not _is_table(path) else self.config.most_smiles

    def _export(self, name: str, store: Store) -> Path:
        """The student in half precision with its card."""
        folder, student_folder = self.out / ENCODERS / name, self.out / STUDENTS / name
        if (folder / MANIFEST).is_file():
            return folder
        student, description = load_encoder(student_folder)
        held = np.array(read_json(student_folder / HOLDOUT)["rows"], dtype=np.int64)
        heads = load_heads(student_folder)
        if heads is not None:
            heads = scored_heads(
                student, heads, store, held, self.config.measured, self.data_dir, self.config.hydrogens
            )
        curve = [record for record in read_log(student_folder / LOG) if record["kind"] == "evaluation"]
        card = encoder_card(name, description, self.facts, self.measured, store, self.config, heads=heads, curve=curve)
        change = half_precision_change(student, store, held[:_COMPARED])
        card += f"- half precision changes atom representations by {change:.1e} of their deviation at most\n"
        learned = learned_labels(self.out / MEASURED, heads) if heads and self.config.measured else None
        card += learned.card_line() if learned else ""
        save_encoder(
            folder,
            student,
            {**description, "name": name},
            card,
            half=True,
            heads=heads,
            limits=load_limits(student_folder),
            learned=learned,
        )
        size = sum(path.stat().st_size for path in folder.iterdir())
        LOGGER.info(f"encoder {name}: {folder}, {size / 2**20:.1f} MiB")
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


def store_folders(out: Path) -> list[Path]:
    """The stores of a run in the order in which it reads them as one, which its held-out molecules depend on."""
    folders = [path for path in (out / STORES).glob("*-*") if path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name.partition("-")[0]))


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
    sources = np.array(store.sources(objective.holdout_rows))
    return {
        str(name): {**objective.measure(rows), "molecules": float(len(rows))}
        for name in sorted(set(sources.tolist()))  # as in the record that a resumed run reads
        if len(rows := objective.holdout_rows[sources == name])
    }


@torch.no_grad()
def half_precision_change(student: Student, store: Store, rows: np.ndarray) -> float:
    """Largest change of an atom representation by half precision, in deviations of the representations."""
    graph, rounded = store.read(rows).graph, copy.deepcopy(student)
    rounded.load_state_dict(half_precision(student.state_dict()))
    before, after = student(graph).atoms_ND, rounded(graph).atoms_ND
    return float((before - after).abs().max() / before.std())


def _is_table(path: Path) -> bool:
    return path.suffix != ".npz" and kind_of(path) is not None


def _machine() -> str:
    cores = processors()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return f"{cores} CPU cores{gpu}, torch {torch.__version__}"
