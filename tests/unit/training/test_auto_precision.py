"""`precision=auto` is bf16 where the device has it in hardware and the network was measured to gain, else fp32."""

from __future__ import annotations

import pytest
import torch

from dnd.student.gine import Gine
from dnd.student.tokengt import TokenGT
from dnd.training.objective import Objective
from dnd.training.precision import uses_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16", None])
def test_auto_asks_the_machine_and_the_network(feature: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: True} if feature else {}, raising=False)
    assert uses_bf16("auto", CPU, ["cpu"]) == (feature is not None)
    assert not uses_bf16("auto", CPU, [])
    assert uses_bf16("bf16", CPU, []), "what is asked for is done"
    assert not uses_bf16("fp32", CPU, ["cpu"])


def test_what_was_measured() -> None:
    assert "cpu" in Gine.bf16_devices
    assert "cpu" not in TokenGT.bf16_devices, "bf16 halves its speed on a CPU"
    assert Objective.bf16_devices == ()
