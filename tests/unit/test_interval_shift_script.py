"""`benchmarks/interval_shift.py`: one small cell, done once, without a label of the test part, and its page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmark_scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    found = load_script("interval_shift")
    found.MOST, found.TREES = 160, 5
    return found


def test_cells_are_judged_off_the_test_part_and_not_repeated(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    load = script.load_benchmark

    def load_without_test_labels(name: str) -> object:
        data = load(name)
        labels = data.targets_BC.copy()
        labels[data.parts["test"]] = np.nan
        return dataclasses.replace(data, targets_BC=labels)

    arguments = ["interval_shift.py", "--data", "esol", "bace", "--seeds", "1", "-o"]
    for out, own in (("all", load), ("hidden", load_without_test_labels)):
        monkeypatch.setattr(script, "load_benchmark", own)
        monkeypatch.setattr("sys.argv", [*arguments, str(tmp_path / out)])
        script.main()
    table = (tmp_path / "all" / script.TABLE).read_text()
    assert table == (tmp_path / "hidden" / script.TABLE).read_text()
    monkeypatch.setattr(script, "fit_cell", None)  # nothing is left to be fitted
    script.main()
    lines = script.read(tmp_path / "all" / script.TABLE)
    assert len(lines) == len(script.WIDTHS) + len(script.SETS)
    for line in lines:
        coverage, near, far = (float(line[key]) for key in ("coverage", "near", "far"))
        assert 0.5 < coverage <= 1
        assert min(near, far) <= coverage <= max(near, far)


def test_the_page_has_means_over_data_sets_beside_what_was_before(script: ModuleType):
    def line(data: str, seed: int, scheme: str, coverage: float, width: float) -> dict[str, str]:
        values = (data, "regression", seed, scheme, 90, coverage, coverage, coverage, width)
        return dict(zip(script.COLUMNS, map(str, values), strict=True))

    now = script.DEFAULT["regression"]
    before = [line("a", 0, "before", 0.8, 2.0), line("a", 1, "before", 0.9, 4.0), line("b", 0, "before", 0.85, 1.0)]
    after = [line("a", 0, now, 0.9, 3.0), line("a", 1, now, 0.9, 4.0), line("b", 0, now, 0.92, 1.5)]
    text = script.page(before + after)
    assert f"| {now} | 91.0% | 91.0% | 91.0% | 1.4% | 2 of 2 | 1.375 |" in text
    assert "| before | 85.0% | 85.0% | 85.0% | 5.0% | 0 of 2 | 1.000 |" in text
    assert "| a | 2 | 85.0% | 90.0% | 1.25 |" in text
