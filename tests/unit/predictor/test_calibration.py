"""Intervals and scaled probabilities: against reference formulas, coverage on exchangeable data, honest judges."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.calibration import _SigmoidCalibration

from dnd.chemistry.splits import Split
from dnd.common.errors import CorruptFileError
from dnd.common.files import read_json, read_manifest, write_json, write_manifest
from dnd.common.model_folder import ModelFolder
from dnd.predictor.targets import ClassGroup
from dnd.predictor.uncertainty.calibration import (
    CALIBRATION,
    Calibration,
    Chosen,
    Judged,
    TargetCalibration,
    read_calibration,
    sentences,
    write_calibration,
)
from dnd.predictor.uncertainty.classes import Isotonic, Platt, Temperature
from dnd.predictor.uncertainty.fitting import calibrate
from dnd.predictor.uncertainty.intervals import ConformalIntervals, HeldOut, Predicted, conformal_half_width
from make_golden import GOLDEN


def parts(*sizes: int) -> Split:
    ends = np.cumsum([0, *sizes])
    return Split(*(np.arange(start, end) for start, end in itertools.pairwise(ends)))


@pytest.mark.parametrize("count", [9, 10, 19, 99, 100])
def test_the_half_width_is_the_conformal_quantile(count: int):
    residuals = np.random.default_rng(count).normal(size=count)
    expected = np.quantile(np.abs(residuals), min(1, math.ceil((count + 1) * 0.9) / count), method="inverted_cdf")
    assert conformal_half_width(residuals) == pytest.approx(expected)


def test_too_few_residuals_have_no_interval():
    assert conformal_half_width(np.ones(8)) is None
    assert conformal_half_width(np.ones(0)) is None


def test_coverage_is_at_least_what_was_asked_for():
    generator = np.random.default_rng(0)
    residuals = generator.standard_t(3, size=(2000, 40))
    inside = [abs(row[-1]) <= (conformal_half_width(row[:-1]) or 0) for row in residuals]
    assert 0.88 < np.mean(inside) < 0.93  # (n + 1) coverage / (n + 1) rounded up: 0.9 for n = 39


def test_platt_equals_that_of_scikit_learn():
    generator = np.random.default_rng(1)
    scores = generator.normal(size=300)
    labels = (generator.random(300) < 1 / (1 + np.exp(-(0.4 * scores - 0.8)))).astype(float)
    fitted = Platt.fit(HeldOut(labels, Predicted(1 / (1 + np.exp(-scores)))))
    assert fitted is not None
    expected = _SigmoidCalibration().fit(scores, labels)
    assert (fitted.slope, fitted.intercept) == pytest.approx((-expected.a_, -expected.b_), abs=1e-3)


@pytest.mark.parametrize("scaling", [Platt, Isotonic, Temperature])
def test_a_label_that_counts_twice_scales_as_two_labels(scaling: type[Platt | Isotonic | Temperature]):
    generator = np.random.default_rng(5)
    probabilities = generator.uniform(0.05, 0.95, size=400)
    labels = (generator.random(400) < probabilities**2).astype(float)
    values = np.stack([1 - probabilities, probabilities], axis=1) if scaling is Temperature else probabilities
    often = np.where(np.arange(400) % 4 == 0, 3, 1)
    counted = scaling.fit(HeldOut(labels, Predicted(values), counts_B=often / often.mean()))
    repeated = scaling.fit(HeldOut(np.repeat(labels, often), Predicted(np.repeat(values, often, axis=0))))
    plain = scaling.fit(HeldOut(labels, Predicted(values)))
    found, wanted, other = (one.apply(Predicted(values)) for one in (counted, repeated, plain))
    assert np.abs(found - wanted).max() < 0.005 < np.abs(found - other).max()


def test_platt_keeps_the_ranking_or_is_left_out():
    labels, probabilities = np.repeat([0.0, 1.0], 30), np.linspace(0.01, 0.99, 60)
    fitted = Platt.fit(HeldOut(labels, Predicted(probabilities)))
    assert fitted is not None
    assert (np.diff(fitted.apply(Predicted(probabilities))) >= 0).all()
    assert Platt.fit(HeldOut(labels, Predicted(probabilities[::-1]))) is None
    assert Platt.fit(HeldOut(np.repeat([0.0, 1.0], [50, 4]), Predicted(probabilities[:54]))) is None
    assert np.isfinite(Platt(1.0, 0.0).apply(Predicted(np.array([0.0, 1.0])))).all()


def test_one_partition_learns_from_validation_and_is_judged_on_test():
    targets = np.zeros((200, 2))
    predictions = np.random.default_rng(2).normal(size=(200, 2))
    targets[::3, 1] = np.nan
    split = parts(50, 50, 100)
    [(_, same)], found = calibrate([(split, predictions)], targets, ["regression"] * targets.shape[1])
    assert np.array_equal(same, predictions)
    half_width = found.targets[0].chosen.intervals.half_width
    first, second = (one.judged for one in found.targets)
    assert half_width == conformal_half_width(predictions[50:100, 0])
    assert first.measured == pytest.approx((np.abs(predictions[100:, 0]) <= half_width).mean())
    assert (first.molecules, first.judged_on, second.judged_on) == (50, 100, int((~np.isnan(targets[100:, 1])).sum()))
    line = sentences(found, ["a", "b"], ["regression"] * 2, "the validation part")[0]
    assert "of the validation part" in line
    assert f"{first.measured:.1%}" in line
    one = replace(found, targets=(replace(found.targets[0], judged=replace(first, judged_on=1)),))
    assert sentences(one, ["a"], ["regression"], "x")[0].endswith(" of 1 test molecule")


def test_a_part_that_stopped_the_training_is_calibrated_on_other_predictions_of_it():
    split, targets = parts(50, 50, 100), np.zeros((200, 1))
    flattered, held_out = np.zeros((200, 1)), np.zeros((200, 1))
    held_out[split.valid] = np.linspace(-1, 1, 50)[:, None]
    flattered[split.test] = held_out[split.test] = 0.9
    [(_, same)], found = calibrate([(split, flattered)], targets, ["regression"], held_out_BC=held_out)
    assert np.array_equal(same, flattered)
    assert found.targets[0].chosen.intervals.half_width == conformal_half_width(held_out[split.valid, 0])
    assert found.targets[0].judged.measured == 1.0


def test_a_fold_never_judges_what_it_taught():
    targets = np.zeros((60, 1))
    folds = []
    for fold in range(3):
        rows = np.arange(60)
        test = rows[rows % 3 == fold]
        values = np.full((60, 1), 1.0 + 10 * fold)  # residual 1, 11, 21
        folds.append((Split(rows[rows % 3 != fold], test, test), values))
    _, found = calibrate(folds, targets, ["regression"] * targets.shape[1])
    assert found.targets[0].chosen.intervals == ConformalIntervals(21.0)
    assert found.targets[0].judged.measured == pytest.approx(2 / 3)  # the worst fold is not covered by the other two


def test_a_molecule_of_repeated_folds_is_counted_once():
    rows = np.arange(60)
    folds = [
        (Split(rows[own != fold], rows[own == fold], rows[own == fold]), np.full((60, 1), 1.0 + 10 * fold))
        for own in (rows % 2, rows // 30)
        for fold in range(2)
    ]
    _, found = calibrate(folds, np.zeros((60, 1)), ["regression"])
    (one,) = found.targets
    assert (one.judged.molecules, one.judged.judged_on) == (60, 60)
    labels = (rows % 3 == 0).astype(float)[:, None]
    classes = [(part, np.full((60, 1), 0.3) + 0.3 * labels) for part, _ in folds]
    _, found = calibrate(classes, labels, ["classification"])
    assert found.targets[0].judged.judged_on == 60


@pytest.mark.parametrize(("positives", "sign"), [(3, 1.0), (50, -1.0)])
def test_probabilities_that_are_left_as_they_are_have_the_true_reason(positives: int, sign: float):
    """A hundred labels are not too few: they are of one class, or the model ranks the classes the wrong way round."""
    labels = (np.arange(300) % 100 < positives).astype(float)[:, None]
    predictions = 0.5 + sign * (labels - 0.5) / 3 + np.random.default_rng(1).normal(0, 0.1, (300, 1))
    _, found = calibrate([(parts(100, 100, 100), predictions.clip(0.01, 0.99))], labels, ["classification"])
    (line, *_) = sentences(found, ["a"], ["classification"], "the validation part")
    assert line == (
        "a: probabilities as the model gives them, because a class has fewer than 5 of 100 held-out labels, "
        "or the model ranks the classes the wrong way round"
    )


def test_the_counts_of_a_part_have_the_mean_1():
    """Platt's scaling smooths its labels by their number, and would take other counts for more or fewer labels."""
    data = HeldOut(np.zeros(4), Predicted(np.full(4, 0.5)), counts_B=np.array([0.1, 0.3, 1.6, 2.0]))
    counts_B = data[np.array([0, 1])].counts_B
    assert counts_B is not None
    assert counts_B.tolist() == pytest.approx([0.5, 1.5])


