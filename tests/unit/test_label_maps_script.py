"""`benchmarks/label_maps.py`: a page that is drawn from its lines, and labels as skewed as the page says."""

from __future__ import annotations

import numpy as np
from scipy import stats

from benchmark_scripts import load_script, require_page_of_lines


def test_the_page_shows_its_lines() -> None:
    script = load_script("label_maps")
    require_page_of_lines(script, 2 * len(script.LABELS))


def test_exponential_labels_have_the_skewness() -> None:
    labels_B = np.random.default_rng(0).normal(5, 2, size=300)
    assert abs(stats.skew(load_script("label_maps")._exponential(labels_B)) - 1.5) < 1e-9
