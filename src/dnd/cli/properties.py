"""`dnd properties`: what `dnd predict` says of a molecule where no model is named."""

from __future__ import annotations

import typer


def properties() -> None:
    """List the ready-made properties: unit, data, and the score on molecules that taught nothing, beside a forest's."""
    from dnd.common.config import DEFAULT_FOLDER, DEFAULT_MODEL
    from dnd.predictor.ready_made import properties_lines, read_properties

    entries = read_properties()
    for line in properties_lines(entries):
        typer.echo(line)
    typer.echo(
        f"\n{len(entries)} properties of the model {DEFAULT_MODEL}. `dnd predict molecules.csv` predicts all of them, "
        "--properties NAME,NAME some.\nRMSE is in the unit (smaller is better), ROC-AUC of classes (larger is better); "
        "forest: a random forest on counts.\n"
        f"What each is bad at, licences, how it was made: {DEFAULT_FOLDER / 'card.md'}"
    )
