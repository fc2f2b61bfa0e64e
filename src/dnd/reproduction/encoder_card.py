"""The card of a shipped encoder, and the scores of its heads: data, compute, held-out numbers, what it can't do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from dnd.conformers.records import PERIODIC_TABLE
from dnd.models.students.base import Student
from dnd.models.students.encoders import Property, PropertyHeads
from dnd.predictor.metrics import roc_auc
from dnd.pretraining.auxiliary import FAMILIES, QUANTUM_TARGETS
from dnd.pretraining.settings import AUXILIARY
from dnd.reproduction.benchmarks import BENCHMARKS, load_benchmark
from dnd.reproduction.data_statistics import statistics_of_store
from dnd.reproduction.pretraining_labels import MEASURED, BaseConfig
from dnd.store.featurize import valid_molecules
from dnd.store.reader import Store
from dnd.store.schema import HydrogenSetting

# How good the ready-made properties of an encoder are: on held-out molecules and on validation parts of data sets.

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
    of_store = [place for place, one in enumerate(heads.properties) if one.data_set not in measured]
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
    if (entry := BENCHMARKS.get(one.data_set)) is not None:
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
            sets.setdefault(one.data_set or one.name, []).append(one.scores["roc_auc"])
    if sets:
        yield from ("| classes of | scored | mean ROC-AUC |", "|---|---|---|")
        yield from (f"| {name} | {len(values)} | {np.mean(values):.3f} |" for name, values in sets.items())
        yield ""
    yield (
        "Calculated properties: molecules of the data above that were held out. Measured ones (`SET/TARGET`): the "
        "validation parts of their data sets, split by scaffold, of which no term has seen a molecule."
    )
    yield ""


# What the known files hold and under which licence, by the beginning of their name; see docs and data/README.md.
_SOURCES = {
    "qm9": ("QM9, DFT geometries (B3LYP/6-31G(2df,p))", "CC0 (original data set)"),
    "cascade_dft": ("CASCADE, DFT geometries (M06-2X/def2-TZVP)", "MIT"),
    "equireact_dft": ("EquiReact, DFT geometries of reactants and products", "not stated"),
    "conformer_benchmark": ("conformer benchmark, optimised geometries", "MIT"),
    "druglike_etkdg": (
        "drug-like SMILES of ChEMBL, ZINC, MOSES and MUV lists, ETKDGv3 + MMFF94s geometries",
        "MIT and not stated, by list",
    ),
    "measured.csv": ("measured labels, training parts of the data sets below", "see data/README.md"),
    "druglike": ("drug-like SMILES of ChEMBL, ZINC, MOSES and MUV lists", "MIT and not stated, by list"),
}


@dataclass(frozen=True)
class StoreFacts:
    """What one input gave.

    Attributes:
        name: file name.
        counts: counts of its store's manifest.
        conformers: where its conformers come from.
    """

    name: str
    counts: Mapping[str, Any]
    conformers: str

    @property
    def molecules(self) -> int:
        """Rows of the store."""
        return int(self.counts["molecules"])

    @property
    def left_out(self) -> int:
        """Records that gave no row."""
        return sum(self.counts["rejected"].values())


def encoder_card(
    name: str,
    description: Mapping[str, Any],
    facts: Sequence[StoreFacts],
    measured: Mapping[str, Any],
    store: Store,
    config: BaseConfig,
    *,
    heads: PropertyHeads | None = None,
    curve: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The card as Markdown.

    Args:
        name: that the encoder ships under.
        description: `config.json` of its student.
        facts: facts about each input.
        measured: wall seconds by stage, the machine, and the teacher's held-out loss by source.
        store: that everything was trained on.
        config: settings of the run.
        heads: ready-made properties, scored.
        curve: the evaluations of the training, in order.
    """
    student, metrics = description["settings"]["student"], description["metrics"]
    lines = [
        f"# {name}",
        "",
        f"A {student['name']} of width {student['width']} and {student['num_layers']} layers that reads a molecular "
        "graph and has what a 3D denoiser and further teachers know of it. It needs no conformer. Weights are kept in "
        "half precision and computed with in float32.",
        "",
        *_data(facts, config),
        *_teacher(measured),
        *_student(metrics, description["terms"]),
        *_curve(curve, description),
        *heads_table(heads.properties if heads is not None else ()),
        *_limits(store, chiral=config.denoise.teacher.chiral),
        "## Compute",
        "",
        f"- machine: {measured.get('machine', 'not recorded')}",
        *(f"- {stage}: {seconds / 60:.1f} min wall" for stage, seconds in measured["seconds"].items()),
    ]
    return "\n".join(lines) + "\n"


