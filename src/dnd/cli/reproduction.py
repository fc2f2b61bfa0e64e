"""Verbs about the paper: `demo` runs all stages small, `reproduce` its tables and figures, `analyse` its data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from dnd.cli.options import SmilesColumn, comma_words

if TYPE_CHECKING:
    from dnd.report.figures import Finding


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for everything it writes.")] = Path("dnd-demo"),
    jobs: Annotated[int, typer.Option(help="Processes that prepare the molecules.")] = 2,
) -> None:
    """Denoise, distill, finetune, predict and report in about two minutes; run it again to resume after a stop."""
    from dnd.reproduction.demo import run_demo

    run_demo(out, jobs=jobs)


def reproduce(
    what: Annotated[
        str,
        typer.Argument(
            help="table1, table2, table6, fig3, fig4, fig5, conformers, students, teachers, locality, ccmd, multitask."
        ),
    ],
    budget: Annotated[str, typer.Option(help="tiny, small, cpu, gpu or paper: sizes, epochs and seeds.")] = "tiny",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder of results; default runs/reproduce-BUDGET.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Number of cells to run at once, each in its own process.")] = 1,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with QM9, PCQM4Mv2 or archives of OGB.")] = None,
    datasets: Annotated[str, typer.Option(help="Data sets, or targets of tables 2 and 6, separated by commas.")] = "",
    systems: Annotated[str, typer.Option(help="Systems, separated by commas; all of the table by default.")] = "",
    seeds: Annotated[
        int | None, typer.Option(help="Number of finetuning seeds of each pretraining; the budget's by default.")
    ] = None,
    upstream_seeds: Annotated[int | None, typer.Option(help="Number of pretrainings; the budget's by default.")] = None,
    pretraining: Annotated[
        list[Path] | None, typer.Option(help="File to pretrain on instead of QM9 or PCQM4Mv2; may be repeated.")
    ] = None,
    hydrogens: Annotated[
        str, typer.Option(help="Hydrogens of the pretraining for Table 1 and the figures.")
    ] = "heavy_both",
) -> None:
    """Run the missing cells of a table or figure and write it; the same command resumes after a stop."""
    from dnd.common.config import look_up
    from dnd.common.errors import ConfigError
    from dnd.reproduction.budgets import budget as find_budget
    from dnd.reproduction.protocol import Request
    from dnd.reproduction.reproduce import reproduce as run
    from dnd.store.schema import HydrogenSetting

    for name, number in (("--seeds", seeds), ("--upstream-seeds", upstream_seeds)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} must be at least 1", found=number)
    request = Request(
        what,
        find_budget(budget),
        data_dir,
        tuple(pretraining or ()),
        tuple(comma_words([datasets])),
        tuple(comma_words([systems])),
        look_up({name: name for name in get_args(HydrogenSetting)}, hydrogens, "hydrogen setting"),
        tuple(range(1, (seeds or 0) + 1)),
        tuple(range(1, (upstream_seeds or 0) + 1)),
    )
    outcome = run(request, out or Path("runs") / f"reproduce-{budget}", jobs=jobs)
    typer.echo(outcome.text)
    typer.echo(
        f"{outcome.summary.ran} cells ran, {outcome.summary.reused} were finished before; results in {outcome.folder}"
    )
    for key in outcome.summary.failed:
        typer.echo(f"failed: {key}: {outcome.summary.records[key].reason}", err=True)


analyse = typer.Typer()

# `dnd analyse`: each verb writes a picture, a CSV with its numbers, and a sentence that says what it shows.

Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for the picture, the CSV and the sentence.")]
Datasets = Annotated[str, typer.Option(help="Data sets of the paper, separated by commas, or `all`.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder to search first for data sets.")]
Tables = Annotated[list[Path] | None, typer.Argument(metavar="[IN]...", help="Tables, SDF files or stores.")]


@analyse.command()
def statistics(
    out: Out,
    inputs: Tables = None,
    datasets: Datasets = "",
    data_dir: DataDir = None,
    smiles_column: SmilesColumn = None,
) -> None:
    """Molecules, mean atoms, mean bonds and elements of data sets (Table 4)."""
    from dnd.reproduction.analyse import analyse_statistics

    _write(analyse_statistics(inputs or [], _datasets(datasets), data_dir, smiles_column), out)


@analyse.command()
def overlap(
    out: Out,
    store: Annotated[Path, typer.Option(help="Store of the pretraining molecules.")],
    inputs: Tables = None,
    datasets: Datasets = "",
    data_dir: DataDir = None,
    smiles_column: SmilesColumn = None,
) -> None:
    """How much of a labelled set the pretraining molecules cover: elements, composition, molecules (Table 3)."""
    from dnd.reproduction.analyse import analyse_overlap

    _write(analyse_overlap(inputs or [], _datasets(datasets), data_dir, store, smiles_column), out)


@analyse.command()
def curves(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of training runs.")], out: Out
) -> None:
    """Loss curves of training runs (Figure 3)."""
    from dnd.reproduction.analyse import analyse_curves

    _write(analyse_curves(runs), out)


@analyse.command()
def attention(
    store: Annotated[Path, typer.Argument(help="Store with conformers.")],
    out: Out,
    encoder: Annotated[list[str], typer.Option(help="ENCODER folder, or `random`; may be repeated.")],
    molecules: Annotated[int, typer.Option(min=1, help="Molecules drawn from the held-out ones.")] = 300,
    seed: Annotated[int, typer.Option(help="Random seed of the draw, the permutations and the random student.")] = 0,
) -> None:
    """Attention against distance in space, and how far each head looks (Figure 4)."""
    from dnd.reproduction.analyse import analyse_attention_of

    _write(analyse_attention_of(encoder, store, molecules, seed), out)


@analyse.command()
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
    from dnd.reproduction.analyse import analyse_labels

    try:
        shares = [float(word) for word in fractions.split(",")]
    except ValueError as error:
        raise ConfigError("--fractions are not numbers", found=fractions, expected="such as 0.1,0.5,1") from error
    finding = analyse_labels(
        data, target_columns, encoder, out, smiles_column=smiles_column, fractions=shares, seeds=seeds, split=split,
        recipe=recipe, settings=settings or [], jobs=jobs,
    )  # fmt: skip
    _write(finding, out)


def _datasets(text: str) -> list[str]:
    from dnd.reproduction.benchmarks import BENCHMARKS

    return list(BENCHMARKS) if text == "all" else comma_words([text])


def _write(finding: Finding, out: Path) -> None:
    paths = finding.write(out)
    typer.echo(finding.sentence)
    typer.echo("\n".join(map(str, paths)))
