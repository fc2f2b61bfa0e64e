"""Store and TEACHER folder → ENCODER folder: the distillation stage of D&D and CCMD."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnd.common.compute import choose_device
from dnd.common.config import to_dict
from dnd.common.files import write_json
from dnd.common.log import LOGGER
from dnd.models.teachers.base import Teacher
from dnd.models.teachers.teachers import load_teacher
from dnd.pretraining.distill_objective import DistillationObjective
from dnd.pretraining.distill_terms import require_suitable
from dnd.pretraining.encoder_folder import PretrainSummary, finished_before, refuse_other_run, seal_encoder
from dnd.pretraining.settings import DistillConfig
from dnd.pretraining.teacher_outputs import OutOfTimeError, weights_digest
from dnd.store.reader import Store
from dnd.training.distributed import is_main_rank, run_lock
from dnd.training.loop import train


def distill(
    store: Store | Path | str,
    teacher: Path | str | None,
    out: Path | str,
    config: DistillConfig | None = None,
    *,
    resume: bool = False,
    cache_folder: Path | None = None,
) -> PretrainSummary:
    """Train a 2D student to reproduce a frozen 3D teacher's representations of clean conformers.

    Args:
        store: a store with conformers, or its folder.
        teacher: the TEACHER folder; not needed, and not used, if all terms are auxiliary.
        out: the ENCODER folder.
        config: settings; the defaults of `DistillConfig` when None.
        resume: continue an interrupted run with the same settings.
        cache_folder: for a cache of the teacher's outputs on disk that several students share; None = in `out`, and
            removed at the end.

    Raises:
        ConfigError: a term needs a teacher and there is none.
        InputError: the store has no conformers, another hydrogen setting than the teacher, or elements unknown to it;
            or `out` holds something else.

    Example:
        >>> distill("qm9-store", "teacher", "encoder", DistillConfig(level="node"))  # doctest: +SKIP
    """
    config, out, started = config or DistillConfig(), Path(out), time.monotonic()
    if (summary := finished_before(out, resume=resume)) is not None:
        return summary
    store = taught_molecules(store if isinstance(store, Store) else Store.open(store), config)
    if teacher is not None and not config.needs_teacher:
        if is_main_rank():
            LOGGER.warning(f"note: no term needs the teacher {teacher}, so it teaches nothing")
        teacher = None
    network, teacher_config = (None, {}) if teacher is None else load_teacher(teacher)
    if network is not None:
        require_suitable(store, teacher_config, str(teacher))
    digest = None if network is None else weights_digest(network)
    settings = {"store": store.fingerprint, "teacher": digest, "settings": to_dict(config)}
    with run_lock(out):
        if (summary := finished_before(out, resume=resume)) is not None:
            return summary
        refuse_other_run(out, settings, resume=resume, allow_change=config.loop.allow_change)
        cache_folder = cache_folder or out / "targets"
        return _distill(store, network, teacher_config, out, config, settings, resume, cache_folder, started)


def _distill(
    store: Store,
    network: Teacher | None,
    teacher_config: Mapping[str, Any],
    out: Path,
    config: DistillConfig,
    settings: dict[str, Any],
    resume: bool,
    cache_folder: Path,
    started: float,
) -> PretrainSummary:
    """`distill` in a folder that is ours alone."""
    loop = config.loop
    try:
        objective = DistillationObjective(
            store,
            network,
            config,
            device=choose_device(loop.device),
            cache_folder=cache_folder,
            deadline=None if loop.stop_after_s is None else started + loop.stop_after_s,
        )
    except OutOfTimeError:
        return PretrainSummary(out, {}, False)
    title = f"distill {config.level}"
    result = train(objective, loop, out, resume=resume, settings=settings, title=title, held=True, started=started)
    if result.finished and is_main_rank() and (record := objective.auxiliary_record()):
        write_json(out / "auxiliary.json", record)
    card = _card(config, None if network is None else network.width, result.best)
    description = _description(config, settings["teacher"], teacher_config)
    heads = objective.property_heads()
    return seal_encoder(out, objective.student, objective, result, description, card, heads)


def taught_molecules(store: Store, config: DistillConfig) -> Store:
    """The molecules that a student learns from: all, or those with conformers where every term needs one."""
    return store.with_conformers() if config.needs_only_conformers and store.some_conformers else store


def _description(config: DistillConfig, digest: str | None, teacher: Mapping[str, Any]) -> dict[str, Any]:
    """What the encoder's `config.json` says of its making: the settings, and the teacher by its weights' digest."""
    about_teacher = {key: teacher.get(key) for key in ("teacher", "sigma", "store", "molecules", "metrics")}
    return {
        "stage": "distill",
        "level": config.level,
        "terms": config.weights(),
        "teacher": {"weights": digest, **about_teacher},
        "settings": to_dict(config),
    }


def _card(config: DistillConfig, teacher_width: int | None, metrics: dict[str, float]) -> list[str]:
    terms = ", ".join(f"{name} × {weight:g}" for name, weight in config.weights().items())
    taught = f"by a frozen 3D denoiser of width {teacher_width}" if teacher_width else "without a 3D denoiser"
    lines = [
        f"A 2D student that was taught {taught} (D&D, level `{config.level}`: {terms}). It reads a molecular graph and "
        "needs no conformer.",
        "",
    ]
    for part, what in (("valid", "held-out"), ("train", "training")):
        for name in config.weights():
            if f"{part}_{name}_r2" in metrics:
                lines.append(
                    f"- {what} {name}: loss {metrics[f'{part}_{name}_loss']:.4g}, of a constant "
                    f"{metrics[f'{part}_{name}_variance']:.4g}, R² {metrics[f'{part}_{name}_r2']:.3f}"
                )
    if "valid_lookup_r2" in metrics:
        lines.append(
            f"- a lookup by (element, degree, in a ring), which needs no learning: held-out loss "
            f"{metrics['valid_lookup_loss']:.4g}, R² {metrics['valid_lookup_r2']:.3f}"
        )
    return lines
