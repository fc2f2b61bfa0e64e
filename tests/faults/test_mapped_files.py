"""A store that is cut short, overwritten, replaced or removed while it is read: what it was, or an error, no signal."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import dnd.common.files
from distillation_toys import toy_row, toy_store, toy_teacher
from dnd.chemistry.molecule import FEATURE_VERSION
from dnd.common.errors import CorruptFileError, DndError
from dnd.common.files import write_manifest
from dnd.predictor.predictor import Predictor
from dnd.pretraining.teacher_outputs import TargetRequest, build_cache
from dnd.store.reader import Store, union
from dnd.store.schema import PLAIN_SCHEMA_VERSION
from dnd.store.writer import shard_name, write_shard

ROWS, SHARDS = 400, 3


def write_store(folder: Path, first: int = 0) -> Path:
    """Shards of many pages, so that what is cut off was surely not read before."""
    folder.mkdir()
    for shard in range(SHARDS):
        rows = [toy_row(first + shard * ROWS + row, "heavy_both", 1) for row in range(ROWS)]
        write_shard(folder / shard_name(shard), rows)
    extra = {"feature_version": FEATURE_VERSION, "settings": {"hydrogens": "heavy_both"}, "target_columns": ["a", "b"]}
    write_manifest(folder, kind="store", format_version=PLAIN_SCHEMA_VERSION, extra=extra)
    return folder


def overwrite(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(b"another")
    os.replace(other, path)


HARMFUL: dict[str, Callable[[Path], None]] = {
    "cut to nothing": lambda path: os.truncate(path, 0),
    "cut in the middle": lambda path: os.truncate(path, path.stat().st_size // 2),
    "overwritten": overwrite,
}
HARMLESS: dict[str, Callable[[Path], None]] = {"replaced": replace, "removed": Path.unlink}
READERS: dict[str, Callable[[Store], object]] = {
    "read": lambda store: store.read(np.arange(len(store))),
    "labels": lambda store: store.targets,
    "sum": lambda store: store.atom_counts.sum(),
    "counts": lambda store: store.bond_counts[:],
    "kind": lambda store: store.some_conformers,
    "places": lambda store: store.places_with_conformers(np.arange(3)),
    "texts": lambda store: store.smiles(),
    "names": lambda store: store.describe(np.arange(len(store))),
    "conformers": lambda store: store.num_conformers_of(np.arange(len(store))),
    "batches": lambda store: [batch.to_pylist() for batch in store.batches],
    "union": lambda store: union([store, toy_store(3)]).read(np.arange(len(store))),
    "solid": lambda store: store.with_conformers().read(np.arange(len(store))),
}


@pytest.mark.parametrize("deed", HARMFUL)
def test_a_store_that_is_written_to_is_refused_whatever_is_read(tmp_path: Path, deed: str) -> None:
    store = Store.open(write_store(tmp_path / "store"))
    assert store.has_conformers
    HARMFUL[deed](tmp_path / "store" / shard_name(SHARDS - 1))
    for read in READERS.values():
        with pytest.raises(CorruptFileError, match="changed while it was read"):
            read(store)
    assert len(store.read(np.arange(ROWS)).rows_B) == ROWS  # the other shards are as they were


@pytest.mark.parametrize("deed", HARMLESS)
def test_a_store_that_is_replaced_is_read_as_it_was(tmp_path: Path, deed: str) -> None:
    store = Store.open(write_store(tmp_path / "store"))
    before = Store.open(write_store(tmp_path / "same")).read(np.arange(SHARDS * ROWS))
    for shard in range(SHARDS):
        HARMLESS[deed](tmp_path / "store" / shard_name(shard))
    after = store.read(np.arange(SHARDS * ROWS))
    assert torch.equal(before.graph.node_features_NF, after.graph.node_features_NF)
    assert before.conformers is not None
    assert after.conformers is not None
    assert torch.equal(before.conformers.positions_A3, after.conformers.positions_A3)


def test_a_store_that_is_replaced_while_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "store")
    write_store(tmp_path / "other", first=9000)
    import dnd.store.reader as module

    real = module._map_shard

    def late(path: Path, num_targets: int) -> object:
        if path.name == shard_name(1):
            os.replace(tmp_path / "other" / path.name, path)
        return real(path, num_targets)

    monkeypatch.setattr(module, "_map_shard", late)
    with pytest.raises(CorruptFileError, match=f"{shard_name(1)} changed while it was read"):
        Store.open(tmp_path / "store")


TRAINING = """
import os, sys
from dnd.pretraining.denoise import DenoiseConfig, DenoisingObjective, denoise
from dnd.store.reader import Store
from dnd.training.settings import LoopConfig
from distillation_toys import TEACHER
store, shard, out = sys.argv[1:]
real, calls = DenoisingObjective.load_batch, []
def load_batch(self, rows, epoch):
    calls.append(1)
    if len(calls) == 5:
        os.truncate(shard, 0)
    return real(self, rows, epoch)
