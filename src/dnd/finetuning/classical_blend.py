"""Classical members on one partition: predictions out of fold, and the same models fitted on all development molecules.

Development molecules are those of the training and the validation part; no test label is looked at. Legend: N all
molecules, C targets, F features.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Float32, Int64

from dnd.common.seeds import derive_seed
from dnd.finetuning.blend import ArrayModel
from dnd.finetuning.classical_features import Layout
from dnd.finetuning.classical_fits import FitOptions, Training, fit_member, is_forest, suits, trees_of
from dnd.finetuning.tasks import Target
from dnd.finetuning.tree_arrays import Trees

Array = Float[np.ndarray, "molecules targets"]
FEWEST_FOLDS, FEWEST_TREES = 2, 30  # a forest of fewer trees is a weak member
_FINAL_COST = 1.3  # a fit on all folds against one on all but one
_PILOT_ROWS, _PILOT_TARGETS, _GROWTH = 400, 4, 1.2  # under a time limit: cost of a fit ~ molecules to the power of 1.2


@dataclass(frozen=True)
class Workbench:
    """What the fits of a partition share.

    Attributes:
        x_NF: features of all molecules; rows that have none are never asked for.
        place_N: row of `x_NF` of each molecule, -1 where there is none.
        targets_NC: labels in raw units; NaN = missing.
        targets: scale and kind, from the development molecules.
        layout: columns of `x_NF`.
        rows: development molecules with features.
        folds: the fold of each of `rows`.
        num_folds: of them.
        seed: of the fits.
        options: of the fits.
    """

    x_NF: Float32[np.ndarray, "known features"]
    place_N: Int64[np.ndarray, "molecules"]
    targets_NC: Array
    targets: tuple[Target, ...]
    layout: Layout
    rows: Int64[np.ndarray, "rows"]
    folds: Int64[np.ndarray, "rows"]
    num_folds: int
    seed: int
    options: FitOptions

    def known(self, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` that have features."""
        found: np.ndarray = rows[self.place_N[rows] >= 0]
        return found

    def features(self, rows: np.ndarray) -> Float32[np.ndarray, "rows features"]:
        """Of molecules that have them."""
        found: np.ndarray = self.x_NF[self.place_N[rows]]
        return found

    def fit(
        self, name: str, rows: np.ndarray, fold: int, columns: Sequence[int] | None = None
    ) -> tuple[ArrayModel, ...]:
        """One model per target, or for those of `columns`, on the labelled ones of `rows`."""
        models = []
        for column in range(len(self.targets)) if columns is None else columns:
            target = self.targets[column]
            labels_N = self.targets_NC[rows, column]
            known = rows[~np.isnan(labels_N)]
            labels_N = target.scaled(self.targets_NC[known, column])
            seed = derive_seed(self.seed, f"classical {name}", fold, column)
            classes = target.kind != "regression"
            x_NF, count = self.features(known), len(self.targets)
            models.append(fit_member(name, Training(x_NF, labels_N, self.layout, classes, count, seed, self.options)))
        return tuple(models)

    def predict(self, models: Sequence[ArrayModel], rows: np.ndarray) -> Array:
        """Predictions for `rows` in raw units."""
        x_NF = self.features(rows)
        columns = [target.raw(model.predict(x_NF)) for model, target in zip(models, self.targets, strict=True)]
        return np.stack(columns, axis=1)


@dataclass
class ClassicalFits:
    """What came of the classical members.

    Attributes:
        out_of_fold: per member predictions for all molecules, NaN where there is none.
        seconds: per member.
        models: per member one per target, fitted on all development molecules with features.
        folds: that were used.
        dropped: why members or folds were left out, in words.
    """

    out_of_fold: dict[str, Array] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    models: dict[str, tuple[ArrayModel, ...]] = field(default_factory=dict)
    folds: int = 0
    dropped: list[str] = field(default_factory=list)


