"""Whether a property's locality says which distillation suits it, NODE or GRAPH (open question 3 of D&D).

A property is local as far as a sum over atoms explains it: each atom adds what its type is worth, whatever the rest of
the molecule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float

from dnd.chemistry.molecule import Molecule
from dnd.chemistry.parse import parse_smiles
from dnd.common.compute import numpy_generator
from dnd.common.errors import InputError
from dnd.report.figures import Finding, drawing, plain
from dnd.report.plots import PALETTE
from dnd.reproduction.labelled_table import LabelledTable
from dnd.reproduction.significance import by_pretraining
from dnd.reproduction.tables import LEVEL, Entry, gain_by_pretraining

_FOLDS = 5
_PENALTIES = tuple(10.0**power for power in range(-3, 4))
_FEWEST_LABELS = 4 * _FOLDS
_FEWEST_SETS = 4  # for a correlation over data sets
_MOST_IN_ALL_ORDERS = 8  # 40,320 orders


def additive_share(smiles: Sequence[str], targets_BC: Float[np.ndarray, "molecules targets"]) -> float:
    r"""Share of the labels' variance that an atom-additive model explains, out of fold, the mean over targets.

    .. math:: \hat y = b + \sum_{i} w_{\mathrm{type}(i)}, \qquad
              R^2 = 1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2

    A type is (element, degree, hydrogens, charge, aromatic, in a ring). The weights are ridge regression's. Labels of
    classes are taken as 0 and 1. A negative share counts as 0.

    Args:
        smiles: B molecules; unreadable ones are left out.
        targets_BC: labels; NaN = missing.

    Raises:
        InputError: no target has enough labels.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    counts_BK, valid = atom_type_counts(smiles)
    shares = []
    for target_B in targets_BC[valid].T:
        known_B = np.isfinite(target_B)
        if known_B.sum() < _FEWEST_LABELS or np.ptp(target_B[known_B]) == 0:
            continue
        folds = KFold(_FOLDS, shuffle=True, random_state=int(numpy_generator(0, "locality").integers(2**31)))
        predicted_B = cross_val_predict(RidgeCV(_PENALTIES), counts_BK[known_B], target_B[known_B], cv=folds)
        residual = float(np.square(target_B[known_B] - predicted_B).mean())
        shares.append(max(0.0, 1 - residual / float(target_B[known_B].var())))
    if not shares:
        raise InputError("no target has enough labels to fit a sum over atoms", expected=f"{_FEWEST_LABELS} or more")
    return float(np.mean(shares))


def learnable_share(table: LabelledTable) -> float:
    """`additive_share` of a table's training and validation molecules: test labels guide nothing."""
    rows = [row for row, part in enumerate(table.split) if part != "test"]
    return additive_share([table.smiles[row] for row in rows], table.targets_BC[rows])


def atom_type_counts(smiles: Sequence[str]) -> tuple[Float[np.ndarray, "valid types"], np.ndarray]:
    """How often each atom type occurs in every readable molecule, and the places of these."""
    outcomes = [parse_smiles(text) for text in smiles]
    valid = np.array([place for place, outcome in enumerate(outcomes) if isinstance(outcome, Molecule)], dtype=np.int64)
    types: dict[tuple[object, ...], int] = {}
    rows = []
    for outcome in outcomes:
        if isinstance(outcome, Molecule):
            own = [
                (
                    a.GetAtomicNum(),
                    a.GetDegree(),
                    a.GetTotalNumHs(),
                    a.GetFormalCharge(),
                    a.GetIsAromatic(),
                    a.IsInRing(),
                )
                for a in outcome.mol.GetAtoms()
            ]
            rows.append([types.setdefault(one, len(types)) for one in own])
    counts_BK = np.zeros((len(rows), len(types)))
    for row, columns in zip(counts_BK, rows, strict=True):
        np.add.at(row, columns, 1.0)
    return counts_BK, valid


Row = tuple[str, float, int, float, float, float]
COLUMNS = ("dataset", "additive_share", "upstream_seed", "gain_of_node", "node", "graph")
"""Of `locality.csv`, a line per data set and pretraining."""


