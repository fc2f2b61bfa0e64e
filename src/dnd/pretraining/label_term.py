"""One head for all labels of a store: measured or calculated, values or classes, few known for any molecule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.common.errors import InputError
from dnd.graphs.batch import MoleculeBatch
from dnd.models.students.base import Student, StudentOutput
from dnd.pretraining.heads import ProjectionHead
from dnd.pretraining.scales import AuxiliaryLoss, Standardiser
from dnd.pretraining.solid_part import SolidPart
from dnd.store.reader import Store

_READ_AT_ONCE = 8192


class LabelTerm(nn.Module):
    r"""Squared error of values in deviations, binary cross-entropy of classes, over the labels that are known.

    .. math:: L = \frac{1}{M} \sum_b \sum_{c \in K_b} w_{g(c)}\, e_{bc}, \qquad
        w_g = \frac{m \sqrt{m_g}}{k_g \sum_h \sqrt{m_h}}

    M molecules of the batch have a label and K_b are the columns known of one. In the training part m molecules have a
    label, and a data set g (what a column's name has before its first `/`) has k_g labels of m_g molecules. So a set
    counts by the root of its molecules, not by its labels: the 617 columns of ToxCast would drown all else, and 500
    free energies count. Weights sum to 1 over the labels of a molecule, in the mean.

    A column is one of classes where its known values are 0 and 1; it is left out where one of them never occurs, or
    where a value never varies.

    Args:
        student: gives the width.
        store: holds the labels.
        rows: all training rows, which alone decide scales, rates and weights.

    Raises:
        InputError: the store has no labels, or there is nothing to learn in them.
    """

    from_conformers = False
    class_S: Tensor
    rate_S: Tensor
    weight_S: Tensor

    def __init__(self, student: Student, store: Store, rows: np.ndarray) -> None:
        super().__init__()
        if not store.target_columns:
            raise InputError(f"{store.path or 'the store'} has no labels", next_step="Prepare with --target-columns")
        known = known_labels(store, rows)
        self.scale = Standardiser(known.columns, "the term labels")
        kept = self.scale.kept_S.tolist()
        classes = np.array([is_class(known.columns[place]) for place in kept])
        rates = [float(known.columns[place].mean()) if one else 0.5 for place, one in zip(kept, classes, strict=True)]
        with torch.no_grad():  # a class is learned as it is: 0 or 1
            mask = torch.from_numpy(classes)
            self.scale.low_S[mask], self.scale.high_S[mask] = 0.0, 1.0
            self.scale.mean_S[mask], self.scale.deviation_S[mask] = 0.0, 1.0
        self.register_buffer("class_S", mask)
        self.register_buffer("rate_S", torch.tensor(rates, dtype=torch.float32))
        weights = set_weights([store.target_columns[place] for place in kept], [known.columns[p] for p in kept], known)
        self.register_buffer("weight_S", torch.from_numpy(weights.astype(np.float32)))
        self.head = ProjectionHead(student, len(kept))

    def read(
        self, store: Store, batch: MoleculeBatch, solid: SolidPart | None = None
    ) -> Float[Tensor, "molecules columns"]:
        """Labels of a batch; NaN = missing."""
        return batch.targets_BC

    def forward(
        self, output: StudentOutput, batch: MoleculeBatch, values_BC: Float[Tensor, "molecules columns"]
    ) -> AuxiliaryLoss:
        """Weighted loss over the known labels, and that of the training means and rates."""
        target_BS = self.scale(values_BC)
        known_BS = target_BS.isfinite()
        target_BS = torch.where(known_BS, target_BS, 0.0)
        predicted_BS = self.head(output, batch.graph).float()
        entropy_BS = F.binary_cross_entropy_with_logits(predicted_BS, target_BS.clamp(0, 1), reduction="none")
        error_BS = torch.where(self.class_S, entropy_BS, (predicted_BS - target_BS).square())
        constant_BS = torch.where(
            self.class_S,
            -(target_BS * self.rate_S.log() + (1 - target_BS) * (1 - self.rate_S).log()),
            target_BS.square(),
        )
        weight_BS = torch.where(known_BS, self.weight_S, 0.0)
        molecules = known_BS.any(dim=1).sum()
        number = molecules.clamp(min=1)
        return AuxiliaryLoss((weight_BS * error_BS).sum() / number, (weight_BS * constant_BS).sum() / number, molecules)

    def record(self, store: Store) -> list[dict[str, Any]]:
        """Scale, kind, base rate and weight of every learned column."""
        rows = zip(
            self.scale.record(store.target_columns),
            self.class_S.tolist(), self.rate_S.tolist(), self.weight_S.tolist(), strict=True,
        )  # fmt: skip
        return [
            {**scale, "kind": "class" if one else "value", **({"rate": rate} if one else {}), "weight": weight}
            for scale, one, rate, weight in rows
        ]


class KnownLabels:
    """The labels of the training rows, column by column.

    Attributes:
        columns: known values of each column.
        molecules: how many rows have one, by data set, and `None` for how many have any.
    """

    def __init__(self, columns: list[np.ndarray], molecules: dict[str | None, int]) -> None:
        self.columns, self.molecules = columns, molecules


def known_labels(store: Store, rows: Int[np.ndarray, "rows"]) -> KnownLabels:
    """Read the labels of `rows`, without ever holding the missing ones."""
    names = store.target_columns
    sets = np.array([data_set_of(name) for name in names])
    found: list[list[np.ndarray]] = [[] for _ in names]
    molecules: dict[str | None, int] = dict.fromkeys([None, *dict.fromkeys(sets.tolist())], 0)
    for first in range(0, len(rows), _READ_AT_ONCE):
        values_BC = store.targets_of(rows[first : first + _READ_AT_ONCE]).astype(np.float64)
        known_BC: Bool[np.ndarray, "molecules columns"] = np.isfinite(values_BC)
        if not known_BC.any():
            continue
        molecules[None] += int(known_BC.any(axis=1).sum())
        for name in dict.fromkeys(sets.tolist()):
            molecules[name] += int(known_BC[:, sets == name].any(axis=1).sum())
        for place in np.flatnonzero(known_BC.any(axis=0)).tolist():
            found[place].append(values_BC[known_BC[:, place], place])
    return KnownLabels([np.concatenate([np.empty(0), *parts]) for parts in found], molecules)


def set_weights(
    names: Sequence[str], columns: Sequence[np.ndarray], known: KnownLabels
) -> Float[np.ndarray, "kept_columns"]:
    """Weight of a label of each column, so that a data set counts by the root of its molecules; see `LabelTerm`."""
    sets = np.array([data_set_of(name) for name in names])
    counts = np.array([len(column) for column in columns], dtype=np.float64)
    roots = {name: np.sqrt(known.molecules[name]) for name in dict.fromkeys(sets.tolist())}
    share = known.molecules[None] / sum(roots.values())
    return np.array([share * roots[name] / counts[sets == name].sum() for name in sets.tolist()])


def data_set_of(column: str) -> str:
    """What a column's name has before its first `/`: the data set it is of; empty where there is none."""
    return column.partition("/")[0] if "/" in column else ""


def is_class(values: Float[np.ndarray, "known"]) -> bool:
    """Whether all known values are 0 or 1, and both occur."""
    return set(np.unique(values).tolist()) == {0.0, 1.0}
