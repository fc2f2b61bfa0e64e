"""The table of `benchmarks/compare.py`: who is first, who is clearly behind, and what is written where."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from benchmark_scripts import BENCHMARKS, load_script


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    return load_script("compare")


def line(dataset: str, system: str, seed: int, value: float) -> dict:
    sizes = {"train": 80, "valid": 10, "test": 10}
    cost = {"seconds": 10.0 * seed, "cpu_seconds": 5.0, "peak_mb": 300}
    return {
        "dataset": dataset,
        "system": system,
        "seed": seed,
        "value": value,
        "molecules": sizes,
        "available": 100,
        **cost,
    }


def results() -> list[dict]:
    found = [line("esol", "best", seed, 0.70 + 0.01 * seed) for seed in (1, 2, 3)]
    found += [line("esol", "rf-both", seed, 0.90 + 0.02 * seed) for seed in (1, 2, 3)]
    found += [line("esol", "fast", seed, value) for seed, value in ((1, 0.70), (2, 0.75), (3, 0.725))]
    found += [line("bace", "best", 1, 0.80), line("bace", "rf-both", 1, 0.85)]
    return found


def test_the_first_is_bold_and_only_clear_differences_count(compare: ModuleType):
    lines = compare.table(results())
    assert lines[0] == "| set (metric, molecules) | best | fast | rf-both |"
    assert lines[2] == "| esol (rmse, 100) | **0.720 ± 0.010 (3)** | 0.725 ± 0.025 (3) | 0.940 ± 0.020 (3) |"
    assert lines[3] == "| bace (rocauc, 100) | 0.800 (1) | – | **0.850 (1)** |"
    assert lines[4] == "| first, or not significantly behind it | 1 | 1 | 1 |"
    assert "| esol | 20 / 5 / 300 | 20 / 5 / 300 | 20 / 5 / 300 |" in lines


def test_the_table_goes_between_its_markers(compare: ModuleType, tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{compare.BEGIN}\nold\n{compare.END}\nafter\n")
    compare._write_between_markers(page, ["| new |"])
    assert page.read_text() == f"before\n{compare.BEGIN}\n| new |\n{compare.END}\nafter\n"
    with pytest.raises(SystemExit):
        compare._write_between_markers(BENCHMARKS / "first_run.sh", [])


def test_finished_cells_are_read_back(compare: ModuleType, tmp_path: Path):
    assert compare._results(tmp_path) == []
    (tmp_path / compare.RESULTS).write_text("".join(json.dumps(one) + "\n" for one in results()))
    assert compare._results(tmp_path) == results()
