"""Settings that shape a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TeacherConfig:
    """Architecture of a teacher.

    Attributes:
        name: `et`, TorchMD-NET's equivariant transformer, or `painn`.
        width: D, features per atom.
        num_layers: interaction layers.
        num_heads: attention heads (`et` only).
        num_rbf: radial functions of the distance.
        cutoff: interaction radius in angstrom.
        max_atomic_number: rows of the element tables; elements up to `max_atomic_number - 1` are known.
        vector_cutoff: multiply the vector messages by the cutoff too, so that they vanish smoothly at it. The form
            used for denoising by Zaidi et al. has it off; TorchMD-NET's later QM9 settings have it on (`et` only).
        whiten_vectors: whiten the final vectors (`et` only); see `whitening.py`.
    """

    name: Literal["et", "painn"] = "et"
    width: int = 128
    num_layers: int = 6
    num_heads: int = 8
    num_rbf: int = 64
    cutoff: float = 5.0
    max_atomic_number: int = 100
    vector_cutoff: bool = False
    whiten_vectors: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "num_layers", "num_heads", "num_rbf", "max_atomic_number"):
            if getattr(self, name) < 1:
                raise ValueError(f"teacher.{name} is {getattr(self, name)}, expected at least 1")
        if self.num_rbf < 2 or not self.cutoff > 0:
            raise ValueError("teacher.num_rbf must be at least 2 and teacher.cutoff above 0 angstrom")
        if self.width % 2 or self.width % self.num_heads:
            raise ValueError(f"teacher.width {self.width} must be even and a multiple of {self.num_heads} heads")
        if self.name == "painn" and (self.vector_cutoff or self.whiten_vectors):
            raise ValueError("teacher.vector_cutoff and teacher.whiten_vectors belong to the equivariant transformer")
