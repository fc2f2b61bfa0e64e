"""How much of the teacher there is to explain, so that a loss means something: variance, R², a floor without learning.

Legend: K aligned layers, X items, D the teacher's width, N atoms.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dnd.distillation.terms import DistillationTerm
from dnd.graphs.batch import GraphBatch

# Columns of OGB's atom features: element (atomic number minus 1), degree, membership in a ring.
_LOOKUP_COLUMNS = [0, 2, 8]


@dataclass
class TargetMoments:
    r"""Sums over a data set from which the loss of any constant prediction follows.

    With weights :math:`w_x` and normaliser M, the loss of the constant c is
    :math:`\frac{1}{M} (\sum w t^2 - 2 c \sum w t + c^2 \sum w)`, averaged over layers and features.
    """

    weight: float = 0.0
    normaliser: float = 0.0
    first_KD: Tensor = field(default_factory=lambda: torch.zeros(()))
    second_KD: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, term: DistillationTerm, targets_KXD: Float[Tensor, "layers items dim"], graph: GraphBatch) -> None:
        """Take in one batch."""
        targets = targets_KXD.double().cpu()
        weight_X = term.item_weights(targets_KXD, graph).double().cpu()
        self.weight += float(weight_X.sum())
        self.normaliser += term.normaliser(graph)
        self.first_KD = self.first_KD + (weight_X[:, None] * targets).sum(dim=1)
        self.second_KD = self.second_KD + (weight_X[:, None] * targets.square()).sum(dim=1)

    @property
    def mean_KD(self) -> Float[Tensor, "layers dim"]:
        """The best constant prediction."""
        return self.first_KD / self.weight

    def constant_loss(self, constant_KD: Float[Tensor, "layers dim"]) -> float:
        """The term's loss when every prediction is `constant_KD`; with the mean, the variance."""
        total_KD = self.second_KD - 2 * constant_KD * self.first_KD + constant_KD.square() * self.weight
        return float(total_KD.mean() / self.normaliser)


def explained(loss: float, variance: float) -> float:
    """R² = 1 - loss / variance: 1 explains everything, 0 is no better than the mean, below 0 worse than it.

    Where there is no variance there is nothing to explain, and R² is 0.
    """
    return 1.0 - loss / variance if variance > 0 else 0.0


class AtomLookup:
    """A table of mean targets by (element, degree, in a ring): what NODE costs without learning anything.

    An atom whose key was not in the training part gets the mean of its element, and that failing the overall mean.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, ...], tuple[Tensor, int]] = {}

    def add(self, features_NF: Int[Tensor, "atoms features"], targets_ND: Float[Tensor, "atoms dim"]) -> None:
        """Take in the atoms of one batch."""
        keys_NC, targets = features_NF[:, _LOOKUP_COLUMNS].cpu(), targets_ND.double().cpu()
        for length in (0, 1, len(_LOOKUP_COLUMNS)):
            if length:
                unique, index_N = torch.unique(keys_NC[:, :length], dim=0, return_inverse=True)
            else:
                unique, index_N = torch.empty(1, 0, dtype=torch.int64), torch.zeros(len(targets), dtype=torch.int64)
            sums = torch.zeros(len(unique), targets.shape[1], dtype=targets.dtype).index_add_(0, index_N, targets)
            counts = torch.bincount(index_N, minlength=len(unique)).tolist()
            for key, total, count in zip(map(tuple, unique.tolist()), sums, counts, strict=True):
                old_total, old_count = self._sums.get(key, (torch.zeros(()), 0))
                self._sums[key] = (old_total + total, old_count + count)

    def predict(self, features_NF: Int[Tensor, "atoms features"]) -> Float[Tensor, "atoms dim"]:
        """The table's entry of every atom, float64 on the CPU."""
        keys_NC = features_NF[:, _LOOKUP_COLUMNS].cpu()
        unique, index_N = torch.unique(keys_NC, dim=0, return_inverse=True)
        rows = []
        for key in map(tuple, unique.tolist()):
            total, count = next(self._sums[short] for short in (key, key[:1], ()) if short in self._sums)
            rows.append(total / count)
        return torch.stack(rows)[index_N]
