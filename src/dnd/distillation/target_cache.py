"""Teacher outputs by row number: blocks in memory, or memory-mapped shards that are verified before their first use."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dnd.common.errors import CorruptFileError
from dnd.common.files import building_folder, check_free_space, replacing, verify_folder, write_manifest
from dnd.common.terminal import raw_stream
from dnd.distillation.targets import TargetBlock, TargetRequest, compute_block, digest_of
from dnd.store.ragged import RaggedCounts
from dnd.store.reader import Store
from dnd.teacher.contract import Teacher
from dnd.training.distributed import World

FORMAT_VERSION = 1
BLOCK_BYTES = 256 * 2**20
_CUT_AT_ONCE = 2**20  # rows
_KIND = "targets"


class TargetCache:
    """The teacher's outputs for every molecule of a store.

    Args:
        blocks: of consecutive rows, together all of them.
        atom_counts: graph atoms of each row.
    """

    def __init__(self, blocks: list[TargetBlock], atom_counts: RaggedCounts) -> None:
        self._blocks, self._atom_counts = blocks, atom_counts
        self._first_rows = np.array([block.first for block in blocks])
        self._first_atoms = atom_counts.before(self._first_rows)

    def read(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """`(K, N, D)` atoms and `(P, B, D)` means of the molecules at `rows`, in that order, float16."""
        where = np.searchsorted(self._first_rows, rows, side="right") - 1
        begins = self._atom_counts.before(rows) - self._first_atoms[where]
        ends = begins + self._atom_counts[rows]
        atoms, pooled = [], []
        for row, index, begin, end in zip(rows.tolist(), where.tolist(), begins, ends, strict=True):
            block = self._blocks[index]
            atoms.append(block.atoms_NKD[begin:end])
            pooled.append(block.pooled_BPD[row - block.first])
        return (
            torch.from_numpy(np.concatenate(atoms)).transpose(0, 1),
            torch.from_numpy(np.stack(pooled)).transpose(0, 1),
        )


def cache_bytes(teacher: Teacher, store: Store, request: TargetRequest) -> int:
    """Size of the cache in bytes."""
    atoms = store.atom_counts.sum() * len(request.atom_layers)
    return 2 * teacher.width * (atoms + len(store) * len(request.pooled_layers))


def build_cache(
    teacher: Teacher,
    store: Store,
    request: TargetRequest,
    *,
    device: torch.device,
    folder: Path | None = None,
    quiet: bool = True,
) -> TargetCache:
    """Compute the teacher's outputs, or take the intact ones that `folder` already holds.

    Args:
        teacher: frozen, in evaluation mode, on `device`.
        store: the molecules.
        request: which outputs.
        device: where the teacher runs.
        folder: for shards `shard-00000/` with a manifest each; None keeps everything in memory.
        quiet: show no progress.

    Raises:
        StorageError: too little space.
        InputError: an output is not finite.
    """
    cuts = _cuts(teacher, store, request)
    spans = list(pairwise(cuts))

    def compute(span: tuple[int, int]) -> TargetBlock:
        return compute_block(teacher, store, *span, request, device)

    bar: dict[str, Any] = {"disable": quiet or not sys.stderr.isatty(), "file": raw_stream(sys.stderr)}
    if folder is None:
        blocks = [compute(span) for span in tqdm(spans, "teacher targets", unit="block", **bar)]
        return TargetCache(blocks, store.atom_counts)
    check_free_space(folder, 0 if folder.exists() else cache_bytes(teacher, store, request))
    key = digest_of(teacher, store.fingerprint, request)
    world = World.join(device)
    for number in tqdm(range(world.rank, len(spans), world.size), "teacher targets", unit="shard", **bar):
        _ensure_shard(folder / f"shard-{number:05d}", key, spans[number], compute)
    world.wait()
    blocks = []
    for number, span in enumerate(spans):
        shard = folder / f"shard-{number:05d}"
        if number % world.size != world.rank:  # another rank's; our own were verified or written a moment ago
            _verify(shard, key, span)
        blocks.append(TargetBlock(span[0], np.load(shard / "atoms.npy", "r"), np.load(shard / "pooled.npy", "r")))
    return TargetCache(blocks, store.atom_counts)


def _cuts(teacher: Teacher, store: Store, request: TargetRequest) -> list[int]:
    """Row numbers between blocks of about `BLOCK_BYTES`; a pure function of the sizes."""
    cuts: list[int] = []
    before = 0
    for start in range(0, len(store), _CUT_AT_ONCE):
        counts = store.atom_counts[start : start + _CUT_AT_ONCE]
        per_row = 2 * teacher.width * (counts * len(request.atom_layers) + len(request.pooled_layers))
        ends = before + np.cumsum(per_row)
        block_of_row = (np.append(before, ends) - 1) // BLOCK_BYTES
        cuts += (start + np.flatnonzero(np.diff(block_of_row))).tolist()
        before = int(ends[-1])
    return [*cuts, len(store)]


def _ensure_shard(
    folder: Path, key: str, span: tuple[int, int], compute: Callable[[tuple[int, int]], TargetBlock]
) -> None:
    """Keep the shard if it is intact and of this teacher and store; else compute it again."""
    try:
        _verify(folder, key, span)
        return
    except CorruptFileError as damage:
        print(f"warning: teacher targets are computed again: {damage}", file=sys.stderr)
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    block = compute(span)
    with building_folder(folder) as unfinished:
        for name, array in (("atoms", block.atoms_NKD), ("pooled", block.pooled_BPD)):
            with replacing(unfinished / f"{name}.npy") as path, open(path, "wb") as stream:
                np.save(stream, array)
        extra = {"key": key, "rows": list(span)}
        write_manifest(unfinished, kind=_KIND, format_version=FORMAT_VERSION, extra=extra)


def _verify(folder: Path, key: str, span: tuple[int, int]) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    manifest = verify_folder(folder, kind=_KIND, format_version=FORMAT_VERSION)
    if manifest.get("key") != key or manifest.get("rows") != list(span):
        raise CorruptFileError(f"{folder} is of another teacher, store or request")
