"""`contrast`: both networks learn, the 3D side is dropped, small stores are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distillation_toys import STUDENT, TEACHER, toy_store
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import sha256_file
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import load_encoder
from dnd.pretraining.baselines.infomax3d import ContrastConfig, ContrastiveObjective, contrast
from dnd.training.settings import LoopConfig

LOOP = LoopConfig(epochs=8, batch_size=8, device="cpu", learning_rate=3e-3, weight_decay=0.0)
CONFIG = ContrastConfig(out_width=8, hidden_3d=8, teacher=TEACHER, student=STUDENT, holdout_fraction=0.2, loop=LOOP)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"encoder_3d": "teacher"},
        {"readout": "min_max_mean", "student": StudentConfig("pna", 8, 1)},
        {"readout": "virtual_node", "temperature": 0.01},
    ],
)
def test_every_weight_learns(changes: dict) -> None:
    objective = ContrastiveObjective(toy_store(), replace(CONFIG, **changes))
    step = objective(objective.load_batch(objective.train_rows.sample()[:8], 0), 0)
    step.loss.backward()
    assert torch.isfinite(step.loss)
    for part in (objective.student, objective.head, objective.encoder_3d):
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        assert any(gradient.abs().sum() > 0 for gradient in gradients)


def test_contrast_beats_chance_and_keeps_the_student_alone(tmp_path: Path) -> None:
    summary = contrast(toy_store(), tmp_path / "a", CONFIG)
    untrained = ContrastiveObjective(toy_store(), CONFIG).eval().evaluate()
    assert summary.metrics["train_loss"] < untrained["train_loss"] - 0.3
    assert summary.metrics["train_accuracy"] > 1 / 6  # chance, in batches of 8 and 4
    student, config = load_encoder(tmp_path / "a")
    assert config["stage"] == "contrast"
    assert not any(name.startswith(("head", "encoder_3d")) for name in student.state_dict())
    contrast(toy_store(), tmp_path / "b", CONFIG)
    assert sha256_file(tmp_path / "a" / "model.safetensors") == sha256_file(tmp_path / "b" / "model.safetensors")


def test_each_epoch_may_have_its_own_conformer() -> None:
    objective = ContrastiveObjective(toy_store(20, conformers=2), replace(CONFIG, conformers="each"))
    first, second, third = (objective.load_batch(np.arange(4), epoch).conformers.positions_A3 for epoch in range(3))
    assert not torch.equal(first, second)
    assert torch.equal(first, third)


def test_what_has_no_negatives_is_refused() -> None:
    with pytest.raises(InputError, match="two training and two held-out"):
        ContrastiveObjective(toy_store(4), CONFIG)
    with pytest.raises(ConfigError, match="batch_size"):
        ContrastConfig(loop=LoopConfig(max_tokens=100))


def test_a_batch_without_a_molecule_for_each_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "9")
    with pytest.raises(ConfigError, match="8 molecules, 9 processes"):
        ContrastiveObjective(toy_store(), CONFIG)


@pytest.mark.parametrize(
    "changes", [{"temperature": float("inf")}, {"out_width": 0}, {"hidden_3d": 0}, {"momentum_3d": 5.0}]
)
def test_settings_out_of_range_are_refused(changes: dict) -> None:
    (name,) = changes
    with pytest.raises(ConfigError, match=f"{name} is out of range"):
        ContrastConfig(**changes)
