"""`dnd pretrain`: store → encoder by one of the further baselines."""

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
    StudentName,
    echo,
    loop_words,
    recipe_option,
)


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