def test_classes_are_scaled_and_the_brier_score_falls():
    generator = np.random.default_rng(3)
    true = generator.random((2000, 1))
    labels = (generator.random((2000, 1)) < true).astype(float)
    overconfident = 1 / (1 + (1 / true - 1) ** 4)
    [(_, scaled)], found = calibrate([(parts(200, 800, 1000), overconfident)], labels, ["classification"])
    assert found.targets[0].chosen.platt.slope == pytest.approx(0.25, abs=0.05)
    one = found.targets[0].judged
    assert one.measured is not None
    assert one.before is not None
    assert one.measured < one.before
    assert np.abs(scaled - true).mean() < 0.05


def opened(folder: Path) -> ModelFolder:
    return ModelFolder(folder, {}, read_manifest(folder))


def test_it_is_kept_and_damage_is_named(tmp_path: Path):
    assert_none = Calibration((TargetCalibration(),))
    learned = Chosen(intervals=ConformalIntervals(1.5))
    one = Calibration((TargetCalibration(learned, Judged(20, 10, measured=0.9)),))
    write_calibration(tmp_path, one, ["line"])
    write_manifest(tmp_path, kind="predictor", format_version=1)
    assert read_calibration(opened(tmp_path)) == one != assert_none
    entry = one.to_dict()
    half = {**entry["targets"][0], "slope": 1.0}  # no intercept
    wrong = {**entry["targets"][0], "half_width": "wide"}
    for damage in ("x", [half], [wrong], [{**entry["targets"][0], "depth": 1}], [None]):
        write_json(tmp_path / CALIBRATION, {"calibration": {**entry, "targets": damage}})
        write_manifest(tmp_path, kind="predictor", format_version=1)
        with pytest.raises(CorruptFileError, match="not a calibration"):
            read_calibration(opened(tmp_path))
    (tmp_path / CALIBRATION).unlink()
    write_manifest(tmp_path, kind="predictor", format_version=1)
    assert read_calibration(opened(tmp_path)) is None


