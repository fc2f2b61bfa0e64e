"""How good the ready-made properties of an encoder are: on held-out molecules and on validation parts of data sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from dnd.models.students.base import Student
from dnd.models.students.property_heads import Property, PropertyHeads
from dnd.predictor.metrics import roc_auc
from dnd.pretraining.auxiliary import FAMILIES, QUANTUM_TARGETS
from dnd.pretraining.label_term import data_set_of
from dnd.reproduction.benchmarks import BENCHMARKS, load_benchmark
from dnd.store.featurize import valid_molecules
from dnd.store.reader import Store
from dnd.store.schema import HydrogenSetting

_AT_ONCE = 256
_FEWEST = 10  # molecules, and of either class, from which a score is worth printing
_QM9_UNITS = {
    "mu": "debye", "alpha": "bohr³", "homo": "hartree", "lumo": "hartree", "gap": "hartree", "r2": "bohr²",
    "zpve": "hartree", "cv": "cal/(mol K)", "u0_atom": "kcal/mol", "u298_atom": "kcal/mol", "h298_atom": "kcal/mol",
    "g298_atom": "kcal/mol", "g4mp2_atomization": "hartree",
}  # fmt: skip


@dataclass
class _Pairs:
    """True values and predictions of one property, as they come."""

    truth: list[np.ndarray] = field(default_factory=list)
    predicted: list[np.ndarray] = field(default_factory=list)


def scored_heads(
    student: Student,
    heads: PropertyHeads,
    store: Store,
    held_rows: np.ndarray,
    measured: Sequence[str],
    data_dir: Path | str | None,
    hydrogens: HydrogenSetting,
) -> PropertyHeads:
    """The same heads with units and scores: nothing that is scored was trained on.

    Calculated properties are scored on the held-out molecules of the store, measured ones on the validation parts of
    their data sets, of which no term has seen a molecule.

    Args:
        student: student of the encoder, in evaluation mode.
        heads: its properties.
        store: that it was trained on.
        held_rows: rows that were held out.
        measured: data sets whose labels were learned.
        data_dir: where these are looked for first.
        hydrogens: hydrogen setting of the student.
    """
    pairs = [_Pairs() for _ in heads.properties]
    of_store = [place for place, one in enumerate(heads.properties) if data_set_of(one.name) not in measured]
    for rows in _parts(held_rows if of_store else held_rows[:0]):
        predicted_BC = _predict(student, heads, store, rows)
        _add(pairs, of_store, _truth(heads, store, rows)[:, of_store], predicted_BC[:, of_store])
    for name in measured:
        data = load_benchmark(name, data_dir)
        valid = data.parts["valid"]
        molecules = valid_molecules([data.smiles[row] for row in valid], hydrogens)
        columns = {f"{name}/{target}": place for place, target in enumerate(data.names)}
        places = [place for place, one in enumerate(heads.properties) if one.name in columns]
        truth_BC = data.targets_BC[valid[molecules.places]][:, [columns[heads.properties[p].name] for p in places]]
        for rows in _parts(np.arange(len(molecules.store) if places else 0)):
            predicted_BC = _predict(student, heads, molecules.store, rows)
            _add(pairs, places, truth_BC[rows], predicted_BC[:, places])
    scored = PropertyHeads(
        student.width, [_scored(one, pair) for one, pair in zip(heads.properties, pairs, strict=True)]
    )
    scored.load_state_dict(heads.state_dict())
    return scored.eval()


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows in small batches."""
    for first in range(0, len(rows), _AT_ONCE):
        yield rows[first : first + _AT_ONCE]


@torch.no_grad()
def _predict(
    student: Student, heads: PropertyHeads, store: Store, rows: np.ndarray
) -> Float[np.ndarray, "molecules properties"]:
    graph = store.read(rows).graph
    found: np.ndarray = heads(student(graph), graph).double().numpy()
    return found


