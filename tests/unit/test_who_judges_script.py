"""`benchmarks/who_judges.py`: a table that keeps the test part out, and a page that is drawn from its lines."""

from __future__ import annotations

import csv
import io
from types import ModuleType

import pytest

from benchmark_scripts import load_script, require_page_of_lines
from dnd.reproduction.benchmarks import load_benchmark


@pytest.fixture(scope="module")
def who_judges() -> ModuleType:
    return load_script("who_judges")


def test_no_molecule_of_the_test_part_is_in_the_table(who_judges: ModuleType) -> None:
    rows = list(csv.DictReader(io.StringIO(who_judges.table_of("freesolv"))))
    data = load_benchmark("freesolv")
    texts = {part: {data.smiles[row] for row in rows} for part, rows in data.parts.items()}
    assert {row["smiles"] for row in rows if row["split"] == "test"} == texts["valid"]
    assert {row["smiles"] for row in rows if row["split"] != "test"} == texts["train"]
    assert not {row["smiles"] for row in rows} & texts["test"]


def test_the_page_shows_its_lines(who_judges: ModuleType) -> None:
    require_page_of_lines(who_judges, 18)
