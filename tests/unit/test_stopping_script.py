"""`benchmarks/stopping.py`: what each way of choosing an epoch is judged by."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from benchmark_scripts import BENCHMARKS, load_script


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return load_script("stopping")


def test_choosing_by_oneself_flatters_and_choosing_by_others_does_not(
    stopping: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stopping, "DRAWS", 5)
    rng, found = np.random.default_rng(0), []
    for _ in range(30):
        labels = rng.normal(size=(60, 1))
        epochs = labels + rng.normal(size=(20, 60, 1))  # every epoch is as good as any other: an error of 1
        found.append(list(stopping.judge_halves(labels, epochs, "rmse", seed=0).values()))
    other, last, own = np.mean(found, axis=0)
    assert own < 0.85 * other
    assert other == pytest.approx(1, rel=0.05)
    assert last == pytest.approx(1, rel=0.05)


def test_a_better_epoch_is_found_by_all_but_the_last(stopping: ModuleType):
    labels = np.tile([[0.0], [1.0]], (20, 1))
    good, bad = labels, 1 - labels
    found = stopping.judge_halves(labels, np.stack([bad, good, bad]), "rocauc", seed=0)
    assert list(found.values()) == [1.0, 0.0, 1.0]


def test_the_table_has_means_over_seeds(stopping: ModuleType):
    lines = [
        {"data": "esol", "epochs": 30, "metric": "rmse", "scores": dict(zip(stopping.WAYS, scores, strict=True))}
        for scores in ((1.0, 2.0, 0.5), (3.0, 2.0, 0.7))
    ]
    assert stopping.table(lines)[2] == "| esol (rmse, 2) | 30 | 2 | 2 | 0.6 |"
