"""From atoms to a molecule: +MP and +VN of the paper."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from dnd.common.errors import ConfigError
from dnd.graphs.batch import GraphBatch, mean_per_molecule
from dnd.student.contract import StudentOutput

Pooling = Literal["mean", "virtual_node"]


def pool(output: StudentOutput, graph: GraphBatch, pooling: Pooling) -> Float[Tensor, "molecules dim"]:
    r"""One vector per molecule.

    +MP is :math:`\frac{1}{N_b} \sum_{i \in b} h_i`; +VN is the state of the graph token or virtual node. No loss of the
    paper supervises that token directly, so after distillation +VN starts from a nearly untrained readout.

    Args:
        output: what the student returned for `graph`.
        graph: the batch, B molecules.
        pooling: `mean` or `virtual_node`.

    Raises:
        ConfigError: `virtual_node` of a student that has none.
    """
    if pooling == "mean":
        return mean_per_molecule(output.atoms_ND, graph.atom_offsets)
    if output.virtual_BD is None:
        raise ConfigError(
            "this student has no virtual node to pool",
            next_step="Use pooling=mean, or tokengt or gine with virtual_node=true",
        )
    return output.virtual_BD
