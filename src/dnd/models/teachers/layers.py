"""What teachers share: linear maps, functions of the distance, and the whitening norm of vector features."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

# What the teachers' blocks share: how linear maps start, and how norms of vectors keep their gradient.


NORM_EPSILON = 1e-24
"""Added to squared lengths: the gradient of a length is then finite where a vector is 0 (an atom without neighbour)."""


def initialise_linear(block: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear map in `block`, as TorchMD-NET and PaiNN start."""
    for module in block.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


# Functions of the distance: smooth cutoff and radial bases.


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
    :math:`\beta_k = (\tfrac2R (1 - \exp(-r_c)))^{-2}`. Source: Unke and Meuwly, "PhysNet", 2019, Eq. 7, in
    TorchMD-NET's form. Centres and widths are buffers, not trained, and saved with the weights.

    Args:
        num_rbf: R.
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
        shifted_PR = torch.exp(distances_P * (-5.0 / self.cutoff))[:, None] - self.means
        return cosine_cutoff(distances_P, self.cutoff)[:, None] * torch.exp(-self.betas * shifted_PR.square())


# Whitening norm of vector features, as the published denoising checkpoints use it.


REGULARISATION = 1e-5


class WhiteningNorm(nn.Module):
    r"""Centre the vectors of an atom over features and make their covariance the identity.

    .. math:: v' = (S + \epsilon I)^{-1/2} (v - \bar v) \circ w, \quad
        S = \tfrac1D (v - \bar v)(v - \bar v)^\top + \epsilon\, \mathrm{diag}(1, 2, 3), \quad \epsilon = 10^{-5}

    Source: Zaidi et al., "Pre-training via Denoising", ICLR 2023, "layernorm on vectors: whitened". Because of
    diag(1, 2, 3) it is not strictly equivariant: exactly so in the limit of large vectors, visibly not for linear and
    planar molecules, whose vectors span fewer than three axes. Computed in float64, because there it amplifies
    rounding by up to 220.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, vectors_A3D: Float[Tensor, "atoms 3 width"]) -> Float[Tensor, "atoms 3 width"]:
        """Whitened vectors, same dtype."""
        double = vectors_A3D.double()
        centred = double - double.mean(-1, keepdim=True)
        axes = torch.arange(1, 4, dtype=torch.float64, device=double.device)
        covariance_A33 = centred @ centred.mT / centred.shape[-1] + torch.diag(REGULARISATION * axes)
        whitened = inverse_square_root(covariance_A33, REGULARISATION) @ centred
        return whitened.to(vectors_A3D.dtype) * self.weight


def inverse_square_root(matrices: Float[Tensor, "*batch n n"], epsilon: float) -> Float[Tensor, "*batch n n"]:
    r""":math:`(S + \epsilon I)^{-1/2}` of symmetric matrices, with a gradient that is finite for equal eigenvalues.

    Automatic differentiation of an eigendecomposition divides by differences of eigenvalues. The function itself is
    smooth: with :math:`g(a) = a^{-1/2}`, its gradient in the eigenbasis multiplies entry (i, j) by the divided
    difference :math:`(g(a_i) - g(a_j)) / (a_i - a_j) = -1 / (\sqrt{a_i a_j} (\sqrt{a_i} + \sqrt{a_j}))`.

    Args:
        matrices: symmetric, eigenvalues above `-epsilon`.
        epsilon: added to every eigenvalue.
    """
    result: Tensor = _InverseSquareRoot.apply(matrices, epsilon)  # type: ignore[no-untyped-call]
    return result


class _InverseSquareRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrices: Tensor, epsilon: float) -> Tensor:
        eigenvalues, basis = torch.linalg.eigh(matrices)
        roots = (eigenvalues + epsilon).sqrt()
        ctx.save_for_backward(roots, basis)
        result: Tensor = (basis / roots[..., None, :]) @ basis.mT
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        roots, basis = ctx.saved_tensors
        left, right = roots[..., :, None], roots[..., None, :]
        inner = -(basis.mT @ grad @ basis) / (left * right * (left + right))
        return basis @ inner @ basis.mT, None
