"""Verbs that make an encoder: `prepare`, `denoise`, `distill`, the baselines, and all of them in `pretrain-base`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dnd.cli.options import (
    AllowChange,
    Device,
    EncoderOut,
    RayAddress,
    Resume,
    SkipNonfinite,
    SmilesColumnOfTables,
    StoreOfConformers,
    StudentName,
    comma_words,
    echo,
    loop_words,
    recipe_option,
)
from dnd.common.log import LOGGER, RESULT

TargetColumns = Annotated[
    list[str] | None, typer.Option(help="Columns or labels kept as targets; repeat, or separate by commas.")
]
Conformers = Annotated[
    str, typer.Option(help="none, file, etkdg, etkdg_raw (not relaxed), or auto: from the file if it has coordinates.")
]
Backend = Annotated[
    str, typer.Option(help="rdkit, nvmolkit (extra `gpu`; NVIDIA GPU, RDKit for molecules that fail), or auto.")
]
Hydrogens = Annotated[str, typer.Option(help="Explicit hydrogens: heavy_both, all_both or teacher_all_student_heavy.")]
Auxiliary = Annotated[
    list[str] | None,
    typer.Option(help="Further columns to learn from: descriptors, fingerprints, charges, surface; with commas."),
]
Quantum = Annotated[
    list[str] | None,
    typer.Option(
        help="Quantum teacher: gfn2 (GFN2-xTB of the first conformer; extra `quantum`), files of labels, or both."
    ),
]
Exclude = Annotated[
    list[Path] | None,
    typer.Option(help="File of molecules to leave out, compared by InChIKey connectivity block; may be repeated."),
]


def prepare(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="IN...", help="CSV, TSV, SMI, Parquet, SDF, XYZ, tar of them, or .npz.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the store.")],
    smiles_column: SmilesColumnOfTables = None,
    target_columns: TargetColumns = None,
    conformers: Conformers = "auto",
    num_conformers: Annotated[int, typer.Option(help="Conformers per molecule, for etkdg and etkdg_raw.")] = 1,
    conformer_backend: Backend = "rdkit",
    hydrogens: Hydrogens = "heavy_both",
    auxiliary: Auxiliary = None,
    quantum: Quantum = None,
    jobs: Annotated[int, typer.Option(help="Worker processes.")] = 1,
    limit: Annotated[int | None, typer.Option(help="Number of records to read, from the first on.")] = None,
    sample: Annotated[int | None, typer.Option(help="Number of records to draw at random.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of generated conformers and of --sample.")] = 0,
    timeout_s: Annotated[float, typer.Option(help="Seconds per molecule.")] = 30.0,
    exclude: Exclude = None,
    ray: RayAddress = None,
    resume: Resume = False,
) -> None:
    """Make a store: checked graphs, conformers and targets in memory-mapped shards, and a list of rejects."""
    from dnd.common.config import from_dict
    from dnd.store.prepare import prepare as make_store
    from dnd.store.settings import PrepareConfig

    values = {
        "smiles_column": smiles_column,
        "target_columns": comma_words(target_columns),
        "conformers": conformers,
        "num_conformers": num_conformers,
        "conformer_backend": conformer_backend,
        "hydrogens": hydrogens,
        "auxiliary": comma_words(auxiliary),
        "quantum": comma_words(quantum),
        "jobs": jobs,
        "limit": limit,
        "sample": sample,
        "seed": seed,
        "timeout_s": timeout_s,
        "exclude": [str(path) for path in exclude or ()],
    }
    summary = make_store(inputs, out, from_dict(PrepareConfig, values), resume=resume, ray=ray)
    LOGGER.log(
        RESULT,
        f"{summary.store}: {summary.molecules:,} molecules, {summary.conformers:,} conformers, "
        f"{summary.store_bytes:,} bytes, {summary.seconds:.1f} s",
    )
    rejected = sum(summary.rejected.values())
    LOGGER.log(RESULT, f"rejected {rejected:,}" + (f", listed in {summary.store / 'rejects.csv'}" if rejected else ""))
    for reason, count in summary.rejected.items():
        LOGGER.log(RESULT, f"  {count:>9,}  {reason}")
    if quantum:
        without = sum(summary.quantum_failures.values())
        LOGGER.log(RESULT, f"quantum values for {summary.molecules - without:,} molecules, none for {without:,}")
        for reason, count in summary.quantum_failures.items():
            LOGGER.log(RESULT, f"  {count:>9,}  {reason}")


def denoise(
    store: Annotated[Path, typer.Argument(help="Store with conformers, made by `dnd prepare`.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value settings, such as teacher.width=64 or loop.epochs=30.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="TEACHER folder to write.")] = ...,  # type: ignore[assignment]
    recipe: Annotated[str, recipe_option("denoise")] = "small",
    resume: Resume = False,
    skip_nonfinite: SkipNonfinite = None,
    allow_change: AllowChange = False,
    device: Device = None,
) -> None:
    """Train a 3D teacher to predict the noise added to conformers; print its loss, the trivial loss and the floor."""
    from dnd.common.config import check_settings, load_config

    overrides = [*loop_words(skip_nonfinite, allow_change, device), *(settings or [])]
    check_settings("denoise", recipe, overrides)
    # Torch is loaded from here on.
    from dnd.pretraining.denoise import DenoiseConfig
    from dnd.pretraining.denoise import denoise as run

    config = load_config(DenoiseConfig, recipe, overrides, stage="denoise")
    summary = run(store, out, config, resume=resume)
    if not summary.finished:
        echo(f"stopped after loop.stop_after_s; the same command with --resume continues from {summary.folder}")
        return
    echo(f"{summary.folder}: a finished teacher")
    if summary.metrics:
        found = summary.metrics
        echo(
            f"held-out loss {found['held_out_loss']:.4f} ({100 * found['explained']:.1f} % of what can be predicted); "
            f"predicting zero gives {found['trivial']:.4f}, and no model can go below about {found['floor']:.4f}"
        )


def distill(
    store: StoreOfConformers,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=value settings, such as loop.epochs=20; with auto also seeds=5, finetune.loop.epochs=9."
        ),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="TEACHER folder, from `dnd denoise`; not needed if all terms are auxiliary.")
    ] = None,
    out: EncoderOut = ...,  # type: ignore[assignment]
    level: Annotated[str | None, typer.Option(help="node, graph, coordinated, custom, or auto.")] = None,
    validate: Annotated[
        Path | None, typer.Option(help="With --level auto: labelled table; its validation part decides.")
    ] = None,
    target_columns: Annotated[
        list[str] | None, typer.Option(help="With --level auto: columns with labels; repeat, or separate by commas.")
    ] = None,
    smiles_column: Annotated[
        str | None, typer.Option(help="With --level auto: column with SMILES. Found by name or content if not given.")
    ] = None,
    student: StudentName = None,
    recipe: Annotated[str, recipe_option("distill")] = "small",
    resume: Resume = False,
    skip_nonfinite: SkipNonfinite = None,
    allow_change: AllowChange = False,
    device: Device = None,
) -> None:
    """Train a 2D student to reproduce a frozen 3D teacher's representations of clean conformers."""
    from dnd.common.config import check_settings, load_config
    from dnd.common.errors import ConfigError

    automatic = level == "auto"
    if automatic != (validate is not None) or automatic != bool(target_columns):
        raise ConfigError("--level auto, --validate and --target-columns must be given together")
    of_choice = [word for word in settings or () if automatic and word.startswith(("finetune.", "seeds="))]
    of_choice = [*([f"finetune.loop.device={device}"] if device else []), *of_choice]
    words = [
        *loop_words(skip_nonfinite, allow_change, device),
        *(word for word in settings or () if word not in of_choice),
    ]
    own_level = [f"level={level}"] if level and not automatic else []
    check_settings("distill", recipe, [*own_level, *words])
    # Torch is loaded from here on.
    from dnd.pretraining.distill import distill as run
    from dnd.pretraining.encoder_folder import report
    from dnd.pretraining.settings import DistillConfig, student_words

    overrides = [*own_level, *(student_words(student) if student else []), *words]
    config = load_config(DistillConfig, recipe, overrides, stage="distill")
    if teacher is None and config.needs_teacher:
        raise ConfigError(f"level {config.level} needs a teacher", next_step="Name one with --teacher")
    if validate is not None:
        assert teacher is not None  # every level that auto compares needs one
        from dnd.finetuning.choose_level import choice_config, distill_best_level
        from dnd.finetuning.labelled_data import LabelledFile

        data = LabelledFile(validate, tuple(target_columns or ()), smiles_column)
        distill_best_level(store, teacher, out, data, config, choice_config(of_choice), resume=resume)
        return
    echo(report(run(store, teacher, out, config, resume=resume)))


