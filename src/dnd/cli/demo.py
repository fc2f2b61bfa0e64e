"""`dnd demo`: the main job, small, on shipped data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for everything it writes.")] = Path("dnd-demo"),
    jobs: Annotated[int, typer.Option(help="Processes.")] = 2,
) -> None:
    """Denoise, distill, finetune, predict and report in a few minutes; run again to go on after a stop."""
    from dnd.reproduction.demo import run_demo

    run_demo(out, jobs=jobs, say=typer.echo)
