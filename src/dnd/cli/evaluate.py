"""`dnd evaluate`: labelled molecules and a model → metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    data: Annotated[str, typer.Argument(help="CSV, TSV, SMI, SDF or Parquet with SMILES and labels.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="MODEL folder of `dnd finetune`.")],
    smiles_column: Annotated[str, typer.Option(help="Column with SMILES.")] = "smiles",
    target_columns: Annotated[
        list[str] | None, typer.Option(help="Columns with labels, in the order of the model's targets.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Print the metrics of a model on labelled molecules."""
    import json

    from dnd.common.randomness import set_threads
    from dnd.prediction.evaluate import evaluate_file, metric_lines
    from dnd.predictor.predictor import Predictor

    set_threads()
    predictor = Predictor.load(model, device=device, jobs=0)
    metrics = evaluate_file(predictor, data, smiles_column=smiles_column, target_columns=target_columns or ())
    typer.echo(json.dumps(metrics, indent=1) if as_json else "\n".join(metric_lines(metrics)))
