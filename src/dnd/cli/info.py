"""`dnd info`: what runs here, or what a folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def info(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]", help="A folder that dnd wrote, or a model that ships; without one, this installation."
        ),
    ] = None,
) -> None:
    """Print versions, device, threads, shipped encoders and extras; or the kind, origin and settings of a folder."""
    from dnd.common.about import about_folder, about_installation
    from dnd.common.config import model_folder

    for line in about_installation() if folder is None else about_folder(model_folder(folder)):
        typer.echo(line)
