"""Where one molecule's atoms look: attention beside distance in space, for a student that has attention.

Legend: L layers, H heads, N atoms.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from dnd.analysis.attention_distance import atom_attention
from dnd.analysis.figures import PALETTE, drawing, plain
from dnd.analysis.finding import Finding
from dnd.chemistry.parse import parse_smiles
from dnd.common.errors import InputError
from dnd.conformers.generate import generate_conformers
from dnd.finetuning.molecules import as_store, featurize_smiles
from dnd.store.schema import HydrogenSetting
from dnd.student.contract import Student
from dnd.student.tokengt import TokenGT

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
        seed: of the conformer.

    Raises:
        InputError: another student, no molecule, or no conformer.
    """
    if not isinstance(student, TokenGT):
        raise InputError("this model has no attention maps", found=student.config.name, expected="tokengt")
    outcome = parse_smiles(smiles)
    if not outcome.ok:
        raise InputError("there is no attention map", found=outcome.reason)
    made = generate_conformers(outcome, 1, seed)
    if isinstance(made, str):
        raise InputError("there is no conformer to measure distances in", found=made)
    (molecule,) = featurize_smiles([outcome.smiles], hydrogens)
    graph = as_store([molecule], hydrogens).read(np.arange(1)).graph
    count = len(graph.node_features_NF)
    positions_N3 = torch.from_numpy(made.positions_KA3[0, :count]).double()
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
    correlation = float(np.corrcoef(mean_NN[pairs], distance_NN[pairs])[0, 1]) if len(symbols) > 2 else float("nan")
    far = float((mean_NN * distance_NN).sum(axis=1).mean())
    sentence = (
        f"{smiles}: {len(symbols)} atoms, {weights_LHNN.shape[0]} layers of {weights_LHNN.shape[1]} heads; correlation "
        f"of mean attention and distance {correlation:+.2f}; attended distance {far:.2f} Å, uniform attention "
        f"{float(distance_NN.mean()):.2f} Å."
    )
    return Finding("attention", figure, columns, rows, sentence)
