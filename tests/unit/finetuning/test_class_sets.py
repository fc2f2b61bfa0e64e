"""Sets of classes and isotonic calibration: coverage of each class, orders kept, the better scaling chosen."""

from __future__ import annotations

import numpy as np
import pytest

from dnd.chemistry.splits import Split
from dnd.predictor.uncertainty.calibration import sentences
from dnd.predictor.uncertainty.classes import ALWAYS, ClassWiseSets, Isotonic
from dnd.predictor.uncertainty.fitting import calibrate, isotonic_is_better
from dnd.predictor.uncertainty.intervals import HeldOut, Predicted, mixing_weights, weighted_half_width


def labelled(count: int, seed: int, rare: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Labels, a tenth of them 1, and calibrated probabilities of both classes."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(count) < rare).astype(int)
    scores = generator.normal(size=count) + 1.5 * labels
    odds = rare / (1 - rare) * np.exp(1.5 * scores - 1.5**2 / 2)
    one = odds / (1 + odds)
    return labels, np.stack([1 - one, one], axis=1)


def held_out(labels: np.ndarray, probabilities: np.ndarray) -> HeldOut:
    return HeldOut(labels.astype(float), Predicted(probabilities))


def test_each_class_has_its_own_coverage_however_rare_it_is():
    held = []
    for seed in range(30):
        found = ClassWiseSets.fit(held_out(*labelled(600, seed)))
        labels, probabilities = labelled(600, 1000 + seed)
        inside = found.apply(Predicted(probabilities))
        held.append([inside[labels == place, place].mean() for place in (0, 1)])
    assert np.mean(held, axis=0) == pytest.approx([0.9, 0.91], abs=0.02)


def test_a_class_with_few_molecules_is_in_every_set_and_none_at_all_means_no_sets():
    labels, probabilities = np.array([0] * 40 + [1] * 5), np.tile([0.7, 0.3], (45, 1))
    found = ClassWiseSets.fit(held_out(labels, probabilities))
    assert found is not None
    assert found.thresholds[1] == ALWAYS
    assert ClassWiseSets.fit(held_out(labels[:5], probabilities[:5])) is None
    assert found.apply(Predicted(np.array([[1.0, 0.0]])))[0, 1]


def test_words_name_the_likely_classes_and_a_set_is_never_empty():
    predicted = Predicted(np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [np.nan, np.nan]]))
    assert ClassWiseSets((0.6, 0.6)).words(predicted, ("0", "1")) == ["0", "0|1", "1", ""]
    assert ClassWiseSets((0.05, 0.05)).words(predicted, ("0", "1")) == ["0", "0", "1", ""]
    assert ClassWiseSets((0.6, 0.6)).words(Predicted(predicted.values[:, 1]), ("0", "1")) == ["0", "0|1", "1", ""]


def test_an_isotonic_line_keeps_every_order_and_follows_the_frequencies():
    generator = np.random.default_rng(0)
    probabilities = generator.random(4000)
    labels = (generator.random(4000) < probabilities**3).astype(float)
    line = Isotonic.fit(held_out(labels, probabilities))
    assert line is not None
    grid = np.linspace(0, 1, 101)
    found = line.apply(Predicted(grid))
    assert (np.diff(found) > 0).all()
    assert np.abs(found - grid**3).max() < 0.12
    assert np.abs(found - grid**3).mean() < 0.03
    assert Isotonic.fit(held_out(np.zeros(10), generator.random(10))) is None


def test_the_scaling_is_the_one_that_fits_out_of_fold():
    generator = np.random.default_rng(1)
    probabilities = generator.random(3000)
    stepped = np.where(probabilities < 0.4, 0.1, np.where(probabilities < 0.6, 0.9, 0.5))
    bent = generator.random(3000) < np.sort(stepped)[probabilities.argsort().argsort()]
    assert isotonic_is_better(held_out(bent, probabilities))
    assert not isotonic_is_better(held_out(generator.random(3000) < probabilities, probabilities))
    assert not isotonic_is_better(held_out(generator.random(100) < 0.5, probabilities[:100]))  # too few of a class


def test_a_model_of_classes_learns_sets_and_judges_them_on_the_test_part():
    labels, probabilities = labelled(900, 5, rare=0.4)
    rows = np.arange(900)
    split = Split(rows[:1], rows[1:500], rows[500:])
    _, found = calibrate([(split, probabilities[:, 1:])], labels[:, None].astype(float), ["classification"])
    assert found.targets[0].chosen.sets is not None
    one = found.targets[0].judged
    assert one.set_coverage == pytest.approx(0.9, abs=0.05)
    assert 0 < one.set_single <= 1
    assert any(
        "of the sets name one class" in line for line in sentences(found, ["y"], ["classification"], "somewhere")
    )


def test_lessons_may_be_molecules_that_were_predicted_out_of_fold():
    generator = np.random.default_rng(2)
    targets = generator.normal(size=(60, 1))
    values = targets + np.where(np.arange(60)[:, None] < 30, 1.0, 5.0)
    values[:3] = np.nan  # no prediction out of fold
    rows = np.arange(60)
    split = Split(rows[:20], rows[20:30], rows[30:])
    _, found = calibrate([(split, values)], targets, ["regression"], [rows[:30]])
    assert found.targets[0].chosen.intervals.half_width == pytest.approx(1.0)
    assert found.targets[0].judged.molecules == 27
    assert found.targets[0].judged.measured == 0


def test_a_validation_part_that_is_harder_counts_as_much_as_the_training_part():
    targets, rows = np.zeros((500, 1)), np.arange(500)
    values = np.where(rows[:, None] < 400, 1.0, 1.0 + rows[:, None] / 100)  # errors of the validation part: 5 to 5.4
    for valid, expected in ((rows[400:440], 5.32), (rows[400:410], 1.0)):  # ten labels say too little
        split = Split(rows[:400], valid, rows[450:])
        fit_rows = [np.concatenate([split.train, split.valid])]
        _, found = calibrate([(split, values)], targets, ["regression"], fit_rows)
        assert found.targets[0].chosen.intervals.half_width == pytest.approx(expected, abs=0.011)


def test_parts_of_one_kind_have_the_quantile_of_both_together():
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        weights = mixing_weights(np.arange(240) >= 200)
        assert weights is not None
        width = weighted_half_width(np.abs(generator.normal(size=240)), weights)
        covered.append((np.abs(generator.normal(size=200)) <= width).mean())
    assert 0.89 < np.mean(covered) < 0.92
