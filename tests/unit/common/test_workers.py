"""Hangs, crashes and memory hogs cost one item each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest

from dnd.common.errors import DndError
from dnd.common.workers import Failure, Rows, WorkerPool, compute_in_copies

BOTH = pytest.mark.parametrize("copies", [False, True], ids=["fresh", "copies"])


@BOTH
def test_results_come_in_order_and_settings_reach_the_children(copies: bool) -> None:
    with WorkerPool("workers_probe:make_adder", jobs=2, settings={"amount": 5}, copies=copies) as pool:
        assert list(pool.map(range(300))) == list(range(5, 305))
        assert list(pool.map([])) == []


@BOTH
def test_each_misbehaviour_has_its_reason_and_the_next_item_is_served(copies: bool) -> None:
    items = [1, "hang", 2, "raise", "memory", "segfault", 3]
    with WorkerPool("workers_probe:misbehave", timeout_s=1.0, copies=copies) as pool:
        results = list(pool.map(items))
    expected = ["over 1 s", "internal error: ValueError: two lines", "over 1 GiB", "worker died: signal 11"]
    assert [result.reason for result in results if isinstance(result, Failure)] == expected
    assert [result for result in results if not isinstance(result, Failure)] == [1, 2, 3]


def test_an_item_whose_worker_was_killed_from_outside_is_tried_again(tmp_path: Path) -> None:
    with WorkerPool("workers_probe:die_once") as pool:
        assert list(pool.map([str(tmp_path / "mark"), str(tmp_path / "mark")])) == ["alive", "alive"]


def test_three_items_in_a_row_that_kill_their_worker_stop_the_run() -> None:
    with WorkerPool("workers_probe:misbehave") as pool, pytest.raises(DndError, match="3 items in a row"):
        list(pool.map(["segfault"] * 4))


def together(found: Sequence[list[object]]) -> list[object]:
    return list(chain.from_iterable(found))


def test_a_chunk_that_kills_its_copy_is_computed_row_by_row() -> None:
    rows = Rows(lambda chunk: [[one] for one in chunk], lambda row, why: [(row[0], why)], together, 1.0)
    chunks = [[1, 2], [3, "segfault", 4], [5], ["hang", 6], [7]]
    found = compute_in_copies("workers_probe:make_list", chunks, jobs=2, settings={}, rows=rows, timeout_s=2.0)
    assert list(found) == [[1, 2], [3, ("segfault", "worker died: signal 11"), 4], [5], [("hang", "over 1 s"), 6], [7]]


def test_rows_that_kill_their_copies_one_after_the_other_stop_the_run() -> None:
    rows = Rows(lambda chunk: [[one] for one in chunk], lambda row, why: [why], together)
    with pytest.raises(DndError, match="3 items in a row"):
        list(compute_in_copies("workers_probe:make_list", [["segfault"] * 4], jobs=2, settings={}, rows=rows))


@pytest.mark.parametrize("function", ["workers_probe:broken", "workers_probe:missing", "no_such_module:f"])
def test_a_worker_that_cannot_start_is_one_clear_error(function: str) -> None:
    with WorkerPool(function, settings={}) as pool, pytest.raises(DndError, match="could not start"):
        list(pool.map([1]))


@BOTH
def test_messages_larger_than_the_socket_do_not_block(copies: bool) -> None:
    items = [bytes([number]) * 3_000_000 for number in range(6)]
    with WorkerPool("workers_probe:echo", jobs=2, copies=copies) as pool:
        assert list(pool.map(items)) == items


@BOTH
def test_children_end_with_the_pool(copies: bool) -> None:
    with WorkerPool("workers_probe:echo", jobs=2, copies=copies) as pool:
        list(pool.map([b"a", b"b", b"c"]))
        processes = [child.process.pid for child in pool._children]
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
