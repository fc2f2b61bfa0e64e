"""Verbs about this installation and its folders: `info`, `doctor`, and `bench`, how fast it is here."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dnd.bench.measure import Table


def info(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]", help="A folder that dnd wrote, or a model that ships; without one, this installation."
        ),
    ] = None,
) -> None:
    """Print versions, device, threads, shipped encoders and extras; or the kind, origin and settings of a folder."""
    from dnd.common.about import about_folder, about_installation
    from dnd.common.config import model_folder

    for line in about_installation() if folder is None else about_folder(model_folder(folder)):
        typer.echo(line)


def doctor(folder: Annotated[Path, typer.Argument(help="A store, a model, a checkpoint or a run folder.")]) -> None:
    """Check every file of a folder against its manifest; exit code 1 if anything is damaged."""
    from dnd.common.about import diagnose

    facts, damage = diagnose(folder)
    for line in facts:
        typer.echo(line)
    for line in damage:
        typer.echo(f"damaged: {line}", err=True)
    if damage:
        raise typer.Exit(1)
    typer.echo("sound")


bench = typer.Typer()

# `dnd bench`: how fast, as ratios to a named reference of the same run.

Repetitions = Annotated[
    int, typer.Option(min=1, help="Repetitions of each variant; variants alternate, medians are compared.")
]
Molecules = Annotated[int, typer.Option(min=8, help="Molecules per repetition.")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="JSON with every repetition.")]


@bench.command()
def model(repetitions: Repetitions = 3, molecules: Molecules = 400, out: Out = None) -> None:
    """A model of the default recipe: predictions and descriptors against RDKit, the fit against two forests."""
    from dnd.bench.default_model import bench_default_model

    _report(bench_default_model(molecules, repetitions), out)


@bench.command()
def throughput(repetitions: Repetitions = 3, molecules: Molecules = 400, out: Out = None) -> None:
    """SMILES to graphs against RDKit's parse; SMILES to predictions against conformer and teacher."""
    from dnd.bench.throughput import bench_throughput

    _report(bench_throughput(molecules, repetitions), out)


@bench.command()
def training(repetitions: Repetitions = 3, molecules: Molecules = 256, out: Out = None) -> None:
    """Training steps of TokenGT and of the teacher against the same networks written plainly."""
    from dnd.bench.training import bench_training

    _report(bench_training(molecules, repetitions), out)


@bench.command()
def pipeline(repetitions: Repetitions = 3, molecules: Molecules = 500, out: Out = None) -> None:
    """The share of a training step that reading from the store costs."""
    from dnd.bench.throughput import bench_pipeline

    _report(bench_pipeline(molecules, repetitions), out)


@bench.command()
def scaling(
    repetitions: Repetitions = 3,
    largest: Annotated[int, typer.Option(min=1000, help="Molecules of the largest synthetic store.")] = 1_000_000,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="JSON file; a CSV and a picture are written next to it.")
    ] = None,
) -> None:
    """Time and memory against atoms per molecule, molecules per store, rows of a file, and threads."""
    from dnd.bench.measure import machine
    from dnd.bench.scaling import bench_scaling, points_csv, write_points
    from dnd.common.files import write_json

    here, points = machine(), []
    sizes = [size for size in (1000, 10_000, 100_000, 1_000_000) if size <= largest]
    for curve in bench_scaling(sizes, repetitions):
        typer.echo(points_csv(curve))
        points += curve
    if out is not None:
        write_json(out, {"command": ["dnd", *sys.argv[1:]], "machine": here, "points": [vars(p) for p in points]})
        typer.echo("\n".join(map(str, write_points(points, out.with_suffix("")))))


@bench.command()
def startup(repetitions: Repetitions = 3, out: Out = None) -> None:
    """`import dnd`, `dnd --help` and the first prediction, each in fresh processes."""
    from dnd.bench.startup import bench_startup

    _report(bench_startup(repetitions), out)


def _report(tables: Iterable[Table], out: Path | None) -> None:
    """Print each table as it is ready, and all of them with machine and versions into one file."""
    from dnd.bench.measure import machine
    from dnd.common.files import write_json

    here, done = machine(), []
    for table in tables:
        typer.echo(table.text() + "\n")
        done.append(table.to_json())
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    typer.echo(f"{here['processor']}, {here['cores']} cores, {here['threads']} threads, load {here['load_average'][0]}")
    typer.echo(versions)
    if out is not None:
        write_json(out, {"command": ["dnd", *sys.argv[1:]], "machine": here, "tables": done})
