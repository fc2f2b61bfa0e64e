"""How numbers are computed: threads, device, precision, and random draws that are a pure function of their purpose.

Torch is imported where it is needed, since many commands draw numbers without it."""

from __future__ import annotations

import gc
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from dnd.common.errors import ConfigError
from dnd.common.processes import threads_asked_for

if TYPE_CHECKING:
    import torch


# Randomness as a pure function of what it is for.
#
# Every random draw is seeded by (run seed, purpose, position), never taken from a stream that runs on. So an
# interrupted run, another number of workers or another rank can't change it, and no generator state has to be saved.

_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PRODUCT_CACHES, _KEPT_PRODUCTS = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"), "16"


def derive_seed(seed: int, purpose: str, *position: int) -> int:
    """A 63-bit seed for `purpose` at `position`, such as `derive_seed(seed, "order", epoch)`."""
    text = ":".join((str(seed), purpose, *map(str, position)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_generator(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """A NumPy generator for `purpose` at `position`."""
    return np.random.default_rng(derive_seed(seed, purpose, *position))


def torch_generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """A torch CPU generator for `purpose` at `position`."""
    import torch  # here, so that worker processes that draw no tensors need not load it

    generator = torch.Generator()
    generator.manual_seed(derive_seed(seed, purpose, *position))
    return generator


def set_threads(threads: int | None = None) -> int:
    """Set the number of threads of torch and of BLAS on purpose and return it; to be called before the first product.

    Two threads on two busy cores were 5 to 8 times slower than one, and BLAS factorised a matrix of 270 rows 25 times
    slower: its threads wait for each other while other work has the core. So the default is 1 unless `DND_THREADS` or
    `OMP_NUM_THREADS` says otherwise. Of a list such as `4,1`, which has a number for each level of nested loops, the
    first counts.

    Torch and oneDNN each keep a compiled bf16 product for every shape that they have met, 1,024 of them. Batches of
    graphs hardly ever repeat a shape, so that cost 0.2 to 0.6 GB and gained nothing: both are told to keep few, unless
    the environment says otherwise.

    Raises:
        ConfigError: one of these variables is no number of threads.
    """
    import torch
    from threadpoolctl import threadpool_limits

    for name in _PRODUCT_CACHES:
        os.environ.setdefault(name, _KEPT_PRODUCTS)
    count = threads or threads_asked_for()
    torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")
    for name in _BLAS_THREADS:  # of the libraries that are loaded later, such as SciPy's own
        os.environ.setdefault(name, str(count))
    return count


# Python's cycle collector, kept from looking through again and again what stays to the end.


@contextmanager
def kept_to_the_end() -> Iterator[None]:
    """The garbage collector no longer scans modules and models that are loaded within it.

    The collector goes through every object that is alive each time enough new ones were made, and a prediction loads
    some 180,000, most of them torch's: 0.05 s each time, a fortieth of a prediction of 4,200 molecules in all, or of a
    finetuning of 300.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


# On which device a network runs, and in which precision a step is computed; prediction needs no more of this room.

_KNOWN = re.compile(r"cpu|cuda(?::\d{1,3})?")


def require_device_name(name: str) -> None:
    """Refuse what names no device, without a look at the machine.

    Raises:
        ConfigError: it is neither `auto`, `cpu`, `cuda` nor `cuda:NUMBER`.
    """
    if name != "auto" and not _KNOWN.fullmatch(name):
        raise ConfigError("unknown device", found=repr(name[:40]), expected="auto, cpu, cuda or cuda:NUMBER")


def use_device_alone(name: str) -> None:
    """Let `auto` choose the device `name` in all that this process and its children train; before torch is loaded.

    Raises:
        ConfigError: there is no such device, or it is one of several.
    """
    if ":" in name:
        raise ConfigError(
            f"device {name} can't be chosen here", expected="auto, cpu or cuda",
            next_step=f"CUDA_VISIBLE_DEVICES={name.partition(':')[2]} before the command chooses it",
        )  # fmt: skip
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    else:
        choose_device(name)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; under `torchrun` each process of a machine has its own.

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    require_device_name(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={name}, but torch sees no CUDA device", next_step="Use device=cpu")
    if ":" in name and int(name.partition(":")[2]) >= torch.cuda.device_count():
        raise ConfigError(f"there is no device {name}", found=f"{torch.cuda.device_count()} CUDA devices")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(name)
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
