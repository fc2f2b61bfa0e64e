"""Every system of a grid is finetuned alike: settings are equal but the encoder and, in Table 1, the layer decay."""

from dataclasses import asdict

import pytest

from dnd.common.config import load_config
from dnd.finetuning.settings import FinetuneConfig
from dnd.pretraining.baselines.infomax3d import ContrastConfig
from dnd.pretraining.settings import DistillConfig, PretrainConfig
from dnd.reproduction.budgets import BUDGETS, Budget, budget
from dnd.reproduction.protocol import Request, plan
from dnd.reproduction.results import Cell

CONFIGS = {
    "random_encoder": FinetuneConfig,
    "distill": DistillConfig,
    "contrast": ContrastConfig,
    "pretrain": PretrainConfig,
}


def resolved(cell: Cell, cells: dict[str, Cell]) -> dict[str, object]:
    """All settings of a finetuning, with the student as it is trained: the encoder's, under finetuning's own."""
    config = load_config(FinetuneConfig, cell.settings["recipe"], cell.settings["config"])
    encoder = next(cells[key] for key in cell.needs if cells[key].kind in CONFIGS)
    pretraining = load_config(CONFIGS[encoder.kind], encoder.settings.get("recipe"), encoder.settings["config"])
    student = pretraining.student.without_training_settings()
    return {**asdict(config), "student": asdict(student.with_training_settings(**config.regularization.given()))}


def hydrogens(cell: Cell, cells: dict[str, Cell]) -> str:
    encoder = next(cells[key] for key in cell.needs if cells[key].kind in CONFIGS)
    stores = [cells[key] for key in encoder.needs if cells[key].kind == "prepare"]
    return (stores or [encoder])[0].settings["hydrogens"]


@pytest.mark.parametrize("size", BUDGETS.values(), ids=BUDGETS)
@pytest.mark.parametrize("what", ["table1", "table2", "table6", "fig5"])
def test_only_encoder_and_layer_decay_differ(what: str, size: Budget) -> None:
    datasets = ("gap",) if what in ("table2", "table6") else ("esol",)
    cells = {cell.key: cell for cell in plan(Request(what, size, datasets=datasets))}
    groups: dict[tuple[object, ...], dict[str, Cell]] = {}
    for cell in cells.values():
        if cell.kind == "finetune":
            settings = cell.settings
            key = tuple(settings[name] for name in ("dataset", "fraction", "pooling", "upstream_seed", "seed"))
            groups.setdefault(key, {})[settings["system"]] = cell
    assert groups
    for systems in groups.values():
        found = {name: resolved(cell, cells) for name, cell in systems.items()}
        decays = {name: settings.pop("layer_decay") for name, settings in found.items()}
        control = found.pop("randinit-1.0")
        for name, settings in found.items():
            assert settings == control, name
        assert len({hydrogens(cell, cells) for cell in systems.values()}) == 1
        free = {"randinit-1.0"} if what in ("table1", "fig5") else set()
        assert {decays[name] for name in decays.keys() - free} == {0.65 if free else 1.0}
        assert decays["randinit-1.0"] == 1.0


def test_the_papers_budget_states_its_regularisation_and_momentum() -> None:
    for what, wanted in (
        ("table1", {"attention_dropout": 0.1, "activation_dropout": 0.1, "drop_path": 0.1, "dropout": 0.0}),
        ("table6", {"batch_norm_momentum": 0.1, "dropout": 0.0}),
    ):
        cells = {cell.key: cell for cell in plan(Request(what, budget("paper")))}
        for cell in [cell for cell in cells.values() if cell.kind == "finetune"]:
            config = load_config(FinetuneConfig, cell.settings["recipe"], cell.settings["config"])
            assert config.regularization.given().items() >= wanted.items()


def test_qm9_is_finetuned_as_3dinfomax_publishes_it() -> None:
    cell = next(cell for cell in plan(Request("table2", budget("paper"))) if cell.kind == "finetune")
    config = load_config(FinetuneConfig, cell.settings["recipe"], cell.settings["config"])
    loop = config.loop
    assert (loop.learning_rate, loop.weight_decay, loop.batch_size, loop.epochs) == (7e-5, 1e-11, 128, 1000)
    assert (loop.schedule, loop.plateau_factor, loop.plateau_patience) == ("plateau", 0.5, 25)
    assert (loop.patience, loop.min_learning_rate, loop.clip_norm) == (30, 1e-6, None)
    assert (config.pooling, config.head, config.layer_decay) == ("min_max_mean_sum", "pna", 1.0)
    assert (config.batch_norm, config.select_by, config.loss or "l1") == ("fresh", "loss", "l1")
