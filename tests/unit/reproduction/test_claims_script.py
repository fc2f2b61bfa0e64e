"""The numbers behind docs/results/claims.md."""

from types import ModuleType

import pytest

from benchmark_scripts import BENCHMARKS, load_script


@pytest.fixture(scope="module")
def claims() -> ModuleType:
    return load_script("claims")


def test_gains_have_the_sign_of_the_metric(claims: ModuleType) -> None:
    errors = {"randinit-1.0": ("rmse", 2.0), "dnd-node": ("rmse", 1.0), "dnd-graph": ("rmse", 3.0)}
    areas = {name: ("rocauc", value) for name, value in (("randinit-1.0", 0.8), ("dnd-node", 0.6), ("dnd-graph", 0.9))}
    assert claims.gain(errors, ("dnd-node",), ("randinit-1.0",)) == pytest.approx(0.5)
    assert claims.gain(errors, ("dnd-graph",), ("randinit-1.0",)) == pytest.approx(-0.5)
    assert claims.gain(areas, ("dnd-node", "dnd-graph"), ("randinit-1.0",)) == pytest.approx(0.125)
    text = claims.describe({"esol": errors, "bace": areas}, ("dnd-node",), ("randinit-1.0",))
    assert text.startswith("+12.5 %, better on 1 of 2")


def test_the_shipped_tables_are_read_by_group(claims: ModuleType) -> None:
    scores = claims.read_scores(BENCHMARKS.parent / "docs" / "results" / "cpu" / "table1.csv")
    found = claims.groups("table1", scores)
    assert found["curated"] == ["bp", "mp", "ri", "logp"]
    assert len(found["OGB"]) == 6
    assert "better on 5 of 6" in claims.gain_table({name: scores[name] for name in found["OGB"]}).splitlines()[2]
