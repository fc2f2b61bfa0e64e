"""Units in a column of their own are recognised, and several of them are said."""

from __future__ import annotations

from pathlib import Path

import pytest

from dnd.finetuning.check_data import check_data
from dnd.finetuning.labelled_data import read_labelled
from dnd.tables.labels import UnitColumns, gives_units


@pytest.mark.parametrize(
    ("name", "cells", "are_units"),
    [
        ("Units", ["nM", "ug.mL-1"], True),
        ("standardUnits", ["nmol per l", "percent"], True),
        ("IC50_unit", ["as given"], True),
        ("scale", ["nM", "uM", "%"], True),
        ("rate", ["mL/min/kg", "uL/min/mg"], True),
        ("sex", ["M", "F"], False),
        ("subunit", ["alpha", "beta"], False),
        ("unit", ["1", "2"], False),
        ("unit", [""], False),
        ("assay", ["HLM", "RLM"], False),
        ("Units", [f"u{number}" for number in range(11)], False),
    ],
)
def test_a_column_of_units(name: str, cells: list[str], are_units: bool) -> None:
    assert gives_units(name, cells) == are_units


def test_several_units_are_counted_and_one_in_two_spellings_is_one() -> None:
    found = UnitColumns(["unit", "batch", "same"])
    for row in range(12):
        unit = "nM" if row < 4 else ""
        found.add({"unit": unit or ("uM" if row % 2 else "\u00b5M"), "batch": f"b{row}", "same": "nM"})
    assert found.notes() == (
        "column unit has 2 units beside the labels (uM in 8 rows, nM in 4 rows): the numbers are read as they are, so "
        "bring them to one unit first",
    )


def test_check_and_the_reader_of_all_verbs_say_it(tmp_path: Path) -> None:
    table = tmp_path / "d.csv"
    rows = [f"{'C' * (row + 1)},{row / 2},{'nM' if row < 15 else 'uM'}\n" for row in range(20)]
    table.write_text("smiles,Ki,Units\n" + "".join([*rows, "CCO,,mM\n"]))  # a row without a label has no say
    line = "column Units has 2 units beside the labels (nM in 15 rows, uM in 5 rows)"
    facts = check_data(table)
    assert [one.name for one in facts.targets] == ["Ki"]
    assert facts.others == {"Units": "gives the unit of each row"}
    assert [note for note in facts.notes if note.startswith(line)]
    assert [note for note in read_labelled(table, ["Ki"], "heavy_both").notes if note.startswith(line)]
