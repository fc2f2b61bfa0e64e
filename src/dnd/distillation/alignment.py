"""What has to agree before student and teacher can be compared: hydrogens, conformers, elements, widths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from dnd.common.errors import InputError
from dnd.distillation.pretraining import require_conformers
from dnd.store.reader import Store, require_hydrogens

_CHUNK = 4096


def projection(student_width: int, teacher_width: int) -> nn.Module:
    """Nothing where the widths agree, which is the paper's case; else one linear map on the student's side.

    It is trained with the student and dropped when the encoder is saved. The teacher's target is never transformed by
    learnt weights, or both could agree on a constant.
    """
    return nn.Identity() if student_width == teacher_width else nn.Linear(student_width, teacher_width)


def require_suitable(store: Store, config: Mapping[str, Any], name: str) -> None:
    """Refuse a store that the teacher can't read as it was trained to.

    Which student atom is which teacher atom needs no map: the store's writer checks that conformer atom `i` is graph
    atom `i`, and `ConformerBatch.graph_atoms_N` numbers them over a batch.

    Args:
        store: the molecules.
        config: the teacher's configuration, with `hydrogens` and the table's size under `teacher`.
        name: of the teacher, for messages.

    Raises:
        InputError: the store has no conformers, another hydrogen setting, or elements that the teacher's table lacks.
    """
    require_conformers(store)
    require_hydrogens(store, str(config["hydrogens"]), wanted_by=f"teacher {name}")
    limit = config.get("teacher", {}).get("max_atomic_number")
    if limit is None:
        return
    for first in range(0, len(store), _CHUNK):
        rows = np.arange(first, min(first + _CHUNK, len(store)))
        conformers = store.read(rows).conformers
        assert conformers is not None
        unknown_A = conformers.atomic_numbers_A >= limit
        if bool(unknown_A.any()):
            atom = int(unknown_A.nonzero()[0, 0])
            row = rows[int(conformers.batch_A[atom])]
            raise InputError(
                f"teacher {name} does not know an element of {store.describe(np.array([row]))[0]}",
                found=f"atomic number {int(conformers.atomic_numbers_A[atom])}",
                expected=f"below {limit}",
            )
