"""Forward pass and training step of a student: packed batches beside padded ones, same weights, same machine, one run.

    OMP_NUM_THREADS=1 python benchmarks/student_forward.py DATA.csv --preset tokengt-small

`padded` is TokenGT as usually written: random batches, every sequence padded to the longest, a key mask, fused
attention. `packed` is ours on the same random batches, `sorted` ours on length-sorted batches. Repetitions of all
variants alternate; medians of CPU time are printed with the ratio to the first line.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch.nn import functional as F

from dnd.chemistry.parse import parse_smiles
from dnd.graphs.batch import GraphBatch
from dnd.graphs.features import featurize
from dnd.graphs.graph import MolecularGraph
from dnd.graphs.identifiers import laplacian_identifiers
from dnd.student.build import build_student
from dnd.student.config import preset
from dnd.student.contract import Student
from dnd.student.tokengt import TokenGT
from dnd.student.tokens import token_layout


def read_graphs(path: str, column: str, count: int) -> list[MolecularGraph]:
    with (gzip.open if path.endswith(".gz") else open)(path, "rt") as stream:
        texts = [row[column] for row in csv.DictReader(stream)]
    chosen = np.random.default_rng(0).permutation(len(texts))[:count]
    molecules = [parse_smiles(texts[row]) for row in chosen]
    return [featurize(molecule.mol) for molecule in molecules if molecule.ok]


def collate(graphs: list[MolecularGraph]) -> GraphBatch:
    atom_offsets = np.cumsum([0] + [graph.num_atoms for graph in graphs])
    edge_offsets = np.cumsum([0] + [2 * graph.num_bonds for graph in graphs])
    bonds = np.concatenate([graph.bonds_M2 + first for graph, first in zip(graphs, atom_offsets, strict=False)])
    edges = np.stack([bonds, bonds[:, ::-1]], 1).reshape(-1, 2).T
    features = np.repeat(np.concatenate([graph.bond_features_MF for graph in graphs]), 2, axis=0)
    nodes = np.concatenate([graph.node_features_NF for graph in graphs])
    arrays = (nodes, edges, features, atom_offsets, edge_offsets)
    return GraphBatch(*(torch.from_numpy(np.ascontiguousarray(array)).long() for array in arrays))


def padded_forward(student: TokenGT, graph: GraphBatch) -> torch.Tensor:
    """TokenGT on padded sequences with a key mask; the sum of all states, for a backward pass."""
    layout = token_layout(graph)
    identifiers = laplacian_identifiers(graph, student.config.num_identifiers).to(torch.float32)
    packed = student.embedding(graph, layout, identifiers)
    sequences = packed.split(layout.lengths.tolist())
    tokens = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
    real = torch.arange(tokens.shape[1]) < layout.lengths[:, None]
    for layer in student.layers:
        heads = layer.attention.num_heads
        query_key_value = layer.attention.query_key_value(layer.attention_norm(tokens))
        query, key, value = query_key_value.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None, :])
        tokens = tokens + layer.attention.out(out.transpose(1, 2).flatten(2))
        hidden = F.gelu(layer.feed_forward_in(layer.feed_forward_norm(tokens)))
        tokens = tokens + layer.feed_forward_out(hidden)
    return (student.final_norm(tokens) * real[:, :, None]).sum()


def packed_forward(student: Student, graph: GraphBatch) -> torch.Tensor:
    output = student(graph)
    return output.atoms_ND.sum() if output.virtual_BD is None else output.atoms_ND.sum() + output.virtual_BD.sum()


def measure(variants: dict[str, Callable[[], None]], repetitions: int) -> dict[str, float]:
    """Median CPU seconds of each, repetitions interleaved."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repetitions + 1):
        for name, variant in variants.items():
            start = time.process_time()
            variant()
            times[name].append(time.process_time() - start)
    return {name: median(values[1:]) for name, values in times.items()}


def variants_of(
    student: Student, random: list[GraphBatch], by_length: list[GraphBatch], training: bool
) -> dict[str, Callable[[], None]]:
    def run(forward: Callable[[Student, GraphBatch], torch.Tensor], batches: list[GraphBatch], bf16: bool) -> None:
        with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for batch in batches:
                loss = forward(student, batch)
                if training:
                    loss.backward()

    variants = {
        "packed": lambda: run(packed_forward, random, False),
        "sorted": lambda: run(packed_forward, by_length, False),
        "sorted bf16": lambda: run(packed_forward, by_length, True),
    }
    if isinstance(student, TokenGT):
        variants = {"padded": lambda: run(padded_forward, random, False)} | variants
        variants["(identifiers)"] = lambda: [laplacian_identifiers(b, 16) for b in by_length] and None
    return variants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a CSV with SMILES")
    parser.add_argument("--column", default="smiles")
    parser.add_argument("--preset", nargs="+", default=["tokengt-small"])
    parser.add_argument("--molecules", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    graphs = read_graphs(arguments.data, arguments.column, arguments.molecules)
    size, tokens = arguments.batch_size, [graph.num_atoms + 2 * graph.num_bonds + 2 for graph in graphs]
    orders = (range(len(graphs)), np.argsort(tokens, kind="stable"))
    random, by_length = (
        [collate([graphs[row] for row in order[start : start + size]]) for start in range(0, len(graphs), size)]
        for order in orders
    )
    print(f"{len(graphs)} molecules, {np.mean(tokens):.1f} tokens on average, {max(tokens)} at most, batches of {size}")
    for name in arguments.preset:
        torch.manual_seed(0)
        student = build_student(preset(name)).eval()  # dropout off: the variants must compute the same
        for training in (False, True):
            medians = measure(variants_of(student, random, by_length, training), arguments.repetitions)
            first = next(iter(medians.values()))
            for variant, seconds in medians.items():
                what = "forward + backward" if training else "forward"
                rate = len(graphs) / seconds
                print(f"{name:16} {what:18} {variant:14} {rate:8.0f} molecules/s  {first / seconds:5.2f}x")


if __name__ == "__main__":
    main()
