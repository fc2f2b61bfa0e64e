"""Networks that have one body make one pass for all of them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.models.students.encoders import Property, PropertyHeads
from dnd.predictor import ensemble
from dnd.predictor import predictor as module
from dnd.predictor.ensemble import FrozenEncoder
from dnd.predictor.predictor import Predictor

BLEND = Path(__file__).parents[2] / "golden/predictor-blend"
SMILES = ["CCO", "c1ccccc1O", "CC(=O)NC", "CCCCN"]


def with_heads(predictor: Predictor, count: int) -> Predictor:
    """The blend with a frozen encoder, and `count` networks that have its body and heads of their own."""
    (first, *_), blend = predictor.parts.members, predictor.parts.blend
    assert blend is not None
    encoder = FrozenEncoder(copy.deepcopy(first.network.student), first.network.pooling)
    members = []
    for seed in range(count):
        network = copy.deepcopy(first.network)
        torch.manual_seed(seed)
        for values in network.head.parameters():
            torch.nn.init.normal_(values, std=0.1)
        members.append(replace(first, network=network.eval()))
    shares = tuple((1 / (count + 1),) * len(predictor.targets) for _ in range(count))
    found = copy.copy(predictor)
    found.parts = replace(
        predictor.parts, members=tuple(members), blend=replace(blend, network_weights=shares, encoder=encoder)
    )
    return found


def test_heads_on_the_body_of_the_encoder_share_its_pass_and_values_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, apart = (with_heads(Predictor.load(BLEND, device="cpu"), 3) for _ in range(2))
    monkeypatch.setattr(module, "same_body", lambda *_: False)
    assert apart._bodies == [[0], [1], [2]]
    assert apart._body_of_encoder is None
    expected = apart.predict_values(SMILES)[0]
    monkeypatch.undo()
    passes = []
    run_over = ensemble.run_over
    for place in (ensemble, module):
        monkeypatch.setattr(place, "run_over", lambda *given: (passes.append(1), run_over(*given))[1])
    assert np.array_equal(whole.predict_values(SMILES)[0], expected)
    assert len(passes) == 1


def test_a_body_with_one_other_weight_has_a_pass_of_its_own() -> None:
    predictor = with_heads(Predictor.load(BLEND, device="cpu"), 2)
    with torch.no_grad():
        next(predictor.parts.members[1].network.student.parameters()).flatten()[0] += 1e-3
    assert predictor._bodies == [[0], [1]]
    assert predictor._body_of_encoder == [0]


def test_the_whole_frozen_encoder_goes_to_the_device_with_its_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = with_heads(Predictor.load(BLEND, device="cpu"), 1).parts
    assert parts.blend is not None
    assert parts.blend.encoder is not None
    heads = PropertyHeads(parts.blend.encoder.student.width, [Property("gap", "dft"), Property("logp", "measured")])
    encoder = replace(parts.blend.encoder, heads=heads)
    monkeypatch.setattr(module, "choose_device", lambda _: torch.device("meta"))
    Predictor(replace(parts, blend=replace(parts.blend, encoder=encoder)))
    moved = [*encoder.student.parameters(), *heads.parameters(), *heads.buffers()]
    assert {values.device.type for values in moved} == {"meta"}
