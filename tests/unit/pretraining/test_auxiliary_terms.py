"""More than one teacher: masked losses, scales from training rows alone, terms that leave no trace, exact resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distillation_toys import STUDENT, toy_config, toy_row, toy_store, toy_teacher, toy_teacher_folder
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import read_json, sha256_file
from dnd.graphs.batch import atom_pairs
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import build_student, load_encoder
from dnd.pretraining.auxiliary import (
    BIN_EDGES,
    QUANTUM_TARGETS,
    AuxiliaryTerm,
    PairDistances,
    principal_radii,
)
from dnd.pretraining.distill import distill
from dnd.pretraining.distill_objective import DistillationObjective
from dnd.pretraining.heads import BondHead, Standardiser, bonds_once, masked_squares
from dnd.pretraining.settings import AUXILIARY, DistillConfig, TermWeights
from dnd.store.reader import Store, union
from dnd.store.schema import FINGERPRINT_PLACES, QUANTUM_FIELDS, StoreRow

EVERY = TermWeights(**dict.fromkeys(sorted(AUXILIARY), 0.5))


def rich_store(molecules: int = 60, spoil: int | None = None) -> Store:
    """The toy store with auxiliary columns that follow from the graph; molecule `spoil` has absurd ones."""
    rows = []
    for index in range(molecules):
        row = toy_row(index, "heavy_both", 1)
        elements = row.graph.node_features_NF[:, 0].astype(np.float16)
        factor = 1000.0 if index == spoil else 1.0
        values = {
            "descriptors": np.array([elements.sum(), 3.0, len(elements)], np.float16) * np.float16(factor),
            "fingerprints": np.sort(elements.astype(np.uint16) * 7),
            "avalon": np.sort(elements.astype(np.uint16) * 11),
            "charges": (elements - 6) * np.float16(0.1 * factor),
            "surface": np.where(elements == 5, np.nan, elements).astype(np.float16),
            **quantum_values_of(row, elements.astype(np.float32), failed=index % 4 == 1),
        }
        rows.append(replace(row, auxiliary=values))
    return Store.from_rows(rows, target_columns=("energy", "rare"))


def quantum_values_of(row: StoreRow, elements: np.ndarray, *, failed: bool) -> dict[str, np.ndarray]:
    """Quantum columns that follow from the graph; NaN where the calculation is said to have failed."""
    first, second = row.graph.bonds_U2.T
    values = {
        "quantum": np.outer(np.arange(1, 10), [elements.sum()]).ravel(),
        "quantum_atoms": np.stack([elements - 6, -50 * elements], axis=1),
        "quantum_bonds": (elements[first] * elements[second] / 36).astype(np.float32),
    }
    return {name: value * np.nan if failed else value for name, value in values.items()}


def objective_of(terms: TermWeights, store: Store | None = None, **changes: object) -> DistillationObjective:
    config = toy_config(level="custom", terms=terms, **changes)
    return DistillationObjective(store or rich_store(), toy_teacher() if config.needs_teacher else None, config)


def test_masked_squares_ignore_what_is_missing() -> None:
    nan = float("nan")
    target = torch.tensor([[1.0, nan], [nan, nan], [2.0, -1.0]])
    predicted = torch.tensor([[0.0, 50.0], [9.0, 9.0], [2.0, 1.0]], requires_grad=True)
    found = masked_squares(predicted, target)
    assert found.loss.item() == pytest.approx((1 + 0 + 4) / 3)
    assert found.constant.item() == pytest.approx((1 + 4 + 1) / 3)
    assert found.known == 3
    found.loss.backward()
    assert predicted.grad is not None
    assert torch.equal(predicted.grad != 0, torch.tensor([[True, False], [False, False], [False, True]]))
    empty = masked_squares(predicted, torch.full((3, 2), nan))
    assert (empty.loss.item(), empty.known) == (0.0, 0)


def test_a_scale_drops_constants_clips_outliers_and_keeps_missing_values() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, (4000, 4)).astype(np.float32)
    values[:, 1] = 7.0
    values[::2, 2] = np.nan
    values[:, 3] = np.nan
    values[0, 0] = 1e6
    scale = Standardiser(values, "x")
    assert scale.kept_S.tolist() == [0, 2]
    assert scale.deviation_S.tolist() == pytest.approx([2.0, 2.0], rel=0.1)
    standard = scale(torch.from_numpy(values))
    assert standard[0, 0] < 5
    assert torch.equal(standard[:, 1].isnan(), torch.from_numpy(np.isnan(values[:, 2])))
    with pytest.raises(InputError, match="nothing to learn"):
        Standardiser(values[:, [1, 3]], "x")


def test_a_column_of_tiny_values_varies_and_rounding_does_not() -> None:
    """Concentrations in mol/l were taken for constants."""
    tiny = np.random.default_rng(0).uniform(1e-9, 5e-8, (500, 2)).astype(np.float32)
    tiny[:, 1] = 3e-8
    scale = Standardiser(tiny, "x")
    assert scale.kept_S.tolist() == [0]
    assert scale(torch.from_numpy(tiny)).std().item() == pytest.approx(1.0, rel=0.01)


def test_one_scale_for_all_fingerprint_places_makes_the_mean_cost_one() -> None:
    values = np.random.default_rng(1).poisson([0.01, 0.5, 4.0], (3000, 3)).astype(np.float32)
    scale = Standardiser(values, "x", pooled=True)
    assert len(set(scale.deviation_S.tolist())) == 1
    constant = masked_squares(torch.zeros(3000, 3), scale(torch.from_numpy(values))).constant
    assert constant.item() == pytest.approx(1.0, rel=1e-4)


def test_scales_come_from_training_rows_only() -> None:
    plain = objective_of(EVERY)
    spoiled = objective_of(EVERY, rich_store(spoil=int(plain.holdout_rows[0])))
    other = objective_of(EVERY, rich_store(spoil=int(plain.train_rows.sample()[0])))
    for name, buffer in plain.auxiliary.named_buffers():
        assert torch.equal(buffer, dict(spoiled.auxiliary.named_buffers())[name]), name
    assert not torch.equal(plain.auxiliary["charges"].scale.low_S, other.auxiliary["charges"].scale.low_S)


def test_a_term_that_is_off_leaves_no_parameter_and_the_same_student() -> None:
    alone, with_all = objective_of(TermWeights(node=1.0)), objective_of(replace(EVERY, node=1.0))
    assert not list(alone.auxiliary.parameters())
    for name in AUXILIARY:
        one = objective_of(TermWeights(node=1.0, **{name: 1.0}))
        assert {key.split(".")[0] for key, _ in one.auxiliary.named_parameters()} == {name}
    for name, tensor in alone.student.state_dict().items():
        assert torch.equal(tensor, with_all.student.state_dict()[name]), name


def test_all_terms_learn_and_none_needs_the_teacher_alone() -> None:
    objective = objective_of(EVERY)
    assert objective._frozen == ()
    step = objective(objective.load_batch(objective.train_rows.sample()[:8], 0), 0)
    step.loss.backward()
    assert step.parts.keys() == AUXILIARY
    silent = [name for name, parameter in objective.named_parameters() if parameter.grad is None]
    assert not [name for name in silent if name.startswith("auxiliary")]
    metrics = objective.eval().evaluate()
    assert all(np.isfinite(metrics[f"valid_{name}_r2"]) for name in AUXILIARY)
    assert metrics["valid_loss"] == pytest.approx(0.5 * sum(metrics[f"valid_{name}_loss"] for name in AUXILIARY))


def test_fingerprint_counts_come_back_from_the_store() -> None:
    store = rich_store()
    term = AuxiliaryTerm("fingerprints", build_student(STUDENT), store, np.arange(40))
    batch = store.read(np.array([5, 2]))
    values = term.read(store, batch).numpy()
    assert values.shape == (2, FINGERPRINT_PLACES)
    elements = batch.graph.node_features_NF[: int(batch.graph.atom_offsets[1]), 0].numpy()
    assert np.expm1(values[0, 5 * 7]) == pytest.approx((elements == 5).sum())
    assert np.expm1(values[0]).sum() == pytest.approx(len(elements), rel=1e-5)


def test_principal_radii_ignore_place_and_direction_and_are_zero_across_a_rod() -> None:
    store = rich_store()
    conformers = store.read(np.arange(9)).conformers
    assert conformers is not None
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    moved = replace(conformers, positions_A3=conformers.positions_A3 @ torch.from_numpy(turn).float() + 5.0)
    radii = principal_radii(conformers)
    assert np.allclose(radii, principal_radii(moved), atol=1e-3)
    assert np.all(np.diff(radii, axis=1) <= 0)
    pair = replace(
        conformers,
        atomic_numbers_A=torch.tensor([6, 6]),
        positions_A3=torch.tensor([[0.0, 0, 0], [2.0, 0, 0]]),
        atom_offsets=torch.tensor([0, 2]),
        graph_atoms_N=torch.tensor([0, 1]),
    )
    assert principal_radii(pair)[0] == pytest.approx([1.0, 0.0, 0.0])


def test_pair_distances_are_symmetric_and_cost_the_entropy_before_learning() -> None:
    store = rich_store()
    term = PairDistances(build_student(STUDENT), store, np.arange(50))
    assert atom_pairs(torch.tensor([0, 3, 4, 6])).tolist() == [[0, 0, 1, 4], [1, 2, 2, 5]]
    batch = store.read(np.arange(10))
    pairs = term.read(store, batch)
    assert batch.conformers is not None
    first, second, bins = pairs[:, 0].tolist()
    apart = (batch.conformers.positions_A3[first] - batch.conformers.positions_A3[second]).norm().item()
    assert [0.0, *BIN_EDGES][bins] <= apart < BIN_EDGES[bins]
    assert 0 <= int(pairs[2].min()) <= int(pairs[2].max()) <= len(BIN_EDGES)
    student = build_student(STUDENT).eval()
    found = term(student(batch.graph), batch, pairs)
    assert found.known == pairs.shape[1]
    assert 0 < found.constant.item() < np.log(len(BIN_EDGES) + 1)


def test_bonds_have_their_values_once_and_the_same_from_either_end() -> None:
    store, student = rich_store(), build_student(STUDENT).eval()
    term = AuxiliaryTerm("quantum_bonds", student, store, np.arange(40))
    batch = store.read(np.array([6, 2, 9]))
    values = term.read(store, batch)
    first, second = bonds_once(batch.graph)
    assert values.shape == (len(first), 1)
    elements = batch.graph.node_features_NF[:, 0].float()
    known = values[:, 0].isfinite()
    assert torch.allclose(values[known, 0], (elements[first] * elements[second] / 36)[known], atol=2e-3)
    assert not known.all()  # molecule 9 failed
    head, output = BondHead(student, 1), student(batch.graph)
    swapped = batch.graph.edge_index_2E.reshape(2, -1, 2).flip(2).reshape(2, -1)
    turned = replace(batch.graph, edge_index_2E=swapped)
    assert torch.allclose(head(output, batch.graph), head(output, turned), atol=1e-6)
    loss = term(output, batch, values)
    assert int(loss.known) == int(known.sum())


def test_quantum_terms_learn_from_what_is_known() -> None:
    objective = objective_of(TermWeights(**dict.fromkeys(QUANTUM_FIELDS, 1.0)))
    batch = objective.load_batch(objective.train_rows.sample(), 0)
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        loss = objective(batch, step)
        optimizer.zero_grad()
        loss.loss.backward()
        optimizer.step()
        losses.append({name: value.item() for name, value in loss.parts.items()})
    for name in QUANTUM_FIELDS:
        assert losses[-1][name] < 0.5 * losses[0][name], name
    record = objective.auxiliary_record()
    assert [len(record[name]) for name in QUANTUM_FIELDS] == [9, 2, 1]
    assert [entry["name"] for entry in record["quantum"]][:2] == [
        "solvation_water, kcal/mol", "octanol_minus_water, kcal/mol",
    ]  # fmt: skip


def test_solvation_is_taught_as_differences_and_energy_per_atom() -> None:
    store = rich_store()
    batch = store.read(np.array([2, 8]))
    read = AuxiliaryTerm("quantum", build_student(STUDENT), store, np.arange(40)).read(store, batch).numpy()
    stored = store.read_auxiliary("quantum", np.array([2, 8]))[0].reshape(2, -1)
    atoms = np.diff(batch.graph.atom_offsets.numpy())
    assert read.shape == stored.shape == (2, len(QUANTUM_TARGETS))
    assert read[:, 0] == pytest.approx(stored[:, 0])
    assert read[:, 1] == pytest.approx(stored[:, 1] - stored[:, 0])
    assert read[:, 2] == pytest.approx(stored[:, 2] - stored[:, 1])
    assert read[:, 3:8] == pytest.approx(stored[:, 3:8])
    assert read[:, 8] == pytest.approx(stored[:, 8] / atoms)


def test_a_union_has_the_quantum_values_that_one_store_has() -> None:
    with_values, without = rich_store(8), toy_store(5)
    both = union([without, with_values])
    assert both.auxiliary == with_values.auxiliary
    rows = np.array([12, 1, 6])
    batch = both.read(rows)
    for name in QUANTUM_FIELDS:
        term = AuxiliaryTerm(name, build_student(STUDENT), both, np.arange(len(both)))
        values = term.read(both, batch)
        expected = term.read(with_values, with_values.read(rows[[0, 2]] - 5))
        items = {
            "molecules": 1,
            "atoms": int(both.atom_counts[rows[:1]][0]),
            "bonds": int(both.bond_counts[rows[:1]][0]),
        }
        alien = {
            "molecules": 1,
            "atoms": int(both.atom_counts[rows[1:2]][0]),
            "bonds": int(both.bond_counts[rows[1:2]][0]),
        }
        first, second = items[term.family.items], alien[term.family.items]
        assert values[first : first + second].isnan().all()
        kept = torch.cat([values[:first], values[first + second :]])
        assert torch.equal(kept.nan_to_num(-1), expected.nan_to_num(-1))


@pytest.mark.parametrize("node", [1.0, 0.0])
def test_an_interrupted_run_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: float
) -> None:
    config = toy_config(level="custom", terms=replace(EVERY, node=node))
    teacher = toy_teacher_folder(tmp_path / "teacher") if node else None
    distill(rich_store(), teacher, tmp_path / "whole", config)
    forward, calls = DistillationObjective.forward, []

    def fail_at_eight(self: DistillationObjective, batch: object, seed: int) -> object:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return forward(self, batch, seed)  # type: ignore[arg-type]

    monkeypatch.setattr(DistillationObjective, "forward", fail_at_eight)
    with pytest.raises(KeyboardInterrupt):
        distill(rich_store(), teacher, tmp_path / "torn", config)
    monkeypatch.undo()
    distill(rich_store(), teacher, tmp_path / "torn", config, resume=True)
    whole, torn = (sha256_file(tmp_path / name / "model.safetensors") for name in ("whole", "torn"))
    assert whole == torn
    record = read_json(tmp_path / "whole" / "auxiliary.json")
    assert record.keys() == AUXILIARY
    assert [entry["name"] for entry in record["labels"]] == ["energy"]  # the other column is the same everywhere
    student, _ = load_encoder(tmp_path / "whole")
    assert not any("auxiliary" in name for name in student.state_dict())


def test_what_is_missing_is_said_before_training() -> None:
    with pytest.raises(InputError, match="--auxiliary descriptors"):
        objective_of(TermWeights(descriptors=1.0), toy_store())
    with pytest.raises(InputError, match="--quantum gfn2"):
        objective_of(TermWeights(quantum_bonds=1.0), toy_store())
    with pytest.raises(ConfigError, match="no term to learn from"):
        DistillConfig(level="custom")
    with pytest.raises(ConfigError, match="needs a teacher"):
        DistillationObjective(toy_store(), None, toy_config(student=StudentConfig("gine", 12, 2)))
