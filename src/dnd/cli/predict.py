"""`dnd predict`: molecules and a model → predictions, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dnd.common.log import LOGGER, PROGRESS


def predict(
    source: Annotated[
        str, typer.Argument(metavar="SMILES|IN", help="A SMILES, or CSV, TSV, SMI, SDF or Parquet; - = stdin.")
    ],
    model: Annotated[Path, typer.Option("--model", "-m", help="MODEL folder of `dnd finetune`.")],
    out: Annotated[str, typer.Option("--out", "-o", help=".csv, .tsv, .parquet, .csv.gz; - = stdout.")] = "-",
    smiles_column: Annotated[
        str | None, typer.Option(help="Column with SMILES. Found by name or content if not given.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Do not escape cells that start with = + - @ (spreadsheet formulas).")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    jobs: Annotated[int, typer.Option(help="Processes for parsing; 0 = one per processor.")] = 1,
) -> None:
    """Predict every row; all rows and columns are kept, a bad row has its reason in `error`."""
    from dnd.prediction.files import kept_to_the_end

    with kept_to_the_end():
        from dnd.common.randomness import set_threads
        from dnd.prediction.files import predict_file
        from dnd.predictor.predictor import Predictor

        set_threads()
        predictor = Predictor.load(model, device=device, jobs=jobs)
    LOGGER.log(PROGRESS, predict_file(predictor, source, out, smiles_column=smiles_column, raw=raw).line())
