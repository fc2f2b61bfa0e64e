"""Batches: each row once per epoch, shared by the ranks without loss, within the budget, with little padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnd.common.errors import ConfigError
from dnd.store.batches import padding_share, plan_batches, split_holdout

SIZES = st.lists(st.integers(1, 90), min_size=0, max_size=400).map(lambda sizes: np.array(sizes, dtype=np.int64))
LIMIT = st.one_of(
    st.builds(lambda size: {"batch_size": size}, st.integers(1, 40)),
    st.builds(lambda tokens: {"max_tokens": tokens}, st.integers(1, 900)),
)


@settings(max_examples=150, deadline=None)
@given(SIZES, LIMIT, st.integers(1, 5), st.integers(1, 100), st.integers(0, 3))
def test_each_row_is_in_one_batch_of_one_rank(
    sizes: np.ndarray, limit: dict[str, int], world: int, pool: int, epoch: int
) -> None:
    ranks = [plan_batches(sizes, **limit, seed=1, epoch=epoch, rank=r, world=world, pool=pool) for r in range(world)]
    rows = np.concatenate([np.empty(0, dtype=np.int64), *(batch for plan in ranks for batch in plan)])
    assert sorted(rows.tolist()) == list(range(len(sizes)))
    counts = [len(plan) for plan in ranks]
    assert max(counts) - min(counts) <= (0 if max(counts) * world <= len(sizes) else 1)
    for batch in (batch for plan in ranks for batch in plan):
        assert len(batch) > 0
        assert len(batch) <= limit.get("batch_size", len(batch))
        if "max_tokens" in limit and len(batch) > 1:
            assert sizes[batch].max() * len(batch) <= limit["max_tokens"]


@settings(max_examples=50, deadline=None)
@given(SIZES, LIMIT, st.integers(1, 4))
def test_drop_last_leaves_full_batches_and_equal_ranks(sizes: np.ndarray, limit: dict[str, int], world: int) -> None:
    ranks = [plan_batches(sizes, **limit, seed=1, epoch=0, rank=r, world=world, drop_last=True) for r in range(world)]
    assert len({len(plan) for plan in ranks}) == 1
    if "batch_size" in limit:
        assert {len(batch) for plan in ranks for batch in plan} <= {limit["batch_size"]}


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    sizes = np.random.default_rng(0).integers(1, 30, 1000)

    def plan(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in plan_batches(sizes, batch_size=32, seed=seed, epoch=epoch, pool=256)]

    assert plan(1, 0) == plan(1, 0)
    assert plan(1, 0) != plan(1, 1)
    assert plan(1, 0) != plan(2, 0)


def test_padding_of_a_token_budget_on_qm9_is_under_5_percent(qm9_arrays: dict[str, np.ndarray]) -> None:
    atoms = np.tile(qm9_arrays["n_atoms"].astype(np.int64), 20)
    assert padding_share(atoms, plan_batches(atoms, max_tokens=2048, seed=1, epoch=0)) < 0.05
    unsorted = [np.arange(start, start + 100) for start in range(0, len(atoms), 100)]
    assert padding_share(atoms, unsorted) > 0.2


@pytest.mark.parametrize("limit", [{}, {"batch_size": 1, "max_tokens": 1}, {"batch_size": 0}, {"max_tokens": -1}])
def test_one_limit_is_needed(limit: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="batch_size or by max_tokens"):
        plan_batches(np.ones(3), **limit, seed=1, epoch=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 300), st.floats(0, 0.99), st.integers(0, 5))
def test_holdout_partitions_the_rows(num_rows: int, fraction: float, seed: int) -> None:
    train, held = split_holdout(num_rows, fraction, seed)
    assert sorted([*train, *held]) == list(range(num_rows))
    assert abs(len(held) - num_rows * fraction) <= 1
    if num_rows > 1 and fraction > 0:
        assert len(train) > 0
        assert len(held) > 0


def test_holdout_fraction_is_checked() -> None:
    with pytest.raises(ConfigError, match="out of range"):
        split_holdout(10, 1.0, 0)


def test_store_modules_need_no_rdkit() -> None:
    import subprocess
    import sys

    code = "import sys, dnd.store.reader, dnd.store.writer, dnd.store.batches; assert 'rdkit' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
