"""`benchmarks/encoder_value.py`: how features are judged, and the page that is drawn from the lines."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from benchmark_scripts import BENCHMARKS, load_script


@pytest.fixture(scope="module")
def value() -> ModuleType:
    return load_script("encoder_value")


def test_a_linear_target_is_found_and_folds_are_judged_by_models_that_have_not_seen_them(value: ModuleType) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 3)).astype(np.float32)
    y = x @ np.array([[1.0], [-2.0], [0.5]])
    is_test = np.arange(60) >= 50
    fold = np.arange(50) % value.FOLDS
    out_of_fold, test = value.judge("ridge", x, y, is_test, fold, "regression", 0)
    assert max(out_of_fold, test) < 0.1 * y.std()
    noise = generator.normal(size=(60, 1))
    out_of_fold, _ = value.judge("ridge", x, noise, is_test, fold, "regression", 0)
    assert out_of_fold > 0.9 * noise[:50].std()


def test_the_page_counts_changes_against_descriptors_and_against_the_first_encoder(value: ModuleType) -> None:
    common = {"task": "regression", "model": "ridge", "molecules": "90", "test_molecules": "10", "versions": "v=1"}
    errors = {"descriptors": 1.0, "old": 1.2, "new": 0.9, "descriptors+old": 1.0, "descriptors+new": 0.8}
    lines = [
        {**common, "set": name, "features": features, "out_of_fold": str(error), "test": str(error)}
        for name in ("a", "b")
        for features, error in errors.items()
    ]
    page = value.page(lines)
    assert "2 regression sets and 0 sets of classes; at most 100 molecules of each." in page
    assert "| descriptors+new | -20.0 % (2 of 2) | -20.0 % (2 of 2) | – |" in page
    assert "| new | -25.0 % (2 of 2) | -25.0 % (2 of 2) | – |" in page
    assert "| a | 1.000 | 1.200 | 0.900 | 1.000 | 0.800 |" in page


def test_the_page_in_the_documentation_is_that_of_its_lines(value: ModuleType) -> None:
    results = BENCHMARKS.parent / "docs" / "results"
    lines = value.read_lines(results / "encoder" / "scores.csv")
    assert (results / "encoder-value.md").read_text() == value.page(lines)
    assert len({line["set"] for line in lines}) > 30
