"""`dnd screen`: millions of molecules and a model → sharded Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dnd.cli.options import ModelFolder, Resume, SmilesColumnOfTables


def screen(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="CSV, TSV, SMI, Parquet or SDF, .gz or not.")],
    model: ModelFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the shards.")],
    smiles_column: SmilesColumnOfTables = None,
    jobs: Annotated[int, typer.Option(help="Worker processes; 0 = one per processor.")] = 0,
    top: Annotated[int | None, typer.Option(metavar="K", help="Write the best K rows to top.csv.")] = None,
    by: Annotated[
        str | None, typer.Option(metavar="TARGET", help="Target that --top ranks by, if there are several.")
    ] = None,
    ascending: Annotated[bool, typer.Option("--ascending", help="With --top: the smallest are the best.")] = False,
    chunk: Annotated[int, typer.Option(metavar="ROWS", help="Rows per chunk of work; a shard has 32 chunks.")] = 1024,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT.")
    ] = None,
    resume: Resume = False,
) -> None:
    """Predict any number of rows in constant memory; a bad row has its reason in `error`."""
    from dnd.common.log import LOGGER, RESULT
    from dnd.prediction.screen.screen import ScreenConfig
    from dnd.prediction.screen.screen import screen as run

    config = ScreenConfig(smiles_column, jobs, chunk, top, by, ascending)
    summary = run(inputs, model, out, config, resume=resume, ray=ray)
    without = f", {summary.errors:,} without a prediction (column error)" if summary.errors else ""
    LOGGER.log(
        RESULT,
        f"{summary.folder}: {summary.rows:,} rows in {summary.shards:,} shards{without}, {summary.seconds:.1f} s",
    )
    if top is not None:
        LOGGER.log(RESULT, f"{summary.folder / 'top.csv'}: the best rows")
