"""Stores of several kinds in one training: a row whose source lacks a term simply does not count in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distillation_toys import STUDENT, toy_config, toy_row, toy_teacher, toy_teacher_folder
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import sha256_file
from dnd.models.students.encoders import build_student, load_encoder, load_heads
from dnd.pretraining.distill import distill
from dnd.pretraining.distill_objective import DistillationObjective
from dnd.pretraining.encoder_folder import report
from dnd.pretraining.heads import LabelTerm, is_class, known_labels
from dnd.pretraining.settings import DistillConfig, TermWeights
from dnd.store.batches import TrainingRows
from dnd.store.reader import Store, union
from dnd.store.schema import StoreRow

TERMS = TermWeights(
    node=1.0, graph=1.0, local_atoms=0.5, global_tokens=0.5, distances=0.5, radii=0.5, surface=0.5,
    descriptors=0.5, avalon=0.5, labels=0.5, quantum=0.5,
)  # fmt: skip
SOLID, FLAT = 40, 30


def solid_row(index: int) -> StoreRow:
    row = toy_row(index, "heavy_both", 1)
    elements = row.graph.node_features_NF[:, 0].astype(np.float16)
    quantum = {
        "quantum": np.outer(np.arange(1, 10), [elements.sum()]).ravel(),
        "quantum_atoms": np.stack([elements, elements], axis=1),
        "quantum_bonds": np.ones(len(row.graph.bonds_U2)),
    }
    return replace(row, auxiliary={"surface": elements, "avalon": np.sort(elements.astype(np.uint16)), **quantum})


def flat_row(index: int) -> StoreRow:
    """A molecule without a conformer that has descriptors, and measured labels of two data sets."""
    row = toy_row(1000 + index, "heavy_both", 1)
    elements = row.graph.node_features_NF[:, 0].astype(np.float16)
    labels = np.array([float(elements.sum()) if index % 2 else np.nan, float(len(elements) > 5)], np.float32)
    descriptors = np.array([elements.sum(), len(elements), elements.max()], np.float16)
    return replace(row, conformers=None, targets=labels, auxiliary={"descriptors": descriptors})


def solid_store() -> Store:
    return Store.from_rows([solid_row(index) for index in range(SOLID)], target_columns=("energy", "rare"))


def flat_store() -> Store:
    return Store.from_rows([flat_row(index) for index in range(FLAT)], target_columns=("one/value", "two/large"))


def mixed_store() -> Store:
    return union([solid_store(), flat_store()])


def objective_of(terms: TermWeights, store: Store, **changes: object) -> DistillationObjective:
    config = toy_config(level="custom", terms=terms, **changes)
    return DistillationObjective(store, toy_teacher() if config.needs_teacher else None, config)


def test_a_union_reads_what_each_of_its_stores_has() -> None:
    store = mixed_store()
    assert store.some_conformers
    assert not store.has_conformers
    rows = np.array([SOLID + 3, 2, SOLID, 5])
    assert store.places_with_conformers(rows).tolist() == [-1, 2, -1, 5]
    assert store.with_conformers().smiles() == store.smiles(np.arange(SOLID))
    assert store.read(rows).conformers is None
    assert store.read(rows[[1, 3]]).conformers is not None
    descriptors, offsets = store.read_auxiliary("descriptors", rows)
    assert np.diff(offsets).tolist() == [3, 3, 3, 3]
    assert np.isnan(descriptors[offsets[1] : offsets[2]]).all()
    assert np.isfinite(descriptors[: offsets[1]]).all()
    surface, offsets = store.read_auxiliary("surface", rows)
    assert np.diff(offsets).tolist() == store.atom_counts[rows].tolist()
    assert np.isnan(surface[: offsets[1]]).all()
    avalon, offsets = store.read_auxiliary("avalon", rows)
    assert np.diff(offsets)[[0, 2]].tolist() == [0, 0]
    assert (avalon.dtype, len(avalon)) == (np.uint16, int(store.atom_counts[rows[[1, 3]]].sum()))


def test_a_union_of_unions_is_that_of_all_their_stores() -> None:
    further = Store.from_rows([flat_row(100 + index) for index in range(5)], target_columns=("one/value", "three/new"))
    nested, plain = union([mixed_store(), further]), union([solid_store(), flat_store(), further])
    assert nested.target_columns == plain.target_columns == ["energy", "rare", "one/value", "two/large", "three/new"]
    assert np.array_equal(nested.targets, plain.targets, equal_nan=True)


def test_molecules_without_a_conformer_do_not_count_where_one_is_needed() -> None:
    """The losses of a mixed batch are those of its molecules with conformers, in float64 sums apart."""
    terms = TermWeights(node=1.0, graph=1.0, local_atoms=0.5, global_tokens=0.5, distances=0.5, radii=0.5, surface=0.5)
    mixed, solid = objective_of(terms, mixed_store()).eval(), objective_of(terms, solid_store()).eval()
    for name, value in mixed.auxiliary.state_dict().items():  # scales come from other training rows
        solid.auxiliary.state_dict()[name].copy_(value)
    rows = np.array([SOLID + 4, 3, 7, SOLID + 1, 12])
    found = mixed(mixed.load_batch(rows, 0), 0)
    alone = solid(solid.load_batch(np.array([3, 7, 12]), 0), 0)
    for name in terms.__dataclass_fields__:
        if name in alone.parts:
            assert found.parts[name].item() == pytest.approx(alone.parts[name].item(), rel=1e-5), name
    assert found.terms is not None
    assert alone.terms is not None
    assert found.terms.weights_X.tolist() == alone.terms.weights_X.tolist()


def test_cached_teacher_outputs_of_a_mixed_store_are_those_computed_at_once() -> None:
    terms, rows = TermWeights(node=1.0, graph=1.0), np.array([SOLID + 4, 3, 7, SOLID + 1, 12])
    losses = []
    for cache in ("memory", "off"):
        objective = objective_of(terms, mixed_store(), cache=cache).eval()
        losses.append(objective(objective.load_batch(rows, 0), 0).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)  # the cache is in half precision


def test_a_batch_of_molecules_without_conformers_trains_the_other_terms_alone() -> None:
    objective = objective_of(TERMS, mixed_store())
    step = objective(objective.load_batch(np.arange(SOLID, SOLID + 6), 0), 0)
    assert torch.isfinite(step.loss)
    assert "node" not in step.parts
    for name in ("distances", "radii", "surface", "avalon", "quantum"):
        assert step.parts[name].item() == 0.0, name
    assert step.parts["descriptors"].item() > 0
    step.loss.backward()
    gradients = [parameter.grad for parameter in objective.parameters()]
    assert all(gradient is None or bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert any(gradient is not None and bool(gradient.abs().max() > 0) for gradient in gradients)


def test_values_and_classes_have_their_own_loss_and_a_data_set_its_own_weight() -> None:
    store = mixed_store()
    rows = np.arange(len(store))
    term = LabelTerm(build_student(STUDENT), store, rows)
    assert store.target_columns == ["energy", "rare", "one/value", "two/large"]
    assert term.scale.kept_S.tolist() == [0, 2, 3]  # `rare` is 1 wherever it is known
    assert term.class_S.tolist() == [False, False, True]
    known = known_labels(store, rows)
    assert known.molecules == {None: SOLID + FLAT, "": SOLID, "one": FLAT // 2, "two": FLAT}
    roots = np.sqrt([SOLID, FLAT // 2, FLAT])
    expected = (SOLID + FLAT) * roots / roots.sum() / [SOLID, FLAT // 2, FLAT]
    assert term.weight_S.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    labels_per_molecule = sum(
        weight * len(known.columns[place]) for weight, place in zip(expected, [0, 2, 3], strict=True)
    ) / (SOLID + FLAT)
    assert labels_per_molecule == pytest.approx(1.0)
    batch = store.read(np.array([SOLID, SOLID + 1]))  # one label, two labels
    output = build_student(STUDENT).eval()(batch.graph)
    with torch.no_grad():
        for parameter in term.head.parameters():
            parameter.zero_()
    found = term(output, batch, term.read(store, batch))
    value, classes = term.scale(batch.targets_BC)[1, 1], batch.targets_BC[:, 3]
    assert bool(torch.isfinite(classes).all())
    by_hand = (expected[1] * value**2 + expected[2] * 2 * np.log(2)) / 2
    assert found.loss.item() == pytest.approx(float(by_hand), rel=1e-5)
    rate = float(known.columns[3].mean())
    entropy = sum(-np.log(rate if label else 1 - rate) for label in classes.tolist())
    assert found.constant.item() == pytest.approx(float((expected[1] * value**2 + expected[2] * entropy) / 2), rel=1e-5)
    assert int(found.known) == 2
    assert not is_class(np.array([1.0, 1.0]))
    with pytest.raises(InputError, match="no labels"):
        LabelTerm(build_student(STUDENT), Store.from_rows([replace(solid_row(0), targets=np.empty(0))]), rows[:1])


def test_a_class_is_learned_however_rare_it_is() -> None:
    row, molecules = flat_row(0), 1500  # at 0.1 % from either end a column of values has its limits
    labels_BC = np.zeros((molecules, 2), np.float32)
    labels_BC[0, 0] = labels_BC[0, 1] = 1.0
    labels_BC[1:, 1] = np.linspace(0, 0.5, molecules - 1)
    rows = [replace(row, targets=labels_C) for labels_C in labels_BC]
    store = Store.from_rows(rows, target_columns=("one/rare", "one/value"))
    term = LabelTerm(build_student(STUDENT), store, np.arange(molecules))
    assert term.class_S.tolist() == [True, False]
    assert term.rate_S[0].item() == pytest.approx(1 / molecules)
    assert term.scale(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))[:, 0].tolist() == [1.0, 0.0]
    assert term.scale.high_S[1].item() < 0.51  # the outlier among the values


def labelled_store(labelled: np.ndarray) -> Store:
    """30 molecules with descriptors, of which those of `labelled` have a label."""
    labels = np.where(np.isin(np.arange(FLAT), labelled), np.arange(FLAT), np.nan).astype(np.float32)
    rows = [replace(flat_row(index), targets=labels[[index]]) for index in range(FLAT)]
    return Store.from_rows(rows, target_columns=("one/value",))


def test_an_epoch_is_never_chosen_by_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = toy_config(level="custom", terms=TermWeights(labels=1.0))
    trains = TrainingRows(FLAT, config.holdout_fraction, config.loop.seed).section(0)
    store = labelled_store(trains)
    with pytest.raises(InputError, match="no held-out molecule has a value of any term"):
        distill(store, None, tmp_path / "labels", config)
    both = replace(config, terms=TermWeights(labels=1.0, descriptors=1.0))
    summary = distill(store, None, tmp_path / "both", both)
    assert "no held-out molecule has a value of labels: such terms have no part in the choice" in caplog.text
    assert summary.metrics["valid_loss"] == summary.metrics["valid_descriptors_loss"]
    assert "valid_labels_r2" not in summary.metrics
    assert "train_labels_r2" in summary.metrics


def test_a_sample_of_training_rows_without_a_value_does_not_keep_a_run_from_its_end(tmp_path: Path) -> None:
    config = toy_config(level="custom", terms=TermWeights(labels=1.0))
    rows = TrainingRows(FLAT, config.holdout_fraction, config.loop.seed)
    sampled = objective_of(config.terms, labelled_store(np.arange(FLAT))).train_sample
    store = labelled_store(np.setdiff1d(np.arange(FLAT), sampled))
    assert len(rows.held_out) < FLAT - len(sampled)
    summary = distill(store, None, tmp_path / "encoder", config)
    assert summary.finished
    assert summary.metrics["valid_loss"] > 0
    assert "train_loss" not in summary.metrics
    assert "held-out  labels" in report(summary)


def test_held_out_molecules_without_conformers_leave_the_teacher_out_of_the_choice(tmp_path: Path) -> None:
    config = toy_config(level="custom", terms=TermWeights(node=1.0, descriptors=1.0), holdout_fraction=0.02)
    held_out = TrainingRows(SOLID + FLAT, config.holdout_fraction, config.loop.seed).held_out
    stores = [solid_store(), flat_store()] if (held_out >= SOLID).all() else [flat_store(), solid_store()]
    store = union(stores)
    assert (store.places_with_conformers(held_out) < 0).all()
    summary = distill(store, toy_teacher_folder(tmp_path / "teacher"), tmp_path / "encoder", config)
    assert summary.metrics["valid_loss"] == summary.metrics["valid_descriptors_loss"]
    assert not {"valid_node_loss", "valid_lookup_r2"} & summary.metrics.keys()


def test_a_teacher_that_no_term_needs_is_not_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its card does not say that it taught, and the store needs no conformers."""
    config = toy_config(level="custom", terms=TermWeights(descriptors=1.0))
    folder = toy_teacher_folder(tmp_path / "teacher")
    with_teacher = distill(labelled_store(np.arange(FLAT)), folder, tmp_path / "with", config)
    assert f"no term needs the teacher {folder}" in caplog.text
    without = distill(labelled_store(np.arange(FLAT)), None, tmp_path / "without", config)
    assert with_teacher.metrics == without.metrics
    cards = [(tmp_path / name / "card.md").read_text() for name in ("with", "without")]
    assert cards[0] == cards[1]
    assert "without a 3D denoiser" in cards[0]


