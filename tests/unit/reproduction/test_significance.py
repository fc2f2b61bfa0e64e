"""Tests over pretrainings, against answers that were worked out by hand."""

import math

import pytest

from dnd.reproduction.significance import by_pretraining, holm, mean_over_sets, paired, unpaired


def two_tailed_t2(t: float) -> float:
    """Student's t with two degrees of freedom has this closed form."""
    return 1 - t / math.sqrt(2 + t * t)


def test_a_paired_test_counts_pretrainings_and_not_finetunings() -> None:
    first = {
        (u, s): 1.0 + shift + noise for u, shift in ((1, 0.1), (2, 0.2), (3, 0.3)) for s, noise in ((1, 5.0), (2, -5.0))
    }
    second = {(u, s): 1.0 + noise for u in (1, 2, 3) for s, noise in ((1, 5.0), (2, -5.0))}
    found = paired(first, second)
    assert (found.count, found.over) == (3, "pretrainings")
    assert found.p_value == pytest.approx(two_tailed_t2(0.2 / (0.1 / math.sqrt(3))))  # 0.0742
    # A hundred times as many finetunings of the same three pretrainings are no more evidence.
    many = [{(u, s): values[u, 1] for u in (1, 2, 3) for s in range(100)} for values in (first, second)]
    assert paired(*many).p_value == pytest.approx(found.p_value)


def test_a_seed_that_one_side_lacks_is_left_out() -> None:
    first = {(1, 1): 1.0, (1, 2): 2.0, (2, 1): 1.2, (3, 1): 1.4}
    second = {(1, 1): 0.9, (2, 1): 1.0, (2, 2): 50.0, (3, 1): 1.1}
    assert paired(first, second).p_value == pytest.approx(two_tailed_t2(0.2 / (0.1 / math.sqrt(3))))


def test_one_pretraining_is_said() -> None:
    found = paired({(1, 1): 1.1, (1, 2): 1.2, (1, 3): 1.3}, {(1, 1): 1.0, (1, 2): 1.0, (1, 3): 1.0})
    assert (found.count, found.over) == (3, "finetuning seeds of one pretraining")
    assert paired({(1, 1): 1.0}, {(1, 1): 2.0}).p_value is None
    assert paired({(1, 1): 1.0, (2, 1): 2.0}, {(1, 1): 2.0, (2, 1): 3.0}).p_value is None  # no spread


def test_a_classical_model_has_no_pairs() -> None:
    found = unpaired({(1, 1): 1.0, (2, 1): 2.0, (3, 1): 3.0}, {(0, 1): 5.0, (0, 2): 5.0, (0, 3): 5.0})
    assert (found.count, found.over) == (3, "pretrainings")
    assert found.p_value == pytest.approx(two_tailed_t2(3 / (1 / math.sqrt(3))))  # Welch: the other side does not vary
    assert unpaired({(1, 1): 1.0, (2, 1): 2.0}, {(0, 1): 5.0}).p_value is None


def test_the_mean_over_data_sets_has_one_number_per_pretraining() -> None:
    mean, found = mean_over_sets([{1: 0.1, 2: 0.2, 3: 0.3}, {1: 0.3, 2: 0.4, 3: 0.5}, {1: 0.2, 2: 0.3, 3: 0.4, 4: 9.0}])
    assert (mean, found.count) == (pytest.approx(0.3), 3)
    assert found.p_value == pytest.approx(two_tailed_t2(0.3 / (0.1 / math.sqrt(3))))
    assert mean_over_sets([{1: 0.1}])[1].over == "nothing"
    assert math.isnan(mean_over_sets([])[0])


def test_holm() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == [pytest.approx(0.03), pytest.approx(0.06), None, pytest.approx(0.06)]
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_means_by_pretraining() -> None:
    assert by_pretraining({(2, 1): 1.0, (2, 2): 3.0, (1, 1): 5.0}) == {1: 5.0, 2: 2.0}
