from __future__ import annotations

import pytest

from dnd.tables.writers import csv_text, guarded


@pytest.mark.parametrize("text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\tx", '=HYPERLINK("x")'])
def test_formulas_are_guarded(text: str):
    assert guarded(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1.5", "+2", "1e-3", "CCO", "", "a=b"])
def test_numbers_and_plain_text_stay(text: str):
    assert guarded(text) == text


def test_missing_values_are_empty_cells():
    assert csv_text(("a", "b"), [(1.5, None), ("=x", "y,z")]) == 'a,b\n1.5,\n\'=x,"y,z"\n'
