"""Rows of one molecule: in one part by every rule that draws, counted, with their deviation, and as one on request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dnd.chemistry.splits import Split
from dnd.common.errors import InputError
from dnd.finetuning.finetune import finetune
from dnd.finetuning.fold_data import scaffold_folds
from dnd.finetuning.objective import HalfChoice
from dnd.finetuning.splits import partitions
from finetuning_toys import molecules, other_spelling, quietly, tiny_config, write_csv
from support.said import said

RING_FREE = ["CCO", "CCN", "CCCl", "CCCO", "CC(C)O", "CCCCO", "CCCN", "CC(N)C", "CCOC", "CCSC"]
FRACTIONS = (0.5, 0.25, 0.25)
RULES = ("random", "scaffold", "scaffold-balanced", "cluster", "kfold:4", "kfold:3x2")


@pytest.mark.parametrize("rule", RULES)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_every_rule_that_draws_keeps_the_rows_of_a_molecule_together(rule: str, data: st.DataObject):
    distinct = [*molecules()[:24], *RING_FREE]
    copies = data.draw(st.lists(st.integers(0, len(distinct) - 1), max_size=40))
    rows = data.draw(st.permutations([*range(len(distinct)), *copies]))
    smiles = [other_spelling(distinct[row], seed) for seed, row in enumerate(rows)]
    seed = data.draw(st.integers(0, 99))
    try:
        parts = partitions(rule, smiles, identities=[distinct[row] for row in rows], fractions=FRACTIONS, seed=seed)
    except InputError:  # a part would be empty
        assume(False)
    for part in parts:
        owner = {}
        for name, places in part.parts().items():
            for place in places:
                assert owner.setdefault(rows[place], name) == name
        assert sum(map(len, part.parts().values())) == len(rows)


def test_without_replicates_a_split_is_what_it_was():
    smiles = molecules()
    for rule in ("random", "scaffold", "scaffold-balanced", "cluster", "kfold:4", "kfold:3x2"):
        plain, known = (partitions(rule, smiles, identities=own, fractions=FRACTIONS) for own in ((), smiles))
        for one, other in zip(plain, known, strict=True):
            assert all(np.array_equal(one.parts()[name], other.parts()[name]) for name in one.parts())
    assert np.array_equal(scaffold_folds(smiles, 4, 1), scaffold_folds(smiles, 4, 1, smiles))


def test_folds_of_a_blend_and_halves_keep_them_together():
    smiles = [*RING_FREE, *["c1ccccc1C", "c1ccccc1O", "c1ccccc1N"] * 2] * 3
    for seed in range(5):
        fold_B = scaffold_folds(smiles, 3, seed, smiles)
        assert all(len({fold for fold, own in zip(fold_B, smiles, strict=True) if own == one}) == 1 for one in smiles)
        assert min(np.bincount(fold_B)) >= 9
        first, second = HalfChoice(len(smiles), 1, seed, smiles).halves
        assert {smiles[row] for row in first}.isdisjoint(smiles[row] for row in second)


def three_times() -> dict[str, list[object]]:
    """Each of 14 molecules three times, one of them only once; deviations of 0.1 about the value."""
    smiles = [*RING_FREE, "CCCCCC", "CCCCN", "CCCCCl", "CCCCF"]
    rows = [(text, number + shift) for number, text in enumerate(smiles) for shift in (-0.1, 0.0, 0.1)]
    rows.append(("CCCCBr", 3.0))
    return {"smiles": [text for text, _ in rows], "y": [value for _, value in rows]}


def test_they_are_counted_and_their_deviation_is_the_floor_of_the_error(tmp_path: Path):
    data = write_csv(tmp_path / "d.csv", three_times())
    lines: list[str] = []
    config = tiny_config("loop.epochs=1", "units=kcal/mol")
    with said(lines):
        metrics = finetune(data, tmp_path / "m", ["y"], config, encoder="random").metrics
    (found,) = metrics["replicates"]
    assert (found["molecules"], found["rows"]) == (14, 42)
    assert found["deviation"] == pytest.approx(0.1)
    assert "14 molecules were measured more than once (42 rows); repeat deviation 0.100 kcal/mol" in found["sentence"]
    assert any(found["sentence"] in line for line in lines)
    assert found["sentence"] in (tmp_path / "m" / "card.md").read_text()
    assert metrics["duplicates_across_parts"] == 0


@pytest.mark.parametrize(
    ("how", "expected"), [("mean", (1 + 10 + 1000) / 3), ("median", 10.0), ("geometric-mean", 10000 ** (1 / 3))]
)
def test_they_are_one_row_on_request(tmp_path: Path, how: str, expected: float):
    smiles = [*RING_FREE, "CCCCCC", "CCCCN"]
    columns = {"smiles": [*smiles, "OCC", "C(O)C"], "y": [1.0, *range(2, len(smiles) + 1), 10, 1000]}
    columns["part"] = ["test", "test", *["valid"] * 2, *["train"] * (len(smiles) - 4), "test", "test"]
    words = ("split=column:part", "loop.epochs=1", f"replicates={how}")
    metrics = quietly(write_csv(tmp_path / "d.csv", columns), tmp_path / "m", ["y"], *words).metrics
    assert metrics["parts"]["test"]["molecules"] == 2
    table = np.genfromtxt(tmp_path / "m" / "test_predictions.csv", delimiter=",", names=True, dtype=None, encoding=None)
    assert table["y"][0] == pytest.approx(expected, rel=1e-4)
    (found,) = metrics["replicates"]  # of the rows before they were merged
    values = np.array([1.0, 10.0, 1000.0])
    assert (found["molecules"], found["rows"]) == (1, 3)
    assert found["deviation"] == pytest.approx(values.std(ddof=1))
    assert (metrics["counts"]["molecules"], metrics["counts"]["merged"]) == (len(smiles), 2)
    card = (tmp_path / "m" / "card.md").read_text()
    assert (
        f"{len(smiles)} molecules of {len(smiles) + 2} rows; 2 rows merged into another row of their molecule" in card
    )
    assert found["sentence"] in card


def test_rows_of_two_parts_stay_apart_so_that_no_test_label_is_learned(tmp_path: Path):
    smiles = [*RING_FREE, "CCCCCC", "CCCCN"]
    columns = {"smiles": [*smiles, "OCC"], "y": [1.0, *range(2, len(smiles) + 1), 1000.0]}
    columns["part"] = ["train", *["valid"] * 2, *["train"] * (len(smiles) - 3), "test"]
    lines: list[str] = []
    config = tiny_config("split=column:part", "loop.epochs=1", "replicates=mean")
    data = write_csv(tmp_path / "d.csv", columns)
    with said(lines):
        metrics = finetune(data, tmp_path / "m", ["y"], config, encoder="random").metrics
    assert [metrics["parts"][part]["molecules"] for part in ("train", "valid", "test")] == [10, 2, 1]
    assert any(line.startswith("warning: 1 molecule is in more than one part") for line in lines)


def test_a_time_split_says_how_many_rows_stay_with_the_earliest_of_their_molecule(tmp_path: Path):
    smiles = [*molecules()[:20], "OCC", "CCO"]
    columns = {"smiles": smiles, "y": list(range(22)), "year": [*range(2000, 2020), 1999, 2030]}
    data, lines = write_csv(tmp_path / "d.csv", columns), []
    with said(lines):
        metrics = finetune(data, tmp_path / "m", ["y"], tiny_config("split=time:year"), encoder="random").metrics
    assert any(line.startswith("note: a later row of a molecule is in the part of its earliest row") for line in lines)
    assert metrics["duplicates_across_parts"] == 0
    assert not any(line.startswith("warning:") and "more than one part" in line for line in lines)


def test_a_geometric_mean_wants_positive_values(tmp_path: Path):
    columns = three_times()
    with pytest.raises(InputError, match=r"y has no geometric mean.*median"):
        quietly(write_csv(tmp_path / "d.csv", columns), tmp_path / "m", ["y"], "replicates=geometric-mean")


def test_contradicting_classes_are_counted_and_one_is_named(tmp_path: Path):
    smiles = molecules()[:30]
    columns = {"smiles": [*smiles, *smiles[:3]], "y": [row % 2 for row in range(30)] + [1, 1, 1]}
    metrics = quietly(write_csv(tmp_path / "d.csv", columns), tmp_path / "m", ["y"], "loop.epochs=1").metrics
    (found,) = metrics["replicates"]
    assert (found["molecules"], found["rows"], found["contradicting"]) == (3, 6, 2)
    assert "2 contradict themselves, such as" in found["sentence"]


def test_a_class_that_only_contradicting_rows_have_is_left_out(tmp_path: Path):
    """The target was refused, as if it had one class."""
    smiles = molecules()
    table = {"smiles": [*smiles, smiles[0]], "y": [*("ab"[row % 2] for row in range(len(smiles))), "rare"]}
    found = quietly(write_csv(tmp_path / "t.csv", table), tmp_path / "m", ["y"], "replicates=mean")
    assert found.metrics["targets"][0]["classes"] == ["a", "b"]


def test_the_parts_of_a_split_are_rows():
    (part,) = partitions("random", ["CCO"] * 5 + ["CCN", "CCC", "CCCl", "CCF"], identities=["a"] * 5 + list("bcde"),
                         fractions=(0.6, 0.2, 0.2))  # fmt: skip
    assert isinstance(part, Split)
    assert sum(map(len, part.parts().values())) == 9