def _truth(heads: PropertyHeads, store: Store, rows: np.ndarray) -> Float[np.ndarray, "molecules properties"]:
    """What the store knows of the properties, NaN where it does not."""
    batch = store.read(rows)
    truth_BC = np.full((len(rows), len(heads.properties)), np.nan)
    for term in heads.networks:
        own = [place for place, one in enumerate(heads.properties) if one.term == term]
        names = [heads.properties[place].name for place in own]
        if term == "labels":
            known, values_BC = list(store.target_columns), batch.targets_BC.numpy()
        else:
            known, values_BC = _names_of(term, store), FAMILIES[term].read(store, batch)
        truth_BC[:, own] = values_BC[:, [known.index(name) for name in names]]
    return truth_BC


def _names_of(term: str, store: Store) -> list[str]:
    return list(QUANTUM_TARGETS) if term == "quantum" else list(store.manifest["descriptor_names"])


def _add(pairs: list[_Pairs], places: Sequence[int], truth_BC: np.ndarray, predicted_BC: np.ndarray) -> None:
    for column, place in enumerate(places):
        known_B = np.isfinite(truth_BC[:, column])
        pairs[place].truth.append(truth_BC[known_B, column].astype(np.float64))
        pairs[place].predicted.append(predicted_BC[known_B, column])


def _scored(one: Property, pair: _Pairs) -> Property:
    truth_B, predicted_B = (np.concatenate([np.empty(0), *values]) for values in (pair.truth, pair.predicted))
    unit = one.unit or _unit_of(one)
    if len(truth_B) < _FEWEST:
        return replace(one, unit=unit)
    scores = {"molecules": float(len(truth_B)), **dict(_scores(one.kind, truth_B, predicted_B))}
    return replace(one, unit=unit, scores=scores)


def _scores(kind: str, truth_B: np.ndarray, predicted_B: np.ndarray) -> Iterator[tuple[str, float]]:
    if kind == "class":
        positive = int(truth_B.sum())
        if min(positive, len(truth_B) - positive) >= _FEWEST:
            yield "roc_auc", roc_auc(truth_B, predicted_B)
        return
    yield "mae", float(np.abs(predicted_B - truth_B).mean())
    if truth_B.std() > 0:
        yield "r2", 1 - float(np.square(predicted_B - truth_B).mean() / truth_B.var())
        if predicted_B.std() > 0:
            yield "correlation", float(np.corrcoef(truth_B, predicted_B)[0, 1])


def _unit_of(one: Property) -> str:
    """Of a label: that of its data set, or of QM9's."""
    if one.term != "labels" or one.kind == "class":
        return ""
    if (entry := BENCHMARKS.get(data_set_of(one.name))) is not None:
        return entry.unit
    return _QM9_UNITS.get(one.name, "")


def heads_table(properties: Sequence[Property]) -> Iterator[str]:
    """The section of a card on ready-made properties: every value apart, the classes of a data set together."""
    if not properties:
        return
    yield from ("## Ready-made properties", "", "| property | unit | molecules | MAE | R² | correlation |")
    yield "|---|---|---|---|---|---|"
    for one in properties:
        if one.kind == "value" and one.term != "descriptors" and one.scores:
            cells = [f"{one.scores[name]:.3g}" if name in one.scores else "–" for name in ("mae", "r2", "correlation")]
            yield f"| {one.name} | {one.unit} | {one.scores['molecules']:,.0f} | {' | '.join(cells)} |"
    descriptors = [one.scores["r2"] for one in properties if one.term == "descriptors" and "r2" in one.scores]
    if descriptors:
        yield f"| {len(descriptors)} descriptors of RDKit, median | | | | {np.median(descriptors):.3f} | |"
    yield ""
    sets: dict[str, list[float]] = {}
    for one in properties:
        if one.kind == "class" and "roc_auc" in one.scores:
            sets.setdefault(data_set_of(one.name) or one.name, []).append(one.scores["roc_auc"])
    if sets:
        yield from ("| classes of | scored | mean ROC-AUC |", "|---|---|---|")
        yield from (f"| {name} | {len(values)} | {np.mean(values):.3f} |" for name, values in sets.items())
        yield ""
    yield (
        "Calculated properties: molecules of the data above that were held out. Measured ones (`SET/TARGET`): the "
        "validation parts of their data sets, split by scaffold, of which no term has seen a molecule."
    )
    yield ""
