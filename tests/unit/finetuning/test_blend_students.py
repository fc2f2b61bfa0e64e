"""Students of a blend: out of fold first, kept if the first helps, then on all molecules; metrics that weigh them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from dnd.chemistry.splits import Split
from dnd.common.config import load_config
from dnd.common.errors import ConfigError
from dnd.common.files import read_json
from dnd.finetuning import stacking, students
from dnd.finetuning.blend_weights import blend_loss, fit_weights, lowers_error
from dnd.finetuning.classical import FitOptions, FoldData
from dnd.finetuning.finetune import finetune
from dnd.finetuning.objective import SupervisedObjective
from dnd.finetuning.settings import FinetuneConfig
from dnd.finetuning.stacking import without_fold
from dnd.finetuning.students import Probe, probe_head
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import build_student, save_encoder
from dnd.predictor.classical.features import Layout
from dnd.predictor.metrics import roc_auc
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import Target
from finetuning_toys import TINY, heavy_atoms, molecules, quietly, write_classes, write_csv, write_regression
from support.said import said

ONE = np.ones(1)
SETTINGS = (
    *TINY[3:],
    "blend.classical=ridge",
    "blend.folds=3",
    "ensemble=2",
    "loop.epochs=4",
    "fractions=0.7,0.15,0.15",
)


def made(folder: Path, *settings: str, encoder: str = "random") -> tuple[Path, list[str]]:
    lines: list[str] = []
    student = TINY[:3] if encoder == "random" else ()
    config = load_config(FinetuneConfig, None, [*SETTINGS, *student, *settings])
    table, model = write_regression(folder), folder / "model"
    with said(lines):
        finetune(table, model, ["size"], config, encoder=encoder)
    return model, lines


def test_the_kept_students_learn_from_all_molecules_but_those_of_the_test_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = []
    real = stacking.train_member

    def train_member(plan, number, seed, partition, folder, **options):
        result = real(plan, number, seed, partition, folder, **options)
        seen.append((folder.name, partition, plan.config.loop, result.best_epoch))
        return result

    monkeypatch.setattr(stacking, "train_member", train_member)
    monkeypatch.setattr(stacking, "lowers_error", lambda *_: (True, 0.0, 1.0))
    monkeypatch.setattr(
        "dnd.finetuning.stacking.fit_weights", lambda values, *_: np.full(values.shape[::2], 1 / len(values))
    )
    model, lines = made(tmp_path)
    assert [name for name, *_ in seen] == ["member-0", "member-1", "member-0-final", "member-1-final"]
    rehearsed, finals = seen[:2], seen[2:]
    splits = read_json(model / "splits.json")
    everything = len(splits["train"]) + len(splits["valid"])
    length = round(np.mean([best for *_, best in rehearsed]))
    for _, partition, loop, best in finals:
        assert len(partition.train) == everything
        assert not np.isin(partition.test, partition.train).any()
        assert loop.epochs == loop.evaluate_every == best == length
        assert loop.patience is None
    for _, partition, *_ in rehearsed:
        assert len(partition.train) + len(partition.valid) == everything
        assert not np.isin(partition.valid, partition.train).any()
    assert any(f"2 trained on all {everything} molecules for {length} epochs" in line for line in lines)
    assert not list(model.glob("member-*/checkpoints"))
    assert len(read_json(model / "config.json")["members"]) == 2


def test_a_first_student_that_does_not_help_is_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stacking, "lowers_error", lambda *_: (False, 0.75, 0.5))
    model, lines = made(tmp_path)
    said = "error of the blend out of fold 0.7500 with the first one, 0.5000 without"
    assert any(said in line and "no further ones are trained" in line for line in lines)
    assert [path.name for path in model.glob("member-*")] == ["member-0"]
    assert not (model / "model.safetensors").exists()
    metrics = read_json(model / "metrics.json")
    assert any(said in line for line in metrics["blend"][0]["left_out"])
    assert np.isfinite(Predictor.load(model, device="cpu").predict(molecules()[:2])["size_pred"]).all()


def test_students_without_a_weight_are_not_trained_on_all_molecules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stacking, "lowers_error", lambda *_: (True, 0.0, 1.0))
    monkeypatch.setattr(
        "dnd.finetuning.stacking.fit_weights",
        lambda values, *_: np.repeat(np.eye(len(values))[-1:].T, values.shape[2], axis=1),
    )
    model, lines = made(tmp_path)
    said = "students: no weight beside the other members"
    assert any(f"{said}; none is trained on all molecules" in line for line in lines)
    assert sorted(path.name for path in model.glob("member-*")) == ["member-0", "member-1"]
    blend = read_json(model / "metrics.json")["blend"][0]
    assert (blend["students"], list(blend["members"])) == (0, ["ridge"])
    assert said in blend["left_out"]
    assert np.isfinite(Predictor.load(model, device="cpu").predict(molecules()[:2])["size_pred"]).all()


@pytest.mark.parametrize("better", ["head", "whole"])
def test_of_few_labels_the_body_is_trained_only_if_that_is_better_out_of_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, better: str
):
    student = build_student(StudentConfig("gine", width=16, num_layers=2))
    save_encoder(tmp_path / "encoder", student, {"hydrogens": "heavy_both"}, "# Encoder")
    errors = iter([1.0, 2.0] if better == "head" else [2.0, 1.0])
    monkeypatch.setattr(stacking, "blend_loss", lambda *_: next(errors))
    monkeypatch.setattr(stacking, "lowers_error", lambda *_: (True, 0.0, 1.0))
    monkeypatch.setattr(
        "dnd.finetuning.stacking.fit_weights", lambda values, *_: np.full(values.shape[::2], 1 / len(values))
    )
    model, lines = made(tmp_path, "probe_steps=50", encoder=str(tmp_path / "encoder"))
    network = Predictor.load(model, device="cpu").parts.members[0].network
    before = dict(student.named_parameters())
    kept = [bool((before[name] == values).all()) for name, values in network.student.named_parameters()]
    assert all(kept) == (better == "head")
    assert any(("stays frozen" if better == "head" else "is trained too") in line for line in lines)


def test_a_target_whose_labels_are_all_in_one_fold_ends_no_run(tmp_path: Path):
    smiles = molecules()
    few = [heavy_atoms(text) if "c1ccccc1" in text else "" for text in smiles]  # one scaffold, which no fold divides
    columns: dict[str, list[object]] = {"smiles": list(smiles), "size": list(map(heavy_atoms, smiles)), "few": few}
    words = (*SETTINGS, *TINY[:3], "blend.folds=2", "loop.epochs=1")
    done = quietly(write_csv(tmp_path / "toy.csv", columns), tmp_path / "model", ["size", "few"], *words)
    assert done.finished


@pytest.mark.parametrize("steps", [1, 10, 30])
def test_a_head_is_trained_for_all_steps_that_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
):
    student = build_student(StudentConfig("gine", width=16, num_layers=2))
    save_encoder(tmp_path / "encoder", student, {"hydrogens": "heavy_both"}, "# Encoder")
    probes: list[tuple[bool, Probe]] = []

    def probed(objective: SupervisedObjective, *given: int, **named: bool) -> Probe:
        before = {name: values.clone() for name, values in objective.network.head.state_dict().items()}
        found = probe_head(objective, *given, **named)
        after = objective.network.head.state_dict()
        probes.append((any((before[name] != values).any() for name, values in after.items()), found))
        return found

    monkeypatch.setattr(students, "probe_head", probed)
    quietly(
        write_regression(tmp_path), tmp_path / "model", ["size"],
        f"probe_steps={steps}", "loop.epochs=1", encoder=tmp_path / "encoder",
    )  # fmt: skip
    ((is_trained, probe),) = probes
    assert is_trained
    assert probe.steps == steps  # the loss still falls
    assert probe.halves_VC.any()


def test_a_member_helps_if_it_knows_what_the_others_do_not():
    generator = np.random.default_rng(0)
    labels = generator.normal(size=(300, 1))
    others = np.stack([labels + generator.normal(size=labels.shape) for _ in range(2)])
    good = labels + 0.3 * generator.normal(size=labels.shape)
    blurred = others[0] + generator.normal(size=labels.shape)
    helps, with_it, without = lowers_error(good, others, labels, ["regression"], ONE, 0)
    assert helps
    assert with_it < 0.5 * without
    assert not lowers_error(blurred, others, labels, ["regression"], ONE, 0)[0]


def test_the_loss_of_a_blend_is_in_deviations_and_ignores_what_is_missing():
    values, labels = np.array([[1.0], [3.0], [np.nan]]), np.array([[1.0], [1.0], [5.0]])
    assert blend_loss(values, labels, ["regression"], np.array([2.0])) == pytest.approx(0.5)
    assert blend_loss(np.full((4, 1), 0.5), np.array([[0.0], [1.0], [1.0], [np.nan]]), ["classification"], ONE) == (
        pytest.approx(np.log(2))
    )


def test_weights_for_the_absolute_error_forgive_wild_values():
    generator = np.random.default_rng(1)
    labels = generator.normal(size=(400, 1))
    usually_right = labels + 0.05 * generator.normal(size=labels.shape)
    usually_right[::20] += 3.0
    never_far = labels + 0.5 * generator.normal(size=labels.shape)
    both = np.stack([usually_right, never_far])
    mae, rmse = (fit_weights(both, labels, ["regression"], ONE, metric)[0, 0] for metric in ("mae", "rmse"))
    assert mae > 0.7 > 0.5 > rmse


@pytest.mark.parametrize("metric", ["spearman", "auroc"])
def test_weights_for_a_rank_metric_are_no_worse_by_it(metric: str):
    generator = np.random.default_rng(2)
    truth = generator.normal(size=(300, 1))
    if metric == "spearman":
        kind, labels = "regression", truth
        ordered, near = np.exp(2 * truth), truth + 0.8 * generator.normal(size=truth.shape)  # far off, but in order
        judge = lambda blend: spearmanr(blend, labels[:, 0]).statistic  # noqa: E731
    else:
        kind, labels = "classification", (truth > 0).astype(float)
        ordered, near = (
            0.8 + 0.06 * truth,
            np.clip(0.5 + 0.2 * truth + 0.2 * generator.normal(size=truth.shape), 0.01, 0.99),
        )
        judge = lambda blend: roc_auc(labels[:, 0], blend)  # noqa: E731
    both = np.stack([ordered, near])
    found = {name: fit_weights(both, labels, [kind], ONE, name) for name in (None, metric)}
    scores = {name: judge(np.einsum("mc,mnc->nc", weights, both)[:, 0]) for name, weights in found.items()}
    assert scores[metric] > scores[None]
    assert found[metric].sum() == pytest.approx(1)


def test_a_metric_that_the_task_has_not_is_refused(tmp_path: Path):
    blend = ("blend.classical=ridge", "blend.students=false", "blend.folds=2")
    with pytest.raises(ConfigError, match=r"metric auroc.*mae, rmse, spearman"):
        quietly(write_regression(tmp_path), tmp_path / "model", ["size"], *blend, "metric=auroc")
    with pytest.raises(ConfigError, match=r"metric mae.*auroc, auprc"):
        quietly(write_classes(tmp_path), tmp_path / "model", ["ring"], *blend, "metric=mae")
    with pytest.raises(ConfigError, match="recipes that make a blend"):
        quietly(write_regression(tmp_path), tmp_path / "model", ["size"], "metric=mae")
    several = ("multiclass", tmp_path / "kinds.csv")
    kinds = [("acid", "base", "neutral")[row % 3] for row in range(54)]
    write_csv(several[1], {"smiles": molecules(), "kind": kinds})
    for metric in ("auroc", "mae"):
        with pytest.raises(ConfigError, match=rf"metric {metric} does not fit.*multiclass.*Leave --metric out"):
            quietly(several[1], tmp_path / "model", ["kind"], *blend, f"metric={metric}")


@pytest.mark.parametrize("metric", ["mae", "rmse", "spearman", "auroc", "auprc"])
def test_no_metric_changes_the_weights_of_a_target_that_it_is_not_for(metric: str):
    generator = np.random.default_rng(3)
    labels = np.eye(2)[generator.integers(0, 2, 200)]
    members = np.clip(labels + generator.normal(0, [[[0.3]], [[0.5]]], (2, 200, 2)), 0.01, 0.99)
    kinds = ["multiclass", "multiclass"]
    plain = fit_weights(members, labels, kinds, np.ones(2))
    assert np.array_equal(fit_weights(members, labels, kinds, np.ones(2), metric), plain)
    kind = "regression" if metric in ("auroc", "auprc") else "classification"
    plain = fit_weights(members, labels, [kind] * 2, np.ones(2))
    assert np.array_equal(fit_weights(members, labels, [kind] * 2, np.ones(2), metric), plain)


def test_a_student_learns_no_copy_of_the_fold_that_it_predicts():
    rows = np.arange(0, 12, 2)  # of each of six molecules the first row was drawn, its copy was not
    folds = np.array([0, 1, 2, 0, 1, 2])
    place_B = np.where(np.isin(np.arange(12), rows), np.arange(12), -1)
    labels = np.zeros((12, 1))
    data = FoldData(
        np.zeros((12, 1), np.float32), place_B, labels, labels, (Target("y"),), Layout(), rows, folds, 3, 0,
        FitOptions(), np.repeat(np.arange(6), 2),
    )  # fmt: skip
    split = without_fold(data, Split(np.arange(8), np.arange(8, 12), np.empty(0, np.int64)), 1)
    assert split.valid.tolist() == [2, 8]
    assert split.train.tolist() == [0, 1, 4, 5, 6, 7, 10, 11]
