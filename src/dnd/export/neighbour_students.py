"""PNA, GCN, GraphSAGE, GATv2 and GPS as ONNX: students whose atoms gather what their neighbours send.

The equations stand in `dnd.models.students.pna` and in torch-geometric's layers, see `dnd.models.students.geometric`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dnd.export.graph import Graph
from dnd.export.inputs import Inputs, embedding
from dnd.models.students.base import folded, known
from dnd.models.students.pna import NUM_AGGREGATES, NUM_SCALES, VARIANCE_FLOOR, PNALayer


def pna_atoms(inputs: Inputs, student: Any) -> str:
    """Atoms `(N, D)` after the last layer of a `PNA`."""
    graph = inputs.graph
    atoms, bonds = _embedded(inputs, student)
    for layer in student.layers:
        atoms = graph("Add", atoms, _pna_update(inputs, layer, atoms, bonds))
    return atoms


def _pna_update(inputs: Inputs, layer: PNALayer, atoms: str, bonds: str) -> str:
    graph, width = inputs.graph, layer.update.out_features
    source, target = (graph.rows(atoms, end) for end in inputs.ends)
    joined = graph("Concat", source, target, bonds, axis=1)
    hidden = graph("Relu", graph.linear(joined, layer.message_in.weight, layer.message_in.bias))
    hidden = graph.batch_norm(hidden, layer.message_in_norm)
    messages = graph.linear(hidden, *folded(layer.message_out, layer.message_out_norm))
    own, *scaled = torch.split(layer.update.weight, [width] + [NUM_AGGREGATES * width] * NUM_SCALES, dim=1)
    plain, amplified, attenuated = (graph.linear(_aggregates(inputs, messages, width), one, None) for one in scaled)
    # An atom without bonds has no messages: its aggregates are zero, and so may its scales be anything but zero.
    degrees = graph("Max", inputs.degrees, graph.constant(1.0, "float32"))
    scales = graph("Log", graph("Add", degrees, graph.constant(1.0, "float32")))
    gathered = graph("Add", plain, graph("Mul", scales, amplified))
    gathered = graph("Add", gathered, graph("Div", attenuated, scales))
    update = graph("Add", graph.linear(atoms, own, layer.update.bias), gathered)
    return graph.batch_norm(update, layer.update_norm)


def _aggregates(inputs: Inputs, messages: str, width: int) -> str:
    """Mean, max, min and population standard deviation of each atom's messages, `(N, 4 D)`; 0 without bonds."""
    graph = inputs.graph
    counts = graph("Max", inputs.degrees, graph.constant(1.0, "float32"))
    mean = graph("Div", inputs.received(messages, width), counts)
    squares = graph("Div", inputs.received(graph("Mul", messages, messages), width), counts)
    spread = graph("Relu", graph("Sub", squares, graph("Mul", mean, mean)))
    deviation = graph("Sqrt", graph("Add", spread, graph.constant(VARIANCE_FLOOR, "float32")))
    high, low = (inputs.received(messages, width, kind, start) for kind, start in (("max", -np.inf), ("min", np.inf)))
    every = graph("Concat", mean, high, low, deviation, axis=1)
    bonded = graph("Greater", inputs.degrees, graph.constant(0.0, "float32"))
    return graph("Where", bonded, every, graph.constant(0.0, "float32"))


# The layers of torch-geometric.


def convolution_atoms(inputs: Inputs, student: Any) -> str:
    """Atoms `(N, D)` after the last layer of a `GCN`, `GraphSAGE` or `GATv2`."""
    graph, name = inputs.graph, student.config.name
    atoms, bonds = _embedded(inputs, student)
    if name != "gatv2":
        atoms = graph("Add", atoms, inputs.received(bonds, student.width))
    for layer, norm in zip(student.layers, student.norms, strict=True):
        update = graph("Relu", graph.batch_norm(_CONVOLUTIONS[name](inputs, layer, atoms, bonds), norm))
        atoms = graph("Add", atoms, update)
    return atoms


def _gcn(inputs: Inputs, layer: Any, atoms: str, bonds: str) -> str:
    r""":math:`\sum_j W h_j / \sqrt{d_i d_j} + b` over the neighbours and the atom itself, which counts as one."""
    graph = inputs.graph
    degrees = graph("Add", inputs.degrees, graph.constant(1.0, "float32"))
    scaled = graph("Div", graph.linear(atoms, layer.lin.weight, None), graph("Sqrt", degrees))
    received = inputs.received(graph.rows(scaled, inputs.ends[0]), layer.out_channels)
    total = graph("Div", graph("Add", received, scaled), graph("Sqrt", degrees))
    return graph("Add", total, graph.constant(layer.bias))


def _sage(inputs: Inputs, layer: Any, atoms: str, bonds: str) -> str:
    graph = inputs.graph
    total = inputs.received(graph.rows(atoms, inputs.ends[0]), layer.in_channels)
    mean = graph("Div", total, graph("Max", inputs.degrees, graph.constant(1.0, "float32")))
    return graph("Add", _linear(graph, mean, layer.lin_l), _linear(graph, atoms, layer.lin_r))


