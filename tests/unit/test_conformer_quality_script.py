"""`benchmarks/conformer_quality.py`: a page that is drawn from its lines."""

from __future__ import annotations

from benchmark_scripts import load_script, require_page_of_lines


def test_the_page_shows_its_lines() -> None:
    script = load_script("conformer_quality")
    require_page_of_lines(script, len(script.SOURCES) * len(script.DATASETS) * 2)
