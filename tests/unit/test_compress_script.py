"""`benchmarks/compress.py`: the share that is kept, and the page that is drawn from its raw lines."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmark_scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("compress")


def test_the_share_of_the_gain_has_the_direction_of_the_metric(script: ModuleType) -> None:
    assert script.share_kept("rmse", 1.0, 0.7, 0.6) == pytest.approx(0.75)
    assert script.share_kept("rocauc", 0.80, 0.79, 0.90) == pytest.approx(-0.1)
    assert script.share_kept("rmse", 0.6, 0.6, 0.7) is None


def test_the_page_is_that_of_its_raw_lines(script: ModuleType) -> None:
    page, raw = script.PAGE.read_text(encoding="utf-8"), script.read_lines(script.RAW)
    assert script.drawn(page, raw) == page
    assert len(raw) % len(script.SYSTEMS) == 0


def test_a_line_of_the_table_names_what_was_measured(script: ModuleType) -> None:
    shared = {"set": "esol", "recipe": "fast", "rows": "100", "epochs": "2", "seed": "1", "metric": "rmse"}
    numbers = {"lone": ("1.0", "2"), "compressed": ("0.7", "2"), "blend": ("0.6", "8")}
    raw = [
        {**shared, "system": name, "test": test, "ms_per_molecule": ms, "molecules": "113", "agreement_r2": "0.9"}
        | {"coverage": "" if name == "lone" else "0.88"}
        for name, (test, ms) in numbers.items()
    ]
    line = script.table(raw).splitlines()[-1]
    assert line == "| esol (113) | rmse | 1.000 | 0.700 | 0.600 | 75% | 0.90 | 88%, 88% | 4.0 |"
