"""From the teacher's representations to one vector per atom: the predicted noise."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnd.models.teachers.base import TeacherOutput
from dnd.models.teachers.layers import NORM_EPSILON, initialise_linear


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
