"""What any student must offer: a packed graph batch in, atom representations and pooled vectors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from dnd.graphs.batch import GraphBatch
from dnd.student.config import StudentConfig


@dataclass
class StudentOutput:
    """Representations of one batch.

    Attributes:
        atoms_ND: `(N, D)` atom representations after the last layer, in the batch's atom order (Z2D of the paper).
        virtual_BD: `(B, D)` state of the graph token or virtual node (+VN), None for students that have none.
        layers: with `collect_layers`, per layer the pair `(atoms_ND, virtual_BD or None)` as the layer leaves it,
            before any final norm; else empty.
    """

    atoms_ND: Float[Tensor, "atoms dim"]
    virtual_BD: Float[Tensor, "molecules dim"] | None = None
    layers: list[tuple[Float[Tensor, "atoms dim"], Float[Tensor, "molecules dim"] | None]] = field(default_factory=list)


class Student(nn.Module, ABC):
    """Base of all students.

    The result for a molecule depends on that molecule alone: not on its neighbours in the batch, on padding or, up
    to the same permutation of the rows, on the order of its atoms. `tests/conformance/student_suite.py` checks it.

    Attributes:
        config: all settings of the student.
        width: D, the width of the representations.
        num_layers: number of message passing or attention layers.
        bf16_devices: kinds of device on which training was measured to be faster in bfloat16.
    """

    config: StudentConfig
    width: int
    num_layers: int
    bf16_devices: Collection[str] = ()

    @abstractmethod
    def forward(self, graph: GraphBatch, *, collect_layers: bool = False) -> StudentOutput:
        """Representations of every atom and, where the student has one, of the virtual node."""

    @abstractmethod
    def layer_of(self, parameter_name: str) -> int:
        """Depth of a parameter for layer decay: 0 embeddings, `i + 1` layer `i`, `num_layers + 1` the final norm."""

    def reset_sampling(self, seed: int) -> None:  # most students draw nothing
        """Seed what a student draws in evaluation mode (ORF identifiers); nothing for deterministic students."""
