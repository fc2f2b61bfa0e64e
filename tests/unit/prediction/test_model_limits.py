"""Representations of a MODEL stay where those of the molecules lie that it learned from, as those of an encoder do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dnd.common.errors import CorruptFileError
from dnd.common.files import read_json
from dnd.models.students.encoders import DEVIATIONS, WHOLE
from dnd.predictor.predictor import Predictor
from finetuning_toys import molecules, tiny_model

CHAIN = "C" * 90  # the molecules of the model have some ten atoms


def test_embed_is_bounded_by_the_molecules_that_were_learned(tmp_path: Path) -> None:
    model = Predictor.load(tiny_model(tmp_path, "ensemble=2"))
    limits = model.parts.limits
    assert limits is not None
    training = read_json(tmp_path / "model" / "splits.json")["train"]
    learned_BD = model.embed([molecules()[row] for row in training])
    low_D, centre_D, high_D = np.quantile(learned_BD.astype(np.float64), (0.25, 0.5, 0.75), axis=0)
    assert np.allclose(limits.tensors[f"{WHOLE}.centre"].numpy(), centre_D, atol=1e-6)
    reach_D = DEVIATIONS * (high_D - low_D) / 1.349
    far_D = model.embed(CHAIN)[0]
    assert len(far_D) == learned_BD.shape[1] == 2 * 16  # both members side by side
    assert (np.abs(far_D - centre_D) <= reach_D + 1e-4).all()
    model.parts = dataclasses.replace(model.parts, limits=None)
    assert (np.abs(model.embed(CHAIN)[0] - centre_D) > reach_D + 1e-4).any()


def test_damaged_limits_are_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    data = bytearray((folder / "limits.safetensors").read_bytes())
    data[-4:] = np.float32("nan").tobytes()
    (folder / "limits.safetensors").write_bytes(data)
    with pytest.raises(CorruptFileError):
        Predictor.load(folder)