def test_stores_whose_descriptors_are_others_are_not_read_as_one() -> None:
    first, second = (labelled_store(np.arange(FLAT)) for _ in range(2))
    first.manifest["descriptor_names"] = ["MolWt", "Ipc", "qed"]
    second.manifest["descriptor_names"] = ["MolWt", "qed"]
    with pytest.raises(ConfigError, match=r"differ in their descriptor names: found Ipc\. Make both"):
        union([first, second])
    second.manifest["descriptor_names"] = ["qed", "MolWt", "Ipc"]
    with pytest.raises(ConfigError, match="found another order"):
        union([first, second])
    second.manifest["descriptor_names"] = first.manifest["descriptor_names"]
    assert union([first, second]).manifest["descriptor_names"] == ["MolWt", "Ipc", "qed"]


def test_heads_stay_with_the_encoder_and_say_what_the_run_said(tmp_path: Path) -> None:
    store, teacher = mixed_store(), toy_teacher_folder(tmp_path / "teacher")
    config = toy_config(level="custom", terms=TERMS, heads=("labels", "quantum"))
    distill(store, teacher, tmp_path / "encoder", config)
    student, description = load_encoder(tmp_path / "encoder")
    heads = load_heads(tmp_path / "encoder")
    assert heads is not None
    assert [entry["name"] for entry in description["heads"]] == heads.names
    assert heads.names[:4] == ["energy", "one/value", "two/large", "solvation_water"]
    assert [one.unit for one in heads.properties[:4]] == ["", "", "", "kcal/mol"]
    graph = store.read(np.arange(20)).graph
    with torch.no_grad():
        values_BC = heads(student(graph), graph)
    assert values_BC.shape == (20, len(heads.names))
    assert bool(((values_BC[:, 2] > 0) & (values_BC[:, 2] < 1)).all())  # a probability
    energy = store.targets_of(np.arange(SOLID))[:, 0]
    assert abs(values_BC[:, 0].mean().item() - energy.mean()) < 4 * energy.std()  # in the unit of the label
    plain = toy_config(level="custom", terms=TERMS)
    distill(store, teacher, tmp_path / "plain", plain)
    assert load_heads(tmp_path / "plain") is None
    before, after = (sha256_file(tmp_path / name / "model.safetensors") for name in ("encoder", "plain"))
    assert before == after
    assert not (tmp_path / "plain" / "heads.safetensors").exists()
    with pytest.raises(ConfigError, match="can't be kept"):
        DistillConfig(level="custom", terms=TERMS, heads=("charges",))


def test_a_mixed_run_that_was_interrupted_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, config = toy_teacher_folder(tmp_path / "teacher"), toy_config(level="custom", terms=TERMS)
    distill(mixed_store(), teacher, tmp_path / "whole", config)
    forward, calls = DistillationObjective.forward, []

    def fail_at_eight(self: DistillationObjective, batch: object, seed: int) -> object:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return forward(self, batch, seed)  # type: ignore[arg-type]

    monkeypatch.setattr(DistillationObjective, "forward", fail_at_eight)
    with pytest.raises(KeyboardInterrupt):
        distill(mixed_store(), teacher, tmp_path / "torn", config)
    monkeypatch.undo()
    distill(mixed_store(), teacher, tmp_path / "torn", config, resume=True)
    whole, torn = (sha256_file(tmp_path / name / "model.safetensors") for name in ("whole", "torn"))
    assert whole == torn
