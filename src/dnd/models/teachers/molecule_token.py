"""A token per molecule that reads the atoms after every layer of a teacher."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dnd.models.teachers.layers import initialise_linear


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
