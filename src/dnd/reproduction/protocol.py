"""From a table or figure of the paper to the cells that make it, at a budget.

Upstream stages (prepare, denoise, distill, contrast, pretrain) are cells that others need, so each runs once, and all
tables and figures of one results folder share them. Finetuning is the same for every system: same molecules, same
epochs, same seeds; only the encoder and, for RandInit, the layer decay differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnd.common.config import look_up
from dnd.common.errors import InputError
from dnd.reproduction.benchmarks import BENCHMARKS, QM9_PREFIX, TARGETS, energy_label, find_pretraining, find_qm9
from dnd.reproduction.budgets import Budget
from dnd.reproduction.classical_models import MOST_BOOSTED_TARGETS
from dnd.reproduction.results import Cell
from dnd.reproduction.tables import TABLE_1, TABLE_2, TABLE_6, System, system

UPSTREAM_SEED = 1  # teacher and encoders are trained once, as in the paper; the seeds of a table are finetuning seeds
_MANY_TARGETS = {"sider": 27, "toxcast": 617}
MOLECULES, QM9 = "molecules", "qm9"


@dataclass(frozen=True)
class Request:
    """What is to be reproduced.

    Attributes:
        what: `table1`, `table2`, `table6`, `fig3`, `fig4` or `fig5`.
        budget: sizes, epochs, seeds.
        data_dir: where to look for data first.
        pretraining: files to pretrain on; empty = QM9, or PCQM4Mv2 for the paper's budget.
        datasets: of Table 1 and Figure 5, targets for Tables 2 and 6; empty = all.
        systems: empty = all of the table.
        hydrogens: of pretraining for Table 1 and the figures.
    """

    what: str
    budget: Budget
    data_dir: Path | None = None
    pretraining: tuple[Path, ...] = ()
    datasets: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    hydrogens: str = "heavy_both"
    seeds: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        look_up(_PLANS, self.what, "table or figure")
        for name in self.systems:
            system(name)
        for name in self.datasets:
            look_up(TARGETS if self.what in ("table2", "table6") else BENCHMARKS, name, "data set")
        if not self.seeds:
            object.__setattr__(self, "seeds", tuple(range(1, self.budget.seeds + 1)))


def plan(request: Request) -> list[Cell]:
    """Cells of `request` in an order where needs come first.

    A missing data file is no error here: the cell that reads it fails with the file's name and source.
    """
    return list({cell.key: cell for cell in _PLANS[request.what](request)}.values())


def systems_of(request: Request) -> list[System]:
    """The systems of the table or figure, in its order."""
    names = {"table1": TABLE_1, "table2": TABLE_2, "table6": TABLE_6}.get(request.what, FIGURE_SYSTEMS[request.what])
    return [system(name) for name in (request.systems or names)]


FIGURE_SYSTEMS: dict[str, tuple[str, ...]] = {
    "fig3": ("dnd-node", "dnd-graph"),
    "fig4": ("randinit-1.0", "3dinfomax", "dnd-graph", "dnd-node"),
    "fig5": ("randinit-0.65", "randinit-1.0", "dnd-node"),
    "table1": (),
    "table2": (),
    "table6": (),
}


def datasets_of(request: Request) -> list[str]:
    """Data sets of Table 1 and Figure 5, targets of Tables 2 and 6."""
    return list(request.datasets or (TARGETS if request.what in ("table2", "table6") else BENCHMARKS))


def encoder_key(track: str, one: System) -> str:
    """Key of the cell that makes the encoder of a system."""
    variant = one.name if one.words else one.variant
    return f"{track}/{one.upstream}-{variant}" if variant else f"{track}/{one.upstream}"


def _table(request: Request) -> Iterator[Cell]:
    yield from _upstream(request, MOLECULES)
    for name in datasets_of(request):
        for one in systems_of(request):
            yield from _cells_of(request, MOLECULES, name, one, 1.0)


def _qm9_table(request: Request) -> Iterator[Cell]:
    yield _qm9_labels(request)
    yield from _upstream(request, QM9)
    for name in datasets_of(request):
        for one in systems_of(request):
            yield from _cells_of(request, QM9, f"{QM9_PREFIX}{name}", one, 1.0)


def _figure(request: Request) -> Iterator[Cell]:
    yield from _upstream(request, MOLECULES)


def _label_efficiency(request: Request) -> Iterator[Cell]:
    yield from _upstream(request, MOLECULES)
    for name in datasets_of(request):
        for one in systems_of(request):
            for fraction in request.budget.fractions:
                yield from _cells_of(request, MOLECULES, name, one, fraction)


_PLANS = {
    "table1": _table,
    "table2": _qm9_table,
    "table6": _qm9_table,
    "fig3": _figure,
    "fig4": _figure,
    "fig5": _label_efficiency,
}


def _upstream(request: Request, track: str) -> Iterator[Cell]:
    """Store, teacher and the encoder of every system that has one."""
    wanted = [one for one in systems_of(request) if one.upstream not in ("none", "classical")]
    if not wanted:
        return
    budget, prepare = request.budget, f"{track}/prepare"
    full_size = budget.pretraining_molecules is None and budget.name == "paper" and track == MOLECULES
    if track == QM9:
        inputs, problem = _located(lambda: [find_qm9(request.data_dir, fewest=sum(budget.qm9_molecules))])
    else:
        inputs, problem = _located(lambda: find_pretraining(request.pretraining, request.data_dir, full_size=full_size))
    energy = energy_label(inputs[0]) if inputs and any(one.variant == "propred" for one in wanted) else ""
    settings = {
        "molecules": budget.qm9_pretraining if track == QM9 else budget.pretraining_molecules,
        "hydrogens": "all_both" if track == QM9 else request.hydrogens,
        "conformers": "auto" if all(path.suffix not in (".csv", ".smi", ".tsv") for path in inputs) else "etkdg",
        "targets": [energy] if energy else [],
        "seed": UPSTREAM_SEED,
        "files": _identities(inputs),
    }
    needs = (f"{QM9}/labels",) if track == QM9 else ()
    yield Cell(prepare, "prepare", settings, needs, _paths(inputs, problem))
    seed = f"loop.seed={UPSTREAM_SEED}"
    if any(one.upstream == "distill" for one in wanted):
        yield Cell(
            f"{track}/denoise", "denoise", _training(budget, "denoise", track, [*budget.denoise, seed]), (prepare,)
        )
    student = budget.pna if track == QM9 else budget.tokengt
    for one in wanted:
        words = [*budget.pretrain, *student, seed, *_variant(one, energy)]
        stages = (prepare, f"{track}/denoise") if one.upstream == "distill" else (prepare,)
        yield Cell(encoder_key(track, one), one.upstream, _training(budget, one.upstream, track, words), stages)


def _training(budget: Budget, stage: str, track: str, words: list[str]) -> dict[str, Any]:
    """Settings of a training cell: words on top of a recipe, where the budget has one."""
    recipe = budget.recipe(stage, track)
    return {"config": words} if recipe is None else {"recipe": recipe, "config": words}


def _variant(one: System, energy: str) -> list[str]:
    if one.upstream == "distill":
        return [f"level={one.variant}", *one.words]
    if one.upstream == "contrast":
        return list(one.words)
    if one.upstream == "pretrain":
        return [f"method={one.variant}", *([f"target={energy}"] if one.variant == "propred" else [])]
    return []


def _qm9_labels(request: Request) -> Cell:
    sizes = list(request.budget.qm9_molecules)
    inputs, problem = _located(lambda: [find_qm9(request.data_dir, fewest=sum(sizes))])
    settings = {"molecules": sizes, "targets": list(TARGETS), "files": _identities(inputs)}
    return Cell(f"{QM9}/labels", "qm9_labels", settings, (), _paths(inputs, problem))


def _located(find: Callable[[], list[Path]]) -> tuple[list[Path], str]:
    """The files, or why there are none: then the cell that reads them fails with that reason and the others run."""
    try:
        return find(), ""
    except InputError as error:
        return [], str(error)


def _identities(inputs: list[Path]) -> list[list[Any]]:
    """Name and size of each file: what a cell's identity has of them, since folders differ from machine to machine."""
    return [[path.name, path.stat().st_size if path.is_file() else 0] for path in inputs]


