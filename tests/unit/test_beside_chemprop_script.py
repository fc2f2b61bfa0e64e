"""Ratios of `benchmarks/beside_chemprop.py` are of the same repetition, and its tables are Lipo's."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from benchmark_scripts import load_script


@pytest.fixture(scope="module")
def beside() -> ModuleType:
    return load_script("beside_chemprop")


def test_a_ratio_is_the_median_over_repetitions(beside: ModuleType) -> None:
    seconds = {"chemprop": (10.0, 20.0, 12.0), "fast": (5.0, 20.0, 8.0)}
    lines = [
        {"model": name, "repetition": number, "cpu_seconds": value}
        for name, own in seconds.items()
        for number, value in enumerate(own)
    ]
    assert beside.ratios(lines) == {"fast": (1.5, 1.0, 2.0)}


def test_every_molecule_is_predicted_and_a_thousand_are_learned(beside: ModuleType, tmp_path: Path) -> None:
    molecules, training = beside.write_tables(tmp_path)
    assert len(molecules.read_text().splitlines()) == 1 + 4200
    assert len(training.read_text().splitlines()) == 1 + beside.TRAINING


def test_what_was_measured_is_a_command_in_turn(beside: ModuleType) -> None:
    commands = {name: ["python3", "-c", f"print('{name}')"] for name in ("chemprop", "fast")}
    lines = list(beside.measured(commands, 2, 3))
    assert [(line["model"], line["repetition"]) for line in lines] == [
        ("chemprop", 0), ("fast", 0), ("chemprop", 1), ("fast", 1),
    ]  # fmt: skip
    assert all(line["cpu_seconds"] > 0 and line["peak_mb"] > 1 for line in lines)
    with pytest.raises(SystemExit, match="broken failed"):
        list(beside.measured({"broken": ["python3", "-c", "raise SystemExit(3)"]}, 1, 1))
