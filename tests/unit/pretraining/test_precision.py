"""Distillation under bf16 autocast: every student's sums and gathers keep to one type, and weights stay float32."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from distillation_toys import toy_config, toy_store, toy_teacher_folder
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import load_encoder
from dnd.pretraining.distill import distill
from dnd.training.settings import LoopConfig


@pytest.mark.parametrize("level", ["node", "coordinated"])
@pytest.mark.parametrize("name", ["tokengt", "gine", "pna"])
def test_bf16_trains_every_student(tmp_path: Path, name: str, level: str) -> None:
    student = StudentConfig(name, 16, 2, num_heads=2 if name == "tokengt" else None)
    loop = LoopConfig(epochs=1, batch_size=8, device="cpu", precision="bf16")
    config = toy_config(student=student, level=level, loop=loop)
    summary = distill(toy_store(24), toy_teacher_folder(tmp_path / "teacher"), tmp_path / "encoder", config)
    assert math.isfinite(summary.metrics["valid_loss"])
    weights = load_encoder(tmp_path / "encoder")[0].state_dict().values()
    assert {tensor.dtype for tensor in weights if tensor.is_floating_point()} == {torch.float32}
