"""`dnd evaluate`: labelled molecules and a model → metrics."""

from __future__ import annotations

from typing import Annotated

import typer

from dnd.cli.options import (
    Censored,
    Decimal,
    InferenceDevice,
    LabelledTable,
    Measured,
    Missing,
    ModelFolder,
    ParsingJobs,
    SmilesColumn,
    label_settings,
)


def evaluate(
    data: LabelledTable,
    model: ModelFolder,
    smiles_column: SmilesColumn = None,
    target_columns: Annotated[
        list[str] | None, typer.Option(help="Columns with labels, in the order of the model's targets.")
    ] = None,
    missing: Missing = None,
    measured: Measured = None,
    censored: Censored = None,
    decimal: Decimal = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: InferenceDevice = "auto",
    jobs: ParsingJobs = 0,
) -> None:
    """Print the metrics of a model on labelled molecules."""
    import json
    from dataclasses import asdict

    from dnd.common.compute import set_threads
    from dnd.common.config import from_dict
    from dnd.prediction.evaluate import evaluate_file, label_rules_of, metric_lines
    from dnd.predictor.predictor import Predictor
    from dnd.tables.labels import LabelRules

    set_threads()
    predictor = Predictor.load(model, device=device, jobs=jobs)
    rules = from_dict(
        LabelRules, {**asdict(label_rules_of(predictor)), **label_settings(missing, measured, censored, decimal)}
    )
    metrics = evaluate_file(
        predictor, data, smiles_column=smiles_column, target_columns=target_columns or (), rules=rules
    )
    typer.echo(json.dumps(metrics, indent=1) if as_json else "\n".join(metric_lines(metrics)))
