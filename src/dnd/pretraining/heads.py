"""Readouts, heads, scales and the term of measured labels: what only pretraining uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.chemistry.molecule import BOND_FEATURE_SIZES
from dnd.common.config import nearest
from dnd.common.errors import InputError
from dnd.graphs.batch import GraphBatch, MoleculeBatch, mean_per_molecule, molecule_index
from dnd.models.students.base import FeatureEmbedding, Student, StudentOutput, pool
from dnd.models.students.encoders import data_set_of
from dnd.pretraining.distill_losses import SolidPart
from dnd.store.reader import Store

# Readouts that only pretraining uses: pooled vectors and a small network, dropped when the encoder is saved.


Readout = Literal["mean", "virtual_node", "min_max_mean"]


class ProjectionHead(nn.Module):
    """Pooled student representations → two-layer network → `out_width` numbers per molecule.

    Args:
        student: whose width it takes.
        out_width: numbers per molecule.
        readout: `mean`, `virtual_node`, or `min_max_mean` as the PNA of 3DInfomax has it.
    """

    def __init__(self, student: Student, out_width: int, readout: Readout = "mean") -> None:
        super().__init__()
        self.readout = readout
        width = student.width * (3 if readout == "min_max_mean" else 1)
        self.network = nn.Sequential(nn.Linear(width, student.width), nn.ReLU(), nn.Linear(student.width, out_width))

    def forward(self, output: StudentOutput, graph: GraphBatch) -> Float[Tensor, "molecules out"]:
        """One vector per molecule."""
        if self.readout == "min_max_mean":
            pooled_BD = min_max_mean_per_molecule(output.atoms_ND, graph.atom_offsets)
        else:
            pooled_BD = pool(output, graph, self.readout)
        projected: Tensor = self.network(pooled_BD)
        return projected


def min_max_mean_per_molecule(
    values_XD: Float[Tensor, "items dim"], offsets: Int[Tensor, "offsets"]
) -> Float[Tensor, "molecules 3*dim"]:
    """[min | max | mean] over the items of each molecule; every molecule has at least one."""
    index_XD = molecule_index(offsets, len(values_XD))[:, None].expand_as(values_XD)
    empty_BD = values_XD.new_zeros(len(offsets) - 1, values_XD.shape[1])
    smallest_BD = empty_BD.scatter_reduce(0, index_XD, values_XD, "amin", include_self=False)
    largest_BD = empty_BD.scatter_reduce(0, index_XD, values_XD, "amax", include_self=False)
    return torch.cat([smallest_BD, largest_BD, mean_per_molecule(values_XD, offsets)], dim=1)


# Learning a column of the store's targets: the task term of CCMD, and the whole of ProPred.


class LabelHead(nn.Module):
    """Pooled representation → one label, in units of its standard deviation over the training rows.

    Args:
        student: gives the width.
        store: holds the labels.
        column: name of the target column.
        rows: training rows, which alone decide mean and deviation.
        holdout_rows: must hold a label too, or nothing could be evaluated.
        readout: how atoms are pooled.

    Attributes:
        mean: mean of the training labels, in the column's unit.
        deviation: standard deviation of the training labels, in the column's unit.

    Raises:
        InputError: no such column, fewer than two different training labels in it, or no held-out one.
    """

    def __init__(
        self,
        student: Student,
        store: Store,
        column: str,
        rows: np.ndarray,
        holdout_rows: np.ndarray,
        readout: Readout = "mean",
    ) -> None:
        super().__init__()
        if column not in store.target_columns:
            raise InputError(
                f"{store.path or 'the store'} has no target column {column!r}",
                found=", ".join(store.target_columns) or "none",
                next_step=nearest(column, store.target_columns) if store.target_columns else "Add --target-columns",
            )
        self.index = store.target_columns.index(column)
        labels = store.targets_of(rows)[:, self.index].astype(np.float64)
        labels = labels[np.isfinite(labels)]
        self.mean, self.deviation = (float(labels.mean()), float(labels.std())) if len(labels) else (0.0, 0.0)
        if self.deviation == 0.0:
            found = f"no two different labels among {len(labels)} of the training molecules"
            raise InputError(f"target column {column!r} has nothing to learn", found=found)
        if not np.isfinite(store.targets_of(holdout_rows)[:, self.index]).any():
            raise InputError(
                f"no held-out molecule has a label in {column!r}",
                next_step="Raise holdout_fraction or change loop.seed",
            )
        self.head = ProjectionHead(student, 1, readout)

    def forward(self, output: StudentOutput, batch: MoleculeBatch) -> tuple[Float[Tensor, ""], Float[Tensor, ""], int]:
        """Mean absolute error, that of predicting the training mean (both in deviations), and the number of labels."""
        target_B = (batch.targets_BC[:, self.index] - self.mean) / self.deviation
        known_B = target_B.isfinite()
        predicted_B = self.head(output, batch.graph)[:, 0].float()
        error = masked_l1(predicted_B, target_B)
        constant = masked_l1(torch.zeros_like(predicted_B), target_B)
        return error, constant, int(known_B.sum())


def masked_l1(predicted_B: Float[Tensor, "molecules"], target_B: Float[Tensor, "molecules"]) -> Float[Tensor, ""]:
    """Mean absolute error over the labels that are there; 0 with gradient 0 where there is none."""
    known_B = target_B.isfinite()
    error_B = (predicted_B - torch.where(known_B, target_B, predicted_B.detach())).abs()
    return error_B.sum() / known_B.sum().clamp(min=1)


# Numbers of bonds from the representations of their two atoms.

BOND_WIDTH = 64


class BondHead(nn.Module):
    r""":math:`y_{ij} = W_2 \operatorname{relu} W_1 [u_i + u_j, u_i \odot u_j, e_{ij}], \quad u = W_0 h`

    with an embedding e of the bond's features. It's the same for (i, j) and (j, i), and each bond counts once.

    Args:
        student: gives the width.
        out_width: F.
    """

    def __init__(self, student: Student, out_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(student.width, BOND_WIDTH)
        self.embedding = FeatureEmbedding(BOND_FEATURE_SIZES, BOND_WIDTH)
        self.network = nn.Sequential(nn.Linear(3 * BOND_WIDTH, BOND_WIDTH), nn.ReLU(), nn.Linear(BOND_WIDTH, out_width))

    def forward(self, output: StudentOutput, graph: GraphBatch) -> Float[Tensor, "bonds out"]:
        """One row per bond, in the order of the graph."""
        first_U, second_U = bonds_once(graph)
        state_ND = self.project(output.atoms_ND)
        first_UD, second_UD = state_ND[first_U], state_ND[second_U]
        bond_UD = self.embedding(graph.edge_features_EF[::2]).to(state_ND.dtype)
        found: Tensor = self.network(torch.cat([first_UD + second_UD, first_UD * second_UD, bond_UD], dim=1))
        return found


def bonds_once(graph: GraphBatch) -> Int[Tensor, "2 bonds"]:
    """Both atoms of every bond, in packed numbering; a bond is two consecutive edges, the first of which counts."""
    return graph.edge_index_2E[:, ::2]


# Losses over the entries that are known.


class AuxiliaryLoss(NamedTuple):
    """How far a head is off.

    Attributes:
        loss: mean over the known entries of the batch; 0 with gradient 0 where there is none.
        constant: the same for the best constant prediction, that of the training rows.
        known: number of known entries; of labels, of molecules that have one.
    """

    loss: Float[Tensor, ""]
    constant: Float[Tensor, ""]
    known: Int[Tensor, ""]


def masked_squares(
    predicted_XS: Float[Tensor, "items columns"], target_XS: Float[Tensor, "items columns"]
) -> AuxiliaryLoss:
    """Mean squared error over the targets that are not NaN; the constant prediction is 0, the training mean."""
    known_XS = target_XS.isfinite()
    known = known_XS.sum()
    target_XS = torch.where(known_XS, target_XS, 0.0)
    error_XS = torch.where(known_XS, predicted_XS - target_XS, 0.0)
    number = known.clamp(min=1)
    return AuxiliaryLoss(error_XS.square().sum() / number, target_XS.square().sum() / number, known)


# Numbers in units of their own spread: which columns there are, and their mean and deviation over training rows.


CLIPPED_SHARE = 0.001
"""Share of the known training values at either end of a column that its limits leave out."""

_SMALLEST_DEVIATION = 1e-6
"""A column varies if its deviation is above this. If its largest value is below 1, the deviation only has to be above
this share of it: concentrations in mol/l may be about 1e-9."""


class Standardiser(nn.Module):
    r""":math:`z = (\min(\max(x, l), u) - \mu) / s` for the columns that vary; NaN stays NaN.

    Limits, mean and deviation are buffers, so every checkpoint holds them; they come from training rows alone, limits
    from their 0.1 % and 99.9 % quantiles, so that one broken value can't set the scale of a column.

    Args:
        values_XF: values of training rows, NaN = missing; or the known values of each column, where few are known.
        what: name for messages.
        pooled: keep one deviation for all columns, the root of their mean variance, and no limits: columns then count
            by how much they vary, and a place that is nearly always 0 does not outweigh the others.
        unlimited_F: columns that get no limits; none when None. Of a rare class limits would leave nothing.

    Raises:
        InputError: no column varies.
    """

    kept_S: Tensor
    low_S: Tensor
    high_S: Tensor
    mean_S: Tensor
    deviation_S: Tensor

    def __init__(
        self,
        values_XF: Float[np.ndarray, "items columns"] | Sequence[np.ndarray],
        what: str,
        *,
        pooled: bool = False,
        unlimited_F: Bool[np.ndarray, "columns"] | None = None,
    ) -> None:
        super().__init__()
        given = values_XF.astype(np.float64).T if isinstance(values_XF, np.ndarray) else values_XF
        free_F = np.full(len(given), pooled) if unlimited_F is None else unlimited_F
        columns = [
            _column(column_X[np.isfinite(column_X)], clip=not free)
            for column_X, free in zip(given, free_F.tolist(), strict=True)
        ]
        low_F, high_F, mean_F, deviation_F = np.array(columns, dtype=np.float64).reshape(-1, 4).T
        kept_S = np.flatnonzero(deviation_F)
        if not len(kept_S):
            found = f"{max(map(len, given), default=0):,} training items, none that vary"
            raise InputError(f"{what} has nothing to learn", found=found)
        if pooled:
            deviation_F = np.full_like(deviation_F, np.sqrt(np.mean(deviation_F[kept_S] ** 2)))
        self.register_buffer("kept_S", torch.from_numpy(kept_S))
        for name, values_F in (("low", low_F), ("high", high_F), ("mean", mean_F), ("deviation", deviation_F)):
            self.register_buffer(f"{name}_S", torch.from_numpy(values_F[kept_S].astype(np.float32)))

    @property
    def width(self) -> int:
        """S, the number of columns that are kept."""
        return len(self.kept_S)

    def forward(self, values_XF: Float[Tensor, "items columns"]) -> Float[Tensor, "items kept"]:
        """The kept columns in units of their deviation."""
        clipped_XS = torch.clamp(values_XF[:, self.kept_S], self.low_S, self.high_S)
        return (clipped_XS - self.mean_S) / self.deviation_S

    def record(self, names: list[str]) -> list[dict[str, Any]]:
        """Name, limits, mean and deviation of each kept column, for the run's folder."""
        rows = zip(
            self.kept_S.tolist(),
            *(values.tolist() for values in (self.low_S, self.high_S, self.mean_S, self.deviation_S)),
            strict=True,
        )
        keys = ("low", "high", "mean", "deviation")
        return [{"name": names[place], **dict(zip(keys, values, strict=True))} for place, *values in rows]


