"""Elements that a teacher's tables hold."""

from __future__ import annotations

from dnd.common.errors import InputError
from dnd.graphs.batch import ConformerBatch


def check_elements(conformers: ConformerBatch, max_atomic_number: int) -> None:
    """Refuse elements that the tables do not hold.

    Raises:
        InputError: an atomic number outside `0 .. max_atomic_number - 1`.
    """
    numbers_A = conformers.atomic_numbers_A
    if len(numbers_A) and (int(numbers_A.min()) < 0 or int(numbers_A.max()) >= max_atomic_number):
        raise InputError(
            "the teacher does not know an element",
            found=f"atomic number {int(numbers_A.max())}",
            expected=f"at most {max_atomic_number - 1}",
            next_step="Train a teacher with a larger teacher.max_atomic_number or leave such molecules out",
        )
