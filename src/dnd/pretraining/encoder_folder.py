"""How every pretraining stage ends: an ENCODER folder with held-out list, metrics and card, and the lines it prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnd.common.errors import InputError
from dnd.common.files import write_json
from dnd.common.model_folder import FORMAT_VERSION, read_model
from dnd.common.runs import already_finished, drop_scaffolding, require_same_run
from dnd.models.students.base import Student
from dnd.models.students.encoders import PropertyHeads, RepresentationLimits, save_encoder
from dnd.pretraining.objective import PretrainingObjective
from dnd.training.distributed import World
from dnd.training.logs import Checkpoints
from dnd.training.loop import TrainResult

# How every pretraining stage ends: an ENCODER folder with the held-out list, the metrics and a card.


KIND = "encoder"
HOLDOUT = "holdout.json"


@dataclass(frozen=True)
class PretrainSummary:
    """How distillation or another pretraining ended.

    Attributes:
        folder: the ENCODER folder.
        metrics: metrics of the kept weights, held-out and training; empty if the run was stopped.
        finished: False when `loop.stop_after_s` ended it early.
    """

    folder: Path
    metrics: dict[str, float]
    finished: bool


def finished_before(out: Path, *, resume: bool) -> PretrainSummary | None:
    """The summary of a finished run in `out`, None where there is still work to do.

    Raises:
        InputError: there is a finished encoder and `resume` is not set.
        CorruptFileError: the folder is damaged or of another kind.
    """
    if not already_finished(out, kind=KIND, format_version=FORMAT_VERSION, resume=resume):
        return None
    return PretrainSummary(out, read_model(out, kind=KIND).config["metrics"], True)


def refuse_other_run(out: Path, settings: Mapping[str, Any], *, resume: bool, allow_change: bool) -> None:
    """Refuse what the training loop would refuse, but before the teacher has run over a whole store.

    Raises:
        InputError: `out` holds an unfinished run and `resume` is not set, or a run with other settings and
            `allow_change` is not set.
    """
    if not Checkpoints(out, "").exist():
        return
    if not resume:
        raise InputError(
            f"{out} already contains a run", next_step="Add --resume to continue it, or choose another folder"
        )
    require_same_run(out, settings, allow_change=allow_change)


def seal_encoder(
    out: Path,
    student: Student,
    objective: PretrainingObjective,
    result: TrainResult,
    description: Mapping[str, Any],
    card: list[str],
    heads: PropertyHeads | None = None,
) -> PretrainSummary:
    """Write the ENCODER folder of a finished run and drop what only the run needed.

    Args:
        out: the run's folder.
        student: the part of the objective that is kept; projections and other heads than `heads` are dropped here.
        objective: gives the held-out rows and the store.
        result: how the training ended.
        description: further entries of `config.json`.
        card: lines of the model card below its heading.
        heads: ready-made properties that stay with it.
    """
    if not result.finished:
        return PretrainSummary(out, {}, False)
    world = World.join(next(student.parameters()).device)
    if world.is_main:
        _write(out, student, objective, result, description, card, heads)
    world.wait()
    return PretrainSummary(out, result.best, True)


def _write(
    out: Path,
    student: Student,
    objective: PretrainingObjective,
    result: TrainResult,
    description: Mapping[str, Any],
    card: list[str],
    heads: PropertyHeads | None,
) -> None:
    store, holdout = objective.store, objective.holdout_rows
    write_json(
        out / HOLDOUT,
        {
            "seed": objective.loop.seed,
            "store": store.fingerprint,
            "rows": holdout.tolist(),
            "molecules": store.describe(holdout),
        },
    )
    config = {
        **description,
        "hydrogens": store.hydrogens,
        "store": store.fingerprint,
        "molecules": len(store),
        "metrics": result.best,
    }
    weights = sum(parameter.numel() for parameter in student.parameters())
    lines = [
        "# Encoder",
        "",
        *card,
        f"- student: {description['settings']['student']['name']}, width {student.width}, {student.num_layers} layers, "
        f"{weights:,} weights",
        f"- data: {len(objective.train_rows):,} molecules, {len(holdout):,} held out (`{HOLDOUT}`); hydrogens "
        f"`{store.hydrogens}`; store `{store.fingerprint[:12]}`",
        f"- training: {result.steps:,} steps, {objective.loop.epochs} epochs; kept: step {result.best_step:,}",
        "",
    ]
    limits = RepresentationLimits.measured(student.eval(), store, objective.train_rows.sample())
    save_encoder(out, student, config, "\n".join(lines), heads=heads, limits=limits)
    drop_scaffolding(out)


# The lines that a finished pretraining prints.


_PARTS = (("valid", "held-out"), ("train", "training"))


def report(summary: PretrainSummary) -> str:
    """A table of the kept weights' metrics: one row per term and part, then all other numbers."""
    if not summary.finished:
        return f"{summary.folder}: stopped by loop.stop_after_s; the same command with --resume continues"
    metrics = dict(summary.metrics)
    lines = []
    for part, what in _PARTS:
        names = [
            key.removeprefix(f"{part}_").removesuffix("_variance")
            for key in metrics
            if key.startswith(f"{part}_") and key.endswith("_variance")
        ]
        for name in [*names, "lookup"]:
            if f"{part}_{name}_r2" in metrics:
                loss, r2 = metrics.pop(f"{part}_{name}_loss"), metrics.pop(f"{part}_{name}_r2")
                variance = metrics.pop(f"{part}_{name}_variance", metrics.get(f"{part}_node_variance"))
                lines.append((what, name, loss, variance, r2))
    table = [
        f"{what:9} {name:14} {loss:9.4g} {'' if variance is None else format(variance, '9.4g'):>9} {r2:7.3f}"
        for what, name, loss, variance, r2 in lines
    ]
    if table:
        table.insert(0, f"{'part':9} {'term':14} {'loss':>9} {'variance':>9} {'R²':>7}")
    rest = [f"{name.replace('_', ' ')}: {value:.4g}" for name, value in sorted(metrics.items())]
    return "\n".join([*table, *rest, f"encoder: {summary.folder}"])
