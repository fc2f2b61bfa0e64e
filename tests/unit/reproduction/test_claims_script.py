"""The numbers behind docs/results/claims.md."""

import re
from types import ModuleType

import pytest

from benchmark_scripts import BENCHMARKS, load_script
from dnd.reproduction.tables import Entry

RESULTS = BENCHMARKS.parent / "docs" / "results"


@pytest.fixture(scope="module")
def claims() -> ModuleType:
    return load_script("claims")


def entry(system: str, metric: str, *values: float) -> Entry:
    return Entry("esol", system, "mean", metric, {(1 + n, 1): v for n, v in enumerate(values)}, (), (), 1.0, None)


def test_gains_have_the_sign_of_the_metric(claims: ModuleType) -> None:
    errors = {name: entry(name, "rmse", value) for name, value in
              (("randinit-1.0", 2.0), ("dnd-node", 1.0), ("dnd-graph", 3.0))}  # fmt: skip
    areas = {name: entry(name, "rocauc", value) for name, value in
             (("randinit-1.0", 0.8), ("dnd-node", 0.6), ("dnd-graph", 0.9))}  # fmt: skip
    assert claims.gain(errors, ("dnd-node",), ("randinit-1.0",)) == pytest.approx(0.5)
    assert claims.gain(errors, ("dnd-graph",), ("randinit-1.0",)) == pytest.approx(-0.5)
    assert claims.gain(areas, ("dnd-node", "dnd-graph"), ("randinit-1.0",)) == pytest.approx(0.125)
    text = claims.describe({"esol": errors, "bace": areas}, ("dnd-node",), ("randinit-1.0",))
    assert text == "+12.5 %, better on 1 of 2"


def test_a_gain_is_tested_over_pretrainings_only(claims: ModuleType) -> None:
    own = {"randinit-1.0": entry("randinit-1.0", "rmse", 1.0, 1.0, 1.0)}
    own |= {name: entry(name, "rmse", 0.90, 0.89, 0.88) for name in ("dnd-node", "dnd-graph")}
    row = claims.gain_table({"esol": own}).splitlines()[2]
    assert row.startswith("| RandInit, layer decay 1.0 | +11.0 %, better on 1 of 1 | +11.0 %, better on 1 of 1 (p = ")
    assert row.count("over 3 pretrainings") == 2
    single = {name: Entry(**{**vars(one), "by_seed": {(1, 1): one.mean}}) for name, one in own.items()}
    assert claims.gain_table({"esol": single}).count("(one pretraining)") == 2


def test_the_shipped_cells_are_read_by_group(claims: ModuleType) -> None:
    scores = claims.read_scores(RESULTS / "cpu" / "results.jsonl.gz")
    found = claims.groups(scores)
    assert sorted(found["curated"]) == ["bp", "logp", "mp", "ri"]
    assert (len(found["OGB"]), len(found["QM9"])) == (6, 8)
    assert "better on 5 of 6" in claims.gain_table({name: scores[name] for name in found["OGB"]}).splitlines()[2]


def test_the_judged_percentages_are_in_the_drawn_tables() -> None:
    """Claims about mean gains repeat numbers of the page's own drawn sections."""
    text = (RESULTS / "claims.md").read_text(encoding="utf-8").replace("−", "-")  # a minus sign, and a hyphen
    drawn = text[text.index("<!-- drawn from") : text.rindex("<!-- end of claims -->")]
    cells = [line.split(" | ") for line in text.splitlines()]
    ours = {one[0]: one[3] for one in cells if len(one) == 5}
    for number in (1, 2, 3, 4, 15, 16):
        found = re.findall(r"\d+\.\d %", ours[f"| {number}"])
        assert found, number
        for percentage in found:
            assert percentage in drawn, (number, percentage)