def contrast(
    store: StoreOfConformers,
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value settings, such as temperature=0.01 or encoder_3d=teacher.")
    ] = None,
    out: EncoderOut = ...,  # type: ignore[assignment]
    student: StudentName = None,
    recipe: Annotated[str, recipe_option("contrast")] = "small",
    resume: Resume = False,
    skip_nonfinite: SkipNonfinite = None,
    allow_change: AllowChange = False,
    device: Device = None,
) -> None:
    """Pretrain a student by 3DInfomax: 2D and 3D vectors attract within a molecule and repel between molecules."""
    from dnd.common.config import check_settings, load_config

    words = [*loop_words(skip_nonfinite, allow_change, device), *(settings or [])]
    check_settings("contrast", recipe, words)
    # Torch is loaded from here on.
    from dnd.pretraining.baselines.infomax3d import ContrastConfig
    from dnd.pretraining.baselines.infomax3d import contrast as run
    from dnd.pretraining.encoder_folder import report
    from dnd.pretraining.settings import student_words

    overrides = [*(student_words(student) if student else []), *words]
    config = load_config(ContrastConfig, recipe, overrides, stage="contrast")
    echo(report(run(store, out, config, resume=resume)))


def pretrain(
    store: Annotated[Path, typer.Argument(help="Store, from `dnd prepare`.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value settings, such as target=u0_atom or loop.epochs=20.")
    ] = None,
    out: EncoderOut = ...,  # type: ignore[assignment]
    method: Annotated[str, typer.Option(help="graphcl, propred, dispred or confgen.")] = ...,  # type: ignore[assignment]
    student: StudentName = None,
    recipe: Annotated[str, recipe_option("pretrain")] = "small",
    resume: Resume = False,
    skip_nonfinite: SkipNonfinite = None,
    allow_change: AllowChange = False,
    device: Device = None,
) -> None:
    """Pretrain a student by GraphCL, ProPred, DisPred or ConfGen."""
    from dnd.common.config import check_settings, load_config

    words = [*loop_words(skip_nonfinite, allow_change, device), *(settings or [])]
    check_settings("pretrain", recipe, [f"method={method}", *words])
    # Torch is loaded from here on.
    from dnd.pretraining.baselines.pretrain import pretrain as run
    from dnd.pretraining.encoder_folder import report
    from dnd.pretraining.settings import PretrainConfig, student_words

    overrides = [f"method={method}", *(student_words(student) if student else []), *words]
    config = load_config(PretrainConfig, recipe, overrides, stage="pretrain")
    echo(report(run(store, out, config, resume=resume)))


