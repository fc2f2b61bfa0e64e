"""Training steps against the same network written plainly, on the same weights, and their operations on paper."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnd.bench.measure import (
    SEED,
    Line,
    Table,
    Variant,
    drug_like_smiles,
    drug_store,
    graph_store,
    measure,
    qm9_store,
    random_student,
    tokens_of,
)
from dnd.bench.startup import added_memory
from dnd.common.compute import numpy_generator, set_threads
from dnd.graphs.batch import ConformerBatch, GraphBatch
from dnd.graphs.identifiers import laplacian_identifiers
from dnd.models.students.base import StudentConfig, known, preset
from dnd.models.students.tokengt import NUM_SPECIAL_TOKENS, TokenGT, TokenLayout, token_layout
from dnd.models.teachers.base import NoiseHead, TeacherConfig, TeacherOutput
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer
from dnd.store.batches import padding_share, plan_batches
from dnd.store.reader import Store

# What ours is compared with: padded TokenGT and torchmd-net's equivariant transformer, both on our weights.


def checksum(states_TD: Float[Tensor, "tokens dim"]) -> Float[Tensor, ""]:
    """The sum over tokens and features, features weighted 0 to 1: without weights a LayerNorm would make it 0."""
    return (states_TD * torch.linspace(0, 1, states_TD.shape[1])).sum()


class _SameWeights(nn.Module):
    """A way to compute TokenGT, on the weights of `student`."""

    def __init__(self, student: TokenGT) -> None:
        super().__init__()
        self.student = student

    def embedded(self, graph: GraphBatch) -> tuple[TokenLayout, Float[Tensor, "tokens dim"]]:
        """Where the tokens are, and what enters the first layer."""
        layout = token_layout(graph)
        identifiers = laplacian_identifiers(graph, known(self.student.config.num_identifiers)).to(torch.float32)
        return layout, self.student.embedding(graph, layout, identifiers)


class PaddedTokenGT(_SameWeights):
    """TokenGT as it is usually written: sequences padded to the longest of the batch, a key mask, fused attention."""

    def forward(self, graph: GraphBatch) -> Tensor:
        """`checksum` of the final states of atoms and bonds."""
        student, (layout, tokens_TD) = self.student, self.embedded(graph)
        sequences = torch.split(tokens_TD, layout.lengths.tolist())
        tokens = nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
        real = torch.arange(tokens.shape[1]) < layout.lengths[:, None]
        layer: Any
        for layer in student.layers:
            heads = layer.attention.num_heads
            query_key_value = layer.attention.query_key_value(layer.attention_norm(tokens))
            query, key, value = query_key_value.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None, :])
            tokens = tokens + layer.attention.out(out.transpose(1, 2).flatten(2))
            hidden = F.gelu(layer.feed_forward_in(layer.feed_forward_norm(tokens)))
            tokens = tokens + layer.feed_forward_out(hidden)
        return checksum((student.final_norm(tokens) * real[:, :, None])[:, NUM_SPECIAL_TOKENS:].flatten(0, 1))


class PackedTokenGT(_SameWeights):
    """Ours, with the same result, so that the two can be compared."""

    def forward(self, graph: GraphBatch) -> Tensor:
        """`checksum` of the final states of atoms and bonds."""
        student, (layout, tokens_TD) = self.student, self.embedded(graph)
        for layer in student.layers:
            tokens_TD = layer(tokens_TD, layout)
        tokens_TD = student.final_norm(tokens_TD)
        return checksum(tokens_TD.index_select(0, torch.cat([layout.atoms_N, layout.edges_E])))


class PublishedTransformer(nn.Module):
    """torchmd-net's own ET with the weights of ours."""

    def __init__(self, teacher: EquivariantTransformer, neighbours: int) -> None:
        super().__init__()
        config = teacher.config
        self.et = import_module("torchmdnet.models.torchmd_et").TorchMD_ET(
            hidden_channels=config.width, num_layers=config.num_layers, num_rbf=config.num_rbf, trainable_rbf=False,
            num_heads=config.num_heads, cutoff_upper=config.cutoff, max_num_neighbors=neighbours,
        )  # fmt: skip
        self.et.load_state_dict(teacher.state_dict(), strict=False)

    def forward(self, conformers: ConformerBatch) -> TeacherOutput:
        """Representations of every conformer atom."""
        x, v, *_ = self.et(conformers.atomic_numbers_A, conformers.positions_A3, conformers.batch_A)
        return TeacherOutput(x, v)


