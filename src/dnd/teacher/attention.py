"""One equivariant attention layer of TorchMD-NET's equivariant transformer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnd.teacher.linear import initialise_linear
from dnd.teacher.pair_messages import pair_messages
from dnd.teacher.pairs import Neighbourhood


class EquivariantAttention(nn.Module):
    r"""Updates of scalars and vectors by attention over neighbours.

    With :math:`h = \mathrm{LayerNorm}(x)`, q, k, val linear in h, and filters
    :math:`D = \mathrm{silu}(W e(d_{ij}) + b)`:

    .. math::
        a_{ij} &= \mathrm{silu}\big(\textstyle\sum_{head} q_i \circ k_j \circ D^K_{ij}\big) C(d_{ij}), \quad
        (s_0, s_1, s_2)_{ij} = val_j \circ D^V_{ij} \\
        m_i &= \textstyle\sum_j a_{ij} s_{0,ij}, \quad
        w_i = \textstyle\sum_j v_j \circ s_{1,ij} + s_{2,ij} \otimes u_{ij} \\
        \Delta x_i &= \langle p_1, p_2 \rangle \circ o_2 + o_3, \quad \Delta v_i = p_3 \circ o_1 + w_i

    with :math:`(o_1, o_2, o_3) = W_o m_i` and :math:`(p_1, p_2, p_3) = W_v v_i`. No softmax and no scaling; the sum
    includes the atom itself (d = 0, u = 0). Source: Thölke and De Fabritiis, "TorchMD-NET", ICLR 2022. With
    `vector_cutoff` the cutoff multiplies val instead of a, so the vector messages vanish smoothly too.

    The same in plain PyTorch, a line per equation: `attend` in `equivariant_transformer.py`.

    Parameter names and layouts are TorchMD-NET's: rows of `v_proj` and `dv_proj` are heads x (s0 | s1 | s2).
    """

    def __init__(self, width: int, num_heads: int, num_rbf: int, *, vector_cutoff: bool) -> None:
        super().__init__()
        self.num_heads, self.vector_cutoff = num_heads, vector_cutoff
        self.layernorm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, 3 * width)
        self.o_proj = nn.Linear(width, 3 * width)
        self.vec_proj = nn.Linear(width, 3 * width, bias=False)
        self.dk_proj = nn.Linear(num_rbf, width)
        self.dv_proj = nn.Linear(num_rbf, 3 * width)
        initialise_linear(self)

    def forward(
        self,
        scalars_RF: Float[Tensor, "cells width"],
        vectors_R3F: Float[Tensor, "cells 3 width"],
        radial: tuple[Float[Tensor, "_rows rbf"], ...],
        near: Neighbourhood,
        workspace: Float[Tensor, "numbers"],
    ) -> tuple[Float[Tensor, "cells width"], Float[Tensor, "cells 3 width"]]:
        """Updates (Δx, Δv), to be added by the caller.

        Args:
            scalars_RF: x in the padded layout of `near`.
            vectors_R3F: v in the same layout.
            radial: radial functions of each block's rows.
            near: pairs.
            workspace: scratch memory for `pair_messages`.
        """
        message_RF, gathered_R3F = self._messages(self.layernorm(scalars_RF), vectors_R3F, radial, near, workspace)
        o1_RF, o2_RF, o3_RF = self.o_proj(message_RF).chunk(3, dim=-1)
        p1_R3F, p2_R3F, p3_R3F = self.vec_proj(vectors_R3F).chunk(3, dim=-1)
        delta_scalars_RF = torch.addcmul(o3_RF, (p1_R3F * p2_R3F).sum(1), o2_RF)
        return delta_scalars_RF, torch.addcmul(gathered_R3F, p3_R3F, o1_RF[:, None])

    def _messages(
        self,
        hidden_RF: Float[Tensor, "cells width"],
        vectors_R3F: Float[Tensor, "cells 3 width"],
        radial: tuple[Float[Tensor, "_rows rbf"], ...],
        near: Neighbourhood,
        workspace: Float[Tensor, "numbers"],
    ) -> tuple[Float[Tensor, "cells width"], Float[Tensor, "cells 3 width"]]:
        v0_RF, v1_RF, v2_RF = nn.functional.linear(hidden_RF, *self._by_piece(self.v_proj)).chunk(3, dim=-1)
        per_atom = (self.q_proj(hidden_RF), self.k_proj(hidden_RF), v0_RF, vectors_R3F * v1_RF[:, None], v2_RF)
        cells = near.cells_per_block()
        weight, bias = self._by_piece(self.dv_proj)
        # (inputs, outputs) in memory: the gradient of the weight is then the faster of two products
        weight = torch.cat([self.dk_proj.weight, weight]).t().contiguous()
        bias = torch.cat([self.dk_proj.bias, bias])
        messages, gathered = [], []
        for block, radial_PK, *parts in zip(
            near.blocks, radial, *(torch.split(part, cells) for part in per_atom), strict=True
        ):
            filters = nn.functional.silu(torch.addmm(bias, radial_PK, weight))
            cutoff_M = block.cutoff_M
            if self.vector_cutoff:
                filters, cutoff_M = self._cut_values(filters, block.pair_cutoff()), torch.ones_like(cutoff_M)
            query, key, scalar, vector, directed = (part.view(*block.shape, *part.shape[1:]) for part in parts)
            message, gather = pair_messages(
                filters, query, key, scalar, vector, directed, cutoff_M, block, self.num_heads, workspace
            )
            messages.append(message.flatten(0, 1))
            gathered.append(gather.flatten(0, 1))
        return torch.cat(messages), torch.cat(gathered)

    def _by_piece(self, linear: nn.Linear) -> tuple[Float[Tensor, "outputs inputs"], Float[Tensor, "outputs"]]:
        """Weights with rows (s0 | s1 | s2) x heads instead of heads x (s0 | s1 | s2), so that pieces are contiguous."""
        weight = linear.weight.view(self.num_heads, 3, -1, linear.in_features).transpose(0, 1)
        return weight.flatten(0, 2), linear.bias.view(self.num_heads, 3, -1).transpose(0, 1).flatten()

    @staticmethod
    def _cut_values(
        filters: Float[Tensor, "rows filters"], cutoff: Float[Tensor, "rows"]
    ) -> Float[Tensor, "rows filters"]:
        keys, values = torch.split(filters, [filters.shape[1] // 4, 3 * filters.shape[1] // 4], dim=1)
        return torch.cat([keys, values * cutoff[:, None]], dim=1)