def _paths(inputs: list[Path], problem: str) -> dict[str, Any]:
    return {"inputs": [str(path.resolve()) for path in inputs], "problem": problem}


def _cells_of(request: Request, track: str, dataset: str, one: System, fraction: float) -> Iterator[Cell]:
    """The cells of one system on one data set: every pooling and seed, and features for the classical models."""
    budget = request.budget
    labels = (f"{QM9}/labels",) if track == QM9 else ()
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
    encoder = () if one.upstream == "none" else (encoder_key(track, one),)
    for pooling in ("mean",) if track == QM9 else budget.poolings:
        for seed in request.seeds:
            settings = {
                **common,
                "system": one.name,
                "pooling": pooling,
                "seed": seed,
                "recipe": budget.finetune_recipe,
                "config": _finetune_words(request, track, one, pooling, seed),
            }
            part = "" if fraction >= 1 else f"/labels-{round(100 * fraction)}"
            key = f"{dataset}/{one.name}/{pooling}{part}/seed-{seed}"
            yield Cell(key, "finetune", settings, (*encoder, *labels), paths)


def _finetune_words(request: Request, track: str, one: System, pooling: str, seed: int) -> list[str]:
    student = request.budget.pna if track == QM9 else request.budget.tokengt
    words = [
        *request.budget.finetune,
        "split=column:split",
        "baselines=false",
        "jobs=1",
        f"pooling={pooling}",
        f"layer_decay={one.layer_decay}",
        f"loop.seed={seed}",
    ]
    if one.upstream == "none":
        words += [*student, f"hydrogens={'all_both' if track == QM9 else request.hydrogens}"]
    return words