def has_torchmdnet() -> bool:
    """Whether torchmd-net can be imported."""
    return find_spec("torchmdnet") is not None


# Floating-point operations and bytes of a forward pass, on paper; a training step has three times the operations.
#
# A product of an (m, k) and a (k, n) matrix has 2·m·k·n operations; elementwise work is left out of the operations and
# is what the bytes are. Bytes: every operation reads its inputs from memory and writes its result, fp32, nothing fused,
# as a plain implementation does on a GPU whose caches hold no batch.


_FLOAT = 4


@dataclass(frozen=True)
class Count:
    """Operations and bytes of a forward pass.

    Attributes:
        flops: floating-point operations in matrix products.
        memory_bytes: read and written.
    """

    flops: float
    memory_bytes: float

    @property
    def intensity(self) -> float:
        """Operations per byte: below the machine's own ratio, memory is the limit."""
        return self.flops / self.memory_bytes


def tokengt_forward(config: StudentConfig, tokens_B: Int[np.ndarray, "molecules"]) -> Count:
    r"""TokenGT without padding.

    .. math:: \text{flops} = \sum_b L\,(8 T_b D^2 + 4 T_b D F + 4 T_b^2 D)

    Four maps of width D (q, k, v, out), two of the feed-forward block (F inside), and the two products of attention.
    Per token and layer a plain implementation moves 22 D + 4 F numbers: two norms (4 D), q, k, v (4 D), attention
    (4 D), out (2 D), two residual sums (6 D), feed-forward (2 D + 4 F with its GELU).

    Args:
        config: configuration of the student; identifiers and embeddings are left out.
        tokens_B: tokens of each molecule.
    """
    width, inner, layers = config.width, known(config.ffn_width), config.num_layers
    tokens, squares = float(tokens_B.sum()), float((tokens_B.astype(np.float64) ** 2).sum())
    flops = layers * (tokens * (8 * width**2 + 4 * width * inner) + 4 * squares * width)
    numbers = layers * (tokens * (22 * width + 4 * inner) + 4 * width**2 + 2 * width * inner)
    return Count(flops, _FLOAT * numbers)


def transformer_forward(config: TeacherConfig, atoms: int, pairs: int) -> Count:
    r"""The equivariant transformer as its equations stand, one filter per ordered pair.

    .. math:: \text{flops} = L\,(34 A D^2 + 8 P R D)

    Per atom q, k (2 maps), v and o (3 each) and three axes of a map to 3 D: 17 maps of 2 D². Per ordered pair, the atom
    itself included, four filters of width D from R radial functions. Per pair and layer a plain implementation moves
    about 36 D + R numbers: filters and their activation (12 D + R), scores (4 D), values (6 D), and for three axes of
    the vectors, two products and a sum (14 D); per atom about 60 D.

    Ours computes the filters once per unordered pair, so it needs about half of the second term.

    Args:
        config: configuration of the teacher; embeddings and `chiral` are left out.
        atoms: number of atoms of all molecules.
        pairs: ordered pairs within the cutoff, each atom with itself included.
    """
    width, radial, layers = config.width, config.num_rbf, config.num_layers
    flops = layers * (34 * atoms * width**2 + 8 * pairs * radial * width)
    numbers = layers * (pairs * (36 * width + radial) + 60 * atoms * width + 17 * width**2 + 4 * radial * width)
    return Count(float(flops), float(_FLOAT * numbers))


# Training steps (forward and backward) against the same network written plainly, on the same weights.


