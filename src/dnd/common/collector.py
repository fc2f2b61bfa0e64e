"""Python's cycle collector, kept from looking through again and again what stays to the end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_to_the_end() -> Iterator[None]:
    """Modules and models that are loaded within it are no longer looked through for garbage.

    The collector goes through every object that is alive each time enough new ones were made, and a prediction loads
    some 180,000, most of them torch's: 0.05 s each time, a fortieth of a prediction of 4,200 molecules in all.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
