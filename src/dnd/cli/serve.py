"""`dnd serve`: a page and an interface for programs, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dnd.cli.options import InferenceDevice


def serve(
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model", "-m", help="MODEL folder; may be repeated. If not given, the ready-made `dnd-properties`."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is reachable from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 = any free one.")] = 8000,
    most_rows: Annotated[int, typer.Option(min=1, help="Maximum number of rows in a file.")] = 20_000,
    most_megabytes: Annotated[int, typer.Option(min=1, help="Maximum size of a request.")] = 8,
    device: InferenceDevice = "auto",
) -> None:
    """Serve models: a web page for SMILES and files, and JSON under /api/v1."""
    from importlib.util import find_spec

    from dnd.common.config import DEFAULT_FOLDER
    from dnd.common.errors import ConfigError

    missing = [name for name in ("fastapi", "uvicorn", "python_multipart") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"serve needs the package {missing[0]}", next_step="pip install 'dnd-mol[serve]'")
    from dnd.serve.app import serve as run
    from dnd.serve.guard import Limits

    limits = Limits(body_bytes=most_megabytes * 2**20, rows=most_rows)
    run(model or [DEFAULT_FOLDER], host, port, limits, device)
