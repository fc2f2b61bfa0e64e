"""Teacher targets: what they are, that a cache returns them, and that a damaged or foreign one is never used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distillation_toys import TEACHER, toy_store, toy_teacher
from dnd.common.errors import InputError
from dnd.common.files import sha256_file
from dnd.graphs.batch import mean_per_molecule
from dnd.pretraining import teacher_outputs as target_cache
from dnd.pretraining.teacher_outputs import (
    OutOfTimeError,
    TargetCache,
    TargetRequest,
    build_cache,
    cache_bytes,
    digest_of,
    run_teacher,
    teacher_outputs,
)
from dnd.store.reader import Store

CPU = torch.device("cpu")
LAST = TEACHER.num_layers - 1
REQUEST = TargetRequest((0, LAST), (LAST,))


def cache_of(store: Store, folder: Path | None, seed: int = 0, request: TargetRequest = REQUEST) -> TargetCache:
    return build_cache(toy_teacher(seed), store, request, device=CPU, folder=folder)


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*.npy"))}


@pytest.fixture
def several_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_cache, "BLOCK_BYTES", 4000)


def test_the_last_layer_is_the_teachers_output_and_others_are_layer_normalised() -> None:
    teacher, batch = toy_teacher(), toy_store(4).read(np.arange(4))
    atoms_LND, pooled_LBD = run_teacher(teacher, batch, REQUEST)
    output = teacher(batch.conformers, collect_layers=True)
    torch.testing.assert_close(atoms_LND[1], output.scalars_AD)
    torch.testing.assert_close(pooled_LBD[0], mean_per_molecule(output.scalars_AD, batch.graph.atom_offsets))
    torch.testing.assert_close(atoms_LND[0].mean(1), torch.zeros(len(atoms_LND[0])), atol=1e-5, rtol=0)
    assert not atoms_LND.requires_grad


@pytest.mark.parametrize("pool_h", [False, True])
def test_hydrogens_of_the_teacher_are_left_out_unless_asked_for(pool_h: bool) -> None:
    store = toy_store(5, hydrogens="teacher_all_student_heavy")
    batch = store.read(np.array([3, 0, 4]))
    teacher = toy_teacher()
    atoms_LND, pooled_LBD = run_teacher(teacher, batch, TargetRequest((LAST,), (LAST,), pool_h))
    states_AD = teacher(batch.conformers).scalars_AD
    offsets, heavy = batch.conformers.atom_offsets.tolist(), batch.graph.atoms_per_molecule_B.tolist()
    for molecule, count in enumerate(heavy):
        start = batch.graph.atom_offsets[molecule]
        own = states_AD[offsets[molecule] : offsets[molecule + 1]]
        torch.testing.assert_close(atoms_LND[0, start : start + count], own[:count])
        torch.testing.assert_close(pooled_LBD[0, molecule], (own if pool_h else own[:count]).mean(0))


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_cache_returns_what_the_teacher_says_in_any_order(
    tmp_path: Path, several_shards: None, on_disk: bool
) -> None:
    store = toy_store(30)
    cache = cache_of(store, tmp_path / "targets" if on_disk else None)
    rows = np.array([29, 3, 3, 17, 0, 11])
    atoms_LND, pooled_LBD = cache.read(rows)
    expected = teacher_outputs(toy_teacher(), store, rows, REQUEST, CPU)
    torch.testing.assert_close(atoms_LND.float(), expected[0], atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(pooled_LBD.float(), expected[1], atol=2e-3, rtol=1e-3)
    assert atoms_LND.dtype == torch.float16


def test_cached_bytes_are_a_pure_function(tmp_path: Path, several_shards: None) -> None:
    store = toy_store(30)
    in_memory = cache_of(store, None).read(np.arange(30))
    first, second = cache_of(store, tmp_path / "a"), cache_of(store, tmp_path / "b")
    assert len(hashes(tmp_path / "a")) > 4
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    for ours, first_disk, second_disk in zip(
        in_memory, first.read(np.arange(30)), second.read(np.arange(30)), strict=True
    ):
        assert torch.equal(ours, first_disk)
        assert torch.equal(ours, second_disk)


def test_intact_shards_are_kept_and_damaged_ones_computed_again(
    tmp_path: Path, several_shards: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = toy_store(30), tmp_path / "targets"
    cache_of(store, folder)
    before = hashes(folder)
    flipped = folder / "shard-00001" / "atoms.npy"
    data = bytearray(flipped.read_bytes())
    data[-3] ^= 16
    flipped.write_bytes(data)
    computed: list[int] = []
    compute = target_cache.compute_block
    monkeypatch.setattr(target_cache, "compute_block", lambda *given: computed.append(given[2]) or compute(*given))
    cache_of(store, folder)
    assert len(computed) == 1
    assert "computed again" in caplog.text
    assert hashes(folder) == before


def test_shards_of_another_teacher_or_store_are_not_used(tmp_path: Path, several_shards: None) -> None:
    folder, store = tmp_path / "targets", toy_store(30)
    cache_of(store, folder)
    before = hashes(folder)
    cache_of(store, folder, seed=1)
    other = hashes(folder)
    assert all(before[name] != other[name] for name in before)
    keys = {
        digest_of(toy_teacher(seed), fingerprint, request)
        for seed in (0, 1)
        for fingerprint in ("a", "b")
        for request in (REQUEST, TargetRequest((LAST,), ()))
    }
    assert len(keys) == 8


def test_mean_over_conformers_is_the_mean_of_the_outputs() -> None:
    store, rows = toy_store(6, conformers=3), np.arange(6)
    request = TargetRequest((LAST,), (LAST,), conformers="mean")
    mean_LND, mean_LBD = teacher_outputs(toy_teacher(), store, rows, request, CPU)
    each = [run_teacher(toy_teacher(), store.read(rows, conformer=k), request) for k in range(3)]
    torch.testing.assert_close(mean_LND, torch.stack([atoms for atoms, _ in each]).mean(0))
    torch.testing.assert_close(mean_LBD, torch.stack([pooled for _, pooled in each]).mean(0))


def test_size_is_counted_in_bytes_and_non_finite_outputs_are_refused() -> None:
    store = toy_store(10)
    atoms_LND, pooled_LBD = cache_of(store, None).read(np.arange(10))
    assert cache_bytes(toy_teacher(), store, REQUEST) == 2 * (atoms_LND.numel() + pooled_LBD.numel())
    teacher = toy_teacher()
    with torch.no_grad():
        next(parameter for name, parameter in teacher.named_parameters() if "norm" in name).fill_(float("inf"))
    with pytest.raises(InputError, match="not a finite number"):
        build_cache(teacher, store, REQUEST, device=CPU)


def test_a_large_cache_has_a_bounded_number_of_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shard has two files open."""
    monkeypatch.setattr(target_cache, "BLOCK_BYTES", 1)
    monkeypatch.setattr(target_cache, "MOST_BLOCKS", 4)
    cuts = target_cache._cuts(toy_teacher(0), toy_store(30), REQUEST)
    assert 2 <= len(cuts) - 1 <= 4
    assert (cuts[0], cuts[-1]) == (0, 30)


def test_a_deadline_keeps_the_shards_so_far(tmp_path: Path, several_shards: None) -> None:
    store, folder = toy_store(30), tmp_path / "targets"
    whole = cache_of(store, tmp_path / "whole").read(np.arange(30))
    for number in range(1, len(hashes(tmp_path / "whole")) // 2):
        with pytest.raises(OutOfTimeError):
            build_cache(toy_teacher(), store, REQUEST, device=CPU, folder=folder, deadline=0.0)
        assert len(list(folder.iterdir())) == number
    parts = build_cache(toy_teacher(), store, REQUEST, device=CPU, folder=folder, deadline=0.0)
    assert all(torch.equal(*pair) for pair in zip(parts.read(np.arange(30)), whole, strict=True))