@dataclass(frozen=True)
class Pattern:
    """Spearman's correlation of locality with the gain of NODE over GRAPH, over data sets.

    Attributes:
        gains: mean gain over pretrainings, by data set.
        shares: additive share, by data set.
        whole: the correlation.
        p_value: of `whole`, two-sided, as if the data sets were independent.
        left_out: the correlation when one data set is left out.
        by_seed: the correlation in each pretraining.
    """

    gains: Mapping[str, float]
    shares: Mapping[str, float]
    whole: float
    p_value: float
    left_out: tuple[float, ...]
    by_seed: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """A guideline is significant, with one sign whatever data set is left out, in each of several pretrainings."""
        signs = {np.sign(value) for value in (self.whole, *self.left_out, *self.by_seed)}
        if self.p_value >= LEVEL or len(signs) > 1:
            return "no clear pattern"
        direction = f"local properties favour {'NODE' if self.whole > 0 else 'GRAPH'}"
        return f"a guideline: {direction}" if len(self.by_seed) > 1 else f"{direction}, in the one pretraining there is"

    @property
    def sentence(self) -> str:
        """The pattern in words."""
        own = ", ".join(f"{value:+.2f}" for value in self.by_seed)
        return (
            f"NODE is better than GRAPH on {sum(gain > 0 for gain in self.gains.values())} of {len(self.gains)} data "
            f"sets. Spearman's correlation of its gain with the additive share is {self.whole:+.2f} "
            f"(p = {self.p_value:.2f} over {len(self.gains)} data sets, as if they were independent; "
            f"{min(self.left_out):+.2f} to {max(self.left_out):+.2f} when one is left out; {own} by pretraining): "
            f"{self.verdict}."
        )


def locality_rows(entries: Sequence[Entry], shares: Mapping[str, float]) -> list[Row]:
    """Gain of NODE over GRAPH and both scores, by data set and pretraining.

    Args:
        entries: entries of `dnd-node` and `dnd-graph`, a pooling of each.
        shares: additive share of the variance, by data set.
    """
    node = {entry.dataset: entry for entry in entries if entry.system == "dnd-node"}
    graph = {entry.dataset: entry for entry in entries if entry.system == "dnd-graph"}
    return [
        (name, share, seed, gain, by_pretraining(node[name].by_seed)[seed], by_pretraining(graph[name].by_seed)[seed])
        for name, share in shares.items()
        if name in node and name in graph
        for seed, gain in gain_by_pretraining(node[name], graph[name]).items()
    ]


def pattern_of(rows: Sequence[Row]) -> Pattern:
    """Whether the additive share says which of the two is better.

    Raises:
        InputError: fewer than four data sets.
    """
    from scipy.stats import spearmanr

    shares = {name: share for name, share, *_ in rows}
    names = list(shares)
    if len(names) < _FEWEST_SETS:
        raise InputError("too few data sets for a pattern", found=names, expected=f"{_FEWEST_SETS} or more")
    gains = {name: {seed: gain for own, _, seed, gain, *_ in rows if own == name} for name in names}
    mean = {name: float(np.mean(list(own.values()))) for name, own in gains.items()}

    def rho(some: Sequence[str], values: Mapping[str, float]) -> float:
        return float(spearmanr([shares[name] for name in some], [values[name] for name in some]).statistic)

    seeds = sorted(set.intersection(*(set(own) for own in gains.values())))
    return Pattern(
        mean,
        shares,
        rho(names, mean),
        _p_value(list(shares.values()), list(mean.values())),
        tuple(rho([one for one in names if one != name], mean) for name in names),
        tuple(rho(names, {name: gains[name][seed] for name in names}) for seed in seeds),
    )


def _p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided, of Spearman's correlation: over all orders where there are few, else by the t distribution."""
    from scipy.stats import rankdata, spearmanr

    if len(first) > _MOST_IN_ALL_ORDERS:
        return float(spearmanr(first, second).pvalue)
    centred, ranks = rankdata(first) - (len(first) + 1) / 2, rankdata(second)
    found = np.abs(np.array(list(permutations(ranks))) @ centred)
    return float((found > abs(ranks @ centred) - 1e-9).mean())


def draw_locality(entries: Sequence[Entry], shares: Mapping[str, float]) -> Finding:
    """Gain of NODE over GRAPH against locality, a point per data set, and whether there is a pattern.

    Args:
        entries: see `locality_rows`; of mean pooling alone are taken.
        shares: additive share of the variance, by data set.

    Raises:
        InputError: fewer than four data sets have both.
    """
    rows = locality_rows([entry for entry in entries if entry.pooling == "mean"], shares)
    pattern = pattern_of(rows)
    with drawing(width=5.0, height=3.6) as (figure, grid):
        axes = grid[0, 0]
        axes.axhline(0.0, color="grey", lw=0.6)
        gains = [100 * gain for gain in pattern.gains.values()]
        axes.scatter(list(pattern.shares.values()), gains, color=PALETTE[0], s=16)
        for name, gain in pattern.gains.items():
            axes.annotate(plain(name), (pattern.shares[name], 100 * gain), fontsize=7)
        axes.set(xlabel="variance explained by a sum over atoms", ylabel="gain of NODE over GRAPH, %")
    return Finding("locality", figure, COLUMNS, [list(row) for row in rows], pattern.sentence)
