"""What tells mirror images apart: a pseudoscalar per atom, added to the scalars of the equivariant transformer.

A file of its own because it is not part of the published network, and off by default.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnd.models.teachers.layers import initialise_linear

EPSILON = 1e-4
"""Added to the mean square of an atom's vectors, which is 0 where it has no neighbours; about 0.01 when they start."""


class Handedness(nn.Module):
    r"""Scalars that change their sign when a molecule is reflected, from triple products of an atom's vectors.

    The vectors of atom i are learned sums over the directions of its neighbours. With their root mean square over
    features as the unit of length, and three learned combinations of them,

    .. math:: \hat v_i = v_i / \sqrt{\epsilon + \tfrac1D \textstyle\sum_f \lVert v_{if} \rVert^2}, \quad
        (t_1, t_2, t_3) = W_t \hat v_i, \quad \chi_i = t_1 \cdot (t_2 \times t_3), \quad
        \Delta x_i = W_\chi \chi_i, \quad \epsilon = 10^{-4}

    feature by feature. Without the unit of length :math:`\chi` would grow with the cube of the vectors, which are short
    at the start of a training and long later. Rotations leave :math:`\chi` as it is and a reflection turns its sign. It
    is 0 where the vectors of an atom lie in a plane: in planar and linear molecules, and for atoms without neighbours.
    W have no bias. Own design; the D&D paper says that properties depend on handedness, and its teacher cannot see it.

    Args:
        width: features per atom.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.combine = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        initialise_linear(self)

    def forward(self, vectors_A3D: Float[Tensor, "atoms 3 width"]) -> Float[Tensor, "atoms width"]:
        """Δx, to be added by the caller."""
        squared_A = vectors_A3D.square().sum(1).mean(1)
        unit_A3D = vectors_A3D * (squared_A + EPSILON).rsqrt()[:, None, None]
        t1_A3D, t2_A3D, t3_A3D = self.combine(unit_A3D).chunk(3, dim=-1)
        chi_AD = (t1_A3D * torch.linalg.cross(t2_A3D, t3_A3D, dim=1)).sum(1)
        mixed_AD: Tensor = self.mix(chi_AD)
        return mixed_AD
