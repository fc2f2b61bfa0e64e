"""What any teacher offers: a conformer batch in, representations per atom out; and the head that predicts noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnd.chemistry.molecule import CLOSEST_APPROACH
from dnd.common.errors import InputError
from dnd.graphs.batch import ConformerBatch
from dnd.models.teachers.layers import NORM_EPSILON, initialise_linear

# Elements that a teacher's tables hold.


def check_elements(conformers: ConformerBatch, max_atomic_number: int) -> None:
    """Raise an error for elements that are not in the tables.

    Raises:
        InputError: an atomic number outside `0 .. max_atomic_number - 1`.
    """
    numbers_A = conformers.atomic_numbers_A
    if len(numbers_A) and (int(numbers_A.min()) < 0 or int(numbers_A.max()) >= max_atomic_number):
        raise InputError(
            "the teacher does not know an element",
            found=f"atomic numbers {int(numbers_A.min())} to {int(numbers_A.max())}",
            expected=f"0 to {max_atomic_number - 1}",
            next_step="Train a teacher with a larger teacher.max_atomic_number or leave such molecules out",
        )


# Settings that shape a teacher.


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
        whiten_vectors: whiten the final vectors (`et` only); see `layers.py`.
        chiral: tell mirror images apart (`et` only); see `layers.py`. The published network can't.
        molecule_token: a state of the whole molecule beside the atoms (`et` only); see `layers.py`.
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
    chiral: bool = False
    molecule_token: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "num_layers", "num_heads", "num_rbf", "max_atomic_number"):
            if getattr(self, name) < 1:
                raise ValueError(f"teacher.{name} is {getattr(self, name)}, expected at least 1")
        if self.num_rbf < 2 or not self.cutoff > 0:
            raise ValueError("teacher.num_rbf must be at least 2 and teacher.cutoff above 0 angstrom")
        if self.width % 2 or self.width % self.num_heads:
            raise ValueError(f"teacher.width {self.width} must be even and a multiple of {self.num_heads} heads")
        for name in ("vector_cutoff", "whiten_vectors", "chiral", "molecule_token"):
            if self.name == "painn" and getattr(self, name):
                raise ValueError(f"teacher.{name} belongs to the equivariant transformer")


# What any teacher must offer: a conformer batch in, invariant and equivariant representations per atom out.


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
        closest_approach: smallest distance of two atoms, in angstrom; a conformer with closer atoms is an error.
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


# From the teacher's representations to one vector per atom: the predicted noise.


class _Gate(nn.Module):
    """Two linear maps; a module of its own because of the published parameter names."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 2 * out_width))

    def forward(self, features_AD: Float[Tensor, "atoms inputs"]) -> Float[Tensor, "atoms outputs"]:
        mixed: Tensor = self.layers(features_AD)
        return mixed


class GatedEquivariantBlock(nn.Module):
    r"""Mixes scalars and vectors without leaving equivariance.

    .. math:: (x', g) = W_4\, \mathrm{silu}(W_3 [x ; \lVert W_1 v \rVert]), \quad v' = g \circ W_2 v

    Source: Schütt et al., "PaiNN", 2021, as in TorchMD-NET; parameter names are TorchMD-NET's.
    """

    def __init__(self, width: int, out_width: int, *, activate_scalars: bool) -> None:
        super().__init__()
        self.activate_scalars = activate_scalars
        self.vec1_proj = nn.Linear(width, width, bias=False)
        self.vec2_proj = nn.Linear(width, out_width, bias=False)
        self.update_net = _Gate(width, out_width)
        initialise_linear(self)

    def forward(
        self, scalars_AD: Float[Tensor, "atoms width"], vectors_A3D: Float[Tensor, "atoms 3 width"]
    ) -> tuple[Float[Tensor, "atoms out"], Float[Tensor, "atoms 3 out"]]:
        """New scalars and vectors."""
        # the epsilon keeps the gradient of the norm finite where all vectors are 0 (an atom without neighbour)
        norms_AD = (self.vec1_proj(vectors_A3D).square().sum(1) + NORM_EPSILON).sqrt()
        mixed = self.update_net(torch.cat([scalars_AD, norms_AD], dim=1))
        out_scalars, gates = mixed.chunk(2, dim=1)
        if self.activate_scalars:
            out_scalars = nn.functional.silu(out_scalars)
        return out_scalars, gates[:, None] * self.vec2_proj(vectors_A3D)


class NoiseHead(nn.Module):
    """Two gated equivariant blocks, width → width/2 → 1 (TorchMD-NET's `EquivariantVectorOutput`).

    The prediction rotates with the molecule and is 0 for an atom without neighbours.

    Args:
        width: width of the teacher; even.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.output_network = nn.ModuleList(
            [
                GatedEquivariantBlock(width, width // 2, activate_scalars=True),
                GatedEquivariantBlock(width // 2, 1, activate_scalars=False),
            ]
        )

    def forward(self, output: TeacherOutput) -> Float[Tensor, "conformer_atoms 3"]:
        """Predicted noise in units of sigma."""
        scalars, vectors = output.scalars_AD, output.vectors_A3D
        for block in self.output_network:
            scalars, vectors = block(scalars, vectors)
        return vectors.squeeze(-1)
