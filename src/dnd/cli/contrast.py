"""`dnd contrast`: store → encoder by 3DInfomax."""

from __future__ import annotations

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
