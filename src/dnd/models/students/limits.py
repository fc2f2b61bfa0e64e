r"""Limits of representations: what an encoder says of any molecule stays where it says things of molecules it knows.

A sum over atoms grows with the molecule: of 200 atoms `dnd-base` says hundreds of times what it says of a drug, and one
such row decides a regression on representations. So each component of a pooled representation is kept within

.. math:: m_d \pm 10\, s_d,

m the median over molecules that the encoder was trained on and s their robust deviation (the distance of the quartiles
over 1.349). Both are stored with the encoder, for each pooling; an older encoder has none and stays as it was.
A MODEL has those of its own representation, from the molecules that it learned from. The limits are of what `embed`
gives; finetuning and its classical members, which have limits of their own, see the representation itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dnd.common.errors import ConfigError, CorruptFileError
from dnd.graphs.batch import GraphBatch
from dnd.models.students.base import Student
from dnd.models.students.layers import Pooling, pool
from dnd.store.batches import plan_batches
from dnd.store.reader import Store

LIMITS = "limits"
"""Stem of the file in an ENCODER folder."""
WHOLE = "whole"
"""Name of the limits of a MODEL folder."""
DEVIATIONS = 10.0
MOST_MOLECULES = 4_000
_QUARTILES = 1.349  # distance of the quartiles of a normal distribution, in its deviations
_BATCH = 256
_POOLINGS: tuple[Pooling, ...] = ("mean", "virtual_node", "min_max_mean_sum")


@dataclass(frozen=True)
class RepresentationLimits:
    """Where the components of representations lie.

    Attributes:
        tensors: `<name>.centre` and `<name>.deviation`, a number per component; of an encoder for each pooling, of a
            model for `whole`, the representations of all its members side by side.
    """

    tensors: Mapping[str, Tensor]

    @classmethod
    def measured(cls, student: Student, store: Store, rows: np.ndarray) -> RepresentationLimits:
        """The limits from molecules that the encoder was trained on, at most 4,000 of them, evenly spread.

        Args:
            student: in evaluation mode.
            store: with the student's graphs.
            rows: row numbers of the molecules, at least one.
        """
        rows = rows[:: -(-len(rows) // MOST_MOLECULES)]
        parts: dict[Pooling, list[Tensor]] = {}
        device = next(student.parameters()).device
        student.reset_sampling(0)
        with torch.no_grad():
            for batch in plan_batches(store.atom_counts[rows], batch_size=_BATCH, seed=0, epoch=0):
                graph: GraphBatch = store.read(rows[batch]).graph.to(device)
                output = student(graph)
                for pooling in _POOLINGS:
                    if pooling != "virtual_node" or output.virtual_BD is not None:
                        parts.setdefault(pooling, []).append(pool(output, graph, pooling).double().cpu())
        return cls.of_values({pooling: torch.cat(values) for pooling, values in parts.items()})

    @classmethod
    def of_values(cls, values: Mapping[str, Tensor]) -> RepresentationLimits:
        """The limits from representations [molecules, dim], by their names."""
        found: dict[str, Tensor] = {}
        for name, values_BD in values.items():
            quarters = torch.tensor([0.25, 0.5, 0.75]).double()
            low_D, centre_D, high_D = torch.quantile(values_BD.double(), quarters, dim=0)
            found[f"{name}.centre"] = centre_D.float()
            found[f"{name}.deviation"] = ((high_D - low_D) / _QUARTILES).float()
        return cls(found)

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], what: str) -> RepresentationLimits:
        """The limits of an ENCODER folder.

        Raises:
            CorruptFileError: they are not finite, or a deviation is negative.
        """
        for name, values in tensors.items():
            wrong = not bool(torch.isfinite(values).all()) or (name.endswith(".deviation") and bool((values < 0).any()))
            if wrong or values.ndim != 1:
                raise CorruptFileError(f"{what}: {name} are not limits of representations")
        return cls(dict(tensors))

    def bounded(self, values_BD: Float[np.ndarray, "molecules dim"], name: str) -> Float[np.ndarray, "molecules dim"]:
        """Representations within the limits; as they are where a component has none.

        Raises:
            ConfigError: the limits are of another width.
        """
        centre = self.tensors.get(f"{name}.centre")
        deviation = self.tensors.get(f"{name}.deviation")
        if centre is None or deviation is None:
            return values_BD
        if len(centre) != values_BD.shape[1] or len(deviation) != values_BD.shape[1]:
            raise ConfigError(
                "limits and representations differ in width", found=len(centre), expected=values_BD.shape[1]
            )
        reach_D = DEVIATIONS * deviation.double().numpy()
        centre_D = centre.double().numpy()
        kept_BD: np.ndarray = values_BD.clip(centre_D - reach_D, centre_D + reach_D)
        return kept_BD
