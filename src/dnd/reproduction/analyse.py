"""`dnd analyse`: statistics, overlap, loss curves, attention and label efficiency of the user's own files and runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnd.chemistry.splits import Split
from dnd.common.compute import derive_seed, numpy_generator
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import MANIFEST, read_json, sha256_file, write_text
from dnd.common.log import LOGGER
from dnd.common.model_folder import read_model
from dnd.finetuning.labelled_data import LabelledMolecules, read_labelled
from dnd.finetuning.splits import partitions
from dnd.finetuning.students import student_settings
from dnd.finetuning.tasks import check_targets, choose_task
from dnd.models.students.base import Student
from dnd.models.students.encoders import build_student, load_encoder
from dnd.report.attention import AttentionAnalysis, analyse_attention, draw_attention
from dnd.report.figures import Finding, table_text
from dnd.reproduction.benchmarks import PARTS, load_benchmark
from dnd.reproduction.data_statistics import (
    SetStatistics,
    draw_overlap,
    draw_statistics,
    overlap_with_store,
    statistics_of_smiles,
    statistics_of_store,
)
from dnd.reproduction.grid import WORKER, run_grid
from dnd.reproduction.label_efficiency import curves_of, draw_label_efficiency
from dnd.reproduction.loss_curves import draw_curves, read_curves
from dnd.reproduction.results import Cell
from dnd.store.reader import Store
from dnd.tables.molecules import open_molecules

RANDOM = "random"


def analyse_statistics(
    inputs: Sequence[Path], datasets: Sequence[str], data_dir: Path | None, smiles_column: str | None
) -> Finding:
    """Table 4 of stores, files of molecules and data sets of the paper.

    Raises:
        InputError: nothing is named, or a file can't be read.
    """
    found: dict[str, SetStatistics] = {}
    for name in datasets:
        found[name] = statistics_of_smiles(load_benchmark(name, data_dir).smiles)
    for path in inputs:
        is_store = (path / MANIFEST).is_file()
        found[path.name] = (
            statistics_of_store(Store.open(path)) if is_store else statistics_of_smiles(_smiles(path, smiles_column))
        )
    if not found:
        raise InputError(
            "no molecules are named", expected="files, stores, or --datasets", next_step="Try --datasets esol"
        )
    return draw_statistics(found)


def analyse_overlap(
    inputs: Sequence[Path], datasets: Sequence[str], data_dir: Path | None, store: Path, smiles_column: str | None
) -> Finding:
    """Table 3 of files of molecules and data sets of the paper against a store.

    Raises:
        InputError: nothing is named, or a file can't be read.
    """
    sets = {name: load_benchmark(name, data_dir).smiles for name in datasets}
    sets |= {path.name: _smiles(path, smiles_column) for path in inputs}
    if not sets:
        raise InputError("no molecules are named", expected="files, or --datasets", next_step="Try --datasets bp,mp")
    pretraining = Store.open(store)
    return draw_overlap({name: overlap_with_store(smiles, pretraining) for name, smiles in sets.items()}, store.name)


def analyse_curves(runs: Sequence[Path]) -> Finding:
    """Figure 3 of run folders."""
    return draw_curves({name: read_curves(run) for name, run in _named(runs).items()})


def analyse_attention_of(encoders: Sequence[str], store_path: Path, molecules: int, seed: int) -> Finding:
    """Figure 4 of ENCODER folders; `random` is a student with the architecture of the first folder and fresh weights.

    Molecules that an encoder trained on are left out where its folder says which it held out of this store.
    """
    store = Store.open(store_path)
    folders = [Path(name) for name in encoders if name != RANDOM]
    if not folders:
        raise InputError("no encoder is named", expected="at least one ENCODER folder in addition to `random`")
    rows = _held_out(folders, store)
    rows = np.sort(numpy_generator(seed, "attention").permutation(rows)[:molecules])
    students: dict[str, Student] = {}
    if RANDOM in encoders:
        students["RandInit"] = _fresh(load_encoder(folders[0])[0], seed)
    for name, folder in _named(folders).items():
        students[name] = load_encoder(folder)[0]
    analyses: dict[str, AttentionAnalysis] = {
        name: analyse_attention(student, store, rows, seed=seed) for name, student in students.items()
    }
    return draw_attention(analyses)


def analyse_labels(
    data: Path,
    target_columns: Sequence[str],
    encoder: Path,
    out: Path,
    *,
    smiles_column: str | None = None,
    fractions: Sequence[float] = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
    seeds: int = 3,
    split: str = "scaffold",
    recipe: str = "finetune-small",
    settings: Sequence[str] = (),
    jobs: int = 1,
    worker: Sequence[str] = WORKER,
) -> Finding:
    """Figure 5 of a labelled table: an encoder against RandInit of the same architecture on nested subsets of labels.

    Raises:
        InputError: see `read_labelled` and `partitions`; or no finetuning ended.
        ConfigError: a fraction out of range.
    """
    if not fractions or min(fractions) <= 0 or max(fractions) != 1:
        raise ConfigError("fractions are out of range", found=list(fractions), expected="above 0, and 1 among them")
    molecules = read_labelled(data, target_columns, "heavy_both", smiles_column=smiles_column)
    words = next((own for own in molecules.classes if own), None)
    if words:
        raise InputError("label efficiency is for values and for classes 0 and 1", found=f"labels such as {words[0]}")
    task, reason = choose_task(molecules.targets_BC, molecules.names, "auto")
    if (
        task == "classification"
        and not np.isin(molecules.targets_BC[~np.isnan(molecules.targets_BC)], (0.0, 1.0)).all()
    ):
        raise InputError("label efficiency is for values and for classes 0 and 1", found=reason)
    check_targets(molecules.targets_BC, molecules.names, task)
    LOGGER.info(f"task: {reason}")
    table = out / "labelled.csv"
    _write_labelled(table, molecules, partitions(split, molecules.texts)[0])
    common = {
        "dataset": data.name,
        "table_sha256": sha256_file(table),
        "targets": list(molecules.names),
        "task": task,
        "pooling": "mean",
        "most_molecules": None,
        "recipe": recipe,
        "encoder_sha256": read_model(encoder, kind="encoder").manifest["files"]["model.safetensors"]["sha256"],
    }
    cells = _efficiency_cells(common, table, encoder, sorted(fractions), seeds, settings)
    summary = run_grid(cells, out, jobs=jobs, worker=worker)
    return draw_label_efficiency(curves_of(list(summary.records.values()), {}))


def _write_labelled(path: Path, molecules: LabelledMolecules, partition: Split) -> None:
    """The molecules with their labels and the part that each is in, as the cells read them."""
    part_of = {int(row): part for part in PARTS for row in getattr(partition, part)}
    rows = [
        [text, *(None if np.isnan(value) else repr(float(value)) for value in labels), part_of[row]]
        for row, (text, labels) in enumerate(zip(molecules.texts, molecules.targets_BC, strict=True))
    ]
    write_text(path, table_text(["smiles", *molecules.names, "split"], rows))


def _efficiency_cells(
    common: Mapping[str, Any],
    table: Path,
    encoder: Path,
    fractions: Sequence[float],
    seeds: int,
    settings: Sequence[str],
) -> list[Cell]:
    """A finetuning from random weights and one from the encoder for every fraction and seed."""
    fixed = ("split=column:split", "baselines=false", "jobs=1")
    random_words = [*student_settings(str(encoder), RANDOM), "layer_decay=1.0"]
    places = {"table": str(table.resolve())}
    systems: tuple[tuple[str, str, list[str], dict[str, str]], ...] = (
        ("random", "randinit-1.0", random_words, places),
        ("encoder", encoder.resolve().name, [], {**places, "encoder": str(encoder.resolve())}),
    )
    cells = []
    for key, name, own, paths in systems:
        for fraction in fractions:
            for seed in range(1, seeds + 1):
                value = {**common, "system": name, "fraction": fraction, "seed": seed}
                value["config"] = [*own, *settings, *fixed, f"loop.seed={seed}"]
                cells.append(Cell(f"{key}/labels-{100 * fraction:g}/seed-{seed}", "finetune", value, (), paths))
    return cells


def _smiles(path: Path, smiles_column: str | None) -> list[str]:
    with open_molecules(path, smiles_column) as table:
        return [row.smiles for row in table]


def _named(folders: Sequence[Path]) -> Mapping[str, Path]:
    """Folders by name; where two have one name, by their whole path."""
    names = [folder.resolve().name for folder in folders]
    return {
        name if names.count(name) == 1 else str(folder): folder for name, folder in zip(names, folders, strict=True)
    }


def _held_out(folders: Sequence[Path], store: Store) -> np.ndarray:
    from dnd.pretraining.encoder_folder import HOLDOUT

    rows = set(range(len(store)))
    for folder in folders:
        if (folder / HOLDOUT).is_file():
            held_out = read_json(folder / HOLDOUT)
            if held_out["store"] == store.fingerprint:
                rows &= set(held_out["rows"])
    if not rows:
        raise InputError("the encoders held out no molecule in common", next_step="Use a store of other molecules")
    return np.array(sorted(rows), dtype=np.int64)


def _fresh(student: Student, seed: int) -> Student:
    import torch

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(derive_seed(seed, "student"))
        return build_student(student.config)
