"""Outputs of the frozen teacher: computed once per store, kept as float16 in memory or in checksummed shards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dnd.common.errors import CorruptFileError, InputError
from dnd.common.files import building_folder, check_free_space, replacing, verify_folder, write_manifest
from dnd.common.log import LOGGER, Progress
from dnd.common.ragged import RaggedCounts
from dnd.common.runs import MappedFile
from dnd.graphs.batch import MoleculeBatch, mean_per_molecule
from dnd.models.teachers.base import Teacher, TeacherOutput
from dnd.models.teachers.fast_pairs.pairs import CoincidentAtomsError
from dnd.pretraining.distill_losses import SolidPart
from dnd.store.reader import Store
from dnd.training.distributed import World

# Teacher outputs by row number: blocks in memory, or memory-mapped shards that are verified before their first use.


FORMAT_VERSION = 1
BLOCK_BYTES, MOST_BLOCKS = 32 * 2**20, 256
"""Least size of a block, which is what a stopped run loses, and most blocks, since each has two files open."""
_CUT_AT_ONCE = 2**20  # rows
_KIND = "targets"


class TargetCache:
    """The teacher's outputs for every molecule of a store.

    Args:
        blocks: blocks of consecutive rows, which together are all rows.
        atom_counts: graph atoms of each row.
    """

    def __init__(self, blocks: list[TargetBlock], atom_counts: RaggedCounts) -> None:
        self._blocks, self._atom_counts = blocks, atom_counts
        self._first_rows = np.array([block.first for block in blocks])
        self._first_atoms = atom_counts.before(self._first_rows)

    def read(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """`(L, N, D)` atoms and `(L, B, D)` means of the molecules at `rows`, in that order, float16."""
        where = np.searchsorted(self._first_rows, rows, side="right") - 1
        for index in np.unique(where).tolist():
            self._blocks[index].require_unchanged()
        begins = self._atom_counts.before(rows) - self._first_atoms[where]
        ends = begins + self._atom_counts[rows]
        atoms, pooled = [], []
        for row, index, begin, end in zip(rows.tolist(), where.tolist(), begins, ends, strict=True):
            block = self._blocks[index]
            atoms.append(block.atoms_NLD[begin:end])
            pooled.append(block.pooled_BLD[row - block.first])
        return (
            torch.from_numpy(np.concatenate(atoms)).transpose(0, 1),
            torch.from_numpy(np.stack(pooled)).transpose(0, 1),
        )


class OutOfTimeError(Exception):
    """The deadline came before the cache was full; another call goes on filling it."""


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
    deadline: float | None = None,
) -> TargetCache:
    """Compute the teacher's outputs, or take the intact ones that `folder` already holds.

    Args:
        teacher: frozen, in evaluation mode, on `device`.
        store: the molecules.
        request: which outputs.
        device: where the teacher runs.
        folder: place of shards `shard-00000/` with a manifest each; None keeps everything in memory.
        deadline: time of `time.monotonic()` after which no shard is begun in `folder`, except the first of a call.

    Raises:
        OutOfTimeError: shards are missing at the deadline; the others are kept.
        StorageError: too little space.
        InputError: an output is not finite.
    """
    spans = list(pairwise(_cuts(teacher, store, request)))
    progress = Progress("teacher targets", unit="molecule", total=len(store))

    def compute(span: tuple[int, int]) -> TargetBlock:
        return compute_block(teacher, store, *span, request, device, progress.advance)

    if folder is None:
        blocks = [compute(span) for span in spans]
        progress.close()
        return TargetCache(blocks, store.atom_counts)
    check_free_space(folder, 0 if folder.exists() else cache_bytes(teacher, store, request))
    key = digest_of(teacher, store.fingerprint, request)
    world = World.join(device)
    out_of_time, made = False, 0
    for number, span in enumerate(spans):
        if number % world.size == world.rank:
            shard = folder / f"shard-{number:05d}"
            out_of_time = bool(made) and deadline is not None and time.monotonic() > deadline and not shard.exists()
            if out_of_time:
                break
            made += _ensure_shard(shard, key, span, compute)
        progress.reach(span[1])
    progress.close()
    if world.largest(int(out_of_time)):  # also where only another rank is
        raise OutOfTimeError
    blocks = []
    for number, span in enumerate(spans):
        shard = folder / f"shard-{number:05d}"
        blocks.append(_mapped(shard, key, span))
    return TargetCache(blocks, store.atom_counts)


def _mapped(shard: Path, key: str, span: tuple[int, int]) -> TargetBlock:
    """The verified content of a shard."""
    paths = shard / "atoms.npy", shard / "pooled.npy"
    files = tuple(map(MappedFile, paths))
    _verify(shard, key, span)
    block = TargetBlock(span[0], np.load(paths[0], "r"), np.load(paths[1], "r"), files)
    for file in files:
        file.require_mapped()
    return block


def _cuts(teacher: Teacher, store: Store, request: TargetRequest) -> list[int]:
    """Row numbers between blocks of about the same size; a pure function of the sizes."""
    block_bytes = max(BLOCK_BYTES, -(-cache_bytes(teacher, store, request) // MOST_BLOCKS))
    cuts: list[int] = []
    before = 0
    for start in range(0, len(store), _CUT_AT_ONCE):
        counts = store.atom_counts[start : start + _CUT_AT_ONCE]
        per_row = 2 * teacher.width * (counts * len(request.atom_layers) + len(request.pooled_layers))
        ends = before + np.cumsum(per_row)
        block_of_row = (np.append(before, ends) - 1) // block_bytes
        cuts += (start + np.flatnonzero(np.diff(block_of_row))).tolist()
        before = int(ends[-1])
    return [*cuts, len(store)]


def _ensure_shard(
    folder: Path, key: str, span: tuple[int, int], compute: Callable[[tuple[int, int]], TargetBlock]
) -> bool:
    """Keep the shard if it is intact and of this teacher and store; else compute it again, and say so."""
    try:
        _verify(folder, key, span)
        return False
    except CorruptFileError as damage:
        LOGGER.warning(f"warning: teacher targets are computed again: {damage}")
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    block = compute(span)
    with building_folder(folder) as unfinished:
        for name, array in (("atoms", block.atoms_NLD), ("pooled", block.pooled_BLD)):
            with replacing(unfinished / f"{name}.npy") as path, open(path, "wb") as stream:
                np.save(stream, array)
        extra = {"key": key, "rows": list(span)}
        write_manifest(unfinished, kind=_KIND, format_version=FORMAT_VERSION, extra=extra)
    return True


def _verify(folder: Path, key: str, span: tuple[int, int]) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    manifest = verify_folder(folder, kind=_KIND, format_version=FORMAT_VERSION)
    if manifest.get("key") != key or manifest.get("rows") != list(span):
        raise CorruptFileError(f"{folder} belongs to another teacher, store or request")


# What the frozen teacher says: computed once per store, kept as float16 in memory or in checksummed shards.
#
# The teacher is frozen and its input fixed, so its outputs are a pure function of (teacher, store, request): 50,000 QM9
# molecules of 18 atoms at width 256 are 0.46 GB, and an epoch with them runs no teacher.


# Padded atoms per teacher batch while the cache is filled: a fixed number, since the last bits of a dense teacher
# depend on the batch and the cache must be a pure function.
_ATOMS_PER_BATCH = 2048


@dataclass(frozen=True)
class TargetRequest:
    """Which of the teacher's outputs a set of terms needs.

    Attributes:
        atom_layers: layers, from 0, whose atom representations are needed; the last one stands for Z3D, the
            teacher's output.
        pooled_layers: layers whose molecule tokens are needed, or means over atoms where the teacher has no token.
        pool_h: whether the means run over atoms that the graph does not have.
        conformers: `first`, or `mean` over the conformers of a molecule.
        num_conformers: number of conformers that are averaged, the first ones; None = all.
    """

    atom_layers: tuple[int, ...]
    pooled_layers: tuple[int, ...]
    pool_h: bool = False
    conformers: Literal["first", "mean"] = "first"
    num_conformers: int | None = None


@dataclass(frozen=True)
class DistillationBatch(MoleculeBatch):
    """A batch with what is to be learned.

    Attributes:
        teacher_LND: `(L, N, D)` atoms at `TargetRequest.atom_layers`; None until the teacher has run.
        teacher_LBD: `(L, B, D)` means at `TargetRequest.pooled_layers`; the same.
        auxiliary: values of each auxiliary term, by name.
        solid: the molecules with conformers where not all have some; the teacher's outputs are then of these alone.
    """

    teacher_LND: Float[Tensor, "layers solid_atoms dim"] | None = None
    teacher_LBD: Float[Tensor, "pooled_layers solid_molecules dim"] | None = None
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    solid: SolidPart | None = None


@torch.no_grad()
def run_teacher(
    teacher: Teacher, batch: MoleculeBatch, request: TargetRequest
) -> tuple[Float[Tensor, "layers atoms dim"], Float[Tensor, "pooled_layers molecules dim"]]:
    """The requested outputs for one clean conformer per molecule, in float32, on the batch's device.

    Layers before the last are layer-normalised without weights, as the last one is with them: the raw states of a
    pre-norm network grow with depth, and the deepest would outweigh all others.
    """
    if batch.conformers is None:
        raise InputError("the teacher needs conformers", found="a batch without any")
    last = teacher.num_layers - 1
    needed = {*request.atom_layers, *request.pooled_layers}
    with torch.autocast(batch.rows_B.device.type, enabled=False):
        wants_tokens = teacher.has_token and bool(request.pooled_layers)
        output = teacher(batch.conformers, collect_layers=bool(needed - {last}) or wants_tokens)
    states_AD = {
        layer: output.scalars_AD if layer == last else F.layer_norm(output.layers[layer], (teacher.width,))
        for layer in needed
    }
    atoms_ND = {layer: states[batch.conformers.graph_atoms_N] for layer, states in states_AD.items()}
    offsets = batch.conformers.atom_offsets if request.pool_h else batch.graph.atom_offsets
    pooled_BD = [
        _token_after(output, layer, last)
        if teacher.has_token
        else mean_per_molecule(states_AD[layer] if request.pool_h else atoms_ND[layer], offsets)
        for layer in request.pooled_layers
    ]
    atoms_LND = _stack([atoms_ND[layer] for layer in request.atom_layers], batch.graph.node_features_NF, teacher.width)
    return atoms_LND, _stack(pooled_BD, batch.rows_B, teacher.width)


def _token_after(output: TeacherOutput, layer: int, last: int) -> Float[Tensor, "molecules dim"]:
    """The molecule token, normalised as the atoms are: with weights after the last layer, without before it."""
    token_BD = output.tokens[layer]
    return token_BD if layer == last else F.layer_norm(token_BD, token_BD.shape[1:])


def teacher_outputs(
    teacher: Teacher, store: Store, rows: np.ndarray, request: TargetRequest, device: torch.device
) -> tuple[Float[Tensor, "layers atoms dim"], Float[Tensor, "pooled_layers molecules dim"]]:
    """The requested outputs for the molecules at `rows`, averaged over conformers where `request` says so."""
    counts = store.num_conformers_of(rows) if request.conformers == "mean" else np.ones(len(rows), dtype=np.int64)
    counts = counts if request.num_conformers is None else np.minimum(counts, request.num_conformers)
    total_LND, total_LBD = None, None
    for conformer in range(int(counts.max())):
        batch = store.read(rows, conformer=conformer).to(device)
        share_B = torch.from_numpy((conformer < counts) / counts).to(device, torch.float32)
        with naming_molecules(store, rows):
            atoms_LND, pooled_LBD = run_teacher(teacher, batch, request)
        atoms_LND, pooled_LBD = atoms_LND * share_B[batch.graph.batch_N, None], pooled_LBD * share_B[:, None]
        total_LND = atoms_LND if total_LND is None else total_LND + atoms_LND
        total_LBD = pooled_LBD if total_LBD is None else total_LBD + pooled_LBD
    assert total_LND is not None
    assert total_LBD is not None
    return total_LND, total_LBD


@contextlib.contextmanager
def naming_molecules(store: Store, rows: np.ndarray) -> Iterator[None]:
    """Put the molecule's SMILES and row into the teacher's complaint about a broken conformer."""
    try:
        yield
    except CoincidentAtomsError as error:
        raise error.named(store.describe(rows[[error.molecule]])[0]) from error


@dataclass(frozen=True)
class TargetBlock:
    """Outputs for the consecutive rows `first`, `first + 1`, … of a store.

    Attributes:
        first: first row.
        atoms_NLD: `(N, L, D)` float16, atom-major, so that a molecule is one contiguous piece.
        pooled_BLD: `(B, L, D)` float16.
        files: that they are mapped from; none in memory.
    """

    first: int
    atoms_NLD: np.ndarray
    pooled_BLD: np.ndarray
    files: tuple[MappedFile, ...] = ()

    def require_unchanged(self) -> None:
        """Raise `CorruptFileError` where one of the files was written to."""
        for file in self.files:
            file.require_unchanged()


def compute_block(
    teacher: Teacher,
    store: Store,
    first: int,
    last: int,
    request: TargetRequest,
    device: torch.device,
    say_progress: Callable[[int], None] = lambda count: None,
) -> TargetBlock:
    """Outputs for rows `first` to `last - 1`; the same bytes at every call on one machine.

    Args:
        teacher: frozen, in evaluation mode, on `device`.
        store: the molecules.
        first: first row.
        last: row after the last one.
        request: which outputs.
        device: where the teacher runs.
        say_progress: receives how many molecules more are done, after each batch.

    Raises:
        InputError: an output is not a finite float16; the molecule is named.
    """
    sizes = store.atom_counts[first:last]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    atoms_NLD = np.empty((int(starts[-1]), len(request.atom_layers), teacher.width), dtype=np.float16)
    pooled_BLD = np.empty((last - first, len(request.pooled_layers), teacher.width), dtype=np.float16)
    for local in _batches(sizes):
        atoms_LND, pooled_LBD = teacher_outputs(teacher, store, first + local, request, device)
        atoms = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in local])
        atoms_NLD[atoms] = atoms_LND.transpose(0, 1).half().cpu().numpy()
        pooled_BLD[local] = pooled_LBD.transpose(0, 1).half().cpu().numpy()
        wrong = [
            row
            for row in local
            if not (np.isfinite(atoms_NLD[starts[row] : starts[row + 1]]).all() and np.isfinite(pooled_BLD[row]).all())
        ]
        if wrong:
            raise InputError(
                "the teacher's output is not a finite number",
                found=f"{len(wrong)} molecules, such as {store.describe(first + np.array(wrong[:1]))[0]}",
                next_step="Check the teacher with `dnd doctor`, and these conformers",
            )
        say_progress(len(local))
    return TargetBlock(first, atoms_NLD, pooled_BLD)


def _batches(sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Rows by size, cut by the padded-atom budget; a pure function of the sizes."""
    order = np.argsort(sizes, kind="stable")
    begin = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or sizes[order[end]] * (end + 1 - begin) > _ATOMS_PER_BATCH:
            yield order[begin:end]
            begin = end


def weights_digest(teacher: Teacher) -> str:
    """SHA-256 of the teacher's weights, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(teacher.state_dict().items()):
        digest.update(name.encode() + str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def digest_of(teacher: Teacher, store_fingerprint: str, request: TargetRequest) -> str:
    """SHA-256 of everything that the targets depend on: weights, molecules and what is asked for."""
    plan: dict[str, Any] = {**asdict(request), "atoms_per_batch": _ATOMS_PER_BATCH, "store": store_fingerprint}
    plan["teacher"] = weights_digest(teacher)
    if request.num_conformers is None:
        del plan["num_conformers"]  # older caches, without that choice, have no such entry
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def _stack(states: list[Tensor], per_item: Tensor, width: int) -> Tensor:
    """`(len(states), items, width)`, also for an empty list."""
    return torch.stack(states) if states else torch.empty(0, len(per_item), width, device=per_item.device)
