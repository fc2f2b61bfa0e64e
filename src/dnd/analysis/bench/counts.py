r"""Floating-point operations and bytes of a forward pass, on paper; a training step has three times the operations.

A product of an (m, k) and a (k, n) matrix has 2·m·k·n operations; elementwise work is left out of the operations and
is what the bytes are. Bytes: every operation reads its inputs from memory and writes its result, fp32, nothing fused,
as a plain implementation does on a GPU whose caches hold no batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from dnd.student.config import StudentConfig, known
from dnd.teacher.config import TeacherConfig

_FLOAT = 4


@dataclass(frozen=True)
class Count:
    """Operations and bytes of a forward pass.

    Attributes:
        flops: floating-point operations in matrix products.
        memory_bytes: read and written.
    """

    flops: float
    memory_bytes: float

    @property
    def intensity(self) -> float:
        """Operations per byte: below the machine's own ratio, memory is the limit."""
        return self.flops / self.memory_bytes


def tokengt_forward(config: StudentConfig, tokens_B: Int[np.ndarray, "molecules"]) -> Count:
    r"""TokenGT without padding.

    .. math:: \text{flops} = \sum_b L\,(8 T_b D^2 + 4 T_b D F + 4 T_b^2 D)

    Four maps of width D (q, k, v, out), two of the feed-forward block (F inside), and the two products of attention.
    Per token and layer a plain implementation moves 22 D + 4 F numbers: two norms (4 D), q, k, v (4 D), attention
    (4 D), out (2 D), two residual sums (6 D), feed-forward (2 D + 4 F with its GELU).

    Args:
        config: of the student; identifiers and embeddings are left out.
        tokens_B: tokens of each molecule.
    """
    width, inner, layers = config.width, known(config.ffn_width), config.num_layers
    tokens, squares = float(tokens_B.sum()), float((tokens_B.astype(np.float64) ** 2).sum())
    flops = layers * (tokens * (8 * width**2 + 4 * width * inner) + 4 * squares * width)
    numbers = layers * (tokens * (22 * width + 4 * inner) + 4 * width**2 + 2 * width * inner)
    return Count(flops, _FLOAT * numbers)


def transformer_forward(config: TeacherConfig, atoms: int, pairs: int) -> Count:
    r"""The equivariant transformer as its equations stand, one filter per ordered pair.

    .. math:: \text{flops} = L\,(34 A D^2 + 8 P R D)

    Per atom q, k (2 maps), v and o (3 each) and three axes of a map to 3 D: 17 maps of 2 D². Per ordered pair, the atom
    itself included, four filters of width D from R radial functions. Per pair and layer a plain implementation moves
    about 36 D + R numbers: filters and their activation (12 D + R), scores (4 D), values (6 D), and for three axes of
    the vectors, two products and a sum (14 D); per atom about 60 D.

    Ours computes the filters once per unordered pair, so it needs about half of the second term.

    Args:
        config: of the teacher; embeddings and `chiral` are left out.
        atoms: of all molecules.
        pairs: ordered pairs within the cutoff, each atom with itself included.
    """
    width, radial, layers = config.width, config.num_rbf, config.num_layers
    flops = layers * (34 * atoms * width**2 + 8 * pairs * radial * width)
    numbers = layers * (pairs * (36 * width + radial) + 60 * atoms * width + 17 * width**2 + 4 * radial * width)
    return Count(float(flops), float(_FLOAT * numbers))
