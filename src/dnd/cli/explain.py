"""`dnd explain`: molecules drawn with what each atom adds to their predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dnd.cli.options import InferenceDevice, ModelFolder, ParsingJobs, SmilesColumn


def explain(
    source: Annotated[str, typer.Argument(metavar="SMILES|IN", help="A SMILES, or CSV, TSV, SMI, SDF or Parquet.")],
    model: ModelFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures and tables.")],
    smiles_column: SmilesColumn = None,
    target_columns: Annotated[
        list[str] | None, typer.Option(help="Target to explain; may be repeated. By default the first four.")
    ] = None,
    most_molecules: Annotated[int, typer.Option(min=1, help="Rows to explain.")] = 100,
    device: InferenceDevice = "auto",
    jobs: ParsingJobs = 1,
) -> None:
    """Draw each molecule with the contributions of its atoms, SVG and PNG, and write the numbers as CSV."""
    from dnd.common.compute import set_threads
    from dnd.predictor.predictor import Predictor
    from dnd.report.explain import explain_file

    set_threads()
    summary = explain_file(
        Predictor.load(model, device=device, jobs=jobs),
        source,
        out,
        smiles_column=smiles_column,
        targets=target_columns or (),
        most_molecules=most_molecules,
    )
    typer.echo("\n".join(summary.lines()))