COLUMN = (
    "before half_width intercept judged_on knots_x knots_y measured molecules set_coverage set_single set_thresholds "
    "slope spread_floor"
)
TEMPERATURE = "before classes first judged_on measured molecules name value"
SETS = "coverage each_class first judged_on molecules name size thresholds"


@pytest.mark.parametrize("path", sorted(GOLDEN.rglob("calibration.json")), ids=lambda path: path.parent.name)
def test_an_old_file_comes_back_with_its_numbers(path: Path):
    entry = read_json(path)["calibration"]
    written = Calibration.from_dict(entry).to_dict()
    assert written["coverage"] == entry["coverage"]
    for before, after in zip(entry["targets"], written["targets"], strict=True):
        assert before == {key: after[key] for key in before}


def test_the_file_has_the_entries_that_it_always_had():
    generator = np.random.default_rng(4)
    labels = np.concatenate(
        [generator.random((90, 1)), generator.random((90, 1)) < 0.5, np.eye(3)[np.arange(90) % 3]], 1
    )
    kinds = ["regression", "classification", *["multiclass"] * 3]
    group = ClassGroup("phase", ("a", "b", "c"), 2)
    _, found = calibrate([(parts(30, 30, 30), generator.random((90, 5)))], labels, kinds, groups=[group])
    entry = found.to_dict()
    assert sorted(entry) == ["coverage", "sets", "targets", "temperatures"]
    assert [" ".join(sorted(one)) for one in entry["targets"]] == [COLUMN] * 5
    assert " ".join(sorted(entry["temperatures"][0])) == TEMPERATURE
    assert " ".join(sorted(entry["sets"][0])) == SETS
    assert Calibration.from_dict(entry) == found
    del entry["sets"]  # models of before there were sets
    assert Calibration.from_dict(entry).groups[0].chosen.sets is None
