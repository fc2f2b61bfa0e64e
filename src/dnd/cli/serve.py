"""`dnd serve`: a page and an interface for programs, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[list[Path], typer.Option("--model", "-m", help="MODEL folder; may be repeated.")],
    host: Annotated[
        str, typer.Option(help="Address to listen at; only this machine reaches the default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 = one that is free.")] = 8000,
    most_rows: Annotated[int, typer.Option(min=1, help="Rows of a file that is sent.")] = 20_000,
    most_megabytes: Annotated[int, typer.Option(min=1, help="Of a request.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Serve models: a page to paste SMILES or send a file, and JSON under /api/v1."""
    from importlib.util import find_spec

    from dnd.common.errors import ConfigError

    missing = [name for name in ("fastapi", "uvicorn", "python_multipart") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"serve needs the package {missing[0]}", next_step="pip install 'dnd-mol[serve]'")
    from dnd.serve.limits import Limits
    from dnd.serve.run import serve as run

    limits = Limits(body_bytes=most_megabytes * 2**20, rows=most_rows)
    run(model, host, port, limits, device)
