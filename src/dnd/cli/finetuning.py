"""Verbs that make a model: `finetune` from labelled molecules, `compress` from a model of several members."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dnd.cli.options import (
    AllowChange,
    Censored,
    Decimal,
    Device,
    LabelledTable,
    Measured,
    Missing,
    PoolingName,
    Resume,
    SkipNonfinite,
    Standardize,
    completed_by,
    echo,
    label_settings,
    loop_words,
    recipe_option,
)

if TYPE_CHECKING:
    from dnd.tables.readers import KeptTable


Settings = Annotated[
    list[str] | None,
    typer.Argument(
        help="key=value settings, such as transform=log, units=mol/L, class_weights=balanced or blend.trees=100; "
        "a word without = is a further target column."
    ),
]
TargetColumns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN", help="Column with labels, required; may be repeated. Empty cells are missing labels."
    ),
]
Also = Annotated[
    list[str] | None,
    typer.Option(help="FILE:COLUMN[,COLUMN]: another table, whose targets the same model learns; may be repeated."),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        help="Pretrained encoder, for its representation or to start from: dnd-base (default), dnd-tokengt, an "
        "ENCODER folder, or `random` (no pretraining)."
    ),
]
Student = Annotated[
    str | None,
    typer.Option(
        help="For recipes small and best, with --encoder random: a student, a preset, or an ENCODER folder for its "
        "architecture."
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        help="auto, regression, classification or multiclass; one for all targets, or one each with commas.",
        autocompletion=completed_by("auto regression classification multiclass"),
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="scaffold (default), scaffold-balanced, random, cluster, kfold, kfold:5x3, column:NAME, time:NAME, "
        "or index:TRAIN,VALID,TEST.",
        autocompletion=completed_by("scaffold scaffold-balanced random cluster kfold column: time: index:"),
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        help="Metric that recipes best and fast optimise: mae, rmse, spearman, auroc or auprc.",
        autocompletion=completed_by("mae rmse spearman auroc auprc"),
    ),
]
TimeLimit = Annotated[
    str | None, typer.Option(help="90s, 10m or 1h, for recipes best and fast: work that does not fit is left out.")
]
Search = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Search a few settings of students in N trials first, for recipes small and best (Optuna).",
    ),
]


def finetune(
    data: LabelledTable,
    settings: Settings = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="MODEL folder to write.")] = ...,  # type: ignore[assignment]
    target_columns: TargetColumns = None,
    also: Also = None,
    smiles_column: Annotated[
        str | None, typer.Option(help="Column with SMILES, in every file. Found by name or content if not given.")
    ] = None,
    missing: Missing = None,
    measured: Measured = None,
    censored: Censored = None,
    decimal: Decimal = None,
    standardize: Standardize = False,
    encoder: Encoder = None,
    student: Student = None,
    pooling: PoolingName = None,
    task: Task = None,
    split: Split = None,
    replicates: Annotated[
        str | None,
        typer.Option(
            help="How to merge rows of one molecule: keep (default), mean, median or geometric-mean.",
            autocompletion=completed_by("keep mean median geometric-mean"),
        ),
    ] = None,
    ensemble: Annotated[int | None, typer.Option(help="Number of students, for recipes small and best.")] = None,
    recipe: Annotated[str, recipe_option("finetune")] = "fast",
    metric: Metric = None,
    time_limit: TimeLimit = None,
    seed: Annotated[int | None, typer.Option(help="Random seed of the training; the split has split_seed.")] = None,
    search: Search = 0,
    resume: Resume = False,
    skip_nonfinite: SkipNonfinite = None,
    allow_change: AllowChange = False,
    device: Device = None,
    jobs: Annotated[
        int | None, typer.Option(help="Processes for parsing and descriptors; 0 (default) = one per processor.")
    ] = None,
) -> None:
    """Train a model on labelled molecules and compare it with classical baselines."""
    from dnd.common.compute import kept_to_the_end
    from dnd.common.config import check_settings, read_duration
    from dnd.common.errors import ConfigError
    from dnd.common.runs import refuse_finished
    from dnd.finetuning.unused_settings import Made, refuse_unused

    options = {
        "pooling": pooling,
        "tasks" if task and "," in task else "task": task,
        "split": split,
        "replicates": replicates,
        "standardize": "true" if standardize else None,
        "ensemble": ensemble,
        "metric": metric,
        "loop.seed": seed,
        "jobs": jobs,
        "blend.time_limit_s": None if time_limit is None else read_duration(time_limit),
    }
    labels = label_settings(missing, measured, censored, decimal)
    options |= {
        f"labels.{name}": value if isinstance(value, str) else ",".join(value) for name, value in labels.items()
    }
    words = settings or []
    overrides = [
        *(f"{key}={value}" for key, value in options.items() if value is not None),
        *loop_words(skip_nonfinite, allow_change, device),
        *(word for word in words if "=" in word),
    ]
    columns = [*(target_columns or ()), *(word for word in words if "=" not in word)]
    known = check_settings("finetune", recipe, overrides)
    students, classical = getattr(known.blend, "students", None), getattr(known.blend, "classical", None)
    as_words = {"student": student, "search": search or None}
    refuse_unused(
        recipe,
        [*overrides, *(f"{name}={value}" for name, value in as_words.items() if value is not None)],
        Made(students is not False, bool(classical), known.split or "scaffold"),
    )
    if not columns:
        raise ConfigError(
            "no column with labels is named",
            expected="--target-columns NAME",
            next_step=f"`{shlex.join(['dnd', 'check', data])}` lists the columns that can be learned",
        )
    if not resume:  # said again when the folder is locked, but then the table has been read
        refuse_finished(out)
    kept = None if also or resume else _look_at(data, columns, smiles_column, recipe, overrides)
    with kept_to_the_end():  # torch is loaded from here on
        from dnd.finetuning.finetune import finetune as run
        from dnd.finetuning.settings import finetune_config
        from dnd.finetuning.students import encoder_choice, student_settings
        from dnd.models.students.encoders import RANDOM

    own = student_settings(student, encoder or RANDOM)
    encoder = encoder_choice(encoder, [*own, *words])
    config = finetune_config(recipe, [*own, *overrides])
    files = []
    if also:
        from dnd.finetuning.several_files import labelled_file

        files = [labelled_file(word, smiles_column) for word in also]
    done = run(
        data, out, columns, config,
        smiles_column=smiles_column, also=files, encoder=encoder, search=search, resume=resume, kept=kept,
    )  # fmt: skip
    if done.metrics:  # a stopped run and ranks above 0 have none
        with kept_to_the_end():
            from dnd.report.model_report import write_missing_report

        if report := write_missing_report(out):
            echo(f"model: {out}")
            echo(f"report: {report}")
            echo(f"next: {shlex.join(['dnd', 'predict', 'new.csv', '-m', str(out)])}")


def _look_at(
    data: str, columns: Sequence[str], smiles_column: str | None, recipe: str, overrides: Sequence[str]
) -> KeptTable | None:
    """Say what the table holds, and refuse columns and labels that can't be learned; the rows, if all were read."""
    from dnd.common.compute import kept_to_the_end
    from dnd.common.log import LOGGER
    from dnd.tables.molecules import require_labelled_columns
    from dnd.tables.streams import STANDARD_INPUT, is_pipe

    if data == STANDARD_INPUT or is_pipe(data):  # can be read once only
        return None
    require_labelled_columns(data, columns, smiles_column)
    with kept_to_the_end():
        from dnd.cli.check import first_lines
        from dnd.common.config import load_part
        from dnd.finetuning.check_data import first_look
        from dnd.finetuning.splits import TableSettings

    facts, kept = first_look(
        data, columns, smiles_column, load_part(TableSettings, recipe, overrides, stage="finetune")
    )
    for line in first_lines(facts):
        LOGGER.info(line)
    return kept


