"""`dnd distill`: store and teacher → encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def distill(
    store: Annotated[Path, typer.Argument(help="Store with conformers, from `dnd prepare`.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value settings, such as loop.epochs=20 or terms.graph=0.5.")
    ] = None,
    teacher: Annotated[Path, typer.Option(help="TEACHER folder, from `dnd denoise`.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option("--out", "-o", help="ENCODER folder to write.")] = ...,  # type: ignore[assignment]
    level: Annotated[str | None, typer.Option(help="node, graph, coordinated or custom.")] = None,
    student: Annotated[str | None, typer.Option(help="A student (tokengt, pna, gine, …) or a preset.")] = None,
    recipe: Annotated[str, typer.Option(help="tiny, small, gpu, paper, or a TOML file.")] = "small",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where this run stopped.")] = False,
) -> None:
    """Teach a 2D student what a frozen 3D teacher says about clean conformers."""
    from dnd.common.config import load_config
    from dnd.distillation.distill import distill as run
    from dnd.distillation.report import report
    from dnd.distillation.settings import DistillConfig, student_words

    overrides = [
        *([f"level={level}"] if level else []),
        *(student_words(student) if student else []),
        *(settings or []),
    ]
    config = load_config(DistillConfig, recipe, overrides, stage="distill")
    typer.echo(report(run(store, teacher, out, config, resume=resume)))
