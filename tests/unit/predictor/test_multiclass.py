"""Targets of several classes: labels, loss, metrics equal to scikit-learn's, calibration, and the whole run."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch.nn import functional as F

import dnd
from dnd.common.errors import ConfigError, InputError
from dnd.finetuning.objective import balanced_terms, balanced_weights, cross_entropy
from dnd.finetuning.tasks import choose_task, choose_tasks
from dnd.prediction.evaluate import evaluate_file
from dnd.prediction.screen.screen import ScreenConfig, _column_of
from dnd.predictor.classical.array_models import constant
from dnd.predictor.metrics import class_scores, judge, one_hot
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import ClassGroup, normalised, softmax
from dnd.predictor.uncertainty.classes import Temperature
from dnd.predictor.uncertainty.intervals import HeldOut, Predicted
from dnd.store.featurize import valid_molecules
from dnd.tables.labels import LabelColumn, LabelRules, read_column
from finetuning_toys import RINGS, heavy_atoms, molecules, quietly, write_csv

NAN = math.nan
KINDS = ("saturated", "benzene", "pyridine", "amine", "furan", "small")


def drawn(count: int = 200, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    codes = generator.integers(classes, size=count).astype(float)
    scores = generator.normal(size=(count, classes)) + 1.5 * one_hot(codes, classes)
    return codes, softmax(scores)


def test_metrics_are_those_of_scikit_learn():
    codes, probabilities = drawn()
    found = class_scores(one_hot(codes, 4), probabilities)
    called = probabilities.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(codes, called))
    assert found["balanced_accuracy"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(codes, called))
    assert found["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(codes, called, average="macro"))
    assert found["log_loss"] == pytest.approx(sklearn_metrics.log_loss(codes, probabilities))
    expected = sklearn_metrics.roc_auc_score(codes, probabilities, multi_class="ovr")
    assert found["rocauc_ovr"] == pytest.approx(expected)


def test_missing_labels_and_absent_classes_are_left_out():
    codes, probabilities = drawn()
    codes[:50], kept = NAN, codes[50:] < 3
    some = np.concatenate([np.ones(50, bool), kept])
    found = class_scores(one_hot(codes, 4)[some], probabilities[some])
    truth, called = codes[50:][kept], probabilities[50:][kept].argmax(axis=1)
    recalls = [np.mean(called[truth == one] == one) for one in range(3)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(truth, called, average="macro"))
    assert class_scores(np.full((2, 3), NAN), np.full((2, 3), 1 / 3))["accuracy"] is None


def test_judge_names_a_target_once_and_means_are_over_targets():
    codes, probabilities = drawn(50, 3)
    labels = np.column_stack([codes > 0, one_hot(codes, 3)]).astype(float)
    groups = (ClassGroup("phase", ("a", "b", "c"), 1),)
    names, kinds = ["y", "phase_prob_a", "phase_prob_b", "phase_prob_c"], ["classification", *["multiclass"] * 3]
    found = judge(names, kinds, labels, np.column_stack([probabilities[:, 0], probabilities]), groups)
    assert list(found["targets"]) == ["y", "phase"]
    assert found["accuracy"] == found["targets"]["phase"]["accuracy"]
    assert "rocauc" in found["targets"]["y"]


def test_loss_is_torchs_and_leaves_missing_labels_out():
    torch.manual_seed(0)
    scores = torch.randn(8, 3, requires_grad=True)
    codes = np.array([0, 1, 2, 0, NAN, 1, 2, NAN])
    targets, known = torch.from_numpy(one_hot(codes, 3)).float(), torch.from_numpy(~np.isnan(codes))
    weights = torch.tensor([1.0, 2.0, 0.5])
    truth = torch.from_numpy(np.nan_to_num(codes)).long()[known]
    for own in (None, weights):
        expected = F.cross_entropy(scores[known], truth, own).item()
        assert cross_entropy(scores, targets, own).item() == pytest.approx(expected)
    cross_entropy(scores, targets).backward()
    assert torch.isfinite(scores.grad).all()
    assert cross_entropy(scores, torch.full_like(targets, NAN)) == 0


def test_a_group_weighs_as_one_target():
    scores = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    targets = torch.cat([torch.randn(6, 1), torch.from_numpy(one_hot(np.arange(6.0) % 3, 3)).float()], dim=1)
    is_class = torch.tensor([False, True, True, True])
    group = ClassGroup("phase", ("a", "b", "c"), 1)
    expected = ((scores[:, 0] - targets[:, 0]).abs().mean() + cross_entropy(scores[:, 1:], targets[:, 1:])) / 2
    assert balanced_terms(scores, targets, is_class, [group]).loss == pytest.approx(expected.item())


def test_balanced_weights_are_scikit_learns():
    labels = torch.tensor([[0.0], [0.0], [0.0], [1.0], [NAN]])
    assert balanced_weights(labels)[:, 0].tolist() == pytest.approx([4 / 6, 2.0])


def labels(*cells: str) -> LabelColumn:
    return read_column(cells, places=range(2, len(cells) + 2), column="y", rules=LabelRules())


def test_words_and_numbers_as_labels():
    assert labels("b", "a", "", "b").words == ("a", "b")
    found = labels("1", "2.5", "?")
    assert (found.values[:2], found.words) == ([1.0, 2.5], ())
    for cells in (["low", "3"], [">10", "high"]):
        with pytest.raises(InputError, match=r"not (a number|numbers)"):
            labels(*cells)
    with pytest.raises(InputError, match="51 different words"):
        labels(*(f"word {place}" for place in range(51)))


def test_auto_explains_itself():
    codes = np.array([[0.0], [1.0], [2.0]])
    kind, reason = choose_task(codes, ["phase"], "auto", ("gas", "liquid", "solid"))
    assert kind == "multiclass"
    assert reason == "multiclass, because the labels of phase are 3 words: gas, liquid, solid"
    kind, reason = choose_task(codes, ["grade"], "auto")
    assert kind == "regression"
    assert "--task multiclass" in reason
    assert choose_task(codes, ["grade"], "multiclass")[0] == "multiclass"
    assert choose_task(codes, ["grade"], "classification")[0] == "multiclass"
    with pytest.raises(InputError, match="words as labels"):
        choose_task(codes, ["phase"], "regression", ("gas", "liquid", "solid"))
    with pytest.raises(InputError, match="up to 50 classes"):
        choose_task(np.arange(60.0)[:, None], ["id"], "multiclass")
    both = choose_tasks(np.column_stack([codes, codes]), ["phase", "y"], ["auto"], words=[("a", "b", "c"), ()])
    assert both.kinds == ("multiclass", "regression")
    assert both.balanced


def test_temperature_repairs_overconfidence_and_keeps_the_order():
    codes, probabilities = drawn(2000, 3)
    labels, group = one_hot(codes, 3), ClassGroup("phase", ("a", "b", "c"), 0)
    sharp = normalised(probabilities**3, [group])
    learned = Temperature.fit(HeldOut(codes, Predicted(sharp)))
    assert 2 < learned.value < 4
    cooled = learned.apply(Predicted(sharp))
    assert (cooled.argmax(axis=1) == sharp.argmax(axis=1)).all()
    assert class_scores(labels, cooled)["log_loss"] < class_scores(labels, sharp)["log_loss"]
    assert Temperature.fit(HeldOut(codes[:5], Predicted(sharp[:5]))) is None


def write_phases(folder: Path, **more: list[object]) -> Path:
    smiles = molecules()
    phase = [kind for kind, ring in zip(KINDS, RINGS, strict=True) for _ in range(len(smiles) // len(RINGS))]
    return write_csv(folder / "phases.csv", {"smiles": smiles, "phase": phase, **more})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    quietly(
        write_phases(folder), folder / "model", ["phase"], "loop.epochs=40", "loop.batch_size=16", "baselines=true",
        "ensemble=2", "class_weights=balanced", "fractions=0.6,0.2,0.2", "loop.learning_rate=1e-2",
    )  # fmt: skip
    return folder / "model"


def test_a_run_learns_and_says_what_it_did(model: Path):
    found = json.loads((model / "metrics.json").read_text())
    assert (found["task"], found["metric"]) == ("multiclass", "balanced_accuracy")
    assert found["targets"] == [{"name": "phase", "unit": "", "kind": "multiclass", "classes": sorted(KINDS)}]
    assert found["counts"]["labels"] == 54
    assert found["parts"]["train"]["accuracy"] > 0.7
    assert set(found["baselines"]) == {"mean", "random_forest_counts", "random_forest_descriptors"}
    assert found["baselines"]["random_forest_descriptors"]["parts"]["test"]["accuracy"] > 0.3
    assert "one of amine, benzene" in (model / "card.md").read_text()


def test_predictions_are_names_and_probabilities(model: Path):
    table = Predictor.load(model).predict([*molecules()[:5], "no molecule"])
    probabilities = np.column_stack([table[f"phase_prob_{kind}"] for kind in sorted(KINDS)])
    assert np.allclose(probabilities[:5].sum(axis=1), 1)
    assert table["phase_pred"][:5] == [sorted(KINDS)[place] for place in probabilities[:5].argmax(axis=1)]
    assert table["phase_pred"][5] == ""
    assert np.isnan(probabilities[5]).all()
    assert (table["phase_std"][:5] >= 0).all()
    with open(model / "test_predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert all(row["phase"] in KINDS and row["phase_pred"] in KINDS for row in rows)
    assert {f"phase_prob_{kind}" for kind in KINDS} <= set(rows[0])


def test_evaluation_knows_the_classes_by_name(model: Path, tmp_path: Path):
    found = evaluate_file(Predictor.load(model), write_phases(tmp_path))
    assert found["task"] == "multiclass"
    assert found["targets"]["phase"]["accuracy"] > 0.5
    other = write_csv(tmp_path / "other.csv", {"smiles": ["CCO", "CCN"], "phase": ["benzene", "plasma"]})
    with pytest.raises(InputError, match="not a class of the model: found plasma"):
        evaluate_file(Predictor.load(model), other)


def test_classes_beside_a_value_and_numbers_as_classes(tmp_path: Path):
    sizes = [heavy_atoms(text) for text in molecules()]
    grades = [min(size // 3, 4) for size in sizes]
    data = write_phases(tmp_path, size=sizes, grade=grades)
    targets = ["phase", "size", "grade"]
    words = ("tasks=auto,auto,multiclass", "units=,Da,", "fractions=0.5,0.25,0.25")
    found = quietly(data, tmp_path / "model", targets, *words).metrics
    assert found["task"] == "mixed"
    assert list(found["parts"]["test"]["targets"]) == targets
    assert found["targets"][1]["unit"] == "Da"
    table = dnd.load(tmp_path / "model").predict(["CCO"])
    assert set(table["grade_pred"]) <= {str(grade) for grade in grades}
    assert table["size_pred"].dtype == np.float64


def test_a_screen_goes_by_the_probability_of_a_class(model: Path):
    config = json.loads((model / "config.json").read_text())
    assert _column_of(config, ScreenConfig(top=3, by="phase_prob_benzene")) == "phase_prob_benzene"
    with pytest.raises(ConfigError, match="several targets"):
        _column_of(config, ScreenConfig(top=3))


def test_one_word_for_all_is_refused(tmp_path: Path):
    data = write_csv(tmp_path / "d.csv", {"smiles": molecules(), "phase": ["solid"] * 54})
    with pytest.raises(InputError, match="phase has one class only"):
        quietly(data, tmp_path / "model", ["phase"])


def test_in_a_blend_each_member_counts_with_its_weight_in_the_deviation_of_a_class(tmp_path: Path):
    blend = ("blend.classical=ridge,forest_descriptors", "blend.students=false", "blend.folds=2", "blend.trees=10")
    quietly(write_phases(tmp_path), tmp_path / "model", ["phase"], *blend)
    predictor = Predictor.load(tmp_path / "model", device="cpu")
    known, parts = predictor.parts.blend, predictor.parts
    assert known is not None
    weights = (0.9, 0.1)
    members = [replace(known.classical[0], weights=(own,) * len(KINDS)) for own in weights]
    members[1] = replace(members[1], name="other", models=tuple(constant(0.2) for _ in KINDS))
    own = replace(known, classical=tuple(members))
    table = Predictor(replace(parts, blend=own), device="cpu").predict(molecules()[:5])
    features = own.features(valid_molecules(molecules()[:5], parts.hydrogens).store)
    values_MBC = np.stack(own.predict(features))
    mean_BC = np.tensordot(weights, values_MBC, 1)
    spread_BC = np.sqrt(np.tensordot(weights, (values_MBC - mean_BC) ** 2, 1))
    best_B = [sorted(KINDS).index(name) for name in table["phase_pred"]]
    assert table["phase_std"] == pytest.approx(spread_BC[np.arange(5), best_B])
