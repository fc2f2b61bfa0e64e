"""What any teacher must offer: a conformer batch in, invariant and equivariant representations per atom out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from dnd.chemistry.limits import CLOSEST_APPROACH
from dnd.graphs.batch import ConformerBatch


@dataclass
class TeacherOutput:
    """Representations of one batch of conformers.

    Attributes:
        scalars_AD: `(A, D)` rotation-invariant representation of every conformer atom (Z3D of the paper).
        vectors_A3D: `(A, 3, D)` rotation-equivariant representation.
        layers: with `collect_layers`, the scalars after each layer; else empty.
        tokens: with `collect_layers`, of a teacher with a molecule token, its state after each layer; else empty.
    """

    scalars_AD: Float[Tensor, "conformer_atoms dim"]
    vectors_A3D: Float[Tensor, "conformer_atoms 3 dim"]
    layers: list[Float[Tensor, "conformer_atoms dim"]] = field(default_factory=list)
    tokens: list[Float[Tensor, "molecules dim"]] = field(default_factory=list)


class Teacher(nn.Module, ABC):
    """Base of all teachers; `tests/conformance/teacher_suite.py` checks the symmetries.

    Attributes:
        width: D.
        num_layers: number of interaction layers.
        cutoff: interaction radius in angstrom.
        has_token: whether it has a molecule token.
        closest_approach: two atoms of a molecule closer than this (angstrom) are refused as a broken conformer.
            Denoising lowers it, because it checks the clean conformer instead of the noisy one.
    """

    width: int
    num_layers: int
    cutoff: float
    has_token: bool = False
    closest_approach: float = CLOSEST_APPROACH

    @abstractmethod
    def forward(self, conformers: ConformerBatch, *, collect_layers: bool = False) -> TeacherOutput:
        """Representations of every conformer atom."""