BATCH = 128
TEACHER = TeacherConfig(width=256, num_layers=8)
_PADDED, _RANDOM, _SORTED = "padded, random batches", "packed, random batches", "packed, batches by length"
_PLAIN, _OURS, _PUBLISHED = "plain equations", "dnd", "torchmd-net"
_MATRIX = 1024  # rows and columns of the product that measures the machine
_HERE = "dnd.bench.training:"


def bench_training(molecules: int, repetitions: int) -> Iterator[Table]:
    """TokenGT forward and training step, teacher step on QM9 and on drug-like molecules.

    Args:
        molecules: per repetition for the small TokenGT; a quarter of them for the deep one and for the teacher on
            QM9, a 32nd for the teacher on drug-like molecules.
        repetitions: number of repetitions of every variant.
    """
    set_threads()
    for name, count in (("tokengt-small", molecules), ("tokengt-table5b", molecules // 4)):
        for training in (False, True):
            yield _tokengt(name, max(count, 4), repetitions, training)
    for size, count in (("qm9", molecules // 4), ("drug", molecules // 32)):
        yield _teacher(size, max(count, 2), repetitions)


def _tokengt(name: str, molecules: int, repetitions: int, training: bool) -> Table:
    works = tokengt_works(name, molecules, training)
    sums = [float(work()) for work in works.values()]
    store = graph_store(drug_like_smiles(molecules)[0])
    tokens, what = tokens_of(store), "training step" if training else "forward"
    lines = _measured(works, len(store), repetitions)
    arguments = {"name": name, "molecules": molecules, "training": training}
    peaks = {kind: added_memory(f"{_HERE}tokengt_work", kind=kind, **arguments) for kind in (_PADDED, _SORTED)}
    flops = tokengt_forward(preset(name), tokens).flops * (3 if training else 1) / len(store)
    random, by_length = (padding_share(tokens, plan) for plan in _plans(tokens))
    notes = (
        f"{len(store)} molecules, {tokens.mean():.0f} tokens on average, batches of {min(BATCH, len(store))}; "
        f"padding {random:.0%} random, {by_length:.1%} by length",
        f"largest difference of the sums: {_difference(sums):.1e}",
        *_rate_notes(lines, _SORTED, flops),
    )
    return Table(f"{name}, {what}", "molecule", _PADDED, lines[:-1], notes=notes).with_peaks(peaks)


def tokengt_works(name: str, molecules: int, training: bool) -> dict[str, Callable[[], float]]:
    """One pass over the molecules by each variant; returns the sum of the final states."""
    student = random_student(name)
    assert isinstance(student, TokenGT)
    store = graph_store(drug_like_smiles(molecules)[0])
    random, by_length = ([store.read(rows).graph for rows in plan] for plan in _plans(tokens_of(store)))

    def passes(network: nn.Module, batches: Sequence[GraphBatch]) -> Callable[[], float]:
        def work() -> float:
            total = 0.0
            with torch.set_grad_enabled(training):
                for batch in batches:
                    loss: Tensor = network(batch)
                    if training:
                        loss.backward()  # type: ignore[no-untyped-call]
                    total += float(loss.detach())
            return total

        return work

    padded, packed = PaddedTokenGT(student), PackedTokenGT(student)
    return {_PADDED: passes(padded, random), _RANDOM: passes(packed, random), _SORTED: passes(packed, by_length)}


def _teacher(size: str, molecules: int, repetitions: int) -> Table:
    kinds = [_PLAIN, _OURS, *([_PUBLISHED] if has_torchmdnet() else [])]
    with tempfile.TemporaryDirectory() as name:
        store = (qm9_store if size == "qm9" else drug_store)(Path(name) / "store", molecules)
        conformers = _conformers(store, len(store))
        works = {kind: teacher_step(kind, conformers) for kind in kinds}
        losses = [work() for work in works.values()]
        lines = _measured(works, len(store), repetitions)
        peaks = {kind: added_memory(f"{_HERE}teacher_work", kind=kind, store=str(store.path)) for kind in kinds}
    atoms, pairs = len(conformers.positions_A3), _ordered_pairs(conformers)
    flops = 3 * transformer_forward(TEACHER, atoms, pairs).flops / len(store)
    notes = (
        f"{len(store)} molecules of {atoms / len(store):.0f} atoms, {pairs / atoms:.0f} neighbours each, one batch",
        f"largest difference of the losses: {_difference(losses):.1e}",
        *_rate_notes(lines, _OURS, flops),
        *([] if _PUBLISHED in kinds else ["torchmd-net can't be imported here: no ratio to it"]),
    )
    reference = _PUBLISHED if _PUBLISHED in kinds else _PLAIN
    title = f"teacher {TEACHER.width}x{TEACHER.num_layers}, training step, {size}"
    return Table(title, "molecule", reference, lines[:-1], notes=notes).with_peaks(peaks)


def teacher_step(kind: str, conformers: ConformerBatch) -> Callable[[], float]:
    """Forward and backward by one implementation; returns the loss."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(SEED)
        teacher, head = EquivariantTransformer(TEACHER), NoiseHead(TEACHER.width)
    network: nn.Module = teacher
    if kind == _PLAIN:
        teacher.kernel = "plain"
    elif kind == _PUBLISHED:
        network = PublishedTransformer(teacher, int(conformers.atom_offsets.diff().max()))

    def work() -> float:
        loss: Tensor = head(network(conformers)).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    return work


def tokengt_work(kind: str, name: str, molecules: int, training: bool) -> Callable[[], None]:
    """For `added_memory`."""
    set_threads()
    tokengt_works(name, 2, training)[kind]()  # what is loaded once is loaded now
    return _silent(tokengt_works(name, molecules, training)[kind])


def teacher_work(kind: str, store: str) -> Callable[[], None]:
    """For `added_memory`."""
    set_threads()
    opened = Store.open(store)
    teacher_step(kind, _conformers(opened, 1))()  # what is loaded once is loaded now
    return _silent(teacher_step(kind, _conformers(opened, len(opened))))


def _conformers(store: Store, count: int) -> ConformerBatch:
    conformers = store.read(np.arange(count)).conformers
    assert conformers is not None
    return conformers


def _plans(tokens: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The same molecules in random batches and in batches by length."""
    order = numpy_generator(SEED, "random batches").permutation(len(tokens))
    random = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return random, plan_batches(tokens, batch_size=BATCH, seed=SEED, epoch=0)


def _measured(works: dict[str, Callable[[], float]], items: int, repetitions: int) -> tuple[Line, ...]:
    """The lines of the works and, last, that of a matrix product (items: its operations)."""
    left, right = torch.rand(_MATRIX, _MATRIX), torch.rand(_MATRIX, _MATRIX)
    variants = [Variant(name, work, items) for name, work in works.items()]
    return measure([*variants, Variant("matrix product", lambda: left @ right, 2 * _MATRIX**3)], repetitions)


def _rate_notes(lines: Sequence[Line], name: str, flops: float) -> list[str]:
    matrix, line = 1e-9 / lines[-1].median, next(line for line in lines if line.name == name)
    reached = 1e-9 * flops / line.median
    return [
        f"{name}: {1e-6 * flops:.3g} MFLOP per molecule on paper, {reached:.3g} GFLOP/s, {reached / matrix:.0%} of the "
        f"matrix rate of this run ({matrix:.3g} GFLOP/s)"
    ]


def _ordered_pairs(conformers: ConformerBatch) -> int:
    bounds = conformers.atom_offsets.tolist()
    molecules = [conformers.positions_A3[begin:end] for begin, end in pairwise(bounds)]
    return sum(int((torch.cdist(atoms, atoms) < TEACHER.cutoff).sum()) for atoms in molecules)


def _difference(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / max(abs(value) for value in values)


def _silent(work: Callable[[], float]) -> Callable[[], None]:
    def run() -> None:
        work()

    return run