def compress(
    model: Annotated[Path, typer.Argument(help="MODEL folder of `dnd finetune` with several members.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value settings, such as loop.epochs=30 or held_out=0.1.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="MODEL folder of the student.")] = ...,  # type: ignore[assignment]
    molecules: Annotated[
        list[str] | None,
        typer.Option(
            help="Table of molecules without labels, or `druglike` for the 20,000 that ship; may be repeated. "
            "Include the model's own training table."
        ),
    ] = None,
    smiles_column: Annotated[
        str | None, typer.Option(help="Column with SMILES. By default that of the model, or found by name or content.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Starting point of the student: a shipped encoder, an ENCODER folder, or `random`."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="small, or a TOML file.")] = "small",
    seed: Annotated[int | None, typer.Option(help="Random seed of the training and of the held-out molecules.")] = None,
    device: Device = None,
    jobs: Annotated[
        int | None, typer.Option(help="Processes for parsing and descriptors; 0 = one per processor.")
    ] = None,
    resume: Resume = False,
    skip_nonfinite: SkipNonfinite = None,
    allow_change: AllowChange = False,
) -> None:
    """Train one student to imitate a blend, so that screening takes a fraction of the time."""
    from dnd.common.config import check_settings, load_config

    options = {"encoder": encoder, "loop.seed": seed, "jobs": jobs}
    words = [f"{key}={value}" for key, value in options.items() if value is not None]
    words += [*loop_words(skip_nonfinite, allow_change, device), *(settings or [])]
    check_settings("compress", recipe, words)
    # Torch is loaded from here on.
    from dnd.finetuning.compress import CompressConfig
    from dnd.finetuning.compress import compress as run
    from dnd.finetuning.compressed_model import DRUGLIKE

    config = load_config(CompressConfig, recipe, words, stage="compress")
    done = run(
        model, out, molecules or [DRUGLIKE], config, smiles_column=smiles_column, resume=resume,
    )  # fmt: skip
    if done.finished:
        from dnd.report.model_report import write_missing_report

        if report := write_missing_report(out):
            echo(f"report: {report}")
