"""`benchmarks/few_labels.py`: a page that is drawn from its lines."""

from __future__ import annotations

from benchmark_scripts import load_script, require_page_of_lines


def test_the_page_shows_its_lines() -> None:
    script = load_script("few_labels")
    require_page_of_lines(script, len(script.FURTHER_SETS) * len(script.ENCODERS) * 3)
