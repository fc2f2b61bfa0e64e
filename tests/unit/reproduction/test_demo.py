"""What the demo says of its numbers is true, whichever way they went."""

from __future__ import annotations

import pytest

from dnd.reproduction.demo_report import System, compare, table_lines


def systems(distilled: list[float], random: list[float], forest: float, other: float = 9.0) -> list[System]:
    return [
        System("D&D-NODE", distilled, distilled),
        System("RandInit", random, random),
        System("random forest counts", [forest], [forest]),
        System("random forest descriptors", [other], [other - 8.9]),
    ]


@pytest.mark.parametrize(
    ("distilled", "random", "forest", "expected"),
    [
        ([0.80, 0.81, 0.82], [0.90, 0.91, 0.93], 1.0, ["lowers the test RMSE", "student beats"]),
        ([0.80, 0.81, 0.82], [0.90, 0.91, 0.93], 0.7, ["lowers the test RMSE", "does NOT beat"]),
        ([0.90, 0.91, 0.93], [0.80, 0.81, 0.82], 1.0, ["RAISES the test RMSE", "student beats"]),
        ([0.80, 0.95, 0.80], [0.90, 0.90, 0.90], 1.0, ["makes no clear difference", "-0.050 ± 0.215"]),
    ],
)
def test_the_sentence_follows_the_numbers(
    distilled: list[float], random: list[float], forest: float, expected: list[str]
) -> None:
    sentence = compare(systems(distilled, random, forest))
    assert all(words in sentence for words in expected), sentence


def test_the_classical_baseline_is_chosen_on_validation() -> None:
    """The other forest is better on the test part, which must not matter."""
    assert "1.000, random forest counts" in compare(systems([0.8, 0.81, 0.8], [0.9] * 3, 1.0))


def test_a_system_with_one_run_has_no_deviation() -> None:
    lines = list(table_lines(systems([0.8, 0.9, 1.0], [0.9] * 3, 1.0)))
    assert "0.900 ± 0.100" in lines[1]
    assert "±" not in lines[3]
