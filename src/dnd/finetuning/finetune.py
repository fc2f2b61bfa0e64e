"""Labelled molecules and an encoder → a MODEL folder.

Source: Cho et al., D&D (AAAI 2025), §5 and Table 5(c): the whole student is finetuned with a new head. Where the paper
is silent, each choice and its reason stand in the module that makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dnd.chemistry.identity import identities_of
from dnd.chemistry.splits import Split
from dnd.common.compute import choose_device, set_threads
from dnd.common.config import to_dict
from dnd.common.errors import ConfigError
from dnd.common.files import MANIFEST, read_json, sha256_file
from dnd.common.log import LOGGER, RESULT, muted
from dnd.common.model_folder import FORMAT_VERSION, read_model
from dnd.common.runs import already_finished, begin_or_go_on, drop_scaffolding, require_file, require_same_run
from dnd.finetuning.blend_weights import METRICS_OF
from dnd.finetuning.data_checks import check_learnable, preamble
from dnd.finetuning.labelled_data import (
    Dealing,
    LabelledFile,
    LabelledMolecules,
    UnreadMolecules,
    read_labelled,
    weighted,
)
from dnd.finetuning.outcome import Fitted, write_outcome
from dnd.finetuning.prepared_labels import (
    aggregated,
    expand_classes,
    find_repeats,
    require_unique_outputs,
    spread_units,
)
from dnd.finetuning.settings import Clock, FinetuneConfig
from dnd.finetuning.splits import cells_of_molecules, is_test_word, needs_one_file, partitions, split_column
from dnd.finetuning.students import Plan, initial_student, train_member
from dnd.finetuning.tasks import Tasks, check_tasks, choose_tasks, choose_transforms, without_logarithm
from dnd.models.students.encoders import DEFAULT_ENCODER, RANDOM, encoder_folder
from dnd.predictor.ensemble import PropertyNetwork, run_over
from dnd.predictor.model_folder import KIND
from dnd.predictor.targets import TaskKind
from dnd.store.schema import HydrogenSetting
from dnd.tables.readers import KeptTable
from dnd.tables.streams import is_sdf
from dnd.training.distributed import is_main_rank, num_ranks, run_lock


@dataclass(frozen=True)
class FinetuneSummary:
    """Result of a finetuning.

    Attributes:
        folder: the MODEL folder.
        metrics: the content of `metrics.json`; empty when the run was stopped by `loop.stop_after_s`.
        finished: False if it was stopped.
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
    kept: KeptTable | None = None,
    weights: Float[np.ndarray, "rows"] | None = None,
) -> FinetuneSummary:
    """Finetune a student on labelled tables and write a MODEL folder.

    Args:
        data: CSV, TSV, SMI, SDF or Parquet with SMILES and labels.
        out: the MODEL folder.
        target_columns: columns with labels; an empty cell is a missing label.
        config: the settings; the defaults of `FinetuneConfig` when None. Its `student` is for random weights.
        smiles_column: SMILES column; None = found by name or content. The model remembers it.
        also: further tables, whose targets the same model learns; see `several_files`.
        encoder: the name of a shipped encoder, an ENCODER folder, or `random` for RandInit.
        search: number of trials that first choose a few settings, scored on the validation part; see `search.py`. 0 =
            none.
        resume: continue an interrupted run with the same settings.
        kept: the rows of `data`, if they were read already.
        weights: how much the labels of each row of `data` count, see `weighted`; None = all alike.

    Raises:
        InputError: see `read_labelled`, `read_several`, `check_tasks` and `partitions`; all before training starts.
        ConfigError: settings that contradict each other, such as hydrogens other than the encoder's.

    Example:
        >>> finetune("esol.csv", "esol-model", ["logS"], encoder="encoder")  # doctest: +SKIP
    """
    if not isinstance(data, str | Path):
        raise TypeError(
            f"finetune reads a file and was given {type(data).__name__}: write the table to a file first, or fit "
            "dnd.DndRegressor or dnd.DndClassifier, which take molecules and labels as they are"
        )
    config, out = config or FinetuneConfig(), Path(out)
    already_finished(out, kind=KIND, format_version=FORMAT_VERSION, resume=resume)  # what it says comes later
    clock = Clock(config.blend.time_limit_s)
    choose_device(config.loop.device)  # no training loop asks for it where no student is trained
    set_threads(config.loop.threads)  # the encoder embeds and rehearses before a training loop begins
    files = [LabelledFile(data, tuple(target_columns), smiles_column, kept=kept), *also]
    for file in files:
        require_file(Path(file.path))
    if not all(is_sdf(file.path) for file in files):  # a column that is named is that of the tables among them
        files = [replace(file, smiles_column=None) if is_sdf(file.path) else file for file in files]
    plan = _plan(files, config, str(encoder), weights)
    with run_lock(out):
        return _finetune(plan, out, clock, search, resume)


