"""Store → ENCODER folder by one of the further baselines of the QM9 table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dnd.common.config import look_up, to_dict
from dnd.pretraining.baselines.confgen import ConfGenObjective
from dnd.pretraining.baselines.property_or_distance import DisPredObjective, GraphCLObjective, ProPredObjective
from dnd.pretraining.encoder_folder import PretrainSummary, finished_before, seal_encoder
from dnd.pretraining.objective import PretrainingObjective
from dnd.pretraining.settings import PretrainConfig
from dnd.store.reader import Store
from dnd.training.distributed import run_lock
from dnd.training.loop import train

METHODS: dict[str, Callable[[Store, PretrainConfig], PretrainingObjective]] = {
    "graphcl": GraphCLObjective,
    "propred": ProPredObjective,
    "dispred": DisPredObjective,
    "confgen": ConfGenObjective,
}


def pretrain(
    store: Store | Path | str,
    out: Path | str,
    config: PretrainConfig | None = None,
    *,
    resume: bool = False,
) -> PretrainSummary:
    """Pretrain a student by GraphCL, ProPred, DisPred or ConfGen; all heads are dropped at the end.

    Args:
        store: a store or its folder; with conformers for `dispred` and `confgen`, with labels for `propred`.
        out: the ENCODER folder.
        config: settings; the defaults of `PretrainConfig` when None.
        resume: continue an interrupted run with the same settings.

    Raises:
        ConfigError: there is no such method.
        InputError: the store lacks what the method needs, or `out` holds something else.

    Example:
        >>> pretrain("qm9-store", "encoder", PretrainConfig(method="dispred"))  # doctest: +SKIP
    """
    config, out = config or PretrainConfig(), Path(out)
    if (summary := finished_before(out, resume=resume)) is not None:
        return summary
    store = store if isinstance(store, Store) else Store.open(store)
    objective = look_up(METHODS, config.method, "method")(store, config)
    with run_lock(out):
        return finished_before(out, resume=resume) or _pretrain(objective, out, config, resume)


def _pretrain(objective: PretrainingObjective, out: Path, config: PretrainConfig, resume: bool) -> PretrainSummary:
    """`pretrain` in a folder that is ours alone."""
    settings = {"store": objective.store.fingerprint, "settings": to_dict(config)}
    title = f"pretrain {config.method}"
    result = train(objective, config.loop, out, resume=resume, settings=settings, title=title, held=True)
    description = {"stage": "pretrain", "method": config.method, "settings": to_dict(config)}
    card = [
        f"A 2D student pretrained by the baseline `{config.method}`; its heads are dropped.",
        "",
        *(f"- {name.replace('_', ' ')}: {value:.4g}" for name, value in result.best.items()),
    ]
    return seal_encoder(out, objective.student, objective, result, description, card)
