"""`dnd analyse`: each verb writes a picture, a CSV with its numbers, and a sentence that says what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dnd.cli.options import SmilesColumn

if TYPE_CHECKING:
    from dnd.report.figures import Finding

app = typer.Typer()
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for the picture, the CSV and the sentence.")]
Datasets = Annotated[str, typer.Option(help="Data sets of the paper, separated by commas, or `all`.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder to search first for data sets.")]
Molecules = Annotated[list[Path] | None, typer.Argument(metavar="[IN]...", help="Tables, SDF files or stores.")]


@app.command()
def statistics(
    out: Out,
    inputs: Molecules = None,
    datasets: Datasets = "",
    data_dir: DataDir = None,
    smiles_column: SmilesColumn = None,
) -> None:
    """Molecules, mean atoms, mean bonds and elements of data sets (Table 4)."""
    from dnd.reproduction.paper_figures import analyse_statistics

    _write(analyse_statistics(inputs or [], _names(datasets), data_dir, smiles_column), out)


@app.command()
def overlap(
    out: Out,
    store: Annotated[Path, typer.Option(help="Store of the pretraining molecules.")],
    inputs: Molecules = None,
    datasets: Datasets = "",
    data_dir: DataDir = None,
    smiles_column: SmilesColumn = None,
) -> None:
    """How much of a labelled set the pretraining molecules cover: elements, composition, molecules (Table 3)."""
    from dnd.reproduction.paper_figures import analyse_overlap

    _write(analyse_overlap(inputs or [], _names(datasets), data_dir, store, smiles_column), out)


@app.command()
def curves(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of training runs.")], out: Out
) -> None:
    """Loss curves of training runs (Figure 3)."""
    from dnd.reproduction.paper_figures import analyse_curves

    _write(analyse_curves(runs), out)


@app.command()
def attention(
    store: Annotated[Path, typer.Argument(help="Store with conformers.")],
    out: Out,
    encoder: Annotated[list[str], typer.Option(help="ENCODER folder, or `random`; may be repeated.")],
    molecules: Annotated[int, typer.Option(min=1, help="Molecules drawn from the held-out ones.")] = 300,
    seed: Annotated[int, typer.Option(help="Random seed of the draw, the permutations and the random student.")] = 0,
) -> None:
    """Attention against distance in space, and how far each head looks (Figure 4)."""
    from dnd.reproduction.paper_figures import analyse_attention_of

    _write(analyse_attention_of(encoder, store, molecules, seed), out)


@app.command()
def labels(
    data: Annotated[Path, typer.Argument(help="Labelled table.")],
    out: Out,
    target_columns: Annotated[list[str], typer.Option(help="Column with labels; may be repeated.")],
    encoder: Annotated[Path, typer.Option(help="ENCODER folder; compared with RandInit of the same architecture.")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value settings of the finetuning.")] = None,
    smiles_column: SmilesColumn = None,
    fractions: Annotated[
        str, typer.Option(help="Fractions of the training labels, separated by commas.")
    ] = "0.1,0.2,0.4,1",
    seeds: Annotated[int, typer.Option(min=1, help="Number of finetuning seeds.")] = 3,
    split: Annotated[str, typer.Option(help="scaffold, random or kfold (its first fold).")] = "scaffold",
    recipe: Annotated[str, typer.Option(help="Finetuning recipe.")] = "finetune-small",
    jobs: Annotated[int, typer.Option(help="Number of finetunings at once.")] = 1,
) -> None:
    """Label efficiency with nested subsets of the training labels (Figure 5); the same command resumes after a stop."""
    from dnd.common.errors import ConfigError
    from dnd.reproduction.paper_figures import analyse_labels

    try:
        shares = [float(word) for word in fractions.split(",")]
    except ValueError as error:
        raise ConfigError("--fractions are not numbers", found=fractions, expected="such as 0.1,0.5,1") from error
    finding = analyse_labels(
        data, target_columns, encoder, out, smiles_column=smiles_column, fractions=shares, seeds=seeds, split=split,
        recipe=recipe, settings=settings or [], jobs=jobs,
    )  # fmt: skip
    _write(finding, out)


def _names(text: str) -> list[str]:
    from dnd.reproduction.benchmarks import BENCHMARKS

    return list(BENCHMARKS) if text == "all" else [word.strip() for word in text.split(",") if word.strip()]


def _write(finding: Finding, out: Path) -> None:
    paths = finding.write(out)
    typer.echo(finding.sentence)
    typer.echo("\n".join(map(str, paths)))