def _finetune(plan: Plan, out: Path, clock: Clock, search: int, resume: bool) -> FinetuneSummary:
    """`finetune` in a folder that is ours alone."""
    if search:
        from dnd.finetuning.search import searched

        found = searched(plan, search, out, clock)
        if found is None:
            LOGGER.log(RESULT, "stopped after loop.stop_after_s; the same command with --resume continues the search")
            return FinetuneSummary(out, {}, False)
        plan = found
    if plan.config.blend.classical:
        return _finetune_blend(plan, out, clock, resume)
    return _finetune_students(plan, out, resume)


def _finetune_students(plan: Plan, out: Path, resume: bool) -> FinetuneSummary:
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
        LOGGER.log(RESULT, f"{out} is finished already")
        return FinetuneSummary(out, read_json(out / "metrics.json"), True)
    results = []
    for (fold, seed, partition), folder in zip(members, folders, strict=True):
        result = train_member(
            plan, fold, seed, partition, folder,
            resume=resume, weight=1 / len(members), held=folder == out,
        )  # fmt: skip
        if result is None:
            LOGGER.log(
                RESULT, f"stopped after loop.stop_after_s; the same command with --resume continues from {folder}"
            )
            return FinetuneSummary(out, {}, False)
        results.append(result)
    if not is_main_rank():
        return FinetuneSummary(out, {}, True)  # rank 0 writes the MODEL
    metrics = write_outcome(out, plan, Fitted.of(results, plan.molecules))
    drop_scaffolding(out)
    return FinetuneSummary(out, metrics, True)


def _finetune_blend(plan: Plan, out: Path, clock: Clock, resume: bool) -> FinetuneSummary:
    """`finetune` with classical members; see `stacking.py`."""
    from dnd.finetuning.stacking import fit_blend

    if num_ranks() > 1:
        raise ConfigError("classical members are fitted in one process", next_step="Use --recipe small with torchrun")
    settings = plan.settings_of(plan.config.loop.seed, 0)
    begin_or_go_on(out, settings, resume=resume)
    if (out / MANIFEST).is_file():
        LOGGER.log(RESULT, f"{out} is finished already")
        return FinetuneSummary(out, read_json(out / "metrics.json"), True)
    fitted = fit_blend(plan, out, clock, resume=resume)
    if fitted is None:
        LOGGER.log(RESULT, "stopped after loop.stop_after_s; the same command with --resume continues")
        return FinetuneSummary(out, {}, False)
    metrics = write_outcome(out, plan, fitted)
    drop_scaffolding(out)
    return FinetuneSummary(out, metrics, True)


def check_before_training(files: Sequence[LabelledFile], config: FinetuneConfig) -> None:
    """Raise the errors that `finetune` would raise, for a caller that has no encoder yet; writes nothing.

    Raises:
        InputError, ConfigError: see `finetune`.
    """
    with muted(progress=False):
        _plan(files, config, RANDOM)


def _plan(
    files: Sequence[LabelledFile],
    config: FinetuneConfig,
    encoder: str,
    weights: Float[np.ndarray, "rows"] | None = None,
) -> Plan:
    if weights is not None and (len(files) > 1 or config.replicates != "keep"):
        raise ConfigError(
            "weights are for the rows of one table, as they are",
            found=f"{len(files)} files, replicates={config.replicates}",
            next_step="Leave the weights out, or weigh each molecule's one row",
        )
    if config.replicates != "keep" and len(files) > 1:
        raise ConfigError(
            "replicates can't be set for several files, which take the mean of each molecule",
            found=f"replicates={config.replicates}",
            next_step="Leave it out",
        )
    if needs_one_file(config.split) and len(files) > 1:
        raise ConfigError(
            "a split by row numbers needs a single table",
            found=f"{len(files)} files",
            next_step="Use --split column:NAME",
        )
    hydrogens = _hydrogens(config, encoder)
    student = initial_student(config, encoder, seed=0)  # fails before data are read if it can't be opened
    files = [replace(file, rules=config.labels) for file in files]
    molecules, tasks, measured = _read(files, config, hydrogens)
    if weights is not None:
        molecules = weighted(molecules, weights)
    _check_metric(config, tasks)
    _check_suited(config, tasks)
    require_unique_outputs(molecules, tasks.kinds)
    given, config = config, replace(config, units=_units(config, molecules, tasks))
    if config.units and len(config.units) != len(molecules.names):
        expected = len(molecules.names) if not molecules.groups else "one per target"
        raise ConfigError("units and target columns differ in number", found=len(config.units), expected=expected)
    rehearsal = PropertyNetwork(student.eval(), config.pooling, config.head, len(molecules.names))
    run_over(rehearsal, student, molecules.store, np.arange(1))  # fails here if the student lacks the pooling
    parts, learned_BC = list(molecules.parts), molecules.learned_BC
    notices = check_tasks(learned_BC, molecules.names, tasks.kinds)
    choice = None if config.targets == "raw" else config.transform
    transforms, lines = choose_transforms(
        choice, learned_BC, molecules.names, tasks.kinds, [part.train for part in parts], config.metric
    )
    tested = np.unique(np.concatenate([part.test for part in parts]))  # no label of theirs chose the transform
    judged = without_logarithm(molecules.names, transforms, molecules.targets_BC[tested], "test label")
    lines += [f"note: {line}" for line in judged]
    notices += check_learnable(
        molecules.targets_BC,
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
        "settings": to_dict(given),  # what is found in the data follows from them, and its rules may change
    }
    if len(files) > 1:
        record["files"] = list(molecules.files)
    repeats = find_repeats(
        *measured,
        dict(zip(molecules.names, transforms, strict=True)),
        dict(zip(molecules.names, config.units, strict=False)),
    )
    plan = Plan(config, encoder, molecules, tasks, hydrogens, parts, record, transforms, tuple(repeats))
    for line in preamble(plan, files, notices, lines):
        LOGGER.info(line)
    return plan


