"""Equality with OGB's evaluator on its recorded cases, and what happens where a target can't be counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dnd.predictor.metrics import score, scores, summary

RECORDED = Path(__file__).parents[2] / "reference" / "ogb_evaluator.npz"
CASES = [
    ("rocauc_nan_singleclass", "rocauc"),
    ("rocauc_two_tasks", "rocauc"),
    ("rocauc_ties", "rocauc"),
    ("rmse", "rmse"),
    ("rmse_nan", "rmse"),
    ("ap_nan_singleclass", "ap"),
    ("pcqm4mv2_mae", "mae"),
]


@pytest.mark.parametrize(("case", "metric"), CASES)
def test_equal_to_ogb(case: str, metric: str):
    recorded = np.load(RECORDED)
    y_true, y_pred = (
        recorded[f"in.{case}.{name}"].reshape(len(recorded[f"in.{case}.y_true"]), -1) for name in ("y_true", "y_pred")
    )
    assert score(metric, y_true, y_pred).value == pytest.approx(float(recorded[f"out.{case}.{metric}"]), abs=1e-12)


def test_targets_with_one_class_are_skipped_and_counted():
    recorded = np.load(RECORDED)
    case = "rocauc_nan_singleclass"
    found = score("rocauc", recorded[f"in.{case}.y_true"], recorded[f"in.{case}.y_pred"])
    assert found.skipped == 3
    assert [place for place, value in enumerate(found.per_target) if value is None] == [3, 7, 9]


def test_one_class_everywhere_gives_none_and_no_crash():
    found = score("rocauc", np.ones((5, 1)), np.arange(5.0)[:, None])
    assert found.value is None
    assert found.skipped == 1


def test_r2_of_a_single_molecule_is_undefined():
    assert score("r2", np.ones((1, 1)), np.ones((1, 1))).value is None


def test_summary_holds_means_and_each_target():
    targets, predictions = np.array([[0.0, 1.0], [2.0, np.nan]]), np.array([[1.0, 1.0], [2.0, 9.0]])
    plain = summary(["a", "b"], scores("regression", targets, predictions))
    assert plain["mae"] == pytest.approx(0.25)
    assert plain["targets"]["a"]["mae"] == pytest.approx(0.5)
    assert plain["targets"]["b"]["mae"] == 0
