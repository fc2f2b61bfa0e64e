r"""Messages of one equivariant attention layer on one block of molecules, with a gradient written by hand.

For atoms i, j of a molecule, heads h and features f (every feature belongs to one head):

.. math::
    a_{ijh} &= \mathrm{silu}\Big(\sum_{f \in h} q_{if} k_{jf} D^K_{ijf}\Big) C_{ij} \\
    m_{if} &= \sum_j a_{ijh(f)} \, D^0_{ijf} \, s_{jf} \\
    w_{icf} &= \sum_j D^1_{ijf} \, x_{jcf} + \sum_j u_{ijc} \, D^2_{ijf} \, t_{jf}

What automatic differentiation would keep for this is about fifteen tensors of size (pairs x width); here the dense
filters are gathered again in the backward pass from one row per unordered pair, and the sums over j are small matrix
products. So the layer keeps nothing of the size of the ordered pairs, and a block's work stays in the cache.

Legend: B molecules of the block, T atoms of the largest, N = B·T, M = N·T cells, P unordered pairs, F width, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dnd.teacher.pairs import PairBlock


def pair_messages(
    filters: Float[Tensor, "rows filters"],
    query_BTF: Float[Tensor, "molecules atoms width"],
    key_BTF: Float[Tensor, "molecules atoms width"],
    value_BTF3: tuple[Tensor, Tensor, Tensor],
    attention_cutoff_BTT: Float[Tensor, "molecules atoms atoms"],
    block: PairBlock,
    num_heads: int,
) -> tuple[Float[Tensor, "molecules atoms width"], Float[Tensor, "molecules atoms 3 width"]]:
    """Scalar messages m and vector messages w, see the top of the file. First derivatives only.

    Args:
        filters: `(P + 1, 4 F)`: :math:`D^K, D^0, D^1, D^2` of each pair of the block, then of the atom itself.
        query_BTF: q.
        key_BTF: k.
        value_BTF3: s `(B, T, F)`, x `(B, T, 3, F)` and t `(B, T, F)`.
        attention_cutoff_BTT: C.
        block: which cells hold which pair, and the unit vectors u.
        num_heads: H.
    """
    scalar, vector, directed = value_BTF3
    messages: tuple[Tensor, Tensor] = _PairMessages.apply(  # type: ignore[no-untyped-call]
        filters,
        query_BTF,
        key_BTF,
        scalar,
        vector,
        directed,
        attention_cutoff_BTT,
        block.direction_BTT3,
        block,
        num_heads,
    )
    return messages


class _PairMessages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, filters: Tensor, q: Tensor, k: Tensor, s: Tensor, x: Tensor, t: Tensor, cutoff: Tensor,
                direction: Tensor, block: PairBlock, num_heads: int) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.save_for_backward(filters, q, k, s, x, t, cutoff, direction)
        ctx.block, ctx.num_heads = block, num_heads
        size = q.shape[1]
        dk, d0, d1, d2 = _gather_cells(filters, block).chunk(4, dim=-1)

        dk.mul_(k[:, None])
        score_NTH = dk.flatten(0, 1) @ _spread_heads(q, num_heads)
        attention_NTH = torch.nn.functional.silu(score_NTH).mul_(cutoff.reshape(-1, size, 1))
        d0.mul_(s[:, None])
        message_BTF = _pick_heads(attention_NTH.transpose(1, 2) @ d0.flatten(0, 1)).view(q.shape)
        d2.mul_(t[:, None])
        vector_BT3F = (direction.flatten(0, 1).transpose(1, 2) @ d2.flatten(0, 1)).view(x.shape)
        product = d1.new_empty(d1.shape)
        for axis in range(3):
            torch.mul(d1, x[:, None, :, axis], out=product)
            vector_BT3F[:, :, axis] += product.sum(2)
        return message_BTF, vector_BT3F

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_message: Tensor, grad_vector: Tensor) -> tuple[Tensor | None, ...]:
        filters, q, k, s, x, t, cutoff, direction = ctx.saved_tensors
        block, num_heads = ctx.block, ctx.num_heads
        size, width = q.shape[1:]
        cells = _gather_cells(filters, block)
        dk, d0, d1, d2 = cells.chunk(4, dim=-1)
        grad_vector_N3F = grad_vector.reshape(-1, 3, width)

        # directed vector message: u (D2 t); each filter is replaced by its gradient as soon as it is used up
        product = torch.mul(d2, t[:, None], out=d2.new_empty(d2.shape))
        grad_direction = None
        if ctx.needs_input_grad[7]:
            grad_direction = (product.flatten(0, 1) @ grad_vector_N3F.transpose(1, 2)).view(direction.shape)
        torch.matmul(direction.flatten(0, 1), grad_vector_N3F, out=product.view(-1, size, width))
        grad_t = _sum_over_receivers(d2.mul_(product))
        torch.mul(product, t[:, None], out=d2)

        # scalar message: a (D0 s)
        key_product = torch.mul(dk, k[:, None], out=dk.new_empty(dk.shape))
        query_NFH = _spread_heads(q, num_heads)
        score_NTH = key_product.flatten(0, 1) @ query_NFH
        activated_NTH = torch.nn.functional.silu(score_NTH)
        cutoff_NT1 = cutoff.reshape(-1, size, 1)
        message_NFH = _spread_heads(grad_message, num_heads)
        torch.mul(d0, s[:, None], out=product)
        grad_attention_NTH = product.flatten(0, 1) @ message_NFH
        torch.matmul(activated_NTH * cutoff_NT1, message_NFH.transpose(1, 2), out=product.view(-1, size, width))
        grad_s = _sum_over_receivers(d0.mul_(product))
        torch.mul(product, s[:, None], out=d0)

        # attention
        grad_cutoff = None
        if ctx.needs_input_grad[6]:
            grad_cutoff = (grad_attention_NTH * activated_NTH).sum(-1).view(cutoff.shape)
        grad_score_NTH = torch.ops.aten.silu_backward(grad_attention_NTH.mul_(cutoff_NT1), score_NTH)
        grad_q = _pick_heads(grad_score_NTH.transpose(1, 2) @ key_product.flatten(0, 1)).view(q.shape)
        torch.matmul(grad_score_NTH, query_NFH.transpose(1, 2), out=key_product.view(-1, size, width))
        grad_k = _sum_over_receivers(dk.mul_(key_product))
        torch.mul(key_product, k[:, None], out=dk)

        # transported vectors: D1 x
        grad_x = torch.empty_like(x)
        for axis in range(3):
            torch.mul(d1, grad_vector[:, :, None, axis], out=product)
            grad_x[:, :, axis] = _sum_over_receivers(product)
        torch.mul(x[:, None, :, 0], grad_vector[:, :, None, 0], out=d1)
        for axis in (1, 2):
            d1.addcmul_(x[:, None, :, axis], grad_vector[:, :, None, axis])
        return (
            _reduce_cells(cells, block),
            grad_q,
            grad_k,
            grad_s,
            grad_x,
            grad_t,
            grad_cutoff,
            grad_direction,
            None,
            None,
        )


def _gather_cells(filters: Tensor, block: PairBlock) -> Tensor:
    """Filters of every cell `(B, T, T, 4F)`, 0 where there is no pair."""
    cells = filters.index_select(0, block.source_M).index_fill_(0, block.blank, 0.0)
    return cells.view(*block.shape, block.shape[1], -1)


def _reduce_cells(cells: Tensor, block: PairBlock) -> Tensor:
    """Adjoint of `_gather_cells`."""
    flat = cells.view(len(block.source_M), -1)
    rows = flat.new_empty(block.num_pairs + 1, flat.shape[1])
    torch.index_select(flat, 0, block.upper_P, out=rows[:-1])
    rows[:-1] += flat.index_select(0, block.lower_P)
    rows[-1] = flat.index_select(0, block.loops).sum(0)
    return rows


def _spread_heads(values_BTF: Tensor, num_heads: int) -> Tensor:
    """`(N, F, H)` with each feature in the column of its head and 0 elsewhere: a head-wise sum becomes a product."""
    values = values_BTF.reshape(-1, num_heads, values_BTF.shape[-1] // num_heads)
    return torch.diag_embed(values.transpose(1, 2), dim1=1, dim2=3).flatten(1, 2)


def _pick_heads(values_NHF: Tensor) -> Tensor:
    """`(N, F)`: of each feature the row of its head."""
    items, heads, width = values_NHF.shape
    return values_NHF.view(items, heads, heads, width // heads).diagonal(dim1=1, dim2=2).transpose(1, 2).flatten(1)


def _sum_over_receivers(values_BTTF: Tensor) -> Tensor:
    """Sum over i of cells (i, j): gradients of what the senders j hold."""
    return values_BTTF.sum(1)
