"""`dnd denoise`: a store of conformers → a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dnd.cli.options import AllowChange, Device, Resume, SkipNonfinite, echo, loop_words, recipe_option


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
