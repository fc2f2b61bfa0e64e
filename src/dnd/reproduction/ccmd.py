"""CCMD as its paper has it: a supervised 3D teacher, labels in the student's loss, and what each alignment adds.

Source: CCMD (arXiv 2211.16712). There a 3D Graphormer learns the gap of PCQM4Mv2 from DFT geometries and its token and
atoms teach a 2D Graphormer that learns the same labels; validation MAE in eV: no distillation 0.0845, local mean alone
0.0870, global 0.0822, global + coordinated local 0.0809. Here both learn QM9's gap, the teacher is the equivariant
transformer with a molecule token, the student a TokenGT whose graph token meets it. Values are of molecules that
teacher and student both held out, at the epoch with the smallest held-out error of the label, so they are validation
scores as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dnd.common.config import read_recipe
from dnd.common.errors import InputError
from dnd.common.files import write_text
from dnd.report.figures import table_text
from dnd.reproduction.benchmarks import TARGETS, find_qm9
from dnd.reproduction.budgets import Budget
from dnd.reproduction.results import Cell, Record
from dnd.reproduction.significance import Seeds, Significance, holm, paired
from dnd.reproduction.upstream import MOLECULES, STORE_SEED, identities, input_paths, located, training_settings

if TYPE_CHECKING:
    from dnd.reproduction.protocol import Request

TARGET = "gap"
NONE, TEACHER_NAME = "none", "supervise"
_GLOBAL, _LOCAL = "terms.global_tokens=1", "terms.local_atoms=1"
# Alignment beside the labels, in the order of the paper's ablation.
ALIGNMENTS: dict[str, tuple[str, ...]] = {
    NONE: (),
    "local-mean": (_LOCAL, "size_factor=mean"),
    "global": (_GLOBAL,),
    "global-local-mean": (_GLOBAL, _LOCAL, "size_factor=mean"),
    "coordinated": (_GLOBAL, _LOCAL, "size_factor=coordinated"),
}
_LABELS = {
    NONE: "labels only",
    "local-mean": "labels + local mean (1/N)",
    "global": "labels + global",
    "global-local-mean": "labels + global + local mean (1/N)",
    "coordinated": "labels + global + coordinated local (1/N²)",
}


def ccmd_cells(request: Request) -> Iterator[Cell]:
    """One store; a teacher per upstream seed; a student per seed and alignment."""
    budget = request.budget
    inputs, problem = located(lambda: [find_qm9(request.data_dir, fewest=sum(budget.qm9_molecules))])
    settings: dict[str, Any] = {
        "molecules": budget.pretraining_molecules,
        "hydrogens": "teacher_all_student_heavy",
        "conformers": "auto",
        "targets": [TARGET],
        "seed": STORE_SEED,
        "files": identities(inputs),
    }
    prepare = "ccmd/prepare"
    yield Cell(prepare, "prepare", settings, (), input_paths(inputs, problem))
    held_out = [word for word in budget.pretrain if word.startswith("holdout_fraction=")] or ["holdout_fraction=0.02"]
    for seed in request.upstream_seeds:
        own = [*held_out, f"loop.seed={seed}"]
        teacher = f"ccmd/seed-{seed}/{TEACHER_NAME}"
        words = [*_supervision(budget), f"target={TARGET}", *own]
        yield Cell(teacher, "supervise", {"config": words}, (prepare,))
        student = [*budget.pretrain, *budget.tokengt, *own]
        for name, terms in ALIGNMENTS.items():
            key = f"ccmd/seed-{seed}/{name}"
            if name == NONE:
                words = [*student, "method=propred", f"target={TARGET}", "readout=virtual_node"]
                yield Cell(key, "pretrain", training_settings(budget, "pretrain", MOLECULES, words), (prepare,))
            else:
                task = (
                    "level=custom",
                    "terms.task=1",
                    f"task_target={TARGET}",
                    "task_readout=virtual_node",
                    "select_by=task",
                )
                words = [*student, *task, *terms]
                yield Cell(key, "distill", training_settings(budget, "distill", MOLECULES, words), (prepare, teacher))


def _supervision(budget: Budget) -> list[str]:
    """Architecture and training of the budget's teacher, which here learns labels instead of noise."""
    recipe = budget.recipe("denoise", MOLECULES)
    tables = read_recipe(recipe) if recipe else {}
    stated = [f"{table}.{key}={value}" for table in ("teacher", "loop") for key, value in tables.get(table, {}).items()]
    return [*stated, *budget.denoise]


