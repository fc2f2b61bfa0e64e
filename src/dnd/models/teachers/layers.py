"""What teachers share: linear maps, functions of the distance, a whitening norm of vectors, the molecule token."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
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


# What tells mirror images apart: a pseudoscalar per atom, added to the scalars of the equivariant transformer.
#
# It is not part of the published network, and off by default.

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


# A token per molecule that reads the atoms after every layer of a teacher.


class MoleculeToken(nn.Module):
    r"""The state of the molecule, from a learnt start through one reading per layer.

    .. math:: t_b^{k+1} = t_b^k + W_o \sum_{i \in b} \mathrm{softmax}_i\!\left(
              \frac{q(t_b^k) \cdot k(\mathrm{LN}(x_i^k))}{\sqrt d}\right) v(\mathrm{LN}(x_i^k))

    Source: the virtual token of CCMD's 3D Graphormer (arXiv 2211.16712), for a teacher that has none. There the atoms
    read the token as well; here they do not, so that the equivariant layers stay as they are. Since it sees invariant
    scalars only, the token does not change when the molecule is moved or turned, or its atoms are renumbered.

    Args:
        width: D.
        num_layers: readings, one per layer of the teacher.
        num_heads: H.
    """

    def __init__(self, width: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.readings = nn.ModuleList(_Reading(width, num_heads) for _ in range(num_layers))
        self.out_norm = nn.LayerNorm(width)

    def forward(
        self, layers: list[Float[Tensor, "conformer_atoms dim"]], batch_A: Int[Tensor, "conformer_atoms"], count: int
    ) -> list[Float[Tensor, "molecules dim"]]:
        """The token after each layer, the last one normalised.

        Args:
            layers: scalars of the atoms after each layer.
            batch_A: molecule of each atom.
            count: B.
        """
        token_BD = self.start.expand(count, -1)
        states = []
        for reading, atoms_AD in zip(self.readings, layers, strict=True):
            token_BD = token_BD + reading(token_BD, atoms_AD, batch_A)
            states.append(token_BD)
        return [*states[:-1], self.out_norm(states[-1])]


class _Reading(nn.Module):
    """One attention of the token over its atoms."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        initialise_linear(self)

    def forward(self, token_BD: Tensor, atoms_AD: Tensor, batch_A: Tensor) -> Tensor:
        atoms_AD = self.norm(atoms_AD)
        shape = (len(atoms_AD), self.num_heads, -1)
        query_AHd = self.query(token_BD)[batch_A].view(shape)
        key_AHd, value_AHd = self.key(atoms_AD).view(shape), self.value(atoms_AD).view(shape)
        score_AH = (query_AHd * key_AHd).sum(dim=2) / math.sqrt(key_AHd.shape[2])
        index_AH = batch_A[:, None].expand_as(score_AH)
        empty_BH = score_AH.new_zeros(len(token_BD), self.num_heads)
        highest_BH = empty_BH.scatter_reduce(0, index_AH, score_AH.detach(), "amax", include_self=False)
        weight_AH = torch.exp(score_AH - highest_BH[batch_A])
        weight_AH = weight_AH / empty_BH.index_add(0, batch_A, weight_AH)[batch_A]
        read_AD = (weight_AH[:, :, None] * value_AHd).flatten(1)
        read: Tensor = self.out(torch.zeros_like(token_BD).index_add(0, batch_A, read_AD))
        return read