def _gatv2(inputs: Inputs, layer: Any, atoms: str, bonds: str) -> str:
    r"""Attention over the neighbours and the atom itself, whose bond vector is the mean of those of its bonds."""
    graph, heads, width = inputs.graph, layer.heads, layer.out_channels
    left, right = _linear(graph, atoms, layer.lin_l), _linear(graph, atoms, layer.lin_r)
    total = inputs.received(bonds, layer.edge_dim)
    loops = graph("Div", total, graph("Max", inputs.degrees, graph.constant(1.0, "float32")))
    every = graph("Range", graph.constant(0, "int64"), graph.scalar(inputs.atoms), graph.constant(1, "int64"))
    source, target = (graph("Concat", end, every, axis=0) for end in inputs.ends)
    sent = graph.rows(left, source)
    features = _linear(graph, graph("Concat", bonds, loops, axis=0), layer.lin_edge)
    summed = graph("Add", graph("Add", sent, graph.rows(right, target)), features)
    bent = _by_head(graph, graph("LeakyRelu", summed, alpha=layer.negative_slope), heads, width)
    scores = graph("ReduceSum", graph("Mul", bent, graph.constant(layer.att)), graph.constant([2]), keepdims=0)
    highest = graph.scatter(graph.filled(-np.inf, inputs.atoms, heads), target, scores, "max")
    weights = graph("Exp", graph("Sub", scores, graph.rows(highest, target)))
    sums = graph.scatter(graph.filled(0.0, inputs.atoms, heads), target, weights)
    shares = graph("Unsqueeze", graph("Div", weights, graph.rows(sums, target)), graph.constant([2]))
    weighted = graph("Mul", _by_head(graph, sent, heads, width), shares)
    rows = graph("Reshape", weighted, graph.constant([-1, heads * width]))
    mixed = graph.scatter(graph.filled(0.0, inputs.atoms, heads * width), target, rows)
    return graph("Add", mixed, graph.constant(layer.bias))


_CONVOLUTIONS: dict[str, Callable[[Inputs, Any, str, str], str]] = {"gcn": _gcn, "graphsage": _sage, "gatv2": _gatv2}


def gps_atoms(inputs: Inputs, student: Any) -> str:
    """Atoms `(N, D)` after the last layer of a `GPS`."""
    graph = inputs.graph
    atoms, bonds = _embedded(inputs, student)
    walks = inputs.identifiers(known(student.config.num_identifiers))
    atoms = graph("Add", atoms, _linear(graph, walks, student.identifiers))
    rows, columns = (graph("Unsqueeze", inputs.molecule, graph.constant([axis])) for axis in (1, 0))
    same = graph("Equal", rows, columns)
    for layer in student.layers:
        local = graph("Add", _gine_convolution(inputs, layer.conv, atoms, bonds), atoms)
        local = graph.batch_norm(local, layer.norm1.module)
        attended = graph("Add", _attention(graph, layer.attn, atoms, same), atoms)
        attended = graph.batch_norm(attended, layer.norm2.module)
        joined = graph("Add", local, attended)
        joined = graph("Add", joined, _sequential(graph, layer.mlp, joined))
        atoms = graph.batch_norm(joined, layer.norm3.module)
    return atoms


def _gine_convolution(inputs: Inputs, layer: Any, atoms: str, bonds: str) -> str:
    graph, width = inputs.graph, layer.nn[0].in_features
    messages = graph("Relu", graph("Add", graph.rows(atoms, inputs.ends[0]), bonds))
    own = graph("Mul", atoms, graph.constant(1.0 + float(layer.eps), "float32"))
    return _sequential(graph, layer.nn, graph("Add", inputs.received(messages, width), own))


def _attention(graph: Graph, attention: nn.MultiheadAttention, atoms: str, same: str) -> str:
    weight: Tensor | None = attention.in_proj_weight
    assert weight is not None
    packed = graph.linear(atoms, weight, attention.in_proj_bias)
    mixed = graph.attended(packed, same, attention.num_heads, attention.head_dim)
    return graph.linear(mixed, attention.out_proj.weight, attention.out_proj.bias)


def _embedded(inputs: Inputs, student: Any) -> tuple[str, str]:
    atoms = embedding(inputs.graph, student.atom, inputs.atom_features)
    return atoms, embedding(inputs.graph, student.bond, inputs.bond_features)


def _linear(graph: Graph, values: str, layer: Any) -> str:
    return graph.linear(values, layer.weight, layer.bias)


def _sequential(graph: Graph, parts: nn.Sequential, values: str) -> str:
    for part in parts:
        if isinstance(part, nn.ReLU):
            values = graph("Relu", values)
        elif not isinstance(part, nn.Dropout):
            values = _linear(graph, values, part)
    return values


def _by_head(graph: Graph, values: str, heads: int, width: int) -> str:
    return graph("Reshape", values, graph.constant([-1, heads, width]))