def _data(facts: Sequence[StoreFacts], config: BaseConfig) -> Iterator[str]:
    yield from ("## Data", "", "| file | what | licence | conformers | molecules | left out |")
    yield "|---|---|---|---|---|---|"
    for one in facts:
        what, licence = next(
            (entry for start, entry in _SOURCES.items() if one.name.startswith(start)), ("user's file", "not known")
        )
        yield (
            f"| {one.name} | {what} | {licence} | {one.conformers} | {one.molecules:,} | {one.left_out:,}"
            f"{_excluded(one)} |"
        )
    yield ""
    if config.measured:
        yield (
            f"`{MEASURED}`: the training parts of {', '.join(config.measured)}, a row per molecule and a column per "
            "target. Molecules of these lists are in no input that has labels: "
            f"{', '.join(Path(name).name for name in config.held_out) or 'none'}."
        )
        yield ""
    names = ", ".join(config.excluded_benchmarks()) or "none"
    yield (
        "Molecules of the validation and test parts of these data sets are left out, compared by the connectivity "
        f"block of the InChIKey: {names}. Molecules that are in several files are not merged. Hydrogens: "
        f"`{config.hydrogens}`."
    )
    yield ""


def _excluded(one: StoreFacts) -> str:
    count = sum(number for reason, number in one.counts["rejected"].items() if "--exclude" in reason)
    return f" ({count:,} as test molecules)" if count else ""


def _teacher(measured: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Teacher, held-out molecules", "", "| source | molecules | loss | trivial | floor | explained |")
    yield "|---|---|---|---|---|---|"
    for source, values in measured.get("teacher", {}).items():
        yield (
            f"| {source} | {values['molecules']:,.0f} | {values['held_out_loss']:.4f} | {values['trivial']:.4f} | "
            f"{values['floor']:.4f} | {100 * values['explained']:.1f} % |"
        )
    yield from (
        "",
        "Trivial: no noise is predicted. Floor: what rigid motion hides from any network. Explained: what is between.",
        "",
    )


def _student(metrics: Mapping[str, float], terms: Mapping[str, float]) -> Iterator[str]:
    yield from ("## Student, held-out molecules", "", "| target | weight | R² held out | R² training |")
    yield "|---|---|---|---|"
    for name, weight in terms.items():
        values = [metrics.get(f"{part}_{name}_r2") for part in ("valid", "train")]
        shown = ["–" if value is None else f"{value:.3f}" for value in values]
        kind = "auxiliary" if name in AUXILIARY else "3D teacher"
        yield f"| {name} ({kind}) | {weight:g} | {shown[0]} | {shown[1]} |"
    if "valid_lookup_r2" in metrics:
        yield f"| node, by a lookup of element, degree and ring | | {metrics['valid_lookup_r2']:.3f} | |"
    yield from ("", "R² of `distances` is McFadden's: 1 - cross-entropy / entropy of the bins.", "")


def _curve(curve: Sequence[Mapping[str, Any]], description: Mapping[str, Any]) -> Iterator[str]:
    """What was learned against molecules seen: 1 - R² of held-out molecules, term by term."""
    terms = [name for name in description["terms"] if any(f"valid_{name}_r2" in record for record in curve)]
    if len(curve) < 2 or not terms:
        return
    batch = description["settings"]["loop"]["batch_size"]
    yield from ("## Learning curve", "", f"| molecules seen | {' | '.join(terms)} |", f"|---|{'---|' * len(terms)}")
    for record in curve:
        left = [record.get(f"valid_{name}_r2") for name in terms]
        cells = ["–" if value is None else f"{1 - value:.3f}" for value in left]
        yield f"| {record['step'] * batch:,} | {' | '.join(cells)} |"
    yield from ("", "1 - R² of held-out molecules: the share of what there is to know that is not learned.", "")


def _limits(store: Store, *, chiral: bool) -> Iterator[str]:
    statistics = statistics_of_store(store)
    elements = ", ".join(PERIODIC_TABLE[number - 1] for number in sorted(statistics.elements) if number <= 118)
    low, high = np.percentile(statistics.atoms_B, [1, 99])
    yield from (
        "## What it is bad at",
        "",
        f"- elements it has not seen: it was trained on {elements}",
        f"- sizes it has not seen: 98 % of its molecules have {low:.0f} to {high:.0f} atoms in the graph, the largest "
        f"{int(statistics.atoms_B.max())}",
        *([] if chiral else ["- enantiomers: what the 3D teacher says of an atom is the same for both mirror images"]),
        "- several conformers: each molecule taught one geometry",
        "",
    )
