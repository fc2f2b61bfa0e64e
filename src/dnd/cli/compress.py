"""`dnd compress`: a model of several members → one student that predicts what they predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dnd.cli.options import AllowChange, Device, Resume, SkipNonfinite, echo, loop_words


def compress(
    model: Annotated[Path, typer.Argument(help="MODEL folder of `dnd finetune` with several members.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value settings, such as loop.epochs=30 or held_out=0.1.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="MODEL folder of the student.")] = ...,  # type: ignore[assignment]
    molecules: Annotated[
        list[str] | None,
        typer.Option(
            help="Table of molecules without labels, or `druglike` for the 20,000 that ship; may be repeated. "
            "Include the model's own training table."
        ),
    ] = None,
    smiles_column: Annotated[
        str | None, typer.Option(help="Column with SMILES. By default that of the model, or found by name or content.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Starting point of the student: a shipped encoder, an ENCODER folder, or `random`."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="small, or a TOML file.")] = "small",
    seed: Annotated[int | None, typer.Option(help="Random seed of the training and of the held-out molecules.")] = None,
    device: Device = None,
    jobs: Annotated[
        int | None, typer.Option(help="Processes for parsing and descriptors; 0 = one per processor.")
    ] = None,
    resume: Resume = False,
    skip_nonfinite: SkipNonfinite = None,
    allow_change: AllowChange = False,
) -> None:
    """Train one student to imitate a blend, so that screening takes a fraction of the time."""
    from dnd.common.config import check_settings, load_config

    options = {"encoder": encoder, "loop.seed": seed, "jobs": jobs}
    words = [f"{key}={value}" for key, value in options.items() if value is not None]
    words += [*loop_words(skip_nonfinite, allow_change, device), *(settings or [])]
    check_settings("compress", recipe, words)
    # Torch is loaded from here on.
    from dnd.finetuning.compress import CompressConfig
    from dnd.finetuning.compress import compress as run
    from dnd.finetuning.compressed_model import DRUGLIKE

    config = load_config(CompressConfig, recipe, words, stage="compress")
    done = run(
        model, out, molecules or [DRUGLIKE], config, smiles_column=smiles_column, resume=resume,
    )  # fmt: skip
    if done.finished:
        from dnd.report.model_report import write_missing_report

        if report := write_missing_report(out):
            echo(f"report: {report}")
