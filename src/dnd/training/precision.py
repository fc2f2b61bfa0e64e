"""In which precision a step is computed."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

import torch

_PRIMITIVE_CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
_KEPT_PRIMITIVES = "16"


def choose_bf16(precision: str, device: torch.device, gaining: Collection[str]) -> bool:
    """Whether matrix products of a run are computed in bfloat16 (autocast).

    On a CPU torch and oneDNN each keep a compiled product for every shape that they have met, 1,024 of them. Batches of
    graphs hardly ever repeat a shape, so that costs up to 0.8 GB and gains nothing: both are told to keep few, unless
    the environment says otherwise. It has an effect only before the first bf16 product of the process.

    Args:
        precision: `fp32`, `bf16`, or `auto`: bf16 where the network is faster for it and the device has it in hardware.
        device: of the run.
        gaining: kinds of device on which the network was measured to be faster, `Objective.bf16_devices`.
    """
    chosen = precision == "bf16"
    if precision == "auto":
        chosen = device.type in gaining and _multiplies_bf16(device)
    if chosen and device.type == "cpu":
        for name in _PRIMITIVE_CACHES:
            os.environ.setdefault(name, _KEPT_PRIMITIVES)
    return chosen


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # older torch has no such table: then fp32, as without the instructions
    capabilities: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
