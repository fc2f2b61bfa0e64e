"""Sets of several classes: coverage on held-out molecules, the promise that is made, columns after loading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dnd
from dnd.chemistry.splits import Split
from dnd.common.files import read_json
from dnd.predictor.metrics import one_hot
from dnd.predictor.targets import ClassGroup, softmax
from dnd.predictor.uncertainty.calibration import sentences
from dnd.predictor.uncertainty.classes import ClassWiseSets, MarginalSets
from dnd.predictor.uncertainty.fitting import calibrate, choose
from dnd.predictor.uncertainty.intervals import HeldOut, Predicted
from finetuning_toys import molecules, quietly, write_csv

GROUP = ClassGroup("grade", ("a", "b", "c", "d"), 0)
SHARES = (0.6, 0.25, 0.1, 0.05)


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the classes, of which the first is common and the last rare, and calibrated probabilities."""
    generator = np.random.default_rng(seed)
    codes = generator.choice(4, size=count, p=SHARES)
    scores = generator.normal(size=(count, 4))
    scores[np.arange(count), codes] += 1.5
    return codes, softmax(1.5 * scores + np.log(SHARES))


def test_every_class_has_its_own_coverage_where_there_are_enough_of_each():
    held = []
    for seed in range(30):
        codes, probabilities = drawn(800, seed)
        found = ClassWiseSets.fit(HeldOut(codes.astype(float), Predicted(probabilities)))
        codes, probabilities = drawn(800, 1000 + seed)
        inside = found.apply(Predicted(probabilities))
        held.append([inside[codes == place, place].mean() for place in range(4)])
    assert np.mean(held, axis=0) == pytest.approx([0.9, 0.9, 0.91, 0.92], abs=0.025)


def test_with_a_rare_class_the_promise_is_for_all_together_and_is_kept():
    held = []
    for seed in range(60):
        codes, probabilities = drawn(120, seed)
        found = MarginalSets.fit(HeldOut(codes.astype(float), Predicted(probabilities)))
        assert len(set(found.thresholds)) == 1
        codes, probabilities = drawn(400, 1000 + seed)
        held.append(found.evaluate(HeldOut(codes.astype(float), Predicted(probabilities)))["coverage"])
    assert np.mean(held) == pytest.approx(0.9, abs=0.015)
    assert found.describe() == "of all molecules together (a class has under 20)"


def test_every_class_has_its_own_threshold_from_twenty_molecules_on():
    codes, probabilities = np.repeat(np.arange(4.0), [40, 30, 25, 20]), np.full((115, 4), 0.25)
    assert choose("multiclass", HeldOut(codes, Predicted(probabilities))).sets.each_class
    assert not choose("multiclass", HeldOut(codes[:-1], Predicted(probabilities[:-1]))).sets.each_class


def test_the_shared_threshold_is_the_conformal_quantile_and_needs_nine_molecules():
    probabilities = np.tile(np.linspace(0.05, 0.95, 19)[:, None], 2)
    codes = np.zeros(19)
    found = MarginalSets.fit(HeldOut(codes, Predicted(probabilities)))
    assert found.thresholds == pytest.approx((0.9, 0.9))  # the 18th smallest of 19
    assert MarginalSets.fit(HeldOut(codes[:8], Predicted(probabilities[:8]))) is None
    split = Split(*np.split(np.arange(8), [0, 8]))
    _, few = calibrate([(split, np.full((8, 4), 0.25))], one_hot(np.zeros(8), 4), ["multiclass"] * 4, groups=[GROUP])
    assert few.groups[0].chosen.sets is None
    lines = sentences(few, ["x"] * 4, ["multiclass"] * 4, "there")
    assert "grade: no sets of classes, because 8 held-out labels are too few" in lines


def test_coverage_is_measured_on_the_test_part_with_the_probabilities_of_the_model():
    codes, probabilities = drawn(1500, 7)
    labels = one_hot(codes.astype(float), 4)
    labels[1450:] = np.nan  # unknown ones judge nothing
    rows = np.arange(1500)
    split = Split(rows[:100], rows[100:700], rows[700:])
    sharp = probabilities**3 / (probabilities**3).sum(axis=1, keepdims=True)  # too sure, so a temperature is learned
    [(_, values)], found = calibrate([(split, sharp)], labels, ["multiclass"] * 4, groups=[GROUP])
    (group,) = found.groups
    one = group.judged
    assert group.chosen.temperature.value == pytest.approx(3, rel=0.2)
    inside = group.chosen.sets.apply(Predicted(values[700:1450]))
    assert one.set_coverage == pytest.approx(inside[np.arange(750), codes[700:1450]].mean())
    assert one.set_coverage == pytest.approx(0.9, abs=0.05)
    assert one.set_size == pytest.approx(inside.sum(axis=1).mean())
    assert (one.molecules, one.set_judged_on) == (600, 750)
    line = next(line for line in sentences(found, ["x"] * 4, ["multiclass"] * 4, "there") if "sets of classes" in line)
    assert f"{one.set_coverage:.1%} of 750 test molecules" in line


def test_no_fold_is_judged_by_what_it_taught():
    labels = one_hot(np.zeros(90), 4)
    folds, rows = [], np.arange(90)
    for fold in range(3):
        test = rows[rows % 3 == fold]
        sure = (0.9, 0.6, 0.2)[fold]
        values = np.tile([sure, *[(1 - sure) / 3] * 3], (90, 1))
        folds.append((Split(rows[rows % 3 != fold], test, test), values))
    _, found = calibrate(folds, labels, ["multiclass"] * 4, groups=[GROUP])
    assert found.groups[0].judged.set_judged_on == 90
    assert found.groups[0].judged.set_coverage == pytest.approx(
        2 / 3
    )  # the worst fold is not covered by what the other two taught


def test_the_sets_of_a_model_are_a_column_that_names_its_classes(tmp_path: Path):
    smiles = molecules()
    kinds = ["aromatic" if "c1" in text else "amine" if "N" in text else "other" for text in smiles]
    data = write_csv(tmp_path / "kinds.csv", {"smiles": smiles, "kind": kinds})
    quietly(data, tmp_path / "model", ["kind"], "fractions=0.4,0.4,0.2")
    saved = read_json(tmp_path / "model" / "calibration.json")
    (one,) = saved["calibration"]["sets"]
    assert one["judged_on"] > 0
    assert any("sets of classes made for 90% coverage" in line for line in saved["sentences"])
    table = dnd.load(tmp_path / "model", device="cpu").predict([*smiles, "x"])
    assert list(table)[1:3] == ["kind_pred", "kind_set"]
    sets = [set(words.split("|")) for words in table["kind_set"][:-1]]
    assert all(own <= {"aromatic", "amine", "other"} and own for own in sets)
    assert all(named in own for named, own in zip(table["kind_pred"], sets, strict=False))
    assert table["kind_set"][-1] == ""