DenoisingObjective.load_batch = load_batch
loop = LoopConfig(epochs=1, batch_size=8, device="cpu", threads=1)
denoise(store, out, DenoiseConfig(teacher=TEACHER, loop=loop))
"""


def test_a_training_whose_store_is_cut_short_ends_with_an_error_and_no_signal(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    words = [str(store), str(store / shard_name(1)), str(tmp_path / "out")]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRAINING, *words],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1  # a signal would be -7
    assert f"{shard_name(1)} changed while it was read" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("deed", HARMFUL)
def test_a_cache_of_teacher_outputs_that_is_written_to(tmp_path: Path, deed: str) -> None:
    store, request = toy_store(40), TargetRequest((0, 2), (2,))
    cache = build_cache(toy_teacher(), store, request, device=torch.device("cpu"), folder=tmp_path / "targets")
    atoms, _ = cache.read(np.arange(40))
    HARMFUL[deed](tmp_path / "targets" / "shard-00000" / "atoms.npy")
    with pytest.raises(CorruptFileError, match="changed while it was read"):
        cache.read(np.arange(40))
    again = build_cache(toy_teacher(), store, request, device=torch.device("cpu"), folder=tmp_path / "targets")
    assert torch.equal(again.read(np.arange(40))[0], atoms)


# A MODEL: nothing is read from its folder after it is loaded, and a loading never mixes two versions.

GOLDEN = Path(__file__).parents[1] / "golden"
MOLECULES = ["CCO", "c1ccccc1O", "CC(=O)N", "nonsense"]


def answers(model: Predictor) -> tuple[str, bytes]:
    """Predictions with intervals and domain, and representations."""
    return str(model.predict(MOLECULES)), model.embed(MOLECULES[:3]).tobytes()


@pytest.mark.parametrize("deed", [*HARMFUL, *HARMLESS])
@pytest.mark.parametrize("name", ["predictor-regression", "predictor-blend"])
def test_a_loaded_model_stays_what_it_was(tmp_path: Path, name: str, deed: str) -> None:
    shutil.copytree(GOLDEN / name, tmp_path / "model")
    model, other = Predictor.load(tmp_path / "model"), Predictor.load(GOLDEN / name)
    for path in sorted((tmp_path / "model").iterdir()):
        {**HARMFUL, **HARMLESS}[deed](path)
    assert answers(model) == answers(other)


def newer(folder: Path, out: Path) -> Path:
    """A version with other weights."""
    shutil.copytree(folder, out)
    weights = {name: tensor * 1.5 for name, tensor in load_file(out / "model.safetensors").items()}
    save_file(weights, out / "model.safetensors")
    write_manifest(out, kind="predictor", format_version=1)
    return out


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_model_that_is_replaced_while_it_is_loaded_is_one_version_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Before each of its readings in turn, all files or half of them become those of the new version."""
    old, new = GOLDEN / "predictor-regression", newer(GOLDEN / "predictor-regression", tmp_path / "new")
    allowed = [answers(Predictor.load(folder)) for folder in (old, new)]
    assert allowed[0] != allowed[1]
    real, names, ends = dnd.common.files.read_plain_file, sorted(path.name for path in new.iterdir()), set[int]()
    for moment in range(1, 100):
        folder, readings = tmp_path / f"model-{moment}", list[Path]()
        shutil.copytree(old, folder)

        def reading(path: Path, limit: int, *, now: int = moment, into: Path = folder) -> bytes:
            readings.append(path)  # noqa: B023
            if len(readings) == now:  # noqa: B023
                for name in names[-int(share * len(names)) :]:
                    shutil.copy(new / name, into / name)
            return real(path, limit)

        with monkeypatch.context() as patch:
            patch.setattr(dnd.common.files, "read_plain_file", reading)
            try:
                found = answers(Predictor.load(folder))
            except DndError:
                ends.add(-1)
            else:
                ends.add(allowed.index(found))
        if len(readings) < moment:
            break
    assert moment > 2
    assert ends >= {-1, 0}
