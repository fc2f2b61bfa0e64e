"""Damaged checkpoints, models and stores: every damage is found before use, named, and explained by `dnd doctor`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from children import model, training
from damages import damaged_copy, damages
from outcomes import outcome, scraps

from dnd.chemistry.molecule import FEATURE_VERSION, MolecularGraph
from dnd.common.about import diagnose
from dnd.common.errors import CorruptFileError, InputError
from dnd.common.files import write_manifest
from dnd.common.model_folder import read_model
from dnd.common.runs import already_finished, run_id
from dnd.prediction.screen.shards import ScreenJournal
from dnd.pretraining import teacher_outputs as target_cache
from dnd.pretraining.teacher_outputs import TargetBlock
from dnd.store.reader import Store
from dnd.store.schema import SCHEMA_VERSION, StoreRow
from dnd.store.writer import shard_name, write_shard
from dnd.training.logs import Checkpoints

SHORT = {"epochs": 2, "rows": 16}
FEW = {"truncations": 15, "flips": 50}
MANY = {"truncations": 500, "flips": 500}


def make_checkpoint(folder: Path, seed: int) -> Path:
    """The last checkpoint of a run; it holds best weights of its own."""
    training(folder, **SHORT, seed=seed)
    return max((folder / "checkpoints").glob("step-*"))


def make_model(folder: Path, seed: int) -> Path:
    model(folder, float(seed))
    return folder


def make_store(folder: Path, seed: int) -> Path:
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    bonds_U2 = np.stack([np.arange(4), np.arange(1, 5)], 1)
    graph = MolecularGraph(np.full((5, 9), 1), bonds_U2, np.zeros((4, 3), dtype=np.int64))
    for shard in range(2):
        targets = draw.normal(size=(40, 1)).astype(np.float32)
        rows = [StoreRow(row, "x.csv", "CCCCC", graph, targets=target) for row, target in enumerate(targets)]
        write_shard(folder / shard_name(shard), rows)
    extra = {
        "settings": {"hydrogens": "heavy_both"},
        "target_columns": ["y"],
        "feature_version": FEATURE_VERSION,
        "counts": {"molecules": 80},
    }
    write_manifest(folder, kind="store", format_version=SCHEMA_VERSION, extra=extra)
    return folder


def make_targets(folder: Path, seed: int) -> Path:
    """A shard of cached teacher outputs."""
    draw = np.random.default_rng(seed)

    def compute(span: tuple[int, int]) -> TargetBlock:
        atoms, pooled = (draw.normal(size=(rows, 1, 8)).astype(np.float16) for rows in (200, 40))
        return TargetBlock(span[0], atoms, pooled)

    target_cache._ensure_shard(folder, "key", (0, 40), compute)
    return folder


def make_screen(folder: Path, seed: int) -> Path:
    draw = np.random.default_rng(seed)
    journal = ScreenJournal(folder)
    for _ in range(2):
        values = draw.normal(size=30)
        journal.add({"smiles": ["CCO"] * 30, "y_pred": values, "error": [""] * 30})
        journal.finish()
    journal.remove()
    write_manifest(folder, kind="screen", format_version=1)
    return folder


def use_targets(folder: Path) -> None:
    target_cache._verify(folder, "key", (0, 40))


def use_screen(folder: Path) -> None:
    already_finished(folder, kind="screen", format_version=1, resume=True)


def use_checkpoint(folder: Path) -> None:
    Checkpoints(folder.parents[1], run_id(folder.parents[1])).newest()


def use_model(folder: Path) -> None:
    read_model(folder, kind="encoder").tensors()


def use_store(folder: Path) -> None:
    Store.open(folder).read(np.arange(3))


KINDS: dict[str, tuple[Callable[[Path, int], Path], Callable[[Path], None]]] = {
    "checkpoint": (make_checkpoint, use_checkpoint),
    "model": (make_model, use_model),
    "store": (make_store, use_store),
    "targets": (make_targets, use_targets),
    "screen": (make_screen, use_screen),
}


def find_all(kind: str, scratch: Path, amount: dict[str, int]) -> int:
    """Do every damage to a copy of its own; all are found, named by file, and known to `dnd doctor`."""
    make, use = KINDS[kind]
    sealed, other = make(scratch / "one", 1), make(scratch / "two", 2)
    use(sealed)
    deeds = list(damages(sealed, other, **amount))
    for what, deed in deeds:
        if kind == "checkpoint":  # beside its run record, and with no older one to fall back to
            shutil.copy(scratch / "one" / "run.json", scratch / "run.json")
            folder = damaged_copy(sealed, scratch / "checkpoints" / sealed.name, deed)
        else:
            folder = damaged_copy(sealed, scratch / "damaged", deed)
        if kind == "screen" and what == "manifest.json deleted":
            continue  # then it is an unfinished one, whose shards are made again
        with pytest.raises(CorruptFileError) as caught:
            use(folder)
        named = [path.name for path in sealed.iterdir() if path.name in str(caught.value)]
        assert named, f"{what}: {caught.value}"
        if (folder / "manifest.json").exists():
            assert diagnose(folder)[1], what
    return len(deeds)


@pytest.mark.parametrize(
    ("kind", "at_least"), [("checkpoint", 350), ("model", 270), ("store", 220), ("targets", 220), ("screen", 220)]
)
def test_every_damage_is_found_before_use(kind: str, at_least: int, scratch: Path) -> None:
    assert find_all(kind, scratch, FEW) >= at_least


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_every_one_of_thousands_of_damages_is_found_before_use(kind: str, scratch: Path) -> None:
    assert find_all(kind, scratch, MANY) > 2500


def test_a_training_goes_on_from_the_checkpoint_before_a_damaged_one(
    scratch: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newest = make_checkpoint(scratch / "run", 1)
    other = make_checkpoint(scratch / "other", 2)
    expected = outcome(scratch / "run")
    for what, deed in damages(newest, other, truncations=0, flips=1):
        folder = shutil.copytree(scratch / "run", scratch / "again")
        deed(folder / "checkpoints" / newest.name)
        caplog.clear()
        training(folder, **SHORT)
        assert f"warning: checkpoint {newest.name} is not used" in caplog.text, what
        assert outcome(folder) == expected, what
        assert diagnose(folder)[1] == [], what
        shutil.rmtree(folder)


def test_a_file_in_place_of_a_checkpoint_is_passed_over(scratch: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest = make_checkpoint(scratch / "run", 1)
    expected = outcome(scratch / "run")
    shutil.rmtree(newest)
    newest.write_text("no folder")
    training(scratch / "run", **SHORT)
    assert f"{newest} is not a folder" in caplog.text
    assert outcome(scratch / "run") == expected


def test_a_whole_checkpoint_of_another_run_is_refused(scratch: Path) -> None:
    own, foreign = make_checkpoint(scratch / "one", 1), make_checkpoint(scratch / "two", 2)
    shutil.rmtree(own.parent)
    shutil.copytree(foreign, own)
    with pytest.raises(CorruptFileError, match="belongs to another run"):
        training(scratch / "one", **SHORT, seed=1)
    assert any("belongs to another run" in line for line in diagnose(scratch / "one")[1])


def test_a_renamed_checkpoint_is_refused(scratch: Path) -> None:
    own = make_checkpoint(scratch / "run", 1)
    own.rename(own.with_name("step-00000099"))
    shutil.rmtree(own.with_name("step-00000003"))
    with pytest.raises(CorruptFileError, match="was renamed"):
        training(scratch / "run", **SHORT)


def test_what_a_killed_run_left_half_written_is_never_read_and_goes(scratch: Path) -> None:
    newest = make_checkpoint(scratch / "run", 1)
    expected = outcome(scratch / "run")
    shutil.copytree(newest, newest.with_name("step-00000009.tmp-4242"))
    shutil.rmtree(newest)
    (scratch / "run" / ".config.json.tmp-4242").write_text("{")
    facts, damage = diagnose(scratch / "run")
    assert not damage
    assert any("incomplete" in line for line in facts)
    training(scratch / "run", **SHORT)
    assert outcome(scratch / "run") == expected
    assert not scraps(scratch / "run")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": 1}', '{"id": "x", "settings": {}}'])
def test_a_damaged_run_record_is_named(scratch: Path, text: str) -> None:
    make_checkpoint(scratch / "run", 1)
    (scratch / "run" / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json"):
        training(scratch / "run", **SHORT)
    assert any("run.json" in line for line in diagnose(scratch / "run")[1])


def test_a_damaged_log_is_no_reason_to_stop(scratch: Path) -> None:
    training(scratch, **SHORT, stop_after_s=0.0)
    with open(scratch / "metrics.jsonl", "ab") as stream:
        stream.write(b'\xff\xfe{"kind": "step"\n[1]\n{"kind": "step"}\n')
    while not training(scratch, **SHORT, stop_after_s=0.0).finished:
        pass
    assert (scratch / "metrics.jsonl").read_text().count('"kind": "step"') == 4
