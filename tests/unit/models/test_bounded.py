"""A bounded student has no molecule too large for its representation: chains, mixtures, salts, every element."""

from __future__ import annotations

import copy
import math

import torch

from dnd.conformers.records import PERIODIC_TABLE
from dnd.graphs.batch import GraphBatch
from dnd.models.students.base import Student, StudentConfig, pool
from dnd.models.students.encoders import build_student, half_precision
from dnd.store.featurize import as_store, featurize_smiles
from student_batches import batch_of, random_molecule

LENGTHS = (5, 20, 60, 200, 1000)
OTHERS = [
    "[Na+].[Cl-]",
    ".".join(["CCO"] * 30),
    "O=C(O)c1ccccc1.NCCO.[K+].[Br-]",
    "OCC" * 150,
    "FC(F)(F)" + "C(F)(F)" * 150 + "F",
]
ELEMENTS = [f"[{symbol}]" for symbol in PERIODIC_TABLE]


def chains() -> GraphBatch:
    """Alkanes up to 1,000 atoms, of the atoms and bonds of pentane: parsers stop at 512."""
    short = graphs(["CCCCC"])
    atoms = short.node_features_NF
    return batch_of(
        [
            (
                torch.cat([atoms[:1], atoms[2:3].expand(length - 2, -1), atoms[-1:]]),
                torch.stack([torch.arange(length - 1), torch.arange(1, length)], dim=1),
                short.edge_features_EF[:1].expand(length - 1, -1),
            )
            for length in LENGTHS
        ]
    )


@torch.enable_grad()
def trained(config: StudentConfig) -> Student:
    """A student whose weights and batch statistics have moved by a few steps, so that it is no fresh network."""
    torch.manual_seed(3)
    student = build_student(config).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    for step in range(12):
        graph = batch_of([random_molecule(6 + atoms, 31 * step + atoms) for atoms in range(12)])
        output = student(graph)
        wanted_B = graph.atoms_per_molecule_B.float() / 10
        loss = (pool(output, graph, "mean").mean(1) - wanted_B).square().mean() + output.atoms_ND.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return student.eval()


def graphs(smiles: list[str]) -> GraphBatch:
    outcomes = featurize_smiles(smiles, "teacher_all_student_heavy")
    assert all(outcome.graph is not None for outcome in outcomes), [one.reason for one in outcomes]
    store = as_store(outcomes, "teacher_all_student_heavy")
    return store.read(torch.arange(len(store)).numpy()).graph


def bound(norm: torch.nn.Module | None) -> float:
    """The largest entry that a layer norm can give: the whole of a vector's deviation in one place."""
    assert isinstance(norm, torch.nn.LayerNorm)
    return math.sqrt(len(norm.weight)) * float(norm.weight.abs().max()) + float(norm.bias.abs().max())


@torch.no_grad()
def test_no_entry_is_above_the_bound() -> None:
    student = trained(StudentConfig("gine", 32, 4, bounded=True))
    for graph in (chains(), graphs(OTHERS), graphs(ELEMENTS)):
        output = student(graph)
        assert output.virtual_BD is not None
        for values in (output.atoms_ND, output.virtual_BD, pool(output, graph, "mean")):
            assert bool(torch.isfinite(values).all())
            assert float(values.abs().max()) <= bound(student.final_norm) * (1 + 1e-5)


@torch.no_grad()
def test_chains_stay_in_the_range_of_short_ones_and_remain_apart() -> None:
    graph = chains()
    largest = {}
    for bounded in (False, True):
        output = trained(StudentConfig("gine", 32, 4, bounded=bounded))(graph)
        assert output.virtual_BD is not None
        largest[bounded] = output.virtual_BD.abs().amax(dim=1)
        if bounded:
            assert torch.pdist(output.virtual_BD).min() > 1e-3  # how long a chain is can still be read
    assert largest[False][-1] > 20 * largest[False][0]  # what the setting is for
    assert largest[True][-1] < 3 * largest[True][0]


@torch.no_grad()
def test_half_precision_changes_little_for_any_molecule() -> None:
    student = trained(StudentConfig("gine", 32, 4, bounded=True))
    rounded = copy.deepcopy(student)
    rounded.load_state_dict(half_precision(student.state_dict()))
    for graph in (chains(), graphs(OTHERS + ELEMENTS)):
        before, after = student(graph), rounded(graph)
        assert before.virtual_BD is not None
        assert after.virtual_BD is not None
        for exact, near in ((before.atoms_ND, after.atoms_ND), (before.virtual_BD, after.virtual_BD)):
            assert float((exact - near).abs().max()) < 2e-2 * float(exact.std())


def test_the_setting_is_off_unless_asked_for() -> None:
    """Encoders of before have no such norms, and load as they are."""
    assert StudentConfig("gine").bounded is False
    names = {name for name, _ in build_student(StudentConfig("gine", 16, 2)).named_parameters()}
    assert not any(name.startswith(("final_norm", "virtual_norm")) for name in names)
