"""Labelled molecules and an encoder → a MODEL folder.

Source: Cho et al., D&D (AAAI 2025), §5 and Table 5(c): the whole student is finetuned with a new head. Where the paper
is silent, each choice and its reason stand in the module that makes it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dnd.common.config import to_dict
from dnd.common.errors import ConfigError
from dnd.common.files import MANIFEST, read_json, sha256_file
from dnd.common.model_folder import FORMAT_VERSION, read_model
from dnd.common.randomness import set_threads
from dnd.common.runs import already_finished, begin_or_go_on, require_same_run
from dnd.finetuning.class_labels import expand_classes, require_unique_outputs, spread_units
from dnd.finetuning.data_checks import check_learnable, preamble
from dnd.finetuning.labelled_data import LabelledFile, LabelledMolecules, read_labelled
from dnd.finetuning.outcome import Fitted, write_outcome
from dnd.finetuning.settings import FinetuneConfig
from dnd.finetuning.several_files import read_several
from dnd.finetuning.splits import needs_one_file, partitions, split_column
from dnd.finetuning.students import Plan, initial_student, train_member
from dnd.finetuning.time_limit import Clock
from dnd.models.students.encoders import DEFAULT_ENCODER, RANDOM, encoder_folder
from dnd.predictor.model_folder import KIND
from dnd.predictor.network import PropertyNetwork, run_over
from dnd.predictor.targets import Tasks, check_tasks, choose_tasks
from dnd.predictor.transforms import choose_transforms
from dnd.store.schema import HydrogenSetting
from dnd.tables.sdf import is_sdf
from dnd.training.distributed import is_main_rank, num_ranks


@dataclass(frozen=True)
class FinetuneSummary:
    """How a finetuning ended.

    Attributes:
        folder: the MODEL folder.
        metrics: the content of `metrics.json`; empty when the run was stopped by `loop.stop_after_s`.
        finished: False when it was.
    """

    folder: Path
    metrics: dict[str, Any]
    finished: bool


def finetune(
    data: Path | str,
    out: Path | str,
    target_columns: Sequence[str],
    config: FinetuneConfig | None = None,
    *,
    smiles_column: str | None = None,
    also: Sequence[LabelledFile] = (),
    encoder: str | Path = DEFAULT_ENCODER,
    search: int = 0,
    resume: bool = False,
    say: Callable[[str], None] = print,
    quiet: bool = False,
) -> FinetuneSummary:
    """Finetune a student on labelled tables and write a MODEL folder.

    Args:
        data: CSV, TSV, SMI, SDF or Parquet with SMILES and labels.
        out: the MODEL folder.
        target_columns: columns with labels; an empty cell is a missing label.
        config: the settings; the defaults of `FinetuneConfig` when None. Its `student` is for random weights.
        smiles_column: where the SMILES are; None = found by name or content, and remembered by the model.
        also: further tables, whose targets the same model learns; see `several_files`.
        encoder: the name of a shipped encoder, an ENCODER folder, or `random` for RandInit.
        search: trials that choose a few settings first, by the validation part; see `search.py`. 0 = none.
        resume: go on where an interrupted run of the same settings stopped.
        say: receives one line at a time of what happens.
        quiet: no progress of the training itself.

    Raises:
        InputError: see `read_labelled`, `read_several`, `check_tasks` and `partitions`; all before training starts.
        ConfigError: settings that are at odds, such as hydrogens other than the encoder's.

    Example:
        >>> finetune("esol.csv", "esol-model", ["logS"], encoder="encoder")  # doctest: +SKIP
    """
    config, out = config or FinetuneConfig(), Path(out)
    already_finished(out, kind=KIND, format_version=FORMAT_VERSION, resume=resume)  # what it says comes later
    clock = Clock(config.blend.time_limit_s)
    set_threads(config.loop.threads)  # the encoder embeds and rehearses before a training loop begins
    files = [LabelledFile(data, tuple(target_columns), smiles_column), *also]
    if not all(is_sdf(file.path) for file in files):  # a column that is named is that of the tables among them
        files = [replace(file, smiles_column=None) if is_sdf(file.path) else file for file in files]
    plan = _plan(files, config, str(encoder), say)
    if search:
        from dnd.finetuning.search import searched

        found = searched(plan, search, out, clock, say, quiet)
        if found is None:
            say("stopped after loop.stop_after_s; the same command with --resume goes on with the search")
            return FinetuneSummary(out, {}, False)
        plan = found
        config = plan.config
    if config.blend.classical:
        return _finetune_blend(plan, out, clock, resume, say, quiet)
    return _finetune_students(plan, out, resume, say, quiet)


def _finetune_students(plan: Plan, out: Path, resume: bool, say: Callable[[str], None], quiet: bool) -> FinetuneSummary:
    """`finetune` without classical members: a student per fold and seed."""
    config = plan.config
    members = [
        (fold, config.loop.seed + number, partition)
        for fold, partition in enumerate(plan.parts)
        for number in range(config.ensemble)
    ]
    folders = [out if len(members) == 1 else out / f"member-{number}" for number in range(len(members))]
    if (out / MANIFEST).is_file():
        require_same_run(folders[0], plan.settings_of(members[0][1], members[0][0]))
        say(f"{out} is finished already")
        return FinetuneSummary(out, read_json(out / "metrics.json"), True)
    results = []
    for (fold, seed, partition), folder in zip(members, folders, strict=True):
        result = train_member(plan, fold, seed, partition, folder, resume=resume, weight=1 / len(members), quiet=quiet)
        if result is None:
            say(f"stopped after loop.stop_after_s; the same command with --resume goes on from {folder}")
            return FinetuneSummary(out, {}, False)
        results.append(result)
    if not is_main_rank():
        return FinetuneSummary(out, {}, True)  # rank 0 writes the MODEL
    metrics = write_outcome(out, plan, Fitted.of(results, plan.molecules), say)
    for folder in folders:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # a sealed MODEL needs none
    return FinetuneSummary(out, metrics, True)


def _finetune_blend(
    plan: Plan, out: Path, clock: Clock, resume: bool, say: Callable[[str], None], quiet: bool
) -> FinetuneSummary:
    """`finetune` with classical members; see `blending.py`."""
    from dnd.finetuning.stacking import fit_blend

    if num_ranks() > 1:
        raise ConfigError("classical members are fitted in one process", next_step="Use --recipe small with torchrun")
    settings = plan.settings_of(plan.config.loop.seed, 0)
    begin_or_go_on(out, settings, resume=resume)
    if (out / MANIFEST).is_file():
        say(f"{out} is finished already")
        return FinetuneSummary(out, read_json(out / "metrics.json"), True)
    fitted = fit_blend(plan, out, clock, resume=resume, quiet=quiet, say=say)
    if fitted is None:
        say("stopped after loop.stop_after_s; the same command with --resume goes on")
        return FinetuneSummary(out, {}, False)
    metrics = write_outcome(out, plan, fitted, say)
    for folder in out.glob("member-*/checkpoints"):
        shutil.rmtree(folder, ignore_errors=True)  # a sealed MODEL needs none
    return FinetuneSummary(out, metrics, True)


def check_before_training(files: Sequence[LabelledFile], config: FinetuneConfig) -> None:
    """Refuse what `finetune` would refuse, for a caller whose encoder is yet to be made; writes nothing.

    Raises:
        InputError, ConfigError: see `finetune`.
    """
    _plan(files, config, RANDOM, say=lambda line: None)


def _plan(files: Sequence[LabelledFile], config: FinetuneConfig, encoder: str, say: Callable[[str], None]) -> Plan:
    if needs_one_file(config.split) and len(files) > 1:
        raise ConfigError(
            "row numbers need one table", found=f"{len(files)} files", next_step="Use --split column:NAME"
        )
    hydrogens = _hydrogens(config, encoder)
    student = initial_student(config, encoder, seed=0)  # an encoder that can't be opened is said before data are read
    files = [replace(file, rules=config.labels) for file in files]
    molecules, tasks = _read(files, config, hydrogens, say)
    require_unique_outputs(molecules, tasks.kinds)
    units = config.units or (molecules.units if any(molecules.units) else ())
    config = replace(config, units=spread_units(units, molecules.names, molecules.groups))
    if config.units and len(config.units) != len(molecules.names):
        expected = len(molecules.names) if not molecules.groups else "one per target"
        raise ConfigError("units and target columns differ in number", found=len(config.units), expected=expected)
    rehearsal = PropertyNetwork(student.eval(), config.pooling, config.head, len(molecules.names))
    run_over(rehearsal, student, molecules.store, np.arange(1))  # a pooling that the student lacks is said here
    notices = check_tasks(molecules.targets_NC, molecules.names, tasks.kinds)
    parts = partitions(
        config.split,
        molecules.texts,
        column_values=molecules.extra,
        rows_N=molecules.rows_N,
        num_rows=molecules.num_rows,
        places=molecules.places,
        fractions=(config.fractions[0], config.fractions[1], config.fractions[2]),
        seed=config.split_seed,
        folds=config.folds,
        say=say,
    )
    choice = None if config.targets == "raw" else config.transform
    transforms, lines = choose_transforms(
        choice, molecules.targets_NC, molecules.names, tasks.kinds, [part.train for part in parts]
    )
    notices += check_learnable(
        molecules.targets_NC,
        molecules.names,
        tasks.kinds,
        parts,
        with_valid=bool(config.blend.classical),
        transforms=transforms,
    )
    record = {
        "encoder": encoder,
        "encoder_sha256": sha256_file(encoder_folder(encoder) / "model.safetensors") if encoder != RANDOM else None,
        "data": Path(files[0].path).name,
        "data_digest": molecules.digest(),
        "smiles_column": molecules.smiles_column,
        "target_columns": list(molecules.names),
        "settings": to_dict(config),
    }
    if len(files) > 1:
        record["files"] = list(molecules.files)
    plan = Plan(config, encoder, molecules, tasks, hydrogens, parts, record, transforms)
    for line in preamble(plan, files, notices, lines):
        say(line)
    return plan


def _read(
    files: Sequence[LabelledFile], config: FinetuneConfig, hydrogens: HydrogenSetting, say: Callable[[str], None]
) -> tuple[LabelledMolecules, Tasks]:
    column = split_column(config.split)
    choices, most = config.tasks or (config.task,), config.blend.most_rows if config.blend.classical else None
    if len(files) > 1:
        several = read_several(
            files, hydrogens, choices=choices, extra_column=column, jobs=config.jobs, most=most, say=say
        )
        return expand_classes(*several)
    (file,) = files
    molecules = read_labelled(
        file.path,
        file.target_columns,
        hydrogens,
        smiles_column=file.smiles_column,
        extra_column=column,
        rules=file.rules,
        jobs=config.jobs,
        most=most,
        say=say,
    )
    tasks = choose_tasks(molecules.targets_NC, molecules.names, choices, words=molecules.classes)
    return expand_classes(molecules, tasks)


def _hydrogens(config: FinetuneConfig, encoder: str) -> HydrogenSetting:
    """The hydrogens the student sees; those of its pretraining are not negotiable."""
    if encoder == RANDOM:
        return config.hydrogens or "heavy_both"
    trained: HydrogenSetting = read_model(encoder_folder(encoder), kind="encoder").config["hydrogens"]
    if config.hydrogens is not None and (config.hydrogens == "all_both") != (trained == "all_both"):
        raise ConfigError(
            "the encoder was trained with other hydrogens",
            found=f"hydrogens={config.hydrogens}",
            expected=trained,
            next_step="Leave the setting out, or use an encoder of that kind",
        )
    return trained
