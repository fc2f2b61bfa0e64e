"""Training rows and batches of a store in sections: complete, mixed, reproducible, and as before for one section."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from dnd.common.errors import ConfigError
from dnd.common.ragged import RaggedColumn, RaggedCounts
from dnd.store.batches import EpochPlan, TrainingRows, plan_batches, split_holdout

ROWS = 1003
COUNTS = np.random.default_rng(0).integers(0, 30, ROWS)


def sizes_of(counts: np.ndarray, shards: tuple[int, ...] = (0, 400, 401, ROWS)) -> RaggedCounts:
    """Counts of rows in several shards, as a store has them."""
    columns = [
        pa.array([list(range(2 * count)) for count in counts[begin:end]], pa.list_(pa.uint8()))
        for begin, end in pairwise(shards)
    ]
    return RaggedCounts(RaggedColumn(columns, 2), np.array(shards))


SIZES = sizes_of(COUNTS)


def test_counts_are_an_array_that_is_not_kept() -> None:
    assert np.array_equal(SIZES, COUNTS)
    assert len(SIZES) == ROWS
    assert SIZES.sum() == COUNTS.sum()
    rows = np.array([1002, 0, 400, 400, 399, 7])
    assert np.array_equal(SIZES[rows], COUNTS[rows])
    assert np.array_equal(SIZES[5:9], COUNTS[5:9])
    assert np.array_equal(SIZES.before(rows), (np.cumsum(COUNTS) - COUNTS)[rows])
    assert SIZES[np.empty(0, dtype=np.int64)].shape == (0,)


def test_one_section_is_the_plan_of_the_whole_store() -> None:
    rows = TrainingRows(ROWS, 0.1, seed=3)
    train, held_out = split_holdout(ROWS, 0.1, 3)
    assert np.array_equal(rows.sample(), train)
    assert np.array_equal(rows.held_out, held_out)
    assert len(rows) == len(train)
    plan = EpochPlan(rows, SIZES, batch_size=32, seed=3, epoch=2)
    expected = plan_batches(COUNTS[train], batch_size=32, seed=3, epoch=2)
    assert [batch.tolist() for batch in plan] == [train[batch].tolist() for batch in expected]


@pytest.mark.parametrize("limit", [{"batch_size": 16}, {"max_tokens": 300}], ids=str)
@pytest.mark.parametrize("section", [ROWS, 500, 100, 17])
def test_every_training_row_once_in_any_number_of_sections(limit: dict[str, int], section: int) -> None:
    rows = TrainingRows(ROWS, 0.1, seed=1, section=section)
    assert rows.num_sections == -(-ROWS // section)
    plan = EpochPlan(rows, SIZES, **limit, seed=1, epoch=0)
    batches = list(plan)
    assert len(batches) == len(plan)
    seen = np.sort(np.concatenate(batches))
    assert len(seen) == len(rows)
    assert sorted([*seen, *rows.held_out]) == list(range(ROWS))
    assert seen.dtype == np.int64
    assert abs(len(rows.held_out) - 0.1 * ROWS) <= rows.num_sections / 2 + 1
    for batch in batches:
        assert len({row % rows.num_sections for row in batch.tolist()}) == 1, "a batch is of one section"
        assert limit.get("max_tokens") is None or len(batch) == 1 or COUNTS[batch].max() * len(batch) <= 300


def test_a_plan_is_a_function_of_seed_and_epoch_and_can_be_entered_anywhere() -> None:
    rows = TrainingRows(ROWS, 0.1, seed=1, section=100)

    def batches(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in EpochPlan(rows, SIZES, batch_size=16, seed=seed, epoch=epoch)]

    assert batches(1, 0) == batches(1, 0)
    assert batches(1, 0) != batches(1, 1) != batches(2, 1)
    plan = EpochPlan(rows, SIZES, batch_size=16, seed=1, epoch=0)
    rest = plan[23:]
    assert [batch.tolist() for batch in rest] == batches(1, 0)[23:]
    assert rest[2].tolist() == plan[25].tolist()
    assert plan[-1].tolist() == batches(1, 0)[-1]
    first_sections = {batches(1, epoch)[0][0] % rows.num_sections for epoch in range(6)}
    assert len(first_sections) > 1, "sections take turns"


def test_only_full_batches() -> None:
    rows = TrainingRows(ROWS, 0.1, seed=1, section=100)
    plan = EpochPlan(rows, SIZES, batch_size=16, seed=1, epoch=0, drop_last=True, pool=1)
    assert {len(batch) for batch in plan} == {16}
    assert len(plan) == sum(count // 16 for count in rows.counts)


@pytest.mark.parametrize("section", [ROWS, 100])
def test_one_limit_exactly(section: int) -> None:
    rows = TrainingRows(ROWS, 0.1, seed=1, section=section)
    with pytest.raises(ConfigError):
        EpochPlan(rows, SIZES, batch_size=16, max_tokens=300, seed=1, epoch=0)


@pytest.mark.parametrize("section", [ROWS, 100])
def test_no_copy_of_a_held_out_molecule_trains(section: int) -> None:
    molecule_of = np.random.default_rng(1).integers(0, ROWS // 3, ROWS)
    rows = TrainingRows(ROWS, 0.1, seed=1, section=section, codes=lambda wanted: molecule_of[wanted])
    trained, held = set(molecule_of[rows.every()].tolist()), set(molecule_of[rows.held_out].tolist())
    assert not trained & held
    assert len(trained) + len(held) == len(set(molecule_of.tolist()))
    assert sorted([*rows.every(), *rows.held_out]) == list(range(ROWS))
    assert 0.05 * ROWS < len(rows.held_out) < 0.15 * ROWS, "the share that was asked for, not that of every copy"
    assert len(rows) == len(rows.every())
    plan = EpochPlan(rows, SIZES, batch_size=16, seed=1, epoch=0)
    assert sorted(np.concatenate(list(plan)).tolist()) == rows.every().tolist()


@pytest.mark.parametrize("section", [ROWS, 100])
def test_without_copies_the_drawn_rows_are_held_out(section: int) -> None:
    plain = TrainingRows(ROWS, 0.1, seed=1, section=section)
    grouped = TrainingRows(ROWS, 0.1, seed=1, section=section, codes=lambda wanted: 7 - 3 * wanted)
    assert np.array_equal(plain.held_out, grouped.held_out)
    assert [plain.section(k).tolist() for k in range(3)[: plain.num_sections]] == [
        grouped.section(k).tolist() for k in range(3)[: plain.num_sections]
    ]


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.9])
def test_few_molecules_are_on_both_sides_and_one_is_split_by_rows(fraction: float) -> None:
    for molecules in (2, 3):
        for seed in range(5):
            rows = TrainingRows(40, fraction, seed, codes=lambda wanted: wanted % molecules)  # noqa: B023
            assert 0 < len(rows.held_out) < 40
            assert not set((rows.every() % molecules).tolist()) & set((rows.held_out % molecules).tolist())
    trajectory = np.where(np.arange(400) < 300, 0, np.arange(400))
    most = [TrainingRows(400, 0.1, seed, codes=trajectory.__getitem__).held_out for seed in range(40)]
    assert max(map(len, most)) < 40, "a molecule with most of the rows trains, also where its first row was drawn"
    one = TrainingRows(40, fraction, 1, codes=lambda wanted: 0 * wanted)
    assert np.array_equal(one.held_out, TrainingRows(40, fraction, 1).held_out)
