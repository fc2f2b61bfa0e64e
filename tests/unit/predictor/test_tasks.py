from __future__ import annotations

import math

import numpy as np
import pytest

from dnd.common.errors import InputError
from dnd.finetuning.tasks import check_targets, choose_task, fit_targets, scale_labels

NAN = math.nan


def test_auto_explains_itself():
    kind, reason = choose_task(np.array([[0.0], [1.0], [NAN]]), ["y"], "auto")
    assert kind == "classification"
    assert "every label is 0 or 1" in reason
    kind, reason = choose_task(np.array([[0.0], [2.5]]), ["y"], "auto")
    assert kind == "regression"
    assert "2.5" in reason


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (1.0, 2.0)])
def test_two_numbers_that_mean_classes_are_classes(low: float, high: float):
    kind, reason = choose_task(np.array([[low], [high], [NAN]]), ["y"], "auto")
    assert kind == "classification"
    assert f"every label is {low:g} or {high:g}" in reason
    assert choose_task(np.array([[low], [high]]), ["y"], "regression")[0] == "regression"
    assert choose_task(np.array([[low], [high], [3.0]]), ["y"], "auto")[0] == "regression"


def test_two_words_are_two_classes():
    codes = np.array([[0.0], [1.0]])
    assert choose_task(codes, ["y"], "auto", ("No", "Yes"))[0] == "classification"
    assert choose_task(codes, ["y"], "multiclass", ("No", "Yes"))[0] == "multiclass"


def test_classes_are_whole_numbers():
    with pytest.raises(InputError, match="target b can't be a class"):
        choose_task(np.array([[0.0, 1.0], [1.0, 2.5]]), ["a", "b"], "classification")


def test_targets_that_cannot_be_learned():
    with pytest.raises(InputError, match="target b has no label"):
        check_targets(np.array([[0.0, NAN], [1.0, NAN]]), ["a", "b"], "regression")
    with pytest.raises(InputError, match="target a is constant"):
        check_targets(np.array([[3.0], [3.0]]), ["a"], "regression")
    with pytest.raises(InputError, match="target a is constant"):
        check_targets(np.array([[0.3], [0.1 + 0.2]]), ["a"], "regression")  # one value but for rounding
    with pytest.raises(InputError, match="one class only"):
        check_targets(np.ones((3, 2)), ["a", "b"], "classification")
    assert len(check_targets(np.array([[0.0, 1.0], [1.0, 1.0]]), ["a", "b"], "classification")) == 1


def test_a_scale_is_of_the_own_labels_and_of_others_where_those_have_none():
    labels = np.array([[1.0, NAN, 5.0], [3.0, NAN, 5.0], [9.0, 2.0, NAN], [NAN, 4.0, 7.0]])
    found = scale_labels(labels, np.array([0, 1]), np.array([2, 3]))
    expected = [[1.0, NAN, 5.0], [3.0, NAN, 5.0], [NAN, 2.0, NAN], [NAN, 4.0, 7.0]]
    assert np.array_equal(found, expected, equal_nan=True)


def test_scale_is_that_of_the_labels_given():
    (target,) = fit_targets(np.array([[1.0], [3.0], [NAN]]), ["a"], ["K"], ["regression"], standardise=True)
    assert (target.mean, target.std, target.unit) == (2.0, 1.0, "K")
    (raw,) = fit_targets(np.array([[1.0], [3.0]]), ["a"], [], ["regression"], standardise=False)
    assert (raw.mean, raw.std) == (0.0, 1.0)
    (small,) = fit_targets(np.array([[1e-30], [3e-30]]), ["a"], [], ["regression"], standardise=True)
    assert small.std == pytest.approx(1e-30)
    for values in ([1.0, 1.0], [1e308, -1e308], [NAN, NAN], [0.3, 0.1 + 0.2], [1000.0, 1000.0 + 2.3e-13]):
        with pytest.raises(InputError, match="no usable spread in the training part"):
            fit_targets(np.array(values)[:, None], ["a"], [], ["regression"], standardise=True)