def fit_classical(bench: Workbench, names: Sequence[str], budget_s: float, say: Callable[[str], None]) -> ClassicalFits:
    """Fit the members out of fold and on everything, within a budget.

    The first member is always fitted. Before every other one a pilot on few molecules says what it would cost; of a
    forest that does not fit into what is left fewer trees are grown, any other member is dropped.

    Args:
        bench: data of the partition.
        names: of the members, the most important first.
        budget_s: seconds; infinite = no limit.
        say: receives a line per member.
    """
    found, started = ClassicalFits(folds=bench.num_folds), time.monotonic()
    for name in names:
        if not suits(name, len(bench.rows), len(bench.targets)):
            found.dropped.append(f"{name}: not for {len(bench.rows)} molecules and {len(bench.targets)} targets")
            continue
        own, left = bench, budget_s - (time.monotonic() - started)
        if found.models and left <= 0:
            found.dropped.append(f"{name}: time limit")
            continue
        if np.isfinite(budget_s):
            cost = _pilot(bench, name)
            if not found.models:
                affordable = int(left / max(cost, 1e-3) - _FINAL_COST)
                found.folds = max(min(FEWEST_FOLDS, bench.num_folds), min(bench.num_folds, affordable))
                if found.folds < bench.num_folds:
                    found.dropped.append(f"{bench.num_folds - found.folds} of {bench.num_folds} folds: time limit")
            elif (whole := cost * (found.folds + _FINAL_COST)) > left:
                asked = trees_of(bench.options, len(bench.targets))
                trees = int(asked * left / whole)
                if not is_forest(name) or trees < FEWEST_TREES:
                    found.dropped.append(f"{name}: {whole:.0f} s, time limit")
                    continue
                found.dropped.append(f"{asked - trees} of {asked} trees of {name}: time limit")
                own = replace(bench, options=replace(bench.options, trees=trees))
        begun = time.monotonic()
        found.out_of_fold[name] = _out_of_fold(own, name, found.folds)
        found.models[name] = own.fit(name, bench.rows, bench.num_folds)
        found.seconds[name] = time.monotonic() - begun
        say(f"classical member {name}: {found.seconds[name]:.1f} s")
    return found


def _pilot(bench: Workbench, name: str) -> float:
    """Seconds that a fit on one fold's training molecules would take, from a few molecules and targets."""
    few = bench.rows[:: math.ceil(len(bench.rows) / _PILOT_ROWS)]
    columns = range(0, len(bench.targets), math.ceil(len(bench.targets) / _PILOT_TARGETS))
    started = time.monotonic()
    bench.fit(name, few, bench.num_folds, columns)
    seconds = (time.monotonic() - started) * len(bench.targets) / len(columns)
    return float(seconds * max(1.0, len(bench.rows) / len(few)) ** _GROWTH)


def _out_of_fold(bench: Workbench, name: str, folds: int) -> Array:
    found_NC = np.full(bench.targets_NC.shape, np.nan)
    for fold in range(folds):
        inside = bench.folds == fold
        models = bench.fit(name, bench.rows[~inside], fold)
        found_NC[bench.rows[inside]] = bench.predict(models, bench.rows[inside])
    return found_NC


def within_bytes(members: Sequence[Sequence[ArrayModel]], limit: int) -> tuple[list[tuple[ArrayModel, ...]], int]:
    """The members with fewer trees where their arrays would take more than `limit` bytes, and the trees left out.

    A forest is a mean over trees that are alike, so fewer of them change a prediction little; all forests lose the same
    share. Boosted trees correct each other and stay.
    """
    forests = [m for models in members for m in models if isinstance(m, Trees) and m.is_mean]
    others = sum(model.num_bytes for models in members for model in models) - sum(m.num_bytes for m in forests)
    share = (limit - others) / max(1, sum(m.num_bytes for m in forests))
    if share >= 1:
        return [tuple(models) for models in members], 0
    left_out = 0
    kept: list[tuple[ArrayModel, ...]] = []
    for models in members:
        own: list[ArrayModel] = []
        for model in models:
            if isinstance(model, Trees) and model.is_mean:
                trees = max(1, int(share * model.num_trees))
                left_out += model.num_trees - trees
                model = model.first(trees)
            own.append(model)
        kept.append(tuple(own))
    return kept, left_out
