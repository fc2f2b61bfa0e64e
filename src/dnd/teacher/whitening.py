"""Whitening norm of vector features, as the published denoising checkpoints use it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

REGULARISATION = 1e-5


class WhiteningNorm(nn.Module):
    r"""Centre the vectors of an atom over features and make their covariance the identity.

    .. math:: v' = (S + \epsilon I)^{-1/2} (v - \bar v) \circ w, \quad
        S = \tfrac1F (v - \bar v)(v - \bar v)^\top + \epsilon\, \mathrm{diag}(1, 2, 3), \quad \epsilon = 10^{-5}

    Source: Zaidi et al., "Pre-training via Denoising", ICLR 2023, "layernorm on vectors: whitened". Because of
    diag(1, 2, 3) it is not strictly equivariant: exactly so in the limit of large vectors, visibly not for linear and
    planar molecules, whose vectors span fewer than three axes. Computed in float64, because there it amplifies
    rounding by up to 220.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, vectors_A3F: Float[Tensor, "atoms 3 width"]) -> Float[Tensor, "atoms 3 width"]:
        """Whitened vectors, same dtype."""
        double = vectors_A3F.double()
        centred = double - double.mean(-1, keepdim=True)
        axes = torch.arange(1, 4, dtype=torch.float64, device=double.device)
        covariance_A33 = centred @ centred.mT / centred.shape[-1] + torch.diag(REGULARISATION * axes)
        whitened = inverse_square_root(covariance_A33, REGULARISATION) @ centred
        return whitened.to(vectors_A3F.dtype) * self.weight


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
