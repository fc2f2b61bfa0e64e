"""`dnd check`: a labelled table → what it holds, and what `dnd finetune` would do with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dnd.cli.label_options import Censored, Decimal, Measured, Missing, Standardize, label_settings


def check(
    data: Annotated[str, typer.Argument(help="CSV, TSV, SMI, SDF or Parquet with SMILES and labels.")],
    target_columns: Annotated[
        list[str] | None, typer.Option(help="Columns with labels; by default every column that can be learned.")
    ] = None,
    smiles_column: Annotated[
        str | None, typer.Option(help="Column with SMILES. Found by name or content if not given.")
    ] = None,
    missing: Missing = None,
    measured: Measured = None,
    censored: Censored = None,
    decimal: Decimal = None,
    standardize: Standardize = False,
    as_json: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="JSON file for all findings.")] = None,
) -> None:
    """Summarise a labelled table in seconds, with its problems and the command to run next."""
    from dnd.common.config import from_dict
    from dnd.common.files import write_json
    from dnd.finetuning.check_data import check_data
    from dnd.finetuning.check_text import check_json, check_lines
    from dnd.tables.labels import LabelRules
    from dnd.tables.writers import require_other_file

    if as_json is not None:
        require_other_file(data, str(as_json))
    facts = check_data(
        data,
        target_columns=target_columns or (),
        smiles_column=smiles_column,
        rules=from_dict(LabelRules, label_settings(missing, measured, censored, decimal)),
        standardize=standardize,
    )
    for line in check_lines(facts):
        typer.echo(line)
    if as_json is not None:
        write_json(as_json, check_json(facts))
        typer.echo(f"written: {as_json}")
