"""Several stores read as one, without a copy: what a pretraining on data of several kinds trains from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dnd.common.errors import InputError
from dnd.store.reader import Store, require_hydrogens


def union(stores: Sequence[Store]) -> Store:
    """The molecules of all stores, one store after the other.

    It has every target column and every quantum column that one of them has, NaN where a store lacks it, and the
    auxiliary columns that all have.

    Raises:
        InputError: there is no store.
        ConfigError: they differ in hydrogens.
    """
    if not stores:
        raise InputError("there is no store to read from")
    first, columns = stores[0], list(dict.fromkeys(name for store in stores for name in store.target_columns))
    for store in stores[1:]:
        require_hydrogens(store, first.hydrogens, wanted_by=str(first.path or "the first store"))
    files = {
        f"shard-{number:03d}-{name}": entry
        for number, store in enumerate(stores)
        for name, entry in store.manifest.get("files", {}).items()
        if name.startswith("shard-")
    }
    manifest = {"settings": {"hydrogens": first.hydrogens}, "target_columns": columns, "files": files}
    for name in ("descriptor_names", "quantum"):
        manifest |= next(({name: store.manifest[name]} for store in stores if name in store.manifest), {})
    places = [
        np.array([columns.index(name) for name in store.target_columns], dtype=np.int64)
        for store in stores
        for _ in store.batches
    ]
    return Store([batch for store in stores for batch in store.batches], manifest, target_places=places)
