"""`class_weights=balanced` in the classical members: a rare class counts as much as a common one; values stay."""

from __future__ import annotations

import numpy as np
import pytest

from dnd.finetuning.classical import FitOptions, Training, fit_member
from dnd.predictor.classical.features import COUNTS, DESCRIPTORS, Layout

LAYOUT = Layout()


def training(*, balanced: bool, classes: bool = True, seed: int = 0) -> Training:
    """150 molecules of which a tenth is of class 1, told from the others by weak descriptors and counts."""
    generator = np.random.default_rng(seed)
    rare_B = (np.arange(150) % 10 == 0).astype(float)
    x_BF = np.zeros((150, LAYOUT.width), np.float32)
    for name in (DESCRIPTORS, COUNTS):
        columns = LAYOUT.columns(name)[:12]
        x_BF[:, columns] = generator.poisson(2 + 0.7 * rare_B[:, None], size=(150, 12))
    labels_B = rare_B if classes else rare_B - rare_B.mean()
    return Training(x_BF, labels_B, LAYOUT, classes, 1, 0, FitOptions(trees=30, balanced=balanced))


NEW = training(balanced=False, seed=1).x_BF


@pytest.mark.parametrize("name", ["ridge", "boosting", "forest_counts"])
def test_a_rare_class_becomes_more_probable(name: str):
    plain, balanced = (fit_member(name, training(balanced=own)).predict(NEW) for own in (False, True))
    assert 0.03 < plain.mean() < 0.2
    assert balanced.mean() > 1.2 * plain.mean()


def test_the_pure_leaves_of_extra_trees_are_moved_by_weights_and_stay_probabilities():
    plain, balanced = (fit_member("forest_descriptors", training(balanced=own)).predict(NEW) for own in (False, True))
    assert not np.allclose(plain, balanced)
    assert ((balanced >= 0) & (balanced <= 1)).all()


def test_values_and_the_gaussian_process_know_no_class_weights():
    for name, classes in (("ridge", False), ("boosting", False), ("gaussian_process", True)):
        same = [fit_member(name, training(balanced=own, classes=classes)).predict(NEW) for own in (False, True)]
        np.testing.assert_array_equal(*same)
