"""Store → TEACHER folder: the denoising stage."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnd.common.config import to_dict
from dnd.common.errors import InputError
from dnd.common.model_folder import FORMAT_VERSION, read_model
from dnd.common.run_record import already_finished
from dnd.store.reader import Store
from dnd.teacher.denoising import DenoiseConfig, DenoisingObjective
from dnd.teacher.saved import KIND, save_teacher
from dnd.training.distributed import is_main_rank
from dnd.training.loop import TrainResult, train


@dataclass(frozen=True)
class DenoiseSummary:
    """How a denoising ended.

    Attributes:
        folder: the TEACHER folder.
        metrics: held-out loss, trivial value, floor and explained share of the kept weights; empty if nothing was held
            out or the run was stopped.
        finished: False when `loop.stop_after_s` ended it early.
    """

    folder: Path
    metrics: dict[str, float]
    finished: bool


def denoise(
    store: Store | Path | str,
    out: Path | str,
    config: DenoiseConfig | None = None,
    *,
    resume: bool = False,
    quiet: bool = False,
) -> DenoiseSummary:
    """Train a teacher on the conformers of a store.

    Args:
        store: a store or its folder.
        out: the TEACHER folder.
        config: settings; the defaults of `DenoiseConfig` when None.
        resume: go on where an interrupted run of the same settings stopped.
        quiet: show nothing.

    Raises:
        InputError: the store has molecules without a conformer, or `out` holds something else.

    Example:
        >>> denoise("qm9-store", "teacher")  # doctest: +SKIP
    """
    config, out = config or DenoiseConfig(), Path(out)
    if already_finished(out, kind=KIND, format_version=FORMAT_VERSION, resume=resume):
        return DenoiseSummary(out, read_model(out, kind=KIND).config["metrics"], True)
    store = store if isinstance(store, Store) else Store.open(store)
    if not store.has_conformers:
        raise InputError(
            f"{store.path or 'the store'} has molecules without a conformer",
            next_step="Make it with `dnd prepare --conformers etkdg`, or from a file that has coordinates",
        )
    objective = DenoisingObjective(store, config)
    settings = {"store": store.fingerprint, "settings": to_dict(config)}
    result = train(objective, config.loop, out, resume=resume, settings=settings, title="denoise", quiet=quiet)
    if not result.finished:
        return DenoiseSummary(out, {}, False)
    if not is_main_rank():
        return DenoiseSummary(out, result.best, True)  # rank 0 writes the TEACHER
    description = {
        "hydrogens": store.hydrogens,
        "sigma": config.sigma,
        "store": store.fingerprint,
        "molecules": len(store),
        "metrics": result.best,
        "settings": to_dict(config),
    }
    card = _card(store, config, objective, result)
    save_teacher(out, objective.teacher, objective.head, config.teacher, description, card)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)  # a sealed TEACHER needs none
    return DenoiseSummary(out, result.best, True)


def _card(store: Store, config: DenoiseConfig, objective: DenoisingObjective, result: TrainResult) -> str:
    teacher, metrics = config.teacher, result.best
    weights = sum(parameter.numel() for parameter in objective.teacher.parameters())
    lines = [
        "# Teacher",
        "",
        f"A 3D network ({teacher.name}, width {teacher.width}, {teacher.num_layers} layers, {weights:,} weights) "
        f"trained to predict noise of {config.sigma} Å added to conformers (D&D, Eq. 3-5).",
        "",
        f"- data: {len(objective.train_rows):,} molecules, {len(objective.held_out_rows):,} held out; hydrogens "
        f"`{store.hydrogens}`; store `{store.fingerprint[:12]}`",
        f"- training: {result.steps:,} steps, {config.loop.epochs} epochs; kept: step {result.best_step:,}",
    ]
    return "\n".join([*lines, *_card_metrics(metrics), ""])


def _card_metrics(metrics: dict[str, Any]) -> list[str]:
    if not metrics:
        return ["- held-out loss: nothing was held out"]
    return [
        f"- held-out loss: {metrics['held_out_loss']:.4f}; a prediction of zero has {metrics['trivial']:.4f}, and "
        f"rigid motion allows none below about {metrics['floor']:.4f}",
        f"- explained: {100 * metrics['explained']:.1f} % of what can be predicted",
    ]
