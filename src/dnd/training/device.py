"""On which device a network runs, and in which precision a step is computed; prediction needs no more of this room."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from dnd.common.errors import ConfigError

if TYPE_CHECKING:
    import torch

_KNOWN = re.compile(r"cpu|cuda(?::\d{1,3})?")


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; under `torchrun` each process of a machine has its own.

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but torch sees no CUDA device", next_step="Use device=cpu")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(name)
    if not _KNOWN.fullmatch(name):
        raise ConfigError("unknown device", found=repr(name[:40]), expected="auto, cpu, cuda or cuda:NUMBER")
    return torch.device(name)


def choose_bf16(precision: str, device: torch.device, gaining: Collection[str]) -> bool:
    """Whether matrix products of a run are computed in bfloat16 (autocast).

    Args:
        precision: `fp32`, `bf16`, or `auto`: bf16 where the network is faster for it and the device has it in hardware.
        device: device of the run.
        gaining: kinds of device on which the network was measured to be faster, `Objective.bf16_devices`.
    """
    if precision == "auto":
        return device.type in gaining and _multiplies_bf16(device)
    return precision == "bf16"


def _multiplies_bf16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # older torch has no such table: then fp32, as without the instructions
    capabilities: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
