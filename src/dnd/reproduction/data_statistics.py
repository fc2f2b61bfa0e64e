"""Statistics of data sets (Table 4) and the overlap of a labelled set with pretraining molecules (Table 3).

Source: Cho et al., D&D, Tables 3 and 4. Atoms and bonds are those of the graph, so hydrogens count only where a store
makes them explicit; bonds are counted once. Elements are the 119 classes that OGB has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from dnd.chemistry.molecule import ATOM_FEATURE_SIZES, Molecule
from dnd.chemistry.parse import parse_smiles
from dnd.common.errors import InputError
from dnd.report.figures import Finding, drawing, plain
from dnd.report.plots import PALETTE
from dnd.store.reader import Store

_ELEMENTS = ATOM_FEATURE_SIZES[0]
_CHUNK = 4096


@dataclass(frozen=True)
class SetStatistics:
    """Sizes of the molecules of one set.

    Attributes:
        atoms_B: graph atoms of each molecule.
        bonds_B: bonds of each molecule, counted once.
        elements: atomic numbers that occur.
        unreadable: rows without a molecule.
    """

    atoms_B: Int[np.ndarray, "molecules"]
    bonds_B: Int[np.ndarray, "molecules"]
    elements: frozenset[int]
    unreadable: int = 0

    def row(self, name: str) -> list[object]:
        """A line of Table 4: molecules, mean atoms, mean bonds, elements, unreadable rows."""
        means = (float(self.atoms_B.mean()), float(self.bonds_B.mean()))
        return [name, len(self.atoms_B), *means, len(self.elements), self.unreadable]


def statistics_of_smiles(smiles: Iterable[str]) -> SetStatistics:
    """Statistics of a list of SMILES.

    Raises:
        InputError: none of them is a molecule.
    """
    outcomes = [parse_smiles(text) for text in smiles]
    mols = [outcome.mol for outcome in outcomes if isinstance(outcome, Molecule)]
    if not mols:
        raise InputError("there is no valid molecule", found=f"{len(outcomes)} rows")
    return SetStatistics(
        np.array([mol.GetNumAtoms() for mol in mols]),
        np.array([mol.GetNumBonds() for mol in mols]),
        frozenset(atom.GetAtomicNum() for mol in mols for atom in mol.GetAtoms()),
        len(outcomes) - len(mols),
    )


def statistics_of_store(store: Store) -> SetStatistics:
    """Statistics of a store."""
    elements: set[int] = set()
    for counts_BK in _element_counts(store):
        elements |= {int(place) + 1 for place in np.flatnonzero(counts_BK.any(axis=0))}
    return SetStatistics(store.atom_counts[:], store.bond_counts[:], frozenset(elements))


def draw_statistics(sets: Mapping[str, SetStatistics]) -> Finding:
    """Atoms per molecule of every set as boxes (quartiles, whiskers from the 5th to the 95th percentile)."""
    rows = [statistics.row(name) for name, statistics in sets.items()]
    with drawing(height=1.0 + 0.3 * len(sets)) as (figure, grid):
        axes = grid[0, 0]
        boxes = axes.boxplot(
            [statistics.atoms_B for statistics in sets.values()],
            orientation="horizontal", whis=(5, 95), showfliers=False, patch_artist=True,
            tick_labels=[plain(name) for name in sets], medianprops={"color": "black"},
        )  # fmt: skip
        for box in boxes["boxes"]:
            box.set_facecolor(PALETTE[5])
        axes.invert_yaxis()
        axes.set(xlabel="atoms per molecule", title="Size of the molecules")
    means = {name: float(statistics.atoms_B.mean()) for name, statistics in sets.items()}
    smallest, largest = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    sentence = (
        f"{len(sets)} set(s); molecules have {means[smallest]:.1f} atoms on average in {smallest} and "
        f"{means[largest]:.1f} in {largest}; unreadable rows: {sum(one.unreadable for one in sets.values())}."
    )
    columns = ("set", "molecules", "mean_atoms", "mean_bonds", "elements", "unreadable")
    return Finding("statistics", figure, columns, rows, sentence)


@dataclass(frozen=True)
class Overlap:
    """How much of a labelled set the pretraining molecules cover; shares from 0 to 1.

    Attributes:
        molecules: molecules of the labelled set.
        elements: share of its elements that occur in pretraining.
        composition: share of its molecules whose heavy-atom formula occurs there.
        exact: share of its molecules that occur there, canonical SMILES with stereo.
        constitution: the same without stereo, which does not depend on how stereo was assigned.
        known_rows: which molecules those of `constitution` are, by position among the valid ones.
    """

    molecules: int
    elements: float
    composition: float
    exact: float
    constitution: float
    known_rows: tuple[int, ...]


def overlap_with_store(smiles: Sequence[str], store: Store) -> Overlap:
    """Table 3 for one labelled set and one store.

    Raises:
        InputError: none of `smiles` is a molecule.
    """
    molecules = [outcome for text in smiles if isinstance(outcome := parse_smiles(text), Molecule)]
    if not molecules:
        raise InputError("there is no valid molecule", found=f"{len(smiles)} rows")
    counts_BK = np.stack([_heavy_counts([atom.GetAtomicNum() for atom in one.mol.GetAtoms()]) for one in molecules])
    formulas = {row.tobytes() for row in counts_BK}
    seen_K, seen_formulas, candidates = np.zeros(_ELEMENTS, bool), set(), []
    for chunk, store_BK in enumerate(_element_counts(store)):
        store_BK[:, 0] = 0  # hydrogens
        seen_K |= store_BK.any(axis=0)
        for place, row in enumerate(store_BK):
            if (key := row.tobytes()) in formulas:
                seen_formulas.add(key)
                candidates.append(chunk * _CHUNK + place)
    known = store.smiles(np.array(candidates, dtype=np.int64)) if candidates else []
    exact, constitutions = set(known), {_constitution(text) for text in known}
    in_constitution = [_constitution(molecule.smiles) in constitutions for molecule in molecules]
    own_K = counts_BK.any(axis=0)
    return Overlap(
        molecules=len(molecules),
        elements=float(seen_K[own_K].mean()) if own_K.any() else 0.0,
        composition=float(np.mean([row.tobytes() in seen_formulas for row in counts_BK])),
        exact=float(np.mean([molecule.smiles in exact for molecule in molecules])),
        constitution=float(np.mean(in_constitution)),
        known_rows=tuple(int(place) for place in np.flatnonzero(in_constitution)),
    )


def draw_overlap(overlaps: Mapping[str, Overlap], store_name: str) -> Finding:
    """Bars of the four shares per labelled set."""
    names = ("elements", "composition", "exact", "constitution")
    with drawing(width=1.8 + 1.1 * max(len(overlaps), 3)) as (figure, grid):
        axes = grid[0, 0]
        for number, name in enumerate(names):
            values = [100 * getattr(overlap, name) for overlap in overlaps.values()]
            places = np.arange(len(overlaps)) + 0.2 * (number - 1.5)
            axes.bar(places, values, width=0.18, color=PALETTE[number], label=name)
        axes.set_xticks(np.arange(len(overlaps)), [plain(name) for name in overlaps])
        axes.set(ylabel="covered by pretraining (%)", ylim=(0, 118), title=plain(f"Overlap with {store_name}"))
        axes.legend(ncols=4, loc="upper center")
    rows = [[name, one.molecules, *(100 * getattr(one, share) for share in names)] for name, one in overlaps.items()]
    parts = [
        f"{name}: {100 * one.constitution:.1f} % of {one.molecules} molecules, {100 * one.composition:.1f} % of the "
        f"heavy-atom formulas and {100 * one.elements:.1f} % of the elements"
        for name, one in overlaps.items()
    ]
    sentence = f"Also in {store_name} (structures only, no labels): {'; '.join(parts)}."
    columns = ("set", "molecules", *(f"{name}_percent" for name in names))
    return Finding("overlap", figure, columns, rows, sentence)


def _element_counts(store: Store) -> Iterator[Int[np.ndarray, "molecules elements"]]:
    """How often each class of elements occurs in each molecule, a chunk of molecules at a time."""
    for start in range(0, len(store), _CHUNK):
        graph = store.read(np.arange(start, min(start + _CHUNK, len(store)))).graph
        counts_BK = np.zeros((graph.num_molecules, _ELEMENTS), np.int64)
        np.add.at(counts_BK, (graph.batch_N.numpy(), graph.node_features_NF[:, 0].numpy()), 1)
        yield counts_BK


def _heavy_counts(atomic_numbers: Sequence[int]) -> Int[np.ndarray, "elements"]:
    places = [min(number, _ELEMENTS) - 1 if number > 0 else _ELEMENTS - 1 for number in atomic_numbers if number != 1]
    return np.bincount(places, minlength=_ELEMENTS).astype(np.int64)


def _constitution(smiles: str) -> str:
    from rdkit import Chem

    outcome = parse_smiles(smiles)
    if not isinstance(outcome, Molecule):
        return smiles
    return str(Chem.MolToSmiles(outcome.mol, isomericSmiles=False))
