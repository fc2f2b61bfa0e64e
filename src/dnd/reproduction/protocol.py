"""From a table or figure of the paper to the cells that make it, at a budget.

Finetuning is the same for every system: same molecules, same epochs, same seeds, same regularisation, the encoder read
from a folder; RandInit's folder holds random weights. Only the encoder and, in Table 1, the layer decay differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnd.common.config import look_up
from dnd.common.errors import ConfigError
from dnd.reproduction.benchmarks import BENCHMARKS, QM9_PREFIX, TARGETS, find_qm9
from dnd.reproduction.budgets import Budget
from dnd.reproduction.ccmd import ccmd_cells
from dnd.reproduction.frozen_models import MOST_BOOSTED_TARGETS
from dnd.reproduction.multitask import multitask_cells
from dnd.reproduction.results import Cell
from dnd.reproduction.systems import CONFORMERS, LOCALITY, STUDENTS, TABLE_1, TABLE_2, TABLE_6, TEACHERS, System, system
from dnd.reproduction.upstream import (
    LABELS,
    MOLECULES,
    QM9,
    encoder_key,
    identities,
    input_paths,
    located,
    pretraining_seeds,
    regularization_words,
    student_words,
    upstream_cells,
)

_MANY_TARGETS = {"sider": 27, "toxcast": 617}
QM9_TABLES = ("table2", "table6")
FOUR_SETS = ("esol", "lipo", "bp", "bace")
NO_LAYER_DECAY = "randinit-1.0"


@dataclass(frozen=True)
class Request:
    """What is to be reproduced.

    Attributes:
        what: a name of `_PLANS`.
        budget: sizes, epochs, seeds.
        data_dir: where to look for data first.
        pretraining: files to pretrain on; empty = QM9, or PCQM4Mv2 for the paper's budget.
        datasets: data sets of Table 1 and Figure 5, targets for Tables 2 and 6; empty = all of it.
        systems: empty = all of the table.
        hydrogens: hydrogen setting of the pretraining for Table 1 and the figures.
        seeds: finetuning seeds; empty = the budget's.
        upstream_seeds: seeds of the pretrainings; empty = the budget's.
    """

    what: str
    budget: Budget
    data_dir: Path | None = None
    pretraining: tuple[Path, ...] = ()
    datasets: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    hydrogens: str = "heavy_both"
    seeds: tuple[int, ...] = field(default=())
    upstream_seeds: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        look_up(_PLANS, self.what, "table or figure")
        for name in self.systems:
            if self.what in QM9_TABLES and system(name).upstream == "random" and name != NO_LAYER_DECAY:
                raise ConfigError(
                    f"{self.what} has no {name}: its finetuning has no layer decay",
                    next_step=f"Use --systems {NO_LAYER_DECAY}",
                )
            system(name)
        for name in self.datasets:
            look_up(TARGETS if self.what in QM9_TABLES else BENCHMARKS, name, "data set")
        for one in ("seeds", "upstream_seeds"):
            if not getattr(self, one):
                object.__setattr__(self, one, tuple(range(1, getattr(self.budget, one) + 1)))


def plan(request: Request) -> list[Cell]:
    """Cells of `request` in an order where needs come first.

    A missing data file is not an error here: the cell that reads it fails with the file's name and source.
    """
    return list({cell.key: cell for cell in _PLANS[request.what](request)}.values())


def systems_of(request: Request) -> list[System]:
    """The systems of the table or figure, in its order."""
    return [system(name) for name in (request.systems or _SYSTEMS[request.what])]


_SYSTEMS: dict[str, tuple[str, ...]] = {
    "table1": TABLE_1,
    "table2": TABLE_2,
    "table6": TABLE_6,
    "fig3": ("dnd-node", "dnd-graph"),
    "fig4": ("randinit-1.0", "3dinfomax", "dnd-graph", "dnd-node"),
    "fig5": ("randinit-0.65", "randinit-1.0", "dnd-node"),
    "conformers": CONFORMERS,
    "students": STUDENTS,
    "teachers": TEACHERS,
    "locality": LOCALITY,
    "ccmd": (),
    "multitask": ("dnd-node",),
}


def datasets_of(request: Request) -> list[str]:
    """Data sets of Table 1 and Figure 5, targets of Tables 2 and 6."""
    few = FOUR_SETS if request.what in ("conformers", "students", "teachers") else tuple(BENCHMARKS)
    return list(request.datasets or (TARGETS if request.what in QM9_TABLES else few))


def _table(request: Request) -> Iterator[Cell]:
    yield from upstream_cells(request, MOLECULES, systems_of(request), request.upstream_seeds)
    for name in datasets_of(request):
        for one in systems_of(request):
            yield from _cells_of(request, MOLECULES, name, one, 1.0)


def _qm9_table(request: Request) -> Iterator[Cell]:
    yield _qm9_labels(request)
    yield from upstream_cells(request, QM9, systems_of(request), request.upstream_seeds)
    for name in datasets_of(request):
        for one in systems_of(request):
            yield from _cells_of(request, QM9, f"{QM9_PREFIX}{name}", one, 1.0)


def _figure(request: Request) -> Iterator[Cell]:
    """A figure of the encoders themselves: of the first pretraining, as the paper has one."""
    yield from upstream_cells(request, MOLECULES, systems_of(request), request.upstream_seeds[:1])


def _label_efficiency(request: Request) -> Iterator[Cell]:
    yield from upstream_cells(request, MOLECULES, systems_of(request), request.upstream_seeds)
    for name in datasets_of(request):
        for one in systems_of(request):
            for fraction in request.budget.fractions:
                yield from _cells_of(request, MOLECULES, name, one, fraction)


_PLANS: dict[str, Callable[[Request], Iterator[Cell]]] = {
    "table1": _table,
    "table2": _qm9_table,
    "table6": _qm9_table,
    "fig3": _figure,
    "fig4": _figure,
    "fig5": _label_efficiency,
    "conformers": _table,
    "students": _table,
    "teachers": _table,
    "locality": _table,
    "ccmd": ccmd_cells,
    "multitask": multitask_cells,
}


def _qm9_labels(request: Request) -> Cell:
    budget = request.budget
    sizes = list(budget.qm9_molecules)
    inputs, problem = located(lambda: [find_qm9(request.data_dir, fewest=sum(sizes))])
    settings = {
        "molecules": sizes,
        "reserved": budget.qm9_pretraining,
        "targets": list(TARGETS),
        "files": identities(inputs),
    }
    return Cell(LABELS, "qm9_labels", settings, (), input_paths(inputs, problem))


def _cells_of(request: Request, track: str, dataset: str, one: System, fraction: float) -> Iterator[Cell]:
    """The cells of one system on one data set: every pooling and seed, and features for the classical models."""
    budget = request.budget
    labels = (LABELS,) if track == QM9 else ()
    paths = {"data_dir": str(request.data_dir.resolve())} if request.data_dir else {}
    common: dict[str, Any] = {
        "dataset": dataset,
        "most_molecules": None if track == QM9 else budget.most_molecules,
        "fraction": fraction,
    }
    if one.upstream == "classical":
        if one.name == "gb-both" and _MANY_TARGETS.get(dataset, 1) > MOST_BOOSTED_TARGETS:
            return
        features = Cell(f"{dataset}/features", "features", {**common, "seed": 0}, labels, paths)
        yield features
        for seed in request.seeds:
            settings = {**common, "system": one.name, "pooling": "", "seed": seed}
            yield Cell(f"{dataset}/{one.name}/seed-{seed}", "classical", settings, (features.key, *labels), paths)
        return
    for pooling in _poolings(request, track, one):
        for upstream in pretraining_seeds(request, one):
            for seed in request.seeds:
                settings = {
                    **common,
                    "system": one.name,
                    "pooling": pooling,
                    "upstream_seed": upstream,
                    "seed": seed,
                    "recipe": budget.qm9_finetune_recipe if track == QM9 else budget.finetune_recipe,
                    "config": _finetune_words(budget, track, one, pooling, seed),
                }
                part = "" if fraction >= 1 else f"/labels-{round(100 * fraction)}"
                key = f"{dataset}/{one.name}/{pooling}{part}/upstream-{upstream}/seed-{seed}"
                yield Cell(key, "finetune", settings, (encoder_key(track, one, upstream), *labels), paths)


def _poolings(request: Request, track: str, one: System) -> tuple[str, ...]:
    """The poolings to compare: the budget's, or one for QM9, for locality and for systems that name a student."""
    if track == QM9:
        return ("min_max_mean_sum",)
    return ("mean",) if one.student or request.what == "locality" else request.budget.poolings


def _finetune_words(budget: Budget, track: str, one: System, pooling: str, seed: int) -> list[str]:
    """The settings of a finetuning; the system has a say in the layer decay of Table 1 only."""
    own = [] if track == QM9 else [f"layer_decay={one.layer_decay}"]
    return [
        *(budget.qm9_finetune if track == QM9 else budget.finetune),
        *regularization_words(budget, student_words(budget, track, one)),
        "split=column:split",
        "baselines=false",
        "jobs=1",
        f"pooling={pooling}",
        *own,
        f"loop.seed={seed}",
    ]
