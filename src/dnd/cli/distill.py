"""`dnd distill`: store and teacher → encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dnd.cli.options import (
    AllowChange,
    Device,
    EncoderOut,
    Resume,
    SkipNonfinite,
    StoreOfConformers,
    StudentName,
    echo,
    loop_words,
    recipe_option,
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
