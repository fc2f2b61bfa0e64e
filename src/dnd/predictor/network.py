"""The network that is finetuned: prediction = head(pooling(student(graph)))."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnd.common.randomness import derive_seed
from dnd.graphs.batch import GraphBatch
from dnd.models.students.base import Student
from dnd.models.students.layers import Pooling, fixed_weights, pool, pooled_width
from dnd.predictor.targets import Target, groups_of, softmax
from dnd.store.batches import MoleculeSource, plan_batches

# From the pooled vector of a molecule to its targets.


HeadName = Literal["mlp", "linear", "pna"]


def build_head(
    name: HeadName, inputs: int, num_targets: int, *, width: int | None = None, batch_norm_momentum: float | None = None
) -> nn.Module:
    r"""A new prediction head `(B, D) -> (B, C)`.

    .. math:: \text{mlp}: \hat y = W_2\, \mathrm{LN}(\mathrm{GELU}(W_1 h + b_1)) + b_2, \qquad
              \text{linear}: \hat y = W h + b

    Source: D&D does not state its head; `mlp` is the head of TokenGT's reference code, `pna` that of 3DInfomax on QM9.
    But for `pna` the last layer starts small and without bias, so that training starts from the mean of the
    standardised targets.

    Args:
        name: `mlp`, `linear` or `pna`.
        inputs: I, the width of the pooled vector.
        num_targets: C.
        width: inner width; I when None.
        batch_norm_momentum: momentum of `pna`'s batch norm; 0.1 when None.
    """
    width = width or inputs
    if name == "pna":
        from dnd.models.students.pna import PNAHead  # no other head needs it

        return PNAHead(inputs, width, num_targets, 0.1 if batch_norm_momentum is None else batch_norm_momentum)
    last = nn.Linear(inputs if name == "linear" else width, num_targets)
    nn.init.normal_(last.weight, std=0.02)
    nn.init.zeros_(last.bias)
    if name == "linear":
        return last
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.LayerNorm(width), last)


# The network that is finetuned: prediction = head(pooling(student(graph))).
#


PREDICTION_TOKENS = {"cpu": 4_096, "cuda": 16_384}
"""Of a batch. On a CPU larger tensors are pages that the C library asks the system for each time, which costs up to a
quarter of a prediction; on a GPU smaller ones are bound by launches."""


class PropertyNetwork(nn.Module):
    """A student, a pooling and a head.

    Args:
        student: pretrained or random.
        pooling: see `pool`.
        head: see `build_head`.
        num_targets: C.
        seed: random seed of the head's initial weights.
    """

    def __init__(self, student: Student, pooling: Pooling, head: HeadName, num_targets: int, seed: int = 0) -> None:
        super().__init__()
        self.student, self.pooling = student, pooling
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(derive_seed(seed, "head"))
            self.head = build_head(
                head,
                pooled_width(student.width, pooling),
                num_targets,
                width=student.width,
                batch_norm_momentum=student.config.batch_norm_momentum,
            )

    @property
    def width(self) -> int:
        """Numbers per molecule that `embed` makes."""
        return pooled_width(self.student.width, self.pooling)

    def embed(self, graph: GraphBatch) -> Float[Tensor, "molecules dim"]:
        """The pooled representation of every molecule."""
        return pool(self.student(graph), graph, self.pooling)

    def forward(self, graph: GraphBatch) -> Float[Tensor, "molecules targets"]:
        """Standardised values, or logits for classes."""
        prediction_BC: Tensor = self.head(self.embed(graph))
        return prediction_BC


def run_over(
    compute: Callable[[GraphBatch], Tensor], student: Student, source: MoleculeSource, rows: np.ndarray
) -> Float[np.ndarray, "molecules outputs"]:
    """`compute` for `rows` of `source`, in that order, in batches of similar size; no gradient.

    Args:
        compute: a network or its `embed`, in evaluation mode.
        student: the student inside it.
        source: graphs of the molecules.
        rows: positions in `source`, at least one.

    Returns:
        `(len(rows), C or D)` float64.
    """
    device = next(student.parameters()).device
    atoms, bonds = source.atom_counts[rows], source.bond_counts[rows]
    parts: list[np.ndarray] = []
    order: list[np.ndarray] = []
    student.reset_sampling(0)
    with torch.no_grad(), fixed_weights():
        tokens = PREDICTION_TOKENS.get(device.type, PREDICTION_TOKENS["cuda"])
        for batch in plan_batches(atoms + 2 * bonds + 2, max_tokens=tokens, seed=0, epoch=0):
            parts.append(compute(source.read(rows[batch]).graph.to(device)).double().cpu().numpy())
            order.append(batch)
    outputs = np.empty((len(rows), parts[0].shape[1]))
    outputs[np.concatenate(order)] = np.concatenate(parts)
    return outputs


def to_raw_units(
    outputs_BC: Float[np.ndarray, "molecules targets"], targets: Sequence[Target]
) -> Float[np.ndarray, "molecules targets"]:
    """Values in the targets' units, or probabilities of class 1 (sigmoid in float64, so that no two scores tie).

    The classes of one target get the softmax of their scores.
    """
    means_C = np.array([target.mean for target in targets])
    raw_BC: np.ndarray = outputs_BC * np.array([target.std for target in targets]) + means_C
    for column, target in enumerate(targets):
        if target.transform.name != "none":
            raw_BC[:, column] = target.transform.predicted(raw_BC[:, column])
    classes = [column for column, target in enumerate(targets) if target.kind == "classification"]
    raw_BC[:, classes] = 1.0 / (1.0 + np.exp(-outputs_BC[:, classes]))
    for group in groups_of(targets):
        raw_BC[:, group.span] = softmax(outputs_BC[:, group.span])
    return raw_BC
