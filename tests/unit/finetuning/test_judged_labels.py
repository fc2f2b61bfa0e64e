"""Molecules whose measured labels taught the encoder are learned from, but do not decide weights and intervals."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from dnd.finetuning.fold_data import FEWEST_JUDGED, judged_labels
from dnd.models.students.encoders import LearnedLabels

COUNT = 4 * FEWEST_JUDGED
IDENTITIES = [f"molecule {number}" for number in range(COUNT)]


TEST = np.arange(0, COUNT, 10)
DEVELOPMENT = np.setdiff1d(np.arange(COUNT), TEST)


@pytest.fixture
def learned() -> LearnedLabels:
    """Every second molecule taught `half`, and a single one `few`."""
    return LearnedLabels.of_sets({"half": IDENTITIES[1::2], "few": IDENTITIES[2:3]})


def test_only_molecules_that_did_not_teach_the_encoder_judge(learned: LearnedLabels, caplog: pytest.LogCaptureFixture):
    labels_BC = np.random.default_rng(0).normal(size=(COUNT, 1))
    with caplog.at_level(logging.INFO, logger="dnd"):
        judged_BC = judged_labels(labels_BC, ["regression"], IDENTITIES, DEVELOPMENT, learned)
    taught = np.arange(1, COUNT, 2)
    assert np.isnan(judged_BC[taught]).all()
    others = np.setdiff1d(np.arange(COUNT), taught)
    assert (judged_BC[others] == labels_BC[others]).all()  # molecule 2 among them: its set has few of these molecules
    assert (judged_BC[TEST] == labels_BC[TEST]).all()
    assert "(half): the others decide weights and intervals" in caplog.text


def test_too_few_others_leave_all_labels_and_say_so(learned: LearnedLabels, caplog: pytest.LogCaptureFixture):
    labels_BC = np.full((COUNT, 2), np.nan)
    labels_BC[:, 0] = np.arange(COUNT) == 5  # one molecule of the rarer class
    labels_BC[: FEWEST_JUDGED + 1, 1] = 1.5
    with caplog.at_level(logging.INFO, logger="dnd"):
        judged_BC = judged_labels(labels_BC, ["classification", "regression"], IDENTITIES, DEVELOPMENT, learned)
    assert np.array_equal(judged_BC, labels_BC, equal_nan=True)
    assert "their errors out of fold are too low" in caplog.text


def test_without_learned_labels_all_judge():
    labels_BC, none = np.ones((COUNT, 1)), LearnedLabels.of_sets({"half": []})
    for learned in (None, none):
        assert judged_labels(labels_BC, ["regression"], IDENTITIES, DEVELOPMENT, learned) is labels_BC


def test_molecules_of_a_data_set_are_known_by_identity(learned: LearnedLabels):
    assert learned.knows(IDENTITIES[:4], ["half"]).tolist() == [False, True, False, True]
    assert learned.knows(IDENTITIES[:4], ["few"]).tolist() == [False, False, True, False]
    assert learned.knows(IDENTITIES[:4], []).tolist() == [False] * 4
    assert learned.share(IDENTITIES) == {"half": 0.5, "few": 1 / COUNT}
