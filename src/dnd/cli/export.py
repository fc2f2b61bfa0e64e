"""`dnd export`: a model as files that other programs run without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[Path, typer.Argument(help="MODEL folder of one student.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    format: Annotated[str, typer.Option("--format", help="onnx.")] = "onnx",
) -> None:
    """Write the model, the settings of its inputs, and a module that computes the inputs with RDKit and NumPy."""
    from dnd.common.config import look_up
    from dnd.export.export import FORMATS, export_onnx

    look_up(FORMATS, format, "format")
    typer.echo("\n".join(map(str, export_onnx(model, out))))
