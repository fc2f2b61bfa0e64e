"""What a store and an epoch's plan keep in memory: handles of the shards and one section of rows."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np

from dnd.bench.scaling import repeat_store
from dnd.chemistry.molecule import FEATURE_VERSION
from dnd.common.files import write_manifest
from dnd.store.batches import EpochPlan, TrainingRows
from dnd.store.reader import Store
from dnd.store.schema import PLAIN_SCHEMA_VERSION, StoreRow
from dnd.store.writer import shard_name, write_shard

TIMES = 30
SECTION = 10_000  # of 180,000 rows


def test_memory_for_each_molecule(qm9_rows: list[StoreRow], tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir()
    write_shard(one / shard_name(0), qm9_rows * 100)
    counts = {"molecules": 100 * len(qm9_rows)}
    settings = {"hydrogens": "teacher_all_student_heavy"}
    extra = {"settings": settings, "target_columns": ["gap"], "feature_version": FEATURE_VERSION, "counts": counts}
    write_manifest(one, kind="store", format_version=PLAIN_SCHEMA_VERSION, extra=extra)
    repeat_store(one, many, TIMES)
    Store.open(one).read(np.arange(3))  # what is imported once is imported now
    tracemalloc.start()
    store = Store.open(many)
    assert len(store) == TIMES * counts["molecules"]
    opened = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    train = TrainingRows(len(store), 0.02, 1, section=SECTION)
    plan = EpochPlan(train, store.atom_counts, batch_size=64, seed=1, epoch=0)
    first = plan[0]
    planned, peak = tracemalloc.get_traced_memory()
    held = train.held_out.nbytes
    tracemalloc.stop()
    assert opened / len(store) < 2  # names, digests and views of each shard
    assert planned - opened - held < 24 * SECTION
    assert peak - opened - 4 * held < 80 * SECTION
    assert len(first) == 64
