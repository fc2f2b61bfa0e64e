"""Rates and groups equal to the recorded finetuning recipe; the warm-up and cosine of the loop with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dnd.finetuning.objective import decayed_groups, layer_rate
from dnd.training.settings import warmup_cosine

RECORDED = Path(__file__).parents[2] / "reference" / "schedules.npz"


def test_multipliers_by_depth():
    recorded = np.load(RECORDED)
    blocks, decay = int(recorded["in.blocks"]), float(recorded["in.layer_decay"])
    found = [layer_rate(layer, blocks, decay) for layer in range(blocks + 2)]
    assert found == pytest.approx(recorded["out.multiplier_by_layer_id"].tolist(), rel=1e-12)


def test_groups_have_the_recorded_rate_and_weight_decay():
    recorded = np.load(RECORDED)
    names = [name.decode() for name in recorded["out.param_name"]]
    layers = dict(zip(names, recorded["out.param_layer_id"].tolist(), strict=True))
    decays = dict(zip(names, recorded["out.param_weight_decay"].tolist(), strict=True))
    multipliers = dict(zip(names, recorded["out.param_multiplier"].tolist(), strict=True))
    # The recording decays matrices and spares biases, norms and the special token.
    shapes = {name: (2, 2) if decays[name] else (2,) for name in names}
    parameters = {name: nn.Parameter(torch.zeros(shapes[name])) for name in names}
    groups = decayed_groups(
        parameters.items(),
        layers.__getitem__,
        int(recorded["in.blocks"]),
        decay=float(recorded["in.layer_decay"]),
        weight_decay=float(recorded["in.base_weight_decay"]),
    )
    found = {id(parameter): group for group in groups for parameter in group["params"]}
    assert len(found) == len(names)
    for name, parameter in parameters.items():
        assert found[id(parameter)]["multiplier"] == pytest.approx(multipliers[name], rel=1e-12)
        assert found[id(parameter)]["weight_decay"] == pytest.approx(decays[name])


def test_rate_at_every_position_and_depth():
    recorded = np.load(RECORDED)
    peak, floor = float(recorded["in.peak"]), float(recorded["in.floor"])
    warmup, total = float(recorded["in.warmup_epochs"]), float(recorded["in.epochs"])
    for row, position in enumerate(recorded["in.epoch_position"]):
        rate = warmup_cosine(float(position), peak=peak, floor=floor, warmup=warmup, total=total)
        found = [rate * layer_rate(layer, 12, 0.65) for layer in range(14)]
        assert found == pytest.approx(recorded["out.lr_by_position_and_layer_id"][row].tolist(), rel=1e-12)


def test_no_decay_gives_one_rate():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    groups = decayed_groups(module.named_parameters(), lambda name: int(name[0]), 2, decay=1.0, weight_decay=0.1)
    assert {group["multiplier"] for group in groups} == {1.0}
