"""Every calibrator against the one contract."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from calibrator_suite import CalibratorSuite, CoverageSuite, ProbabilitySuite

from dnd.predictor.targets import Transform, softmax
from dnd.predictor.uncertainty.classes import (
    ClassWiseSets,
    Isotonic,
    MarginalSets,
    Platt,
    Temperature,
    calibration_error,
)
from dnd.predictor.uncertainty.intervals import (
    ConformalIntervals,
    HeldOut,
    Predicted,
    error_by_similarity,
    mixing_weights,
)


def too_sure(count: int, seed: int) -> HeldOut:
    """Two classes, and probabilities whose odds are the cube of the true ones."""
    generator = np.random.default_rng(seed)
    true = generator.random(count)
    labels = (generator.random(count) < true).astype(float)
    return HeldOut(labels, Predicted(true**3 / (true**3 + (1 - true) ** 3)))


def several_classes(count: int, seed: int, power: float = 1.0) -> HeldOut:
    """Four classes of unequal share; the probabilities are the true ones to a power, with the sum 1."""
    generator = np.random.default_rng(seed)
    codes = generator.choice(4, size=count, p=(0.5, 0.25, 0.15, 0.1))
    scores = generator.normal(size=(count, 4))
    scores[np.arange(count), codes] += 1.5
    odds = 1.5 * scores + np.log((0.5, 0.25, 0.15, 0.1))
    return HeldOut(codes.astype(float), Predicted(softmax(power * odds)))


class TestOneWidth(CoverageSuite):
    kind = ConformalIntervals
    measures = frozenset({"coverage", "width"})
    fewest = 9

    def drawn(self, count: int, seed: int) -> HeldOut:
        generator = np.random.default_rng(seed)
        labels = generator.normal(size=count)
        return HeldOut(labels, Predicted(labels + generator.standard_t(4, size=count)))


class TestOneWidthOfAMappedTarget(TestOneWidth):
    def drawn(self, count: int, seed: int) -> HeldOut:
        own = super().drawn(count, seed)
        return HeldOut(np.exp(own.labels_B), Predicted(np.exp(own.predicted.values), transform=Transform("log")))


class TestWidthBySpread(TestOneWidth):
    def drawn(self, count: int, seed: int) -> HeldOut:
        generator = np.random.default_rng(seed)
        labels, spread = generator.normal(size=count), generator.gamma(1.0, size=count)
        return HeldOut(labels, Predicted(labels + generator.normal(size=count) * spread, spread))

    def test_the_width_goes_with_the_spread(self, data: HeldOut, learned: ConformalIntervals) -> None:
        low, high = learned.apply(data.predicted).T
        order = np.argsort(data.predicted.spread_B)
        assert (np.diff((high - low)[order]) > 0).all()

    def test_a_spread_that_says_nothing_gives_no_such_width(self, data: HeldOut) -> None:
        for spread in (0.0, np.nan, np.inf):
            predicted = Predicted(data.predicted.values, np.full(len(data), spread))
            assert ConformalIntervals.fit(HeldOut(data.labels_B, predicted)) is None


class TestWidthBySimilarity(TestOneWidth):
    share = (0.885, 0.915)

    def drawn(self, count: int, seed: int) -> HeldOut:
        """Errors that are four times as large for a similarity of 0 as for one of 1."""
        generator = np.random.default_rng(seed)
        labels, similarity = generator.normal(size=count), generator.random(count)
        error = generator.normal(size=count) * (4 - 3 * similarity)
        return HeldOut(labels, Predicted(labels + error, similarity_B=similarity))

    def test_near_and_far_molecules_are_covered_alike(self) -> None:
        held = []
        for seed in range(20):
            learned = ConformalIntervals.fit(self.drawn(600, seed))
            assert learned.similarity_factors[0] > 1 > learned.similarity_factors[-1]
            judged = self.drawn(600, 500 + seed)
            near = judged.predicted.similarity_B > 0.5
            held.append([learned.evaluate(judged[own])["coverage"] for own in (near, ~near)])
        assert np.mean(held, axis=0) == pytest.approx([0.9, 0.9], abs=0.025)

    def test_a_shift_to_far_molecules_costs_less_coverage_than_with_one_width(self) -> None:
        taught, judged = self.drawn(1000, 1), self.drawn(3000, 2)
        far = judged[judged.predicted.similarity_B < 0.2]
        one = ConformalIntervals.fit(HeldOut(taught.labels_B, Predicted(taught.predicted.values)))
        coverage = [own.evaluate(far)["coverage"] for own in (one, ConformalIntervals.fit(taught))]
        assert coverage[0] < 0.82
        assert coverage[1] > 0.86

    def test_it_says_both_factors(self, learned: ConformalIntervals) -> None:
        far, near = learned.similarity_factors[0], learned.similarity_factors[-1]
        assert f"× {far:.2f} for molecules whose similarity" in learned.describe()
        assert f"× {near:.2f} from {learned.similarity_knots[-1]:.2f} on" in learned.describe()


class TestWidthBySpreadAndSimilarity(TestWidthBySimilarity):
    def drawn(self, count: int, seed: int) -> HeldOut:
        own = super().drawn(count, seed)
        spread = np.random.default_rng(seed + 10_000).gamma(2.0, size=count)
        values = own.labels_B + (own.predicted.values - own.labels_B) * spread
        return HeldOut(own.labels_B, Predicted(values, spread, similarity_B=own.predicted.similarity_B))

    def test_a_shift_to_far_molecules_costs_less_coverage_than_with_one_width(self) -> None:
        taught, judged = self.drawn(1000, 1), self.drawn(3000, 2)
        far = judged[judged.predicted.similarity_B < 0.2]
        own = taught.predicted
        without = ConformalIntervals.fit(HeldOut(taught.labels_B, Predicted(own.values, own.spread_B)))
        coverage = [found.evaluate(far)["coverage"] for found in (without, ConformalIntervals.fit(taught))]
        assert coverage[0] < coverage[1] - 0.03


class TestPlatt(ProbabilitySuite):
    kind = Platt
    fewest = 12  # ten of each class

    def drawn(self, count: int, seed: int) -> HeldOut:
        return too_sure(count, seed)


class TestIsotonic(ProbabilitySuite):
    kind = Isotonic
    fewest = 2

    def drawn(self, count: int, seed: int) -> HeldOut:
        return too_sure(count, seed)


class TestTemperature(ProbabilitySuite):
    kind = Temperature
    fewest = 30

    def drawn(self, count: int, seed: int) -> HeldOut:
        return several_classes(count, seed, power=3.0)

    def test_the_temperature_is_the_power_that_the_model_is_off_by(self) -> None:
        assert Temperature.fit(self.drawn(5000, 9)).value == pytest.approx(3.0, rel=0.1)


class SetSuite(CoverageSuite):
    measures = frozenset({"coverage", "size", "single"})

    def test_a_set_is_never_empty_and_holds_the_most_probable_class(self, data: HeldOut, learned) -> None:
        inside = learned.apply(data.predicted)
        assert inside.any(axis=1).all()
        single = inside.sum(axis=1) == 1
        if len(set(learned.thresholds)) == 1:
            assert inside[single, data.predicted.by_class_BK[single].argmax(axis=1)].all()


class TestClassWiseSetsOfTwo(SetSuite):
    kind = ClassWiseSets
    fewest = 9

    def drawn(self, count: int, seed: int) -> HeldOut:
        own = too_sure(count, seed)
        return HeldOut(own.labels_B, Predicted(own.predicted.values))


class TestClassWiseSetsOfSeveral(SetSuite):
    kind = ClassWiseSets
    fewest = 9
    share = (0.89, 0.92)

    def drawn(self, count: int, seed: int) -> HeldOut:
        return several_classes(count, seed)

    def test_the_promise_is_kept_for_each_class(self) -> None:
        held = []
        for seed in range(40):
            found, judged = ClassWiseSets.fit(self.drawn(600, seed)), self.drawn(600, 1000 + seed)
            covered = found.scores(judged)["coverage"]
            held.append([covered[judged.labels_B == place].mean() for place in range(4)])
        assert (np.mean(held, axis=0) > 0.885).all()


class TestMarginalSets(SetSuite):
    kind = MarginalSets
    fewest = 9

    def drawn(self, count: int, seed: int) -> HeldOut:
        return several_classes(count, seed)


def test_errors_that_do_not_fall_with_similarity_leave_one_width() -> None:
    similarity = np.linspace(0, 1, 300)
    assert error_by_similarity(similarity, np.linspace(1, 2, 300)) is None
    assert error_by_similarity(similarity, np.ones(300)) is None
    assert error_by_similarity(similarity, np.zeros(300)) is None
    assert error_by_similarity(np.full(300, 0.5), np.linspace(2, 1, 300)) is None
    assert error_by_similarity(similarity[:199], np.linspace(2, 1, 199)) is None  # two bins need 200
    for count, bins in ((200, 2), (299, 2), (300, 3)):
        knots, factors = error_by_similarity(similarity[:count], np.linspace(2, 1, count))
        assert len(knots) == len(factors) == bins


def test_a_bin_that_is_worse_than_a_less_similar_one_shares_its_mean() -> None:
    errors, similarity = np.repeat([2.0, 1.0, 1.5], 100), np.linspace(0, 1, 300)
    assert error_by_similarity(similarity, errors)[1] == pytest.approx((2 / 1.5, 1.25 / 1.5, 1.25 / 1.5))
    weights = np.repeat([2.0, 1.0, 1.0], 100) / 400  # the mean of all errors is then 1.625
    assert error_by_similarity(similarity, errors, weights)[1][0] == pytest.approx(2 / 1.625)
    assert error_by_similarity(similarity, np.repeat([9.0, 1.0, 0.1], 100))[1][-1] == 0.25  # no width of almost nothing


def test_molecules_count_in_sets_by_their_weight() -> None:
    probabilities = np.concatenate([np.full(300, 0.9), np.full(100, 0.3)])  # the validation part is harder
    labels, is_valid = np.ones(400), np.arange(400) >= 300
    alike = ClassWiseSets.fit(HeldOut(labels[:390], Predicted(probabilities[:390])))
    assert alike.thresholds[1] == pytest.approx(0.7)
    easy = HeldOut(labels[:330], Predicted(probabilities[:330]))
    assert ClassWiseSets.fit(easy).thresholds[1] == pytest.approx(0.1)
    weighted = replace(easy, weights_B=mixing_weights(is_valid[:330]))
    assert ClassWiseSets.fit(weighted).thresholds[1] == pytest.approx(0.7)
    assert MarginalSets.fit(weighted).thresholds == pytest.approx((0.7, 0.7))


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    sure = np.tile([0.9, 0.1], (100, 1))
    assert calibration_error(np.repeat([0, 1], [60, 40]), sure) == pytest.approx(0.3)
    assert calibration_error(np.repeat([0, 1], [90, 10]), sure) == pytest.approx(0.0)


def test_the_suite_of_the_contract_names_every_calibrator() -> None:
    """A calibrator that no class here inherits the suite for fails this."""

    def leaves(kind: type) -> set[type]:
        return set().union(*map(leaves, kind.__subclasses__())) if kind.__subclasses__() else {kind}

    from dnd.predictor.uncertainty.intervals import Calibrator

    tested = {own.kind for own in leaves(CalibratorSuite) if hasattr(own, "kind")}
    assert {kind for kind in leaves(Calibrator) if kind.__module__.startswith("dnd.")} <= tested
