from __future__ import annotations

import math

import numpy as np
import pytest

from dnd.common.errors import InputError
from dnd.predictor.targets import check_targets, choose_task, fit_targets
from dnd.tables.labels import parse_label

NAN = math.nan


@pytest.mark.parametrize("text", ["", " ", "NaN", "NA", "n/a", "null", "None"])
def test_missing_labels(text: str):
    assert math.isnan(parse_label(text, row=0, column="y"))


@pytest.mark.parametrize(("text", "value"), [("1.5", 1.5), (" -2e3 ", -2000.0), ("true", 1.0), ("No", 0.0)])
def test_labels(text: str, value: float):
    assert parse_label(text, row=0, column="y") == value


@pytest.mark.parametrize("text", [">10", "1,5", "1e400", "inf", "high", "1_000"])
def test_labels_that_are_no_numbers_name_row_and_value(text: str):
    with pytest.raises(InputError, match=r"row 7, column logS") as error:
        parse_label(text, row=7, column="logS")
    assert repr(text) in str(error.value)


def test_auto_explains_itself():
    kind, reason = choose_task(np.array([[0.0], [1.0], [NAN]]), ["y"], "auto")
    assert kind == "classification"
    assert "every label is 0 or 1" in reason
    kind, reason = choose_task(np.array([[0.0], [2.5]]), ["y"], "auto")
    assert kind == "regression"
    assert "2.5" in reason


def test_classes_are_whole_numbers():
    with pytest.raises(InputError, match="target b can't be a class"):
        choose_task(np.array([[0.0, 1.0], [1.0, 2.5]]), ["a", "b"], "classification")


def test_targets_that_cannot_be_learned():
    with pytest.raises(InputError, match="target b has no label"):
        check_targets(np.array([[0.0, NAN], [1.0, NAN]]), ["a", "b"], "regression")
    with pytest.raises(InputError, match="target a is constant"):
        check_targets(np.array([[3.0], [3.0]]), ["a"], "regression")
    with pytest.raises(InputError, match="one class only"):
        check_targets(np.ones((3, 2)), ["a", "b"], "classification")
    assert len(check_targets(np.array([[0.0, 1.0], [1.0, 1.0]]), ["a", "b"], "classification")) == 1


def test_scale_is_that_of_the_labels_given():
    (target,) = fit_targets(np.array([[1.0], [3.0], [NAN]]), ["a"], ["K"], ["regression"], standardise=True)
    assert (target.mean, target.std, target.unit) == (2.0, 1.0, "K")
    (raw,) = fit_targets(np.array([[1.0], [3.0]]), ["a"], [], ["regression"], standardise=False)
    assert (raw.mean, raw.std) == (0.0, 1.0)
    for values in ([1.0, 1.0], [1e308, -1e308], [NAN, NAN]):
        with pytest.raises(InputError, match="no usable spread in the training part"):
            fit_targets(np.array(values)[:, None], ["a"], [], ["regression"], standardise=True)
