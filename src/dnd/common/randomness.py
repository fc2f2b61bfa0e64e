"""Randomness as a pure function of what it is for.

Every random draw is seeded by (run seed, purpose, position), never taken from a stream that runs on. So an
interrupted run, another number of workers or another rank can't change it, and no generator state has to be saved.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

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
    """Set the number of OpenMP threads of torch on purpose and return it; to be called before the first product.

    Two threads on two busy cores were 5 to 8 times slower than one, so the default is 1 unless `DND_THREADS` or
    `OMP_NUM_THREADS` says otherwise.

    Torch and oneDNN each keep a compiled bf16 product for every shape that they have met, 1,024 of them. Batches of
    graphs hardly ever repeat a shape, so that cost 0.2 to 0.6 GB and gained nothing: both are told to keep few, unless
    the environment says otherwise.
    """
    import torch

    for name in _PRODUCT_CACHES:
        os.environ.setdefault(name, _KEPT_PRODUCTS)
    count = threads or int(os.environ.get("DND_THREADS") or os.environ.get("OMP_NUM_THREADS") or 1)
    torch.set_num_threads(count)
    return count
