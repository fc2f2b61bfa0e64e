"""Attention between atoms beside their distance in space: Figure 4 of the paper, and the map of one molecule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from dnd.chemistry.parse import parse_smiles, without_isotopes
from dnd.common.compute import numpy_generator
from dnd.common.errors import InputError
from dnd.common.log import counted
from dnd.conformers.generate import generate_conformers
from dnd.models.students.base import Student
from dnd.models.students.tokengt import AttentionMap, TokenGT
from dnd.report.figures import Finding, drawing, plain
from dnd.report.plots import LINES, PALETTE
from dnd.store.featurize import as_store, featurize_smiles
from dnd.store.reader import Store
from dnd.store.schema import HydrogenSetting

# Figure 4: does attention between atoms follow their distance in space?
#
# Source: Cho et al., D&D, Figure 4; the layout of the right panel follows the attention distances of TokenGT (Kim et
# al., 2022).


_SPECIAL = 2  # [graph] and [null] stand before the atoms
_FEWEST_ATOMS = 3  # fewer give no variance of distances
_HIGH = 0.3  # the paper counts heads above this |r|
_BATCH = 8


@dataclass(frozen=True)
class AttentionAnalysis:
    r"""Attention of one encoder against distance.

    Attributes:
        correlation_LH: mean over molecules of |Pearson r| between scores before the softmax, q·k/√d, and distances,
            over ordered pairs of different atoms.
        permuted_LH: the same with the atoms of the distance matrix permuted: the value that chance gives.
        distance_LH: :math:`\frac1N \sum_i \sum_j a_{ij} D_{ij}` in angstrom, mean over molecules; a = softmax
            weights among the atoms, rows renormalised, an atom's weight on itself included with D = 0.
        uniform: the same for uniform weights, angstrom.
        molecules: that were used.
        skipped: molecules with fewer than three atoms or without a conformer.
        constant: pairs of a molecule and a head whose scores do not vary and were left out.
    """

    correlation_LH: Float[np.ndarray, "layers heads"]
    permuted_LH: Float[np.ndarray, "layers heads"]
    distance_LH: Float[np.ndarray, "layers heads"]
    uniform: float
    molecules: int
    skipped: int
    constant: int


def analyse_attention(student: Student, store: Store, rows: np.ndarray, *, seed: int = 0) -> AttentionAnalysis:
    """Attention of `student` on the molecules `rows` of `store`.

    Args:
        student: a TokenGT.
        store: molecules with conformers.
        rows: positions in the store; hold them out of pretraining.
        seed: random seed of the permutations.

    Raises:
        InputError: another student, no conformers, or no molecule with three atoms.
    """
    if not isinstance(student, TokenGT):
        raise InputError("this encoder has no attention maps", found=student.config.name, expected="tokengt")
    if not store.has_conformers:
        raise InputError("the store has molecules without a conformer", next_step="Use dnd prepare --conformers etkdg")
    sums, uniform, used, constant = _Sums(), 0.0, 0, 0
    for start in range(0, len(rows), _BATCH):
        batch = store.read(rows[start : start + _BATCH])
        assert batch.conformers is not None
        with torch.no_grad():
            maps = student.eval().attention_maps(batch.graph)
        positions_N3 = batch.conformers.positions_A3[batch.conformers.graph_atoms_N].double()
        for number, (first, last) in enumerate(zip(*_bounds(batch.graph.atom_offsets), strict=True)):
            if last - first < _FEWEST_ATOMS:
                continue
            distance_NN = torch.cdist(positions_N3[first:last], positions_N3[first:last]).numpy()
            order = numpy_generator(seed, "permuted distances", int(batch.rows_B[number])).permutation(last - first)
            among = [atom_attention(layer[number], last - first) for layer in maps]
            scores, weights = (np.stack(values) for values in zip(*among, strict=True))
            correlation = _correlation(scores, distance_NN)
            sums.add("correlation", np.abs(correlation))
            sums.add("permuted", np.abs(_correlation(scores, distance_NN[order][:, order])))
            sums.add("distance", _mean_distance(weights, distance_NN))
            constant += int(np.isnan(correlation).sum())
            uniform += float(distance_NN.mean())
            used += 1
    if not used:
        raise InputError("there is no molecule with three atoms or more", found=f"{len(rows)} molecules")
    return AttentionAnalysis(
        sums.mean("correlation"), sums.mean("permuted"), sums.mean("distance"),
        uniform / used, used, len(rows) - used, constant,
    )  # fmt: skip


def atom_attention(
    layer: AttentionMap, count: int
) -> tuple[Float[np.ndarray, "heads atoms atoms"], Float[np.ndarray, "heads atoms atoms"]]:
    """Scores and weights of one molecule in one layer, between its `count` atoms only."""
    atoms = slice(_SPECIAL, _SPECIAL + count)
    return (
        layer.scores_Htt[:, atoms, atoms].double().numpy(),
        layer.weights_Htt[:, atoms, atoms].double().numpy(),
    )


def draw_attention(analyses: Mapping[str, AttentionAnalysis]) -> Finding:
    """Left: histogram of |r| over heads per encoder. Right: attention-weighted distance by layer, one dot per head."""
    with drawing(columns=2, width=4.6) as (figure, grid):
        left, right = grid[0]
        bins = np.linspace(0, max(0.5, *(one.correlation_LH.max() for one in analyses.values())), 26)
        for number, (name, one) in enumerate(analyses.items()):
            colour, style = PALETTE[number % len(PALETTE)], LINES[number % len(LINES)]
            values = one.correlation_LH.ravel()
            left.hist(values, bins, histtype="step", color=colour, linestyle=style, linewidth=1.6, label=plain(name))
            layers = np.repeat(np.arange(1, len(one.distance_LH) + 1), one.distance_LH.shape[1])
            offset = 0.12 * (number - (len(analyses) - 1) / 2)
            right.scatter(layers + offset, one.distance_LH.ravel(), s=12, color=colour, label=plain(name))
        chance = np.mean([one.permuted_LH.mean() for one in analyses.values()])
        left.axvline(chance, color="grey", linestyle=":", label="permuted atoms")
        left.axvline(_HIGH, color="grey", linewidth=0.8)
        left.set(xlabel="|r| of attention score and distance", ylabel="heads", title="Attention follows distance")
        right.axhline(next(iter(analyses.values())).uniform, color="grey", linestyle=":", label="uniform attention")
        right.axhline(1.5, color="grey", linewidth=0.8, label="C–C bond")
        right.set_xticks(range(1, max(len(one.distance_LH) for one in analyses.values()) + 1))
        right.set(xlabel="layer", ylabel="attended distance (Å)", title="How far each head looks")
        left.legend()
        right.legend()
    rows: list[Sequence[object]] = []
    for name, one in analyses.items():
        for layer, head in np.ndindex(*one.correlation_LH.shape):
            arrays = (one.correlation_LH, one.permuted_LH, one.distance_LH)
            rows.append((name, layer + 1, head + 1, *(float(array[layer, head]) for array in arrays)))
    columns = ("encoder", "layer", "head", "mean_abs_r", "permuted_mean_abs_r", "attended_distance_angstrom")
    sentence = " ".join(_describe(name, one) for name, one in analyses.items())
    return Finding("attention", figure, columns, rows, sentence)


def _describe(name: str, one: AttentionAnalysis) -> str:
    high, heads = int((one.correlation_LH > _HIGH).sum()), one.correlation_LH.size
    return (
        f"{name}: {high} of {heads} heads have |r| above {_HIGH} (largest {one.correlation_LH.max():.2f}, mean "
        f"{one.correlation_LH.mean():.2f}, by chance {one.permuted_LH.mean():.2f}); attended distance "
        f"{one.distance_LH.min():.2f} to {one.distance_LH.max():.2f} Å, uniform attention {one.uniform:.2f} Å; "
        f"{one.molecules} molecules, {one.skipped} too small, {one.constant} constant head(s) left out."
    )


def _correlation(
    scores_LHNN: Float[np.ndarray, "layers heads atoms atoms"], distance_NN: Float[np.ndarray, "atoms atoms"]
) -> Float[np.ndarray, "layers heads"]:
    """Pearson r over ordered pairs i ≠ j; NaN where the scores or the distances do not vary."""
    pairs = ~np.eye(len(distance_NN), dtype=bool)
    scores_LHP, distance_P = scores_LHNN[:, :, pairs], distance_NN[pairs]
    scores_LHP = scores_LHP - scores_LHP.mean(-1, keepdims=True)
    distance_P = distance_P - distance_P.mean()
    spread_LH = np.sqrt((scores_LHP**2).sum(-1) * (distance_P**2).sum())
    product_LH = scores_LHP @ distance_P
    correlation_LH: np.ndarray = np.full_like(product_LH, np.nan)
    np.divide(product_LH, spread_LH, out=correlation_LH, where=spread_LH > 1e-12)
    return correlation_LH


def _mean_distance(
    weights_LHNN: Float[np.ndarray, "layers heads atoms atoms"], distance_NN: Float[np.ndarray, "atoms atoms"]
) -> Float[np.ndarray, "layers heads"]:
    """Attention-weighted distance, mean over query atoms; rows renormalised to the atoms, self included."""
    among_atoms = weights_LHNN / weights_LHNN.sum(-1, keepdims=True)
    mean_LH: np.ndarray = (among_atoms * distance_NN).sum(-1).mean(-1)
    return mean_LH


def _bounds(offsets: torch.Tensor) -> tuple[list[int], list[int]]:
    return offsets[:-1].tolist(), offsets[1:].tolist()


class _Sums:
    """Means over molecules that leave NaN out."""

    def __init__(self) -> None:
        self._totals: dict[str, np.ndarray] = {}
        self._counts: dict[str, np.ndarray] = {}

    def add(self, name: str, values: np.ndarray) -> None:
        known = ~np.isnan(values)
        self._totals[name] = self._totals.get(name, np.zeros_like(values)) + np.where(known, values, 0.0)
        self._counts[name] = self._counts.get(name, np.zeros(values.shape, np.int64)) + known

    def mean(self, name: str) -> np.ndarray:
        mean: np.ndarray = self._totals[name] / np.maximum(self._counts[name], 1)
        return mean


# Where one molecule's atoms look: attention beside distance in space, for a student that has attention.


_LIMIT_LABELLED = 40  # atoms; more symbols on the axes would touch

_THIRDS = (("first layers", PALETTE[0]), ("middle layers", PALETTE[4]), ("last layers", PALETTE[1]))


def map_attention(student: Student, smiles: str, hydrogens: HydrogenSetting, *, seed: int = 0) -> Finding:
    """Attention between the atoms of one molecule, mean over layers and heads, beside their distances.

    The distances are those of one conformer (ETKDGv3, MMFF94s). A cell is how much the row's atom looks at the
    column's, as a share of what it gives to atoms.

    Args:
        student: a TokenGT.
        smiles: the molecule.
        hydrogens: as the student sees molecules.
        seed: random seed of the conformer.

    Raises:
        InputError: another student, no molecule, or no conformer.
    """
    if not isinstance(student, TokenGT):
        raise InputError("this model has no attention maps", found=student.config.name, expected="tokengt")
    outcome = without_isotopes(parse_smiles(smiles))
    if not outcome.ok:
        raise InputError("there is no attention map", found=outcome.reason)
    made = generate_conformers(outcome, 1, seed)
    if isinstance(made, str):
        raise InputError("there is no conformer to measure distances in", found=made)
    (molecule,) = featurize_smiles([outcome.smiles], hydrogens)
    graph = as_store([molecule], hydrogens).read(np.arange(1)).graph
    count = len(graph.node_features_NF)
    positions_N3 = torch.from_numpy(made.positions_JA3[0, :count]).double()
    distance_NN = torch.cdist(positions_N3, positions_N3).numpy()
    with torch.no_grad():
        maps = student.eval().attention_maps(graph)
    weights_LHNN = np.stack([atom_attention(layer[0], count)[1] for layer in maps])
    among_atoms = weights_LHNN / weights_LHNN.sum(-1, keepdims=True)
    symbols = [atom.GetSymbol() for atom in outcome.mol.GetAtoms()] + ["H"] * (count - outcome.mol.GetNumAtoms())
    return _drawn(outcome.smiles, symbols, among_atoms, distance_NN)


def _drawn(
    smiles: str,
    symbols: list[str],
    weights_LHNN: Float[np.ndarray, "layers heads atoms atoms"],
    distance_NN: Float[np.ndarray, "atoms atoms"],
) -> Finding:
    mean_NN = weights_LHNN.mean(axis=(0, 1))
    pairs = ~np.eye(len(symbols), dtype=bool)
    with drawing(columns=3, width=4.2, height=3.8) as (figure, grid):
        for axes, values_NN, title in ((grid[0, 0], mean_NN, "attention"), (grid[0, 1], distance_NN, "distance (Å)")):
            image = axes.imshow(values_NN, cmap="cividis")
            figure.colorbar(image, ax=axes, shrink=0.8)
            axes.set_title(title)
            if len(symbols) <= _LIMIT_LABELLED:
                axes.set_xticks(range(len(symbols)), symbols, fontsize=6)
                axes.set_yticks(range(len(symbols)), symbols, fontsize=6)
        for layer, values_HNN in enumerate(weights_LHNN):
            third = 3 * layer // len(weights_LHNN)
            heads_NN = values_HNN.mean(axis=0)
            label, colour = _THIRDS[third]
            known = {line.get_label() for line in grid[0, 2].collections}
            style = {"color": colour, "label": None if label in known else label}
            grid[0, 2].scatter(distance_NN[pairs], heads_NN[pairs], s=5, alpha=0.5, **style)
        grid[0, 2].axhline(1 / len(symbols), color="grey", linestyle=":", label="uniform")
        grid[0, 2].set(xlabel="distance (Å)", ylabel="attention, mean of heads", title="every pair of atoms")
        grid[0, 2].legend()
        figure.suptitle(plain(smiles), fontsize=9)
    rows = [
        (layer + 1, head + 1, one, two, symbols[one], symbols[two], float(distance_NN[one, two]), float(weight))
        for (layer, head, one, two), weight in np.ndenumerate(weights_LHNN)
    ]
    columns = ("layer", "head", "atom", "looks_at", "element", "looks_at_element", "distance_angstrom", "attention")
    far = float((mean_NN * distance_NN).sum(axis=1).mean())
    sentence = (
        f"{smiles}: {counted(len(symbols), 'atom')}, {weights_LHNN.shape[0]} layers of {weights_LHNN.shape[1]} heads; "
        f"{_correlation_words(mean_NN, distance_NN)}attended distance {far:.2f} Å, uniform attention "
        f"{float(distance_NN.mean()):.2f} Å."
    )
    return Finding("attention", figure, columns, rows, sentence)


def _correlation_words(mean_NN: Float[np.ndarray, "atoms atoms"], distance_NN: Float[np.ndarray, "atoms atoms"]) -> str:
    """Empty for so few atoms that their distances do not vary."""
    if len(mean_NN) < _FEWEST_ATOMS:
        return ""
    correlation = float(_correlation(mean_NN[None, None], distance_NN)[0, 0])
    return f"correlation of mean attention and distance {correlation:+.2f}; " if np.isfinite(correlation) else ""