def _column(known_X: np.ndarray, *, clip: bool) -> tuple[float, float, float, float]:
    """Limits, mean and deviation of the known values of one column; deviation 0 where there is nothing to learn."""
    largest = float(np.finfo(np.float32).max)
    if len(known_X) < 2:
        return -largest, largest, 0.0, 0.0
    low, high = -largest, largest
    if clip:
        low, high = np.quantile(known_X, [CLIPPED_SHARE, 1 - CLIPPED_SHARE], method="nearest").tolist()
        known_X = known_X.clip(low, high)
    deviation = float(known_X.std())
    varies = deviation > _SMALLEST_DEVIATION * min(1.0, float(np.abs(known_X).max()))
    return low, high, float(known_X.mean()), deviation if varies else 0.0


# One head for all labels of a store: measured or calculated, values or classes, few known for any molecule.

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
        of_classes_F = np.array([is_class(column) for column in known.columns])
        self.scale = Standardiser(known.columns, "the term labels", unlimited_F=of_classes_F)
        kept = self.scale.kept_S.tolist()
        classes = of_classes_F[kept]
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

    def is_known(self, values_BC: Float[Tensor, "molecules columns"]) -> bool:
        """Whether any label is there in a column that is learned."""
        return bool(self.scale(values_BC).isfinite().any())

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


def is_class(values: Float[np.ndarray, "known"]) -> bool:
    """Whether all known values are 0 or 1, and both occur."""
    return set(np.unique(values).tolist()) == {0.0, 1.0}
