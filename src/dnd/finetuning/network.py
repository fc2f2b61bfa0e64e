"""The network that is finetuned: prediction = head(pooling(student(graph))).

Legend: B molecules, D width, C targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnd.common.seeds import derive_seed
from dnd.finetuning.heads import HeadName, build_head
from dnd.finetuning.multiclass import softmax
from dnd.finetuning.tasks import Target, groups_of
from dnd.graphs.batch import GraphBatch
from dnd.store.batches import MoleculeSource, plan_batches
from dnd.student.contract import Student
from dnd.student.norm import fixed_weights
from dnd.student.pooling import Pooling, pool

PREDICTION_TOKENS = {"cpu": 4_096, "cuda": 16_384}
"""Of a batch. On a CPU larger tensors are pages that the C library asks the system for each time, which costs up to a
quarter of a prediction; on a GPU smaller ones are bound by launches."""


class PropertyNetwork(nn.Module):
    """A student, a pooling and a head.

    Args:
        student: pretrained or random.
        pooling: `mean` (+MP) or `virtual_node` (+VN).
        head: see `build_head`.
        num_targets: C.
        seed: of the head's initial weights.
    """

    def __init__(self, student: Student, pooling: Pooling, head: HeadName, num_targets: int, seed: int = 0) -> None:
        super().__init__()
        self.student, self.pooling = student, pooling
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(derive_seed(seed, "head"))
            self.head = build_head(head, student.width, num_targets)

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
