"""Whether a property's locality says which distillation suits it, NODE or GRAPH (open question 3 of D&D).

A property is local as far as a sum over atoms explains it: each atom adds what its type is worth, whatever the rest of
the molecule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dnd.chemistry.molecule import Molecule
from dnd.chemistry.parse import parse_smiles
from dnd.common.compute import numpy_generator
from dnd.common.errors import InputError
from dnd.report.figures import PALETTE, Finding, drawing, plain
from dnd.reproduction.statistics import by_pretraining
from dnd.reproduction.tables import Entry, gain_by_pretraining

_FOLDS = 5
_PENALTIES = tuple(10.0**power for power in range(-3, 4))
_FEWEST_LABELS = 4 * _FOLDS
_FEWEST_SETS = 4  # for a correlation over data sets


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


@dataclass(frozen=True)
class _Pattern:
    """Spearman's correlation of locality with the gain of NODE over GRAPH."""

    whole: float
    left_out: tuple[float, ...]
    by_seed: tuple[float, ...]

    @property
    def holds(self) -> bool:
        """Whether the sign is the same whatever data set is left out, and in every pretraining."""
        signs = {np.sign(value) for value in (self.whole, *self.left_out, *self.by_seed)}
        return len(signs) == 1 and signs != {0.0} and len(self.by_seed) > 1


def draw_locality(entries: Sequence[Entry], shares: Mapping[str, float]) -> Finding:
    """Gain of NODE over GRAPH against locality, a point per data set, and whether there is a pattern.

    Args:
        entries: entries of `dnd-node` and `dnd-graph` on at least four data sets.
        shares: additive share of the variance, by data set.

    Raises:
        InputError: fewer data sets have both.
    """
    node = {entry.dataset: entry for entry in entries if entry.system == "dnd-node" and entry.pooling == "mean"}
    graph = {entry.dataset: entry for entry in entries if entry.system == "dnd-graph" and entry.pooling == "mean"}
    names = [name for name in shares if name in node and name in graph]
    if len(names) < _FEWEST_SETS:
        raise InputError("too few data sets for a pattern", found=names, expected=f"{_FEWEST_SETS} or more")
    gains = {name: gain_by_pretraining(node[name], graph[name]) for name in names}
    mean = {name: float(np.mean(list(gains[name].values()))) for name in names}
    pattern = _pattern(names, gains, shares)
    with drawing(width=5.0, height=3.6) as (figure, grid):
        axes = grid[0, 0]
        axes.axhline(0.0, color="grey", lw=0.6)
        axes.scatter([shares[name] for name in names], [100 * mean[name] for name in names], color=PALETTE[0], s=16)
        for name in names:
            axes.annotate(plain(name), (shares[name], 100 * mean[name]), fontsize=7)
        axes.set(xlabel="variance explained by a sum over atoms", ylabel="gain of NODE over GRAPH, %")
    rows = [
        [
            name,
            shares[name],
            seed,
            gain,
            by_pretraining(node[name].by_seed)[seed],
            by_pretraining(graph[name].by_seed)[seed],
        ]
        for name in names
        for seed, gain in gains[name].items()
    ]
    columns = ("dataset", "additive_share", "upstream_seed", "gain_of_node", "node", "graph")
    return Finding("locality", figure, columns, rows, _sentence(names, mean, pattern))


def _pattern(names: Sequence[str], gains: Mapping[str, Mapping[int, float]], shares: Mapping[str, float]) -> _Pattern:
    from scipy.stats import spearmanr

    def rho(some: Sequence[str], values: Mapping[str, float]) -> float:
        return float(spearmanr([shares[name] for name in some], [values[name] for name in some]).statistic)

    mean = {name: float(np.mean(list(gains[name].values()))) for name in names}
    seeds = sorted(set.intersection(*(set(gains[name]) for name in names)))
    return _Pattern(
        rho(names, mean),
        tuple(rho([one for one in names if one != name], mean) for name in names),
        tuple(rho(names, {name: gains[name][seed] for name in names}) for seed in seeds),
    )


def _sentence(names: Sequence[str], mean: Mapping[str, float], pattern: _Pattern) -> str:
    direction = "local properties favour NODE" if pattern.whole > 0 else "local properties favour GRAPH"
    verdict = f"a guideline: {direction}" if pattern.holds else "no clear pattern"
    return (
        f"NODE is better than GRAPH on {sum(value > 0 for value in mean.values())} of {len(names)} data sets. "
        f"Spearman's correlation of its gain with the additive share is {pattern.whole:+.2f} "
        f"({min(pattern.left_out):+.2f} to {max(pattern.left_out):+.2f} when one data set is left out; "
        f"{', '.join(f'{value:+.2f}' for value in pattern.by_seed)} by pretraining): {verdict}. Data sets share "
        f"molecules and are no random sample, so there is no p-value."
    )
