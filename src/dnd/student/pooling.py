"""From atoms to a molecule: +MP and +VN of the paper, and the four aggregates of 3DInfomax's protocol on QM9."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from dnd.common.errors import ConfigError
from dnd.common.registry import look_up
from dnd.graphs.batch import GraphBatch, mean_per_molecule
from dnd.student.contract import StudentOutput
from dnd.student.pna import pool_four

Pooling = Literal["mean", "virtual_node", "min_max_mean_sum"]
# Width of the pooled vector in widths of the student.
_POOLED_WIDTHS: dict[Pooling, int] = {"mean": 1, "virtual_node": 1, "min_max_mean_sum": 4}


def pooling_named(name: str) -> Pooling:
    """The pooling of that name.

    Raises:
        ConfigError: there is none; the message holds the nearest names.
    """
    return look_up({str(known): known for known in _POOLED_WIDTHS}, name, "pooling")


def pooled_width(width: int, pooling: Pooling) -> int:
    """Numbers per molecule that `pool` makes of a student of this width."""
    return width * _POOLED_WIDTHS[pooling]


def pool(output: StudentOutput, graph: GraphBatch, pooling: Pooling) -> Float[Tensor, "molecules pooled"]:
    r"""One vector per molecule.

    +MP is :math:`\frac{1}{N_b} \sum_{i \in b} h_i`; +VN is the state of the graph token or virtual node. No loss of the
    paper supervises that token directly, so after distillation +VN starts from a nearly untrained readout.
    `min_max_mean_sum` puts four aggregates side by side; the sum grows with the molecule, which a mean forgets.

    Args:
        output: what the student returned for `graph`.
        graph: the batch, B molecules.
        pooling: `mean`, `virtual_node` or `min_max_mean_sum`.

    Raises:
        ConfigError: `virtual_node` of a student that has none.
    """
    if pooling == "mean":
        return mean_per_molecule(output.atoms_ND, graph.atom_offsets)
    if pooling == "min_max_mean_sum":
        return pool_four(output.atoms_ND, graph)
    if output.virtual_BD is None:
        raise ConfigError(
            "this student has no virtual node to pool",
            next_step="Use pooling=mean, or tokengt or gine with virtual_node=true",
        )
    return output.virtual_BD
