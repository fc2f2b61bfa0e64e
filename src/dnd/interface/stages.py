"""The stages that make something, from Python: `prepare`, `denoise`, `distill`, `finetune` and `compress`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnd.common.config import (
    LabelWords,
    check_settings,
    from_dict,
    load_config,
    read_duration,
    setting_word,
    setting_words,
)
from dnd.common.errors import named_as, named_as_arguments
from dnd.common.log import LOGGER, RESULT, level_of, told

if TYPE_CHECKING:
    from dnd.interface.model import Predictor

# As in the verbs, settings are refused before torch is loaded: what loads it is imported by the functions.

Settings = Mapping[str, object]


@dataclass(frozen=True)
class StageResult:
    """The result of a stage; it can be passed wherever a folder is expected.

    Attributes:
        folder: the STORE, TEACHER, ENCODER, MODEL or screen folder.
        kind: which kind of folder it is.
        metrics: metrics of the run.
        finished: False if `loop.stop_after_s` ended it early; the same call with `resume=True` resumes it.
    """

    folder: Path
    kind: str
    metrics: Mapping[str, Any] = field(default_factory=dict, repr=False)
    finished: bool = True

    def __fspath__(self) -> str:
        """The folder, as `open` and `Path` take it."""
        return str(self.folder)

    def _repr_html_(self) -> str:
        """Folder and numbers."""
        from dnd.interface.model import facts_view

        state = "" if self.finished else " (stopped early: resume=True resumes it)"
        numbers = {name: value for name, value in self.metrics.items() if isinstance(value, int | float | str)}
        return facts_view(f"{self.kind}{state}", {"folder": self.folder, **numbers})


@dataclass(frozen=True)
class FinetuneResult(StageResult):
    """A finished finetuning: the MODEL folder, its metrics, and the model itself."""

    device: str = "auto"

    @property
    def report(self) -> Path:
        """The page with metrics, plots, worst errors, data and settings."""
        return self.folder / "report.html"

    @cached_property
    def predictor(self) -> Predictor:
        """The model, loaded when first asked for.

        Raises:
            InputError: the finetuning was stopped early.
        """
        from dnd.interface.model import Predictor

        return Predictor.load(self.folder, device=self.device)

    def _repr_html_(self) -> str:
        """As the model itself."""
        return self.predictor._repr_html_() if self.finished else super()._repr_html_()


@named_as_arguments()
def prepare(
    molecules: Any,
    out: Path | str,
    *,
    smiles_column: str | None = None,
    target_columns: str | Sequence[str] = (),
    conformers: str = "auto",
    hydrogens: str = "heavy_both",
    jobs: int = 1,
    resume: bool = False,
    verbose: bool | int = True,
    **settings: object,
) -> StageResult:
    """Molecules, with conformers or without → a store, as `dnd prepare` makes it.

    Args:
        molecules: a path or a list of paths (CSV, SMI, Parquet, SDF, XYZ, .npz); or a DataFrame, a mapping of columns,
            a list or a Series of SMILES.
        out: folder of the store.
        smiles_column: column of SMILES of tables; found by name or content when None.
        target_columns: columns that are kept as targets.
        conformers: `none`, `file`, `etkdg`, `etkdg_raw`, or `auto`: from the file if it has coordinates.
        hydrogens: `heavy_both`, `all_both` or `teacher_all_student_heavy`.
        jobs: number of worker processes.
        resume: resume an interrupted run.
        verbose: whether to show progress.
        **settings: further options of the verb, such as `num_conformers=3`, `limit=1000` or `seed=1`.

    Raises:
        InputError, ConfigError: see `dnd.store.prepare.prepare`.

    Example:
        >>> dnd.prepare(["CCO", "c1ccccc1"], "store", conformers="etkdg")  # doctest: +SKIP
    """
    from dnd.store.settings import PrepareConfig

    given = {"target_columns": _names(target_columns), "conformers": conformers, "hydrogens": hydrogens, "jobs": jobs}
    from_dict(PrepareConfig, {**given, **settings})  # the column of SMILES is known once the molecules are a file

    from dnd.interface.model import as_files
    from dnd.store.prepare import prepare as run

    with told(level_of(verbose)), as_files(molecules, smiles_column) as (paths, column):
        config = from_dict(PrepareConfig, {**given, "smiles_column": column, **settings})
        summary = run(paths, out, config, resume=resume)
    rejected = sum(summary.rejected.values())
    counts = {"molecules": summary.molecules, "conformers": summary.conformers, "rejected": rejected}
    return StageResult(summary.store, "store", counts)


@named_as_arguments()
def denoise(
    store: Any,
    out: Path | str,
    *,
    recipe: str | Path = "small",
    settings: Settings | None = None,
    resume: bool = False,
    verbose: bool | int = True,
) -> StageResult:
    """Store with conformers → teacher: a 3D network that predicts the noise added to them.

    Args:
        store: the STORE folder, or what `dnd.prepare` returned.
        out: TEACHER folder.
        recipe: `tiny`, `small`, `gpu`, `paper`, or a TOML file.
        settings: settings by their dotted names, such as `{"loop.epochs": 3}`.
        resume: resume an interrupted run.
        verbose: whether to show progress; 2 = each epoch too.

    Raises:
        InputError, ConfigError: see `dnd.pretraining.denoise.denoise`.

    Example:
        >>> dnd.denoise("store", "teacher")  # doctest: +SKIP
    """
    words = setting_words(settings)
    check_settings("denoise", recipe, words)

    from dnd.pretraining.denoise import DenoiseConfig
    from dnd.pretraining.denoise import denoise as run

    config = load_config(DenoiseConfig, recipe, words, stage="denoise")
    with told(level_of(verbose)):
        done = run(Path(store), out, config, resume=resume)
    return StageResult(done.folder, "teacher", done.metrics, done.finished)


@named_as_arguments()
def distill(
    store: Any,
    teacher: Any,
    out: Path | str,
    *,
    level: str | None = None,
    recipe: str | Path = "small",
    settings: Settings | None = None,
    resume: bool = False,
    verbose: bool | int = True,
) -> StageResult:
    """Store and teacher → encoder: a 2D student that learned the teacher's representations.

    Args:
        store: the STORE folder, or what `dnd.prepare` returned.
        teacher: the TEACHER folder, or what `dnd.denoise` returned; None if all terms are auxiliary.
        out: ENCODER folder.
        level: `node`, `graph`, `coordinated` or `custom`; the recipe's when None.
        recipe: `tiny`, `small`, `gpu`, `paper`, or a TOML file.
        settings: settings by their dotted names, such as `{"student.name": "gine"}`.
        resume: resume an interrupted run.
        verbose: whether to show progress; 2 = each epoch too.

    Raises:
        InputError, ConfigError: see `dnd.pretraining.distill.distill`.

    Example:
        >>> dnd.distill("store", "teacher", "encoder", level="node")  # doctest: +SKIP
    """
    words = [*([f"level={level}"] if level else []), *setting_words(settings)]
    check_settings("distill", recipe, words)

    from dnd.pretraining.distill import distill as run
    from dnd.pretraining.settings import DistillConfig

    config = load_config(DistillConfig, recipe, words, stage="distill")
    with told(level_of(verbose)):
        done = run(Path(store), None if teacher is None else Path(teacher), out, config, resume=resume)
    return StageResult(done.folder, "encoder", done.metrics, done.finished)


@named_as_arguments()
def finetune(
    data: Any,
    target_columns: str | Sequence[str],
    out: Path | str,
    *,
    recipe: str | Path = "fast",
    encoder: Any = None,
    task: str | None = None,
    split: str | None = None,
    missing: LabelWords = (),
    measured: LabelWords = (),
    censored: str | None = None,
    decimal: str | None = None,
    standardize: bool = False,
    replicates: str | None = None,
    ensemble: int | None = None,
    time_limit: str | float | None = None,
    seed: int | None = None,
    device: str | None = None,
    smiles_column: str | None = None,
    settings: Settings | None = None,
    search: int = 0,
    resume: bool = False,
    verbose: bool | int = True,
) -> FinetuneResult:
    """Labelled molecules and an encoder → a model and its report, as `dnd finetune` makes them.

    Args:
        data: a path, a DataFrame, or a mapping of columns.
        target_columns: columns with labels; an empty cell, None or NaN is a missing label.
        out: MODEL folder; `report.html` is in it.
        recipe: `fast`, `best`, `small`, `paper`, or a TOML file.
        encoder: a shipped encoder, an ENCODER folder, what `dnd.distill` returned, or `random`; when None, the one
            that ships, or random weights where `settings` describe a student.
        task: `auto`, `regression`, `classification` or `multiclass`.
        split: `scaffold`, `random`, `kfold`, `column:NAME` …; the recipe's when None.
        missing: further words or values that mean a missing label, such as -999 or `["n.d.", "BLQ"]`.
        measured: values such as 9999 that look like placeholders but were measured.
        censored: labels such as `>10` and `<0.1`: `keep` (learn as limits), `drop`, or `limit` (learn the limit as a
            value); they are an error when None.
        decimal: decimal mark of the labels, `comma` or `point`, where the cells are ambiguous.
        standardize: reduce each molecule to its largest organic part, neutralised, here and in predictions.
        replicates: how to merge rows of one molecule: `mean`, `median` or `geometric-mean`; they are kept when None.
        ensemble: number of students, for the recipes `small` and `best`; the recipe's when None.
        time_limit: seconds, or a text such as `10m`, for the recipes `best` and `fast`.
        seed: random seed of the training.
        device: `cpu`, `cuda` or `auto`.
        smiles_column: column of SMILES; found by name or content when None.
        settings: further settings by their dotted names, such as `{"blend.trees": 100}`.
        search: number of trials that choose a few settings of students first, for the recipes `small` and `best`.
        resume: resume an interrupted run.
        verbose: whether to print the lines that the verb prints; 2 = each epoch too.

    Returns:
        The folder and the metrics; `.predictor` is the model, `.report` the page.

    Raises:
        InputError, ConfigError: see `dnd.finetuning.finetune.finetune`.

    Example:
        >>> dnd.finetune("esol.csv", "logS", "model").predictor.predict("CCO")  # doctest: +SKIP
    """
    words = setting_words(settings)
    options = {
        "task": task,
        "split": split,
        "labels.missing": _listed(missing),
        "labels.measured": _listed(measured),
        "labels.censored": censored,
        "labels.decimal": decimal,
        "standardize": "true" if standardize else None,
        "replicates": replicates,
        "ensemble": ensemble,
        "loop.seed": seed,
        "loop.device": device,
        "blend.time_limit_s": None if time_limit is None else read_duration(str(time_limit)),
    }
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    called = _called(options, settings)
    with named_as(called):
        check_settings("finetune", recipe, [*given, *words])

    from dnd.finetuning.finetune import finetune as run
    from dnd.finetuning.settings import finetune_config
    from dnd.finetuning.students import encoder_choice
    from dnd.interface.model import as_file
    from dnd.report.model_report import write_missing_report

    with named_as(called):
        config = finetune_config(recipe, [*given, *words])
    chosen = encoder_choice(os.fspath(encoder) if isinstance(encoder, os.PathLike) else encoder, words)
    labels = _names(target_columns)
    with told(level_of(verbose)), as_file(data, smiles_column, labels) as (path, column):
        done = run(
            path, out, labels, config,
            smiles_column=column, encoder=chosen, search=search, resume=resume,
        )  # fmt: skip
        if done.metrics and (report := write_missing_report(done.folder)):
            LOGGER.log(RESULT, f"model: {done.folder}")
            LOGGER.log(RESULT, f"report: {report}")
    return FinetuneResult(done.folder, "model", done.metrics, done.finished, config.loop.device)


@named_as_arguments()
def compress(
    model: Path | str | FinetuneResult,
    out: Path | str,
    *,
    molecules: str | Path | Sequence[str | Path] = "druglike",
    smiles_column: str | None = None,
    recipe: str | Path = "small",
    encoder: str | Path | None = None,
    seed: int | None = None,
    device: str = "auto",
    settings: Settings | None = None,
    resume: bool = False,
    verbose: bool | int = True,
) -> FinetuneResult:
    """A model of several members → one student that imitates it, as `dnd compress` makes it.

    Args:
        model: the MODEL folder, or what `dnd.finetune` returned.
        out: the MODEL folder of the student.
        molecules: molecules to train on, without labels: `druglike` for the 20,000 molecules that ship, a path, or a
            list of them. Include the table that the model was fitted on.
        smiles_column: SMILES column of the tables; that of the model, or found by name or content, when None.
        recipe: `small` or a TOML file.
        encoder: starting point of the student; the recipe's when None.
        seed: random seed of the training and of the held-out molecules.
        device: `cpu`, `cuda` or `auto`.
        settings: further settings by their names, such as `{"loop.epochs": 30}`.
        resume: resume an interrupted run.
        verbose: whether to print the lines that the verb prints; 2 = each epoch too.

    Returns:
        The folder and the metrics; `.predictor` is the student, `.report` the page.

    Raises:
        InputError, ConfigError: see `dnd.finetuning.compress.compress`.

    Example:
        >>> small = dnd.compress("esol-model", "esol-small", molecules=["druglike", "esol.csv"])  # doctest: +SKIP
    """
    options = {"encoder": encoder, "loop.seed": seed, "loop.device": device}
    given = [*(f"{name}={value}" for name, value in options.items() if value is not None), *setting_words(settings)]
    with named_as(_called(options, settings)):
        check_settings("compress", recipe, given)

    from dnd.finetuning.compress import CompressConfig
    from dnd.finetuning.compress import compress as run
    from dnd.report.model_report import write_missing_report

    config = load_config(CompressConfig, recipe, given, stage="compress")
    tables = [molecules] if isinstance(molecules, str | Path) else list(molecules)
    with told(level_of(verbose)):
        done = run(os.fspath(model), out, tables, config, smiles_column=smiles_column, resume=resume)
        if done.finished and (report := write_missing_report(done.folder)):
            LOGGER.log(RESULT, f"report: {report}")
    return FinetuneResult(done.folder, "model", done.metrics, done.finished, config.loop.device)


def _names(columns: str | Sequence[str]) -> list[str]:
    """Names of columns as texts; a table without names has numbers instead."""
    return [str(columns)] if isinstance(columns, str | int) else list(map(str, columns))


def _called(options: Mapping[str, object], settings: Settings | None) -> dict[str, str]:
    """Setting → argument by which the caller gave it, such as `loop.seed` → `seed`."""
    given = [name for name, value in options.items() if value is not None and name not in (settings or {})]
    return {name: name.rpartition(".")[2].removesuffix("_s") for name in given}


def _listed(words: LabelWords) -> str | None:
    """Words or values of a setting; None where there are none."""
    return setting_word(words) or None