def _check_metric(config: FinetuneConfig, tasks: Tasks) -> None:
    """Refuse a metric that no target has, or that nothing would be chosen by."""
    if config.metric is None:
        return
    if not config.blend.classical:
        raise ConfigError("--metric is for recipes that make a blend", next_step="Use --recipe best or fast")
    expected = [metric for kind in METRICS_OF if kind in tasks.kinds for metric in METRICS_OF[kind]]
    if config.metric not in expected:
        raise ConfigError(
            f"metric {config.metric} does not fit this task",
            found=f"targets of {tasks.name}",
            expected=f"one of {', '.join(expected)}" if expected else "no metric, as nothing chooses by one here",
            next_step="Use another --metric, or --task" if expected else "Leave --metric out",
        )


def _check_suited(config: FinetuneConfig, tasks: Tasks) -> None:
    """Refuse what is for values where all targets are classes, and what is for classes where all are values."""
    kinds = set(tasks.kinds)
    if config.class_weights != "none" and kinds == {"regression"}:
        raise ConfigError(
            "class_weights is for classes",
            found=f"targets of {tasks.name}",
            next_step="Leave it out, or use --task classification",
        )
    if config.transform in ("log", "yeo-johnson") and "regression" not in kinds:
        raise ConfigError(
            "a transform is for values",
            found=f"transform={config.transform}, targets of {tasks.name}",
            next_step="Leave it out, or use --task regression",
        )


def _read(
    files: Sequence[LabelledFile], config: FinetuneConfig, hydrogens: HydrogenSetting
) -> tuple[LabelledMolecules, Tasks, tuple[LabelledMolecules, Sequence[TaskKind]]]:
    """Molecules and tasks to learn from, and the molecules with their kinds before replicates are merged."""
    column, dealing = split_column(config.split), _dealing(config)
    choices, most = config.tasks or (config.task,), config.blend.most_rows if config.blend.classical else None
    if len(files) > 1:
        from dnd.finetuning.several_files import read_several

        several = read_several(
            files,
            hydrogens,
            choices=choices,
            dealing=dealing,
            extra_column=column,
            standardize=config.standardize,
            jobs=config.jobs,
            most=most,
        )
        molecules, tasks = expand_classes(*several)
        return molecules, tasks, (molecules, tasks.kinds)
    (file,) = files
    molecules = read_labelled(
        file.path,
        file.target_columns,
        hydrogens,
        smiles_column=file.smiles_column,
        extra_column=column,
        rules=file.rules,
        standardize=config.standardize,
        jobs=config.jobs,
        most=most,
        dealing=dealing,
        table=file.kept,
    )
    tasks = choose_tasks(molecules.learned_BC, molecules.names, choices, words=molecules.classes)
    measured, measured_tasks = expand_classes(molecules, tasks)
    molecules, line = aggregated(molecules, config.replicates, tasks.kinds)
    if line:
        LOGGER.info(line)
    return *expand_classes(molecules, tasks), (measured, measured_tasks.kinds)


def _units(config: FinetuneConfig, molecules: LabelledMolecules, tasks: Tasks) -> tuple[str, ...]:
    """The unit of each column: as the user gave it, else as cells or names of the columns have it; none of classes."""
    if config.units or not any(molecules.units):
        return spread_units(config.units, molecules.names, molecules.groups)
    units = spread_units(molecules.units, molecules.names, molecules.groups)
    return tuple(unit if kind == "regression" else "" for unit, kind in zip(units, tasks.kinds, strict=True))


def _dealing(config: FinetuneConfig) -> Dealing:
    """The split, dealt by molecules while the table is read: before any label is, so that no test label decides."""

    def deal(molecules: UnreadMolecules) -> list[Split]:
        return partitions(
            config.split,
            molecules.smiles if config.standardize else molecules.texts,
            identities=identities_of(molecules.smiles),
            column_values=molecules.extra,
            rows_B=molecules.rows_B,
            num_rows=molecules.num_rows,
            places=molecules.places,
            fractions=(config.fractions[0], config.fractions[1], config.fractions[2]),
            seed=config.split_seed,
            folds=config.folds,
        )

    return Dealing(deal, partial(is_test_word, config.split), partial(cells_of_molecules, config.split))


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
