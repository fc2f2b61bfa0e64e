"""What every calibrator must hold. A new one inherits `CalibratorSuite` and says what data it learns from."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from dnd.common.errors import ConfigError
from dnd.predictor.uncertainty.intervals import Calibrator, HeldOut, Predicted, pooled_scores


def some(predicted: Predicted, rows: np.ndarray) -> Predicted:
    return HeldOut(np.zeros(len(predicted)), predicted)[rows].predicted


class CalibratorSuite:
    """Inherit, set `kind` and `measures`, and define `drawn`."""

    kind: type[Calibrator]
    measures: frozenset[str]  # what `evaluate` must report, at least
    fewest = 1  # molecules that it needs

    def drawn(self, count: int, seed: int) -> HeldOut:
        """Labelled molecules, exchangeable for every seed."""
        raise NotImplementedError

    @pytest.fixture
    def data(self) -> HeldOut:
        return self.drawn(600, 0)

    @pytest.fixture
    def learned(self, data: HeldOut) -> Calibrator:
        found = self.kind.fit(data)
        assert found is not None
        return found

    def test_it_is_frozen_numbers(self, learned: Calibrator) -> None:
        for name in learned.field_names():
            value = getattr(learned, name)
            numbers = value if isinstance(value, tuple) else (value,)
            assert all(number is None or (type(number) is float and math.isfinite(number)) for number in numbers)
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(learned, name, value)

    def test_the_same_molecules_teach_the_same(self, data: HeldOut, learned: Calibrator) -> None:
        assert self.kind.fit(data) == learned

    def test_it_comes_back_from_json_and_applies_bit_for_bit(self, data: HeldOut, learned: Calibrator) -> None:
        again = self.kind.from_dict(json.loads(json.dumps(learned.to_dict())))
        assert again == learned
        assert np.array_equal(again.apply(data.predicted), learned.apply(data.predicted))

    def test_damage_is_refused(self, learned: Calibrator) -> None:
        entry = learned.to_dict()
        first = next(iter(entry))
        with pytest.raises(ConfigError, match="depth"):
            self.kind.from_dict({**entry, "depth": 1.0})
        with pytest.raises(ConfigError, match=first):
            self.kind.from_dict({**entry, first: "wide"})
        with pytest.raises(TypeError, match=first):
            self.kind.from_dict({key: value for key, value in entry.items() if key != first})

    def test_few_molecules_teach_nothing(self) -> None:
        assert self.kind.fit(self.drawn(max(1, self.fewest - 1), 1)) is None
        assert self.kind.fit(self.drawn(0, 1)) is None

    def test_one_row_is_as_in_many(self, data: HeldOut, learned: Calibrator) -> None:
        every = learned.apply(data.predicted)
        assert len(every) == len(data)
        for row in (0, 17, len(data) - 1):
            alone = learned.apply(some(data.predicted, np.array([row])))
            np.testing.assert_allclose(alone[0].astype(float), every[row].astype(float), rtol=1e-12)
        assert len(learned.apply(some(data.predicted, np.arange(0)))) == 0

    def test_a_molecule_without_prediction_gets_nothing_and_changes_no_other(
        self, data: HeldOut, learned: Calibrator
    ) -> None:
        values = data.predicted.values.copy()
        values[3] = np.nan
        found = learned.apply(dataclasses.replace(data.predicted, values=values))
        nothing = ~found[3] if found.dtype == bool else np.isnan(found[3])
        assert nothing.all()
        others = np.arange(len(data)) != 3
        assert np.array_equal(found[others], learned.apply(data.predicted)[others])

    def test_evaluation_is_the_mean_over_molecules(self, learned: Calibrator) -> None:
        judged = self.drawn(300, 2)
        found = learned.evaluate(judged)
        assert self.measures <= found.keys()
        assert all(math.isfinite(value) for value in found.values())
        for name, values in learned.scores(judged).items():
            assert values.shape == (300,)
            assert found[name] == pytest.approx(values.mean())
        parts = [(learned, judged[np.arange(100)]), (None, judged), (learned, judged[np.arange(100, 300)])]
        for name, values in pooled_scores(parts).items():
            assert np.array_equal(values, learned.scores(judged)[name])

    def test_it_says_what_it_is(self, learned: Calibrator) -> None:
        words = learned.describe()
        assert words
        assert "\n" not in words
        assert not words.endswith(".")


class CoverageSuite(CalibratorSuite):
    """What promises a coverage keeps it on exchangeable molecules."""

    measures = frozenset({"coverage"})
    share = (0.89, 0.915)  # of repetitions' mean coverage

    def test_the_promise_is_kept(self) -> None:
        held = []
        for seed in range(40):
            found = self.kind.fit(self.drawn(400, 100 + seed))
            assert found is not None
            held.append(found.evaluate(self.drawn(400, 1100 + seed))["coverage"])
        assert self.share[0] < np.mean(held) < self.share[1]


class ProbabilitySuite(CalibratorSuite):
    """What maps probabilities keeps them probabilities, keeps their order, and repairs a model that is too sure."""

    measures = frozenset({"log_loss_before", "log_loss", "brier_before", "brier", "ece"})

    def test_probabilities_stay_probabilities(self, data: HeldOut, learned: Calibrator) -> None:
        found = learned.apply(data.predicted)
        assert found.shape == data.predicted.values.shape
        assert ((found >= 0) & (found <= 1)).all()
        if found.ndim == 2:
            np.testing.assert_allclose(found.sum(axis=1), 1.0)

    def test_the_order_is_kept(self, data: HeldOut, learned: Calibrator) -> None:
        before, after = data.predicted.values, learned.apply(data.predicted)
        if before.ndim == 2:
            assert np.array_equal(before.argsort(axis=1), after.argsort(axis=1))
        else:
            assert (np.diff(after[before.argsort()]) >= 0).all()

    def test_a_model_that_is_too_sure_is_repaired(self, learned: Calibrator) -> None:
        judged = self.drawn(3000, 3)
        found = learned.evaluate(judged)
        assert found["log_loss"] < found["log_loss_before"]
        assert found["brier"] < found["brier_before"]
        assert found["ece"] < 0.06
