"""`dnd demo`: the main job, small, on shipped data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for everything it writes.")] = Path("dnd-demo"),
    jobs: Annotated[int, typer.Option(help="Processes that prepare the molecules.")] = 2,
) -> None:
    """Denoise, distill, finetune, predict and report in about two minutes; run it again to resume after a stop."""
    from dnd.reproduction.demo import run_demo

    run_demo(out, jobs=jobs)
