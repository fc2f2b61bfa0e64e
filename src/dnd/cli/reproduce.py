"""`dnd reproduce`: the tables and figures of the paper, ours beside theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer


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
        _words(datasets),
        _words(systems),
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


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
