"""ROC-AUC and average precision against scikit-learn, with ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from dnd.predictor.metrics import average_precision, roc_auc


@given(
    labels=st.lists(st.integers(0, 1), min_size=2, max_size=60).filter(lambda labels: len(set(labels)) == 2),
    data=st.data(),
    distinct=st.integers(1, 100),
)
@settings(max_examples=200, deadline=None)
def test_as_scikit_learn(labels: list[int], data: st.DataObject, distinct: int) -> None:
    steps = st.lists(st.integers(0, distinct), min_size=len(labels), max_size=len(labels))
    scores_B, labels_B = np.array(data.draw(steps)) / distinct, np.array(labels, dtype=np.float64)
    assert roc_auc(labels_B, scores_B) == pytest.approx(metrics.roc_auc_score(labels_B, scores_B), abs=1e-12)
    expected = metrics.average_precision_score(labels_B, scores_B)
    assert average_precision(labels_B, scores_B) == pytest.approx(expected, abs=1e-12)


def test_scores_that_are_not_finite_have_no_rank() -> None:
    with pytest.raises(ValueError, match="not finite"):
        roc_auc(np.array([0.0, 1.0]), np.array([np.nan, 1.0]))
