"""In which precision a step is computed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch


def choose_bf16(precision: str, device: torch.device, gaining: Collection[str]) -> bool:
    """Whether matrix products of a run are computed in bfloat16 (autocast).

    Args:
        precision: `fp32`, `bf16`, or `auto`: bf16 where the network is faster for it and the device has it in hardware.
        device: of the run.
        gaining: kinds of device on which the network was measured to be faster, `Objective.bf16_devices`.
    """
    if precision == "auto":
        return device.type in gaining and _multiplies_bf16(device)
    return precision == "bf16"


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # older torch has no such table: then fp32, as without the instructions
    capabilities: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
