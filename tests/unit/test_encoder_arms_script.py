"""`benchmarks/encoder_arms.py`: how changes are counted, and the page that is drawn from the lines."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from benchmark_scripts import load_script
from dnd.common.files import write_text
from dnd.tables.writers import csv_text


@pytest.fixture(scope="module")
def arms() -> ModuleType:
    return load_script("encoder_arms")


def lines_of(errors: dict[str, list[float]], task: str = "regression") -> list[dict[str, str]]:
    """A line per set and features, the same error out of fold and on the test part."""
    return [
        {"set": f"set-{place}", "task": task, "features": features, "out_of_fold": str(value), "test": str(value)}
        for features, values in errors.items()
        for place, value in enumerate(values)
    ]


def test_a_change_is_the_mean_over_the_sets_that_have_both(arms: ModuleType) -> None:
    lines = lines_of({"descriptors": [1.0] * 7, "descriptors+3d": [0.9] * 5 + [1.2]})
    found = arms.changes(lines, arms.Question("", "descriptors+3d", "descriptors"), "regression", "test")
    assert found.mean == pytest.approx((5 * -0.1 + 0.2) / 6)
    assert (found.better, found.sets) == (5, 6)
    assert found.p == pytest.approx(2 * 17 / 64)  # ranks 3, 3, 3, 3, 3, 6: of 64 choices of signs 17 sum to at most 6
    assert arms.changes(lines, arms.Question("", "descriptors+3d", "random"), "regression", "test") is None
    few = lines_of({"descriptors": [1.0] * 5, "descriptors+3d": [0.9] * 5})
    assert arms.changes(few, arms.Question("", "descriptors+3d", "descriptors"), "regression", "test").p is None


def test_the_tables_correct_for_the_number_of_questions(arms: ModuleType, tmp_path: Path) -> None:
    errors = {name: [1.0 + 0.01 * place for place in range(8)] for name in ("descriptors", "descriptors+random")}
    errors["descriptors+3d-quantum"] = [0.9 * value for value in errors["descriptors"]]
    curves = [
        {"arm": "3d", "molecules_seen": "256", "term": "node", "unexplained": "0.5"},
        {"arm": "all", "molecules_seen": "512", "term": "node", "unexplained": "0.4"},
    ]
    for name, lines in (("arms.csv", lines_of(errors)), ("arms_curves.csv", curves)):
        write_text(tmp_path / name, csv_text(list(lines[0]), [list(line.values()) for line in lines]))
    page = "\n".join(arms.tables(tmp_path / "arms.csv"))
    row = next(line for line in page.splitlines() if line.startswith("| `3d-quantum` beside descriptors"))
    assert row.split(" | ")[1:4] == ["-10.0 % (8 of 8)", "0.0078", "0.016"]  # two of the questions could be asked
    assert "| random weights beside descriptors | +0.0 % (0 of 8) | – | – |" in page
    assert "| 3d | 0.5 |  |" in page
    assert "| all |  | 0.4 |" in page
