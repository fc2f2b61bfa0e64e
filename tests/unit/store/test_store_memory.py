"""What a store and an epoch's plan keep in memory for each molecule: nothing, and a few bytes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np

from dnd.analysis.bench.scaling import repeat_store
from dnd.common.files import write_manifest
from dnd.graphs.vocabulary import FEATURE_VERSION
from dnd.store.batches import PlanOfRows, plan_batches, split_holdout
from dnd.store.reader import Store
from dnd.store.schema import PLAIN_SCHEMA_VERSION, StoreRow
from dnd.store.writer import shard_name, write_shard

TIMES = 30


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
    train, _ = split_holdout(len(store), 0.02, 1)
    plan = PlanOfRows(train, plan_batches(store.atom_counts[train], batch_size=64, seed=1, epoch=0))
    planned, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert opened / len(store) < 2  # names, digests and views of each shard
    assert planned / len(store) < 24
    assert peak / len(store) < 48
    assert sorted(np.concatenate(list(plan))) == train.tolist()
    assert plan[3].dtype == np.int64
    assert [rows.tolist() for rows in plan[2:4]] == [plan[2].tolist(), plan[3].tolist()]
