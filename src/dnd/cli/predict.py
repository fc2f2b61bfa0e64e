"""`dnd predict`: molecules and a model → predictions, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dnd.cli.options import InferenceDevice, MoleculesIn, ParsingJobs, Raw, SmilesColumn
from dnd.common.log import LOGGER, PROGRESS


def predict(
    source: MoleculesIn,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", "-m", help="MODEL folder of `dnd finetune`. If not given, the ready-made `dnd-properties`."
        ),
    ] = None,
    out: Annotated[str, typer.Option("--out", "-o", help=".csv, .tsv, .parquet, .csv.gz; - = stdout.")] = "-",
    properties: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...", help="Targets to write, such as solubility,logd. All if not given; see dnd properties."
        ),
    ] = None,
    smiles_column: SmilesColumn = None,
    raw: Raw = False,
    device: InferenceDevice = "auto",
    jobs: ParsingJobs = 1,
) -> None:
    """Predict every row; all rows and columns are kept, a bad row has its reason in `error`."""
    from dnd.prediction.files import kept_to_the_end

    with kept_to_the_end():
        from dnd.common.compute import set_threads
        from dnd.common.config import DEFAULT_FOLDER, DEFAULT_MODEL
        from dnd.prediction.files import predict_file
        from dnd.predictor.predictor import Predictor

        set_threads()
        predictor = Predictor.load(DEFAULT_FOLDER if model is None else model, device=device, jobs=jobs)
        if properties:
            predictor = predictor.showing(properties)
    if model is None:
        LOGGER.log(PROGRESS, f"model: {DEFAULT_MODEL}, ready-made; `dnd properties` lists its targets and their scores")
    LOGGER.log(PROGRESS, predict_file(predictor, source, out, smiles_column=smiles_column, raw=raw).line())
