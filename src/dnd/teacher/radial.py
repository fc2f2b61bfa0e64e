"""Functions of the distance: smooth cutoff and radial bases."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def cosine_cutoff(distances_P: Float[Tensor, "*pairs"], cutoff: float) -> Float[Tensor, "*pairs"]:
    r"""Smooth switch from 1 at distance 0 to 0 at the cutoff.

    .. math:: C(d) = \tfrac12 (\cos(\pi d / r_c) + 1) \text{ for } d < r_c, \text{ else } 0

    Source: Behler and Parrinello, 2007; TorchMD-NET's `CosineCutoff` with lower cutoff 0.

    Args:
        distances_P: angstrom.
        cutoff: :math:`r_c`, angstrom.
    """
    return 0.5 * (torch.cos(distances_P * (math.pi / cutoff)) + 1.0) * (distances_P < cutoff)


class ExpNormBasis(nn.Module):
    r"""Exponential-normal radial functions: Gaussians in :math:`\exp(-d)`, denser at short distance.

    .. math:: e_k(d) = C(d) \exp(-\beta_k (\exp(-\alpha d) - \mu_k)^2), \quad \alpha = 5\,\text{Å} / r_c

    with :math:`\mu_k` evenly spaced from :math:`\exp(-r_c)` to 1 and all
    :math:`\beta_k = (\tfrac2K (1 - \exp(-r_c)))^{-2}`. Source: Unke and Meuwly, "PhysNet", 2019, Eq. 7, in
    TorchMD-NET's form. Centres and widths are buffers, not trained, and saved with the weights.

    Args:
        num_rbf: K.
        cutoff: angstrom.
    """

    means: Float[Tensor, "rbf"]
    betas: Float[Tensor, "rbf"]

    def __init__(self, num_rbf: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        start = math.exp(-cutoff)
        self.register_buffer("means", torch.linspace(start, 1.0, num_rbf))
        self.register_buffer("betas", torch.full((num_rbf,), (2.0 / num_rbf * (1.0 - start)) ** -2))

    def forward(self, distances_P: Float[Tensor, "pairs"]) -> Float[Tensor, "pairs rbf"]:
        """Values of all functions at each distance (angstrom)."""
        shifted_PK = torch.exp(distances_P * (-5.0 / self.cutoff))[:, None] - self.means
        return cosine_cutoff(distances_P, self.cutoff)[:, None] * torch.exp(-self.betas * shifted_PK.square())
