"""`dnd doctor`: is this folder what it was when it was written?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(folder: Annotated[Path, typer.Argument(help="A store, a model, a checkpoint or a run folder.")]) -> None:
    """Check every file of a folder against its manifest; exit code 1 if anything is damaged."""
    from dnd.common.about import diagnose

    facts, damage = diagnose(folder)
    for line in facts:
        typer.echo(line)
    for line in damage:
        typer.echo(f"damaged: {line}", err=True)
    if damage:
        raise typer.Exit(1)
    typer.echo("sound")
