"""The card of a shipped encoder, from what was measured: data, compute, held-out numbers, and what it can't do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnd.conformers.records import PERIODIC_TABLE
from dnd.models.students.property_heads import PropertyHeads
from dnd.pretraining.settings import AUXILIARY
from dnd.reproduction.base_settings import BaseConfig
from dnd.reproduction.head_scores import heads_table
from dnd.reproduction.pretraining_labels import MEASURED
from dnd.reproduction.statistics import statistics_of_store
from dnd.store.reader import Store

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
