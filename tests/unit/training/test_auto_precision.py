"""`precision=auto` is bf16 where the device has it in hardware and the network was measured to gain, else fp32."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from dnd.common.compute import choose_bf16
from dnd.models.students.gine import Gine
from dnd.models.students.tokengt import TokenGT
from dnd.training.settings import Objective

CPU = torch.device("cpu")


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16", None])
def test_auto_asks_the_machine_and_the_network(feature: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: True} if feature else {}, raising=False)
    assert choose_bf16("auto", CPU, ["cpu"]) == (feature is not None)
    assert not choose_bf16("auto", CPU, [])
    assert choose_bf16("bf16", CPU, []), "what is asked for is done"
    assert not choose_bf16("fp32", CPU, ["cpu"])


def test_what_was_measured() -> None:
    assert "cpu" in Gine.bf16_devices
    assert "cpu" not in TokenGT.bf16_devices, "bf16 halves its speed on a CPU"
    assert Objective.bf16_devices == ()


@pytest.mark.slow
def test_bf16_on_a_cpu_does_not_grow_with_the_shapes_it_meets() -> None:
    """A fresh process, since caches are sized at the first product: 300 shapes cost 200 MB without a bound."""
    script = """
import resource, torch
from dnd.common.compute import set_threads
set_threads(1)
weight = torch.randn(512, 512)
def products(shapes):
    with torch.autocast("cpu", torch.bfloat16):
        for rows in shapes:
            torch.randn(rows, 512) @ weight
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
first = products(range(600, 620))
print(products(range(300, 600)) - first)
"""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20
