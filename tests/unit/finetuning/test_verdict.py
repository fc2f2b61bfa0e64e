"""Verdicts: the value is that of the metrics, the relation that of a paired interval, and a member is no baseline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, root_mean_squared_error

import dnd
from dnd.chemistry.splits import Split
from dnd.common.files import read_json
from dnd.finetuning import verdict
from dnd.finetuning.splits import DEVELOPMENT_PARTS, TRAINING_PART, half_width
from dnd.finetuning.verdict import Judged, judge_beside_baselines
from dnd.predictor.metrics import judge_targets, significant
from dnd.predictor.targets import Target, Transform
from dnd.report.model_report import write_model_report
from finetuning_toys import heavy_atoms, molecules, quietly, write_csv

GENERATOR = np.random.default_rng(0)
COUNT = 200
PART = Split(np.arange(40), np.arange(40, 50), np.arange(50, COUNT))
LABELS = GENERATOR.normal(size=COUNT)
NAMES = [f"molecule {row}" for row in range(COUNT)]


def judged(targets: list[Target], labels: np.ndarray, own: np.ndarray, **baselines: np.ndarray) -> Judged:
    columns = {name: [values.reshape(COUNT, -1)] for name, values in baselines.items()}
    return Judged(targets, labels.reshape(COUNT, -1), NAMES, [(PART, own.reshape(COUNT, -1))], columns)


def test_better_level_and_worse():
    noise = GENERATOR.normal(size=(4, COUNT))
    own = LABELS + 0.5 * noise[0]
    baselines = {"mean": np.zeros(COUNT), "twin": LABELS + 0.5 * noise[1]}
    baselines["random_forest_counts"] = LABELS + 0.1 * noise[2]
    (found,) = judge_beside_baselines(judged([Target("logS", "mol/L")], LABELS, own, **baselines), per_target=False)
    assert [one.relation for one in found.comparisons] == ["better than", "level with", "worse than"]
    test = PART.test
    assert found.own.value == pytest.approx(root_mean_squared_error(LABELS[test], own[test]))
    assert found.typical.value == pytest.approx(np.abs(own - LABELS)[test].mean())
    assert found.own.low < found.own.value < found.own.high
    said = found.sentence()
    assert said.startswith(f"logS: typical error {significant(found.typical.value)} mol/L (95 % interval ")
    assert "on 150 test molecules; better than the training mean; level with twin; worse than a random forest" in said
    assert "against 0.100 of a random forest on counts, the best of them; difference 0.379" in said
    assert "NOT" not in said


def test_an_interval_of_one_point_is_left_out():
    """Every draw of a perfect ranking is perfect, which says nothing of other molecules."""
    labels = (LABELS > 0).astype(float)
    same = judged([Target("ring", kind="classification")], labels, labels, random_forest_counts=labels)
    said = judge_beside_baselines(same, per_target=False)[0].sentence()
    assert "ROC-AUC 1.00 on 150 test molecules; level with a random forest on counts" in said
    assert said.endswith("against 1.00; difference 0).")


def test_the_interval_of_a_difference_is_paired():
    """Both err alike but for a small gain, the same for every molecule: two intervals apart would not see it."""
    shared = 2 * GENERATOR.normal(size=COUNT)
    own, other = LABELS + 0.95 * shared, LABELS + shared
    (found,) = judge_beside_baselines(judged([Target("y")], LABELS, own, mean=other), per_target=False)
    (one,) = found.comparisons
    assert one.relation == "better than"
    assert found.own.high > one.value


def test_rows_of_a_molecule_are_drawn_together():
    own = LABELS + GENERATOR.normal(size=COUNT)
    single = judged([Target("y")], LABELS, own)
    repeated = Judged(single.targets, single.labels_BC, [f"m{row // 10}" for row in range(COUNT)], single.folds, {})
    (alone,), (together,) = (judge_beside_baselines(one, per_target=False) for one in (single, repeated))
    assert (alone.molecules, together.molecules) == (150, 15)
    assert alone.own.value == together.own.value


def test_a_logarithm_is_judged_by_factors_and_one_outlier_decides_nothing():
    values, target = 10**LABELS, Target("Ki", "nM", transform=Transform("log"))
    own = values * np.where(np.arange(COUNT) % 2, 2.0, 0.5)
    (found,) = judge_beside_baselines(judged([target], values, own, mean=np.ones(COUNT)), per_target=False)
    assert found.typical.value == pytest.approx(2.0)
    assert found.own.value == pytest.approx(np.log10(2.0))
    assert "Ki: typical error a factor of 2.00 (95 % interval 2.00 to 2.00)" in found.sentence()
    scored = judge_targets([target], values[:, None], own[:, None])
    assert scored["rmse"] == pytest.approx(np.log10(2.0))
    assert scored["rmse_raw"] == pytest.approx(root_mean_squared_error(values, own))
    assert scored["targets"]["Ki"]["mae_raw"] == pytest.approx(np.abs(values - own).mean())
    negative = values.copy()
    negative[60] = -0.5
    (still,) = judge_beside_baselines(judged([target], negative, own), per_target=False)
    assert still.molecules == 149
    assert still.own.value == pytest.approx(np.log10(2.0))


@pytest.mark.parametrize("ties", [False, True])
def test_classes_have_the_metric_of_their_task(ties: bool):
    labels = (LABELS > 0).astype(float)
    scores = (LABELS + GENERATOR.normal(size=COUNT)).round(1 if ties else 6)
    (found,) = judge_beside_baselines(
        judged([Target("active", kind="classification")], labels, scores, mean=np.full(COUNT, 0.5)), per_target=False
    )
    assert (found.metric, found.typical) == ("rocauc", None)
    assert found.own.value == pytest.approx(roc_auc_score(labels[PART.test], scores[PART.test]))
    assert found.comparisons[0].value == 0.5
    assert found.sentence().startswith("active: ROC-AUC 0.")
    names = ("a", "b", "c")
    codes = np.digitize(LABELS, [-0.5, 0.5])
    probabilities = GENERATOR.dirichlet([1, 1, 1], size=COUNT) + np.eye(3)[codes] / 2
    targets = [Target(f"g_prob_{name}", kind="multiclass", group="g", class_name=name) for name in names]
    (several,) = judge_beside_baselines(judged(targets, np.eye(3)[codes], probabilities), per_target=False)
    expected = balanced_accuracy_score(codes[PART.test], probabilities[PART.test].argmax(axis=1))
    assert (several.target, several.metric) == ("g", "balanced_accuracy")
    assert several.own.value == pytest.approx(expected)


def test_too_few_molecules_say_nothing_of_others():
    few = Split(np.arange(150), np.arange(150, 195), np.arange(195, COUNT))
    one = Judged([Target("y")], LABELS[:, None], NAMES, [(few, LABELS[:, None] + 1)], {"mean": [np.zeros((COUNT, 1))]})
    (found,) = judge_beside_baselines(one, per_target=False)
    assert found.comparisons[0].relation is None
    assert "too few molecules to compare with the training mean" in found.sentence()
    assert "interval" not in found.sentence()


def test_folds_are_compared_over_folds():
    valid = np.arange(COUNT - 10, COUNT)
    folds = [
        Split(np.r_[0:start, start + 40 : COUNT - 10], valid, np.arange(start, start + 40))
        for start in range(0, 160, 40)
    ]
    own, other = (LABELS + 0.1)[:, None], (LABELS + 0.5)[:, None]
    one = Judged([Target("y")], LABELS[:, None], NAMES, [(part, own) for part in folds], {"mean": [other] * 4})
    (found,) = judge_beside_baselines(one, per_target=False)
    assert (found.molecules, found.folds) == (160, 4)
    assert found.own.value == pytest.approx(0.1)
    assert found.comparisons[0].difference.value == pytest.approx(-0.4)
    assert found.comparisons[0].relation == "better than"
    assert "on 160 test molecules in 4 folds; better than the training mean" in found.sentence()


def test_nothing_is_drawn_for_folds_whose_spread_is_the_interval(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verdict, "_draws", lambda identities: pytest.fail("32 MB of each fold"))
    folds = [(PART, (LABELS + error)[:, None]) for error in (0.1, 0.2, 0.4)]
    (found,) = judge_beside_baselines(Judged([Target("y")], LABELS[:, None], NAMES, folds, {}), per_target=False)
    assert found.own.value == pytest.approx(0.7 / 3)


def test_the_interval_over_folds_of_a_blend_counts_its_validation_part():
    values = [0.1, 0.2, 0.4]
    one = Judged([Target("y")], LABELS[:, None], NAMES, [(PART, (LABELS + error)[:, None]) for error in values], {})
    for learned, count in ((TRAINING_PART, len(PART.train)), (DEVELOPMENT_PARTS, len(PART.train) + len(PART.valid))):
        (found,) = judge_beside_baselines(replace(one, learned=learned), per_target=False)
        assert found.own.high == pytest.approx(0.7 / 3 + half_width(values, len(PART.test) / count))


def test_no_error_of_few_folds_is_said_to_be_below_0():
    valid, rows = np.arange(COUNT - 10, COUNT), np.arange(150)
    folds = [Split(np.setdiff1d(rows, rows[fold::3]), valid, rows[fold::3]) for fold in range(3)]
    own = [(LABELS + error)[:, None] for error in (0.01, 0.02, 3.0)]
    one = Judged([Target("y")], LABELS[:, None], NAMES, list(zip(folds, own, strict=True)), {})
    (found,) = judge_beside_baselines(one, per_target=False)
    assert (found.own.low, found.typical.low) == (0.0, 0.0)
    assert found.own.high > 3.0


def test_one_verdict_everywhere_and_no_member_is_a_baseline(tmp_path: Path):
    smiles = molecules()
    columns = {"smiles": smiles, "y": [heavy_atoms(text) for text in smiles], "id": [f"LAB-{row}" for row in range(54)]}
    words = ("blend.classical=ridge,forest_counts", "blend.students=false", "blend.folds=2", "fractions=0.4,0.2,0.4")
    data = write_csv(tmp_path / "d.csv", columns)
    metrics = quietly(data, tmp_path / "m", ["y"], "baselines=true", "units=atoms", *words).metrics
    assert set(metrics["baselines"]) == {"mean", "random_forest_counts", "random_forest_descriptors"}
    assert set(metrics["alone"]) == {"ridge", "forest_counts"}
    (verdict,) = metrics["verdicts"]
    assert verdict["own"]["value"] == pytest.approx(metrics["parts"]["test"]["rmse"])
    sentence = verdict["sentence"]
    assert sentence.startswith("y: typical error ")
    assert " atoms (95 % interval " in sentence
    assert (tmp_path / "m" / "card.md").read_text().split("\n")[2] == sentence
    page = write_model_report(tmp_path / "m").read_text()
    assert page.index(sentence) < page.index("Metrics beside the baselines")
    assert "LAB-" in page
    assert dnd.load(tmp_path / "m").metrics["verdicts"] == read_json(tmp_path / "m" / "metrics.json")["verdicts"]
    assert metrics["baselines"]["mean"]["parts"]["valid"]["rmse"] is None  # the forests learned from that part


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.71234, "0.712"), (0.7, "0.700"), (12.345, "12.3"), (6309.57, "6310"), (0.00012, "0.000120"), (0, "0"),
     (99.96, "100"), (1234567.0, "1.23e+06"), (1e-7, "1e-07"), (-0.0567, "-0.0567"), (None, "-"), (float("nan"), "-")],
)  # fmt: skip
def test_three_significant_digits(value: float | None, text: str):
    assert significant(value) == text