@dataclass(frozen=True)
class AlignmentScore:
    """The held-out error of one alignment.

    Attributes:
        name: a name of `ALIGNMENTS`, or `supervise` for the teacher.
        by_seed: upstream seed (and 1, as nothing is finetuned) → error in label deviations.
        unit_value: mean error in the unit of Table 6, None where no teacher has told the deviation.
        test: against labels alone.
        corrected: its p-value.
    """

    name: str
    by_seed: dict[Seeds, float]
    unit_value: float | None
    test: Significance | None = None
    corrected: float | None = None

    @property
    def mean(self) -> float:
        """Mean over seeds, in label deviations."""
        return float(np.mean(list(self.by_seed.values())))


def alignment_scores(records: Sequence[Record]) -> list[AlignmentScore]:
    """Errors of the teacher and of every alignment, compared with labels alone (paired over seeds, Holm).

    Raises:
        InputError: no cell is finished.
    """
    by_name: dict[str, dict[Seeds, float]] = {}
    deviations: dict[int, float] = {}
    for record in records:
        if record.status == "done" and record.key.startswith("ccmd/seed-"):
            seed, name = int(record.key.split("/")[1].removeprefix("seed-")), record.key.rsplit("/", 1)[1]
            metrics = record.result["metrics"]
            key = {TEACHER_NAME: "held_out_loss", NONE: "valid_loss"}.get(name, "valid_task_loss")
            by_name.setdefault(name, {})[seed, 1] = float(metrics[key])
            if name == TEACHER_NAME:
                deviations[seed] = float(metrics["label_deviation"])
    if not by_name:
        reason = next((record.reason for record in records if record.status == "failed"), "nothing to run")
        raise InputError("no student of CCMD is finished", found=reason)
    order = [name for name in (TEACHER_NAME, *ALIGNMENTS) if name in by_name]
    tested = [name for name in order if name not in (TEACHER_NAME, NONE) and NONE in by_name]
    tests = {name: paired(by_name[name], by_name[NONE]) for name in tested}
    corrected = dict(zip(tests, holm([test.p_value for test in tests.values()]), strict=True))
    return [
        AlignmentScore(name, by_name[name], _in_unit(by_name[name], deviations), tests.get(name), corrected.get(name))
        for name in order
    ]


def write_ccmd(records: Sequence[Record], folder: Path) -> str:
    """Write `ccmd.csv` and `ccmd.md` into `folder`; returns the Markdown."""
    scores = alignment_scores(records)
    unit = TARGETS[TARGET][0]
    control = next((one.mean for one in scores if one.name == NONE), None)
    lines = [
        "# CCMD on QM9's gap",
        "",
        f"Held-out MAE, mean ± sample deviation over {max(len(one.by_seed) for one in scores)} seeds, each with a "
        "teacher of its own. Change: of the MAE against labels only; p paired over those seeds, corrected by Holm for "
        "the alignments.",
        "",
        f"| system | MAE, label deviations | MAE, {unit} | change | p |",
        "|---|---|---|---|---|",
    ]
    for one in scores:
        values = list(one.by_seed.values())
        spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
        value = "–" if one.unit_value is None else f"{one.unit_value:.4g}"
        change = f"{100 * (one.mean / control - 1):+.1f} %" if one.test and control else ""
        p_value = f"{one.corrected:.2g}" if one.corrected is not None else ""
        label = _LABELS.get(one.name, "the 3D teacher")
        lines.append(f"| {label} | {one.mean:.4g}{spread} | {value} | {change} | {p_value} |")
    text = "\n".join([*lines, ""])
    write_text(folder / "ccmd.md", text)
    rows = [[one.name, seed, value] for one in scores for (seed, _), value in one.by_seed.items()]
    write_text(folder / "ccmd.csv", table_text(["system", "upstream_seed", "mae_in_label_deviations"], rows))
    return text


def _in_unit(by_seed: dict[Seeds, float], deviations: dict[int, float]) -> float | None:
    known = [value * deviations[seed] for (seed, _), value in by_seed.items() if seed in deviations]
    return float(np.mean(known)) * TARGETS[TARGET][1] if known else None
