"""`dnd reproduce`: plan the cells of a table or figure, run those that are missing, write what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnd.common.compute import numpy_generator
from dnd.common.errors import InputError
from dnd.common.files import read_json, write_json
from dnd.report.attention import AttentionAnalysis, analyse_attention, draw_attention
from dnd.report.figures import Finding
from dnd.reproduction.benchmarks import BENCHMARKS
from dnd.reproduction.ccmd import write_ccmd
from dnd.reproduction.grid import WORKER, GridSummary, run_grid
from dnd.reproduction.label_efficiency import curves_of, draw_label_efficiency
from dnd.reproduction.labelled_table import labelled_table
from dnd.reproduction.locality import draw_locality, learnable_share
from dnd.reproduction.loss_curves import draw_curves, read_curves
from dnd.reproduction.multitask import write_multitask
from dnd.reproduction.protocol import Request, plan, systems_of
from dnd.reproduction.results import ENCODER, STORE, Cell, Work, digests
from dnd.reproduction.systems import System
from dnd.reproduction.table_report import write_table
from dnd.reproduction.tables import entries
from dnd.reproduction.upstream import MOLECULES, encoder_key

_TABLES = ("table1", "table2", "table6", "conformers", "students", "teachers")


@dataclass(frozen=True)
class Reproduction:
    """How a reproduction ended.

    Attributes:
        folder: where the results file, tables and figures are.
        summary: summary of the grid.
        text: what there is to say: a table in Markdown, or the figure's sentence.
    """

    folder: Path
    summary: GridSummary
    text: str


def reproduce(
    request: Request,
    out: Path | str,
    *,
    jobs: int = 1,
    worker: Sequence[str] = WORKER,
) -> Reproduction:
    """Run what is missing of a table or figure and write it.

    Args:
        request: what, at which budget, with which data.
        out: folder for results; tables and figures of one budget can share it and then share their encoders.
        jobs: cells at a time.
        worker: see `run_grid`.

    Raises:
        InputError: no cell gave a result; the message holds the first reason.
        StorageError: the disk is full; finished cells are kept, and the same command resumes.

    Example:
        >>> reproduce(Request("table1", budget("tiny")), "runs/tiny", jobs=2)  # doctest: +SKIP
    """
    out = Path(out)
    cells = plan(request)
    summary = run_grid(cells, out, jobs=jobs, worker=worker)
    records = list(summary.records.values())
    if request.what in _TABLES:
        _require_some(summary)
        text = write_table(request.what, request.budget, records, out)
    elif request.what in _REPORTS:
        text = _REPORTS[request.what](records, out)
    else:
        finding = _FIGURES[request.what](request, cells, summary, out)
        finding.write(out)
        text = finding.sentence
    write_json(out / f"{request.what}.run.json", _description(request, cells, summary))
    return Reproduction(out, summary, text)


def _figure_3(request: Request, cells: list[Cell], summary: GridSummary, out: Path) -> Finding:
    """Loss curves of the teacher and of every distillation."""
    folders = _folders(cells, summary, out)
    wanted = {_encoder_key(request, one): one.label for one in systems_of(request)}
    runs = {label: read_curves(folders[key] / ENCODER) for key, label in wanted.items() if key in folders}
    if not runs:
        raise InputError("no distillation is finished, so there is no curve", found=_first_reason(summary))
    return draw_curves(runs, name=request.what)


def _figure_4(request: Request, cells: list[Cell], summary: GridSummary, out: Path) -> Finding:
    """Attention against distance on molecules that every encoder's pretraining held out."""
    from dnd.models.students.encoders import load_encoder
    from dnd.pretraining.encoder_folder import HOLDOUT
    from dnd.store.reader import Store

    folders = _folders(cells, summary, out)
    made = {
        one: folders[key] / ENCODER for one in systems_of(request) if (key := _encoder_key(request, one)) in folders
    }
    trained = [folder for one, folder in made.items() if one.upstream != "random"]
    if not trained:
        raise InputError("no encoder is finished, so there is no attention to look at", found=_first_reason(summary))
    store = Store.open(folders[f"{MOLECULES}/prepare"] / STORE)
    held_out = set.intersection(*({*read_json(folder / HOLDOUT)["rows"]} for folder in trained))
    rows = numpy_generator(0, "attention").permutation(sorted(held_out))[: request.budget.attention_molecules]
    analyses: dict[str, AttentionAnalysis] = {}
    for one, folder in made.items():
        label = "RandInit" if one.upstream == "random" else one.label
        analyses[label] = analyse_attention(load_encoder(folder)[0], store, np.sort(rows))
    finding = draw_attention(analyses)
    return Finding(request.what, finding.figure, finding.columns, finding.rows, finding.sentence)


def _figure_5(request: Request, cells: list[Cell], summary: GridSummary, out: Path) -> Finding:
    """Label efficiency over the data sets."""
    _require_some(summary)
    names = {name: benchmark.paper_name for name, benchmark in BENCHMARKS.items()}
    return draw_label_efficiency(curves_of(list(summary.records.values()), names), name=request.what)


def _locality(request: Request, cells: list[Cell], summary: GridSummary, out: Path) -> Finding:
    """Which distillation suits which property."""
    _require_some(summary)
    shares: dict[str, float] = {}
    for cell in cells:
        if cell.kind == "finetune" and cell.settings["dataset"] not in shares:
            table = labelled_table(Work(cell.settings, cell.paths, {}, out))
            shares[cell.settings["dataset"]] = learnable_share(table)
    return draw_locality(entries(summary.records.values()), shares)


_FIGURES = {"fig3": _figure_3, "fig4": _figure_4, "fig5": _figure_5, "locality": _locality}
_REPORTS = {"ccmd": write_ccmd, "multitask": write_multitask}


def _encoder_key(request: Request, one: System) -> str:
    """Of the first pretraining."""
    return encoder_key(MOLECULES, one, request.upstream_seeds[0])


def _folders(cells: list[Cell], summary: GridSummary, out: Path) -> dict[str, Path]:
    """Folder of every finished cell."""
    keys = digests(cells)
    done = [key for key, record in summary.records.items() if record.status == "done"]
    return {key: out / "cells" / f"{key}-{keys[key]}" for key in done}


def _require_some(summary: GridSummary) -> None:
    scored = [one for one in summary.records.values() if one.status == "done" and "test" in one.result]
    if not scored:
        raise InputError("no cell gave a test score", found=_first_reason(summary))


def _first_reason(summary: GridSummary) -> str:
    return next((record.reason for record in summary.records.values() if record.status == "failed"), "nothing failed")


def _description(request: Request, cells: list[Cell], summary: GridSummary) -> dict[str, object]:
    return {
        "what": request.what,
        "budget": vars(request.budget),
        "systems": [one.name for one in systems_of(request)],
        "cells": len(cells),
        "failed": {key: summary.records[key].reason for key in summary.failed},
        "seconds": round(sum(record.seconds for record in summary.records.values()), 1),
    }
