"""How fast molecules become graphs and predictions, and what the 3D route that the student replaces would cost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import Chem, RDLogger

from dnd.bench.measure import SEED, Table, Variant, drug_like_smiles, measure, qm9_store, random_predictor
from dnd.bench.startup import added_memory
from dnd.chemistry.molecule import Molecule
from dnd.chemistry.parse import parse_smiles
from dnd.common.compute import set_threads
from dnd.conformers.generate import Generated, generate_conformers
from dnd.graphs.batch import ConformerBatch, MoleculeBatch
from dnd.graphs.fast.graphs import written_graphs
from dnd.models.students.base import preset
from dnd.models.students.encoders import DEFAULT_ENCODER
from dnd.models.teachers.base import TeacherConfig
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer
from dnd.predictor.ensemble import PREDICTION_TOKENS, run_over
from dnd.predictor.predictor import Predictor
from dnd.pretraining.denoise import DenoiseConfig, DenoisingObjective
from dnd.pretraining.distill_objective import DistillationObjective
from dnd.pretraining.settings import DistillConfig
from dnd.store.batches import plan_batches
from dnd.store.featurize import as_store, featurize_smiles
from dnd.training.settings import LoopConfig, Objective

# What share of a training step the data pipeline costs: planning, reading from the store, and packing a batch.
#
# The loop reads the next batch in a second thread while it trains on this one, so what is measured here is also hidden
# where there is a second core.

LOOP = LoopConfig(batch_size=64)
STEPS = 2  # of each repetition
_STEP = "training step"


def bench_pipeline(molecules: int, repetitions: int) -> Iterator[Table]:
    """One table per network: its training step, and the pipeline's share of it.

    Args:
        molecules: in the store.
        repetitions: number of repetitions of every variant.
    """
    set_threads()
    with tempfile.TemporaryDirectory() as name:
        store = qm9_store(Path(name) / "store", molecules)
        wide = TeacherConfig(width=128, num_layers=2)  # its outputs are cached: only its width matters
        denoising = DenoisingObjective(store, DenoiseConfig(teacher=TeacherConfig(width=128, num_layers=6), loop=LOOP))
        yield _pipeline("teacher 128x6, denoising", denoising, repetitions)
        teacher = DenoisingObjective(store, DenoiseConfig(teacher=wide, loop=LOOP)).teacher
        for student in ("tokengt-small", "gine-small"):
            config = DistillConfig(student=preset(student), loop=LOOP, cache="memory")
            distillation = DistillationObjective(store, teacher, config)
            yield _pipeline(f"{student}, distillation, cached teacher", distillation, repetitions)


def _pipeline(title: str, objective: Objective, repetitions: int) -> Table:
    plan = list(objective.plan_epoch(0))[:STEPS]
    batches = [objective.load_batch(rows, 0) for rows in plan]
    objective.train()
    variants = [
        Variant(_STEP, _steps(objective, batches), len(plan)),
        Variant("read and pack the batch", lambda: [objective.load_batch(rows, 0) for rows in plan], len(plan)),
        Variant("plan the epoch, per step", _planner(objective), len(objective.plan_epoch(0))),
    ]
    notes = (f"{np.mean([len(rows) for rows in plan]):.0f} molecules of QM9 per step",)
    return Table(title, "step", _STEP, measure(variants, repetitions), share=True, notes=notes)


def _steps(objective: Objective, batches: Sequence[MoleculeBatch]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-4)

    def work() -> None:
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            objective(batch, SEED).loss.backward()
            optimizer.step()

    return work


def _planner(objective: Objective) -> Callable[[], object]:
    epochs = iter(range(1, 1_000_000))
    return lambda: objective.plan_epoch(next(epochs))


STUDENTS = (DEFAULT_ENCODER, "gine-small", "gine", "tokengt-small", "tokengt-table5b")
TEACHER = TeacherConfig(width=256, num_layers=8)
_PARSE, _OGB, _ROUTE = "RDKit MolFromSmiles", "ogb smiles2graph", "ETKDG + MMFF94s + teacher 8x256"
_SLOWER = 25  # factor by which fewer molecules go the 3D route


def bench_throughput(molecules: int, repetitions: int) -> Iterator[Table]:
    """Graphs, predictions and their stages.

    Args:
        molecules: per repetition; a 25th of them, at least 4, goes the 3D route.
        repetitions: number of repetitions of every variant.
    """
    set_threads()
    texts, name = drug_like_smiles(molecules)
    smiles = [text for text in texts if parse_smiles(text).ok]
    yield from _graphs(smiles, name, repetitions)
    yield _predictions(smiles, name, repetitions)
    for student in (DEFAULT_ENCODER, "gine-small", "tokengt-small"):
        yield _stages(smiles, student, repetitions)


def _graphs(smiles: list[str], name: str, repetitions: int) -> Iterator[Table]:
    def each(function: Callable[[str], object]) -> Callable[[], object]:
        return lambda: [function(text) for text in smiles]

    variants = [
        (_PARSE, each(Chem.MolFromSmiles)),
        ("graph, atoms as written", lambda: written_graphs(smiles)),
        ("graph, canonical order", lambda: featurize_smiles(smiles, "heavy_both")),
    ]
    smiles2graph = _ogb()
    if smiles2graph is not None:
        variants.append((_OGB, each(smiles2graph)))
    lines = measure([Variant(label, run, len(smiles)) for label, run in variants], repetitions)
    notes = (f"{len(smiles)} molecules of {name}, {repetitions} repetitions",)
    yield Table("SMILES -> graph arrays", "molecule", _PARSE, lines, notes=notes)
    if smiles2graph is not None:
        yield Table("SMILES -> graph arrays", "molecule", _OGB, lines)


def _predictions(smiles: list[str], name: str, repetitions: int) -> Table:
    few = smiles[: max(4, len(smiles) // _SLOWER)]
    teacher = EquivariantTransformer(TEACHER).eval()
    variants = [
        Variant(_ROUTE, lambda: _teacher_forward(teacher, conformers_of(few)), len(few)),
        Variant("  of which ETKDG + MMFF94s", lambda: conformers_of(few), len(few)),
    ]
    for student in STUDENTS:
        predictor = Predictor(random_predictor(student), device="cpu")
        variants.append(Variant(student, lambda predictor=predictor: predictor.predict_values(smiles), len(smiles)))  # type: ignore[misc]
    lines = measure(variants, repetitions)
    table = Table(
        "SMILES -> prediction", "molecule", _ROUTE, lines,
        notes=(f"{len(smiles)} molecules of {name}, {len(few)} of them on the 3D route; {repetitions} repetitions",),
    )  # fmt: skip
    room = "dnd.bench.throughput:"
    peaks = {
        student: added_memory(f"{room}prediction_work", student=student, molecules=len(smiles)) for student in STUDENTS
    }
    return table.with_peaks({**peaks, _ROUTE: added_memory(f"{room}route_work", molecules=len(few))})


def _stages(smiles: list[str], student: str, repetitions: int) -> Table:
    parts = random_predictor(student)
    predictor, network = Predictor(parts, device="cpu"), parts.members[0].network
    featurized = featurize_smiles(smiles, "heavy_both")
    store = as_store(featurized, "heavy_both")
    rows, whole = np.arange(len(store)), f"{student}, whole"
    sizes = store.atom_counts[rows] + 2 * store.bond_counts[rows] + 2
    plan = plan_batches(sizes, max_tokens=PREDICTION_TOKENS["cpu"], seed=0, epoch=0)
    batches = [store.read(part).graph for part in plan]

    def store_and_batches() -> None:
        made = as_store(featurized, "heavy_both")
        for part in plan:
            made.read(part)

    @torch.no_grad()
    def forward() -> None:
        for graph in batches:
            network(graph)

    variants = [
        Variant(whole, lambda: predictor.predict_values(smiles), len(smiles)),
        Variant("parse", lambda: [Chem.MolFromSmiles(text) for text in smiles], len(smiles)),
        Variant("graphs", lambda: featurize_smiles(smiles, "heavy_both"), len(smiles)),
        Variant("store and batches", store_and_batches, len(smiles)),
        Variant("forward", forward, len(smiles)),
    ]
    notes = ("graphs: in canonical order, parse included",)
    run_over(network, network.student, store, rows[:8])
    return Table(f"stages of {student}", "molecule", whole, measure(variants, repetitions), share=True, notes=notes)


def conformers_of(smiles: list[str]) -> ConformerBatch:
    """One generated conformer with all hydrogens of each molecule for which there is one, packed."""
    numbers, positions = [], []
    for text in smiles:
        molecule = parse_smiles(text)
        generated = generate_conformers(molecule, 1, 0) if isinstance(molecule, Molecule) else ""
        if isinstance(generated, Generated) and isinstance(molecule, Molecule):
            numbers.append([atom.GetAtomicNum() for atom in Chem.AddHs(molecule.mol).GetAtoms()])
            positions.append(generated.positions_JA3[0])
    offsets = np.cumsum([0, *map(len, numbers)])
    return ConformerBatch(
        torch.tensor([number for molecule in numbers for number in molecule]),
        torch.from_numpy(np.concatenate(positions)),
        torch.from_numpy(offsets),
        torch.arange(int(offsets[-1])),
    )


def prediction_work(student: str, molecules: int) -> Callable[[], None]:
    """For `added_memory`: predict molecules with a student that has predicted one before."""
    set_threads()
    predictor, smiles = Predictor(random_predictor(student), device="cpu"), drug_like_smiles(molecules)[0]
    predictor.predict_values(["C"])

    def work() -> None:
        predictor.predict_values(smiles)

    return work


def route_work(molecules: int) -> Callable[[], None]:
    """For `added_memory`: conformers and the teacher on them."""
    set_threads()
    teacher, smiles = EquivariantTransformer(TEACHER).eval(), drug_like_smiles(molecules)[0]
    _teacher_forward(teacher, conformers_of(["C"]))

    def work() -> None:
        _teacher_forward(teacher, conformers_of(smiles))

    return work


@torch.no_grad()
def _teacher_forward(teacher: EquivariantTransformer, conformers: ConformerBatch) -> None:
    teacher(conformers)


def _ogb() -> Callable[[str], Any] | None:
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    try:
        function: Callable[[str], Any] = import_module("ogb.utils").smiles2graph
    except ImportError:
        return None
    return function