def pretrain_base(
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value settings, such as most_molecules=5000 or base.loop.epochs=2.")
    ] = None,
    inputs: Annotated[
        list[Path], typer.Option(help="File of conformers (.npz, SDF, XYZ) or SMILES (CSV, SMI); may be repeated.")
    ] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for stores, teacher, students and encoders.")] = ...,  # type: ignore[assignment]
    recipe: Annotated[str, recipe_option("base")] = "cpu",
    exclude: Annotated[
        list[Path] | None, typer.Option(help="Further file of molecules to leave out; may be repeated.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data sets whose validation and test molecules are left out.")
    ] = None,
    allow_change: Annotated[
        bool, typer.Option("--allow-change", help="Resume with other settings; finished stages stay as they are.")
    ] = False,
    device: Device = None,
    jobs: Annotated[int | None, typer.Option(help="Processes that prepare stores; by default the recipe's.")] = None,
) -> None:
    """Train the encoders that ship, from data to weights; the same command resumes after a stop."""
    from dnd.common.config import check_settings, load_config

    words = [f"{stage}.loop.device={device}" for stage in ("denoise", "base", "large", "tokengt") if device]
    words += [] if jobs is None else [f"jobs={jobs}"]
    words += settings or []
    check_settings("base", recipe, words)
    # Torch is loaded from here on.
    from dnd.reproduction.pretrain_base import pretrain_base as run
    from dnd.reproduction.pretraining_labels import BaseConfig

    config = load_config(BaseConfig, recipe, words, stage="base")
    done = run(inputs, out, config, exclude=exclude or (), data_dir=data_dir, allow_change=allow_change)
    if not done.finished:
        LOGGER.log(RESULT, "stopped after stop_after_s of a loop; run the same command to resume")
