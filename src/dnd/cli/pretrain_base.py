"""`dnd pretrain-base`: files of molecules → the encoders that ship, with their cards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dnd.cli.options import Device, recipe_option


def pretrain_base(
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value settings, such as most_molecules=5000 or base.loop.epochs=2.")
    ] = None,
    inputs: Annotated[
        list[Path], typer.Option(help="File of conformers (.npz, SDF, XYZ) or SMILES (CSV, SMI); may be repeated.")
    ] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for stores, teacher, students and encoders.")] = ...,  # type: ignore[assignment]
    recipe: Annotated[str, recipe_option("base")] = "cpu",
    exclude: Annotated[
        list[Path] | None, typer.Option(help="Further file of molecules to leave out; may be repeated.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data sets whose validation and test molecules are left out.")
    ] = None,
    allow_change: Annotated[
        bool, typer.Option("--allow-change", help="Resume with other settings; finished stages stay as they are.")
    ] = False,
    device: Device = None,
    jobs: Annotated[int | None, typer.Option(help="Processes that prepare stores; by default the recipe's.")] = None,
) -> None:
    """Train the encoders that ship, from data to weights; the same command resumes after a stop."""
    from dnd.common.config import check_settings, load_config
    from dnd.common.log import LOGGER, RESULT

    words = [f"{stage}.loop.device={device}" for stage in ("denoise", "base", "large", "tokengt") if device]
    words += [] if jobs is None else [f"jobs={jobs}"]
    words += settings or []
    check_settings("base", recipe, words)
    # Torch is loaded from here on.
    from dnd.reproduction.pretrain_base import pretrain_base as run
    from dnd.reproduction.pretraining_labels import BaseConfig

    config = load_config(BaseConfig, recipe, words, stage="base")
    done = run(inputs, out, config, exclude=exclude or (), data_dir=data_dir, allow_change=allow_change)
    if not done.finished:
        LOGGER.log(RESULT, "stopped after stop_after_s of a loop; run the same command to resume")
