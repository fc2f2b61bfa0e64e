"""The distillation stage: what learns, what is frozen, what is printed and kept, what is refused, exact resume."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distillation_toys import STUDENT, TEACHER, toy_config, toy_store, toy_teacher, toy_teacher_folder
from dnd.common.errors import ConfigError, InputError, NonFiniteError
from dnd.common.files import sha256_file
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import load_encoder
from dnd.pretraining import teacher_outputs
from dnd.pretraining.distill import distill
from dnd.pretraining.distill_objective import AtomLookup, DistillationObjective, TargetMoments
from dnd.pretraining.settings import DistillConfig, TermWeights, student_words
from dnd.training.logs import read_log
from dnd.training.settings import LoopConfig, TrainResult

GINE = StudentConfig("gine", 12, 2)
CUSTOM = TermWeights(node=1.0, graph=0.5)


def objective_of(**changes: object) -> DistillationObjective:
    return DistillationObjective(toy_store(), toy_teacher(), toy_config(**changes))


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({"level": "node"}, {"node"}),
        ({"level": "graph", "student": GINE}, {"graph"}),
        ({"level": "coordinated"}, {"global_tokens", "local_atoms"}),
        ({"level": "coordinated", "student": GINE}, {"global_tokens", "local_atoms"}),
        (
            {"level": "coordinated", "terms": TermWeights(task=0.3), "task_target": "energy"},
            {"global_tokens", "local_atoms", "task"},
        ),
        ({"level": "custom", "terms": CUSTOM}, {"node", "graph"}),
    ],
)
def test_every_level_trains_all_that_it_should_and_never_the_teacher(changes: dict, terms: set[str]) -> None:
    objective = objective_of(**changes)
    before = {name: tensor.clone() for name, tensor in objective._frozen[0].state_dict().items()}
    step = objective(objective.load_batch(objective.train_rows.sample()[:8], 0), 0)
    step.loss.backward()
    assert terms <= step.parts.keys()
    assert not any("teacher" in name for name in objective.state_dict())
    assert all(parameter.grad is None for parameter in objective._frozen[0].parameters())
    assert not objective._frozen[0].training
    reached = {name for name, parameter in objective.named_parameters() if parameter.grad is not None}
    assert all(name in reached for name, _ in objective.named_parameters() if name.startswith(("terms", "task")))
    assert all(torch.equal(before[name], tensor) for name, tensor in objective._frozen[0].state_dict().items())


def test_equal_widths_need_no_projection_and_others_one_linear_map_per_aligned_layer() -> None:
    assert not list(objective_of().terms.parameters())
    uneven = objective_of(level="coordinated", student=GINE)
    shapes = [tuple(parameter.shape) for name, parameter in uneven.terms.named_parameters() if name.endswith("weight")]
    assert shapes == [(TEACHER.width, GINE.width)] * 4


def test_r2_of_the_mean_is_zero_and_of_the_target_one() -> None:
    objective = objective_of(level="custom", terms=TermWeights(node=1.0, graph=1.0, local_atoms=1.0))
    batches = list(objective.evaluation_batches(objective.train_sample))
    for name, term in objective._terms.items():
        moments, total, count = TargetMoments(), 0.0, 0.0
        for batch in batches:
            moments.add(term, term.targets(batch, objective.request), batch.graph)
        for batch in batches:
            targets = term.targets(batch, objective.request)
            constant = moments.mean_LD[:, None].expand_as(targets).float()
            total += term.distance(constant, targets, batch.graph).item() * term.normaliser(batch.graph)
            count += term.normaliser(batch.graph)
            assert term.distance(targets, targets, batch.graph).item() == 0.0
        assert total / count == pytest.approx(moments.constant_loss(moments.mean_LD), rel=1e-4), name


def test_lookup_falls_back_from_key_to_element_to_mean() -> None:
    lookup, features = AtomLookup(), torch.zeros(4, 9, dtype=torch.int64)
    features[:, 0] = torch.tensor([5, 5, 5, 7])
    features[:, 2] = torch.tensor([1, 1, 2, 1])
    lookup.add(features, torch.tensor([[1.0], [3.0], [8.0], [20.0]]))
    asked = torch.zeros(4, 9, dtype=torch.int64)
    asked[:, 0], asked[:, 2] = torch.tensor([5, 5, 5, 9]), torch.tensor([1, 2, 4, 1])
    assert lookup.predict(asked)[:, 0].tolist() == [2.0, 8.0, 4.0, 8.0]


@pytest.mark.parametrize("cache", ["memory", "disk", "off"])
def test_the_loss_does_not_depend_on_where_targets_come_from(tmp_path: Path, cache: str) -> None:
    settings = toy_config(cache=cache, level="custom", terms=CUSTOM)
    objective = DistillationObjective(toy_store(), toy_teacher(), settings, cache_folder=tmp_path / "targets")
    rows = objective.train_rows.sample()[:8]
    loss = objective.eval()(objective.load_batch(rows, 0), 0).loss.item()
    exact = DistillationObjective(toy_store(), toy_teacher(), replace(settings, cache="off")).eval()
    assert loss == pytest.approx(exact(exact.load_batch(rows, 0), 0).loss.item(), rel=2e-3)


def test_a_cached_epoch_never_runs_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = objective_of(cache="memory")
    monkeypatch.setattr(objective._frozen[0], "forward", lambda *_, **__: pytest.fail("the teacher ran"))
    for rows in objective.plan_epoch(0):
        objective(objective.load_batch(rows, 0), 0)
    assert np.isfinite(objective.eval().evaluate()["valid_node_r2"])


def test_distill_learns_and_leaves_an_encoder_with_its_record(tmp_path: Path) -> None:
    teacher, loop = (
        toy_teacher_folder(tmp_path / "teacher"),
        LoopConfig(epochs=12, batch_size=8, device="cpu", learning_rate=3e-3),
    )
    summary = distill(toy_store(), teacher, tmp_path / "encoder", toy_config(loop=loop))
    student, config = load_encoder(tmp_path / "encoder")
    evaluations = [r for r in read_log(tmp_path / "encoder" / "metrics.jsonl") if r["kind"] == "evaluation"]
    assert evaluations[-1]["valid_node_r2"] > evaluations[0]["valid_node_r2"]
    assert summary.metrics["valid_node_r2"] > 0.2
    assert summary.metrics["valid_node_r2"] == pytest.approx(
        1 - summary.metrics["valid_node_loss"] / summary.metrics["valid_node_variance"]
    )
    assert 0 < summary.metrics["valid_lookup_r2"] < 1
    assert (config["level"], config["hydrogens"], config["teacher"]["sigma"]) == ("node", "heavy_both", 0.04)
    assert config["metrics"] == summary.metrics
    held = json.loads((tmp_path / "encoder" / "holdout.json").read_text())
    assert len(held["rows"]) == 12 == len(held["molecules"])
    assert "held-out node" in (tmp_path / "encoder" / "card.md").read_text()
    assert not (tmp_path / "encoder" / "checkpoints").exists()
    assert student.width == STUDENT.width
    assert not student.training


def test_a_projection_is_dropped_when_the_encoder_is_saved(tmp_path: Path) -> None:
    distill(toy_store(), toy_teacher_folder(tmp_path / "t"), tmp_path / "e", toy_config(student=GINE))
    student, _ = load_encoder(tmp_path / "e")
    assert not any("terms" in name or "project" in name for name in student.state_dict())


@pytest.mark.parametrize("changes", [{"cache": "disk"}, {"cache": "memory", "level": "coordinated"}, {"cache": "off"}])
def test_an_interrupted_run_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    teacher, config = toy_teacher_folder(tmp_path / "teacher"), toy_config(**changes)
    distill(toy_store(), teacher, tmp_path / "whole", config)
    forward, calls = DistillationObjective.forward, []

    def fail_at_eight(self: DistillationObjective, batch: object, seed: int) -> object:
        calls.append(seed)
        step = forward(self, batch, seed)  # type: ignore[arg-type]
        return replace(step, loss=step.loss * float("nan")) if len(calls) == 8 else step

    monkeypatch.setattr(DistillationObjective, "forward", fail_at_eight)
    with pytest.raises(NonFiniteError):
        distill(toy_store(), teacher, tmp_path / "broken", config)
    distill(toy_store(), teacher, tmp_path / "broken", config, resume=True)
    digests = [sha256_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken")]
    assert digests[0] == digests[1]


def test_the_time_limit_counts_the_teachers_outputs_and_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_outputs, "BLOCK_BYTES", 4000)
    teacher, config = toy_teacher_folder(tmp_path / "teacher"), toy_config()
    distill(toy_store(), teacher, tmp_path / "whole", config)
    limited = replace(config, loop=replace(config.loop, stop_after_s=0.0))
    for number in (1, 2):
        assert not distill(toy_store(), teacher, tmp_path / "parts", limited, resume=True).finished
        assert len(list((tmp_path / "parts" / "targets").iterdir())) == number
    assert distill(toy_store(), teacher, tmp_path / "parts", config, resume=True).finished
    assert not (tmp_path / "parts" / "targets").exists()
    digests = [sha256_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    assert digests[0] == digests[1]


def test_only_rank_0_writes_into_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(is_main=False, wait=lambda: None)
    monkeypatch.setattr("dnd.pretraining.encoder_folder.World.join", lambda device: other)
    monkeypatch.setattr("dnd.pretraining.distill.train", lambda *_, **__: TrainResult(1, 1, {}, {}, True, 0.0))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = toy_config(level="custom", terms=TermWeights(distances=1.0))
    assert distill(toy_store(), None, tmp_path / "e", config).finished
    assert not (tmp_path / "e").exists()


def test_a_finished_encoder_is_not_overwritten_and_resume_returns_it(tmp_path: Path) -> None:
    teacher = toy_teacher_folder(tmp_path / "teacher")
    first = distill(toy_store(), teacher, tmp_path / "e", toy_config())
    with pytest.raises(InputError, match="already contains"):
        distill(toy_store(), teacher, tmp_path / "e", toy_config())
    assert distill(toy_store(), teacher, tmp_path / "e", toy_config(), resume=True).metrics == first.metrics


@pytest.mark.parametrize("store_setting", ["all_both", "teacher_all_student_heavy"])
def test_another_hydrogen_setting_is_refused(tmp_path: Path, store_setting: str) -> None:
    teacher = toy_teacher_folder(tmp_path / "teacher")
    with pytest.raises(InputError, match=f"hydrogens.*{store_setting}.*heavy_both"):
        distill(toy_store(hydrogens=store_setting), teacher, tmp_path / "e", toy_config())
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"level": "custom"}, "no term"),
        ({"terms": TermWeights(task=1.0)}, "must be given together"),
        ({"task_target": "energy"}, "must be given together"),
        ({"terms": TermWeights(graph=-1.0)}, "negative"),
        ({"terms": TermWeights(graph=math.nan)}, "not finite"),
        ({"conformers": "mean", "cache": "off"}, "needs the cache"),
        ({"holdout_fraction": 0.0}, "out of range"),
    ],
)
def test_settings_at_odds_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DistillConfig(**changes)


def test_an_unknown_label_column_names_those_there() -> None:
    with pytest.raises(InputError, match="energy, rare"):
        objective_of(terms=TermWeights(task=1.0), task_target="enrgy")


def test_student_words_replace_the_recipes_student() -> None:
    assert "student.name=gine" in student_words("gine")
    assert "student.num_heads=none" in student_words("gine")
    assert "student.width=200" in student_words("pna")


def test_an_unfinished_run_is_refused_before_the_teacher_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, loop = toy_teacher_folder(tmp_path / "teacher"), LoopConfig(epochs=50, device="cpu", stop_after_s=0.0)
    summary = distill(toy_store(), teacher, tmp_path / "e", toy_config(loop=loop))
    assert not summary.finished
    monkeypatch.setattr(DistillationObjective, "__init__", lambda *_, **__: pytest.fail("work began"))
    with pytest.raises(InputError, match="already contains a run"):
        distill(toy_store(), teacher, tmp_path / "e", toy_config(loop=loop))
    other = replace(toy_config(loop=loop), level="graph")
    with pytest.raises(InputError, match=r"other settings.*level 'node' → 'graph'"):
        distill(toy_store(), teacher, tmp_path / "e", other, resume=True)
    foreign = toy_teacher_folder(tmp_path / "other", seed=5)
    with pytest.raises(InputError, match=r"other settings.*teacher"):
        distill(toy_store(), foreign, tmp_path / "e", toy_config(loop=loop), resume=True)
