"""A student's network as ONNX: GINE and TokenGT, the poolings and the heads, in evaluation mode.

The other students stand in `dnd.export.neighbour_students`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from dnd.export.graph import Graph
from dnd.export.inputs import Inputs, embedding
from dnd.export.neighbour_students import convolution_atoms, gps_atoms, pna_atoms
from dnd.models.students.base import folded, known
from dnd.models.students.gine import Gine, GineLayer, NormedMLP
from dnd.models.students.pna import PNAHead
from dnd.models.students.tokengt import PackedAttention, TokenGT, TransformerLayer
from dnd.predictor.ensemble import PropertyNetwork


def network_nodes(graph: Graph, network: PropertyNetwork) -> str:
    """The outputs `(B, C)` float32 of `network`: standardised values or logits."""
    inputs = Inputs(graph)
    atoms, virtual = _FORMS_OF_STUDENTS[network.student.config.name](inputs, network.student)
    pooled = _pooled(inputs, network, atoms, virtual)
    return _head(graph, network.head, pooled)


# GINE. The equations stand in `dnd.models.students.gine`.


def _gine(inputs: Inputs, student: Gine) -> tuple[str, str | None]:
    graph, width = inputs.graph, student.width
    atoms, virtual = embedding(graph, student.atom, inputs.atom_features), None
    if student.virtual_node is not None:
        shape = graph("Concat", inputs.molecules, graph.constant([width]), axis=0)
        virtual = graph("Expand", graph.constant(student.virtual_node), shape)
    for number, layer in enumerate(student.layers):
        assert isinstance(layer, GineLayer)
        is_last = number == student.num_layers - 1
        if virtual is not None:
            atoms = graph("Add", atoms, graph.rows(virtual, inputs.molecule))
        bonds = embedding(graph, layer.bond, inputs.bond_features)
        messages = graph("Relu", graph("Add", graph.rows(atoms, inputs.ends[0]), bonds))
        own = graph("Mul", atoms, graph.constant(1 + layer.epsilon))
        updated = _normed_mlp(graph, layer.mlp, graph.scatter(own, inputs.ends[1], messages))
        updated = updated if is_last else graph("Relu", updated)
        before, atoms = atoms, graph("Add", updated, atoms) if student.config.residual else updated
        if virtual is not None and is_last:
            virtual = graph("Add", virtual, graph("Div", inputs.sums(atoms, width), inputs.sizes))
        elif virtual is not None:
            virtual = _virtual_update(inputs, student, number, virtual, before)
    if student.final_norm is not None:
        atoms = graph.layer_norm(atoms, student.final_norm)
        virtual = None if virtual is None else graph.layer_norm(virtual, student.final_norm)
    return atoms, virtual


def _virtual_update(inputs: Inputs, student: Gine, number: int, virtual: str, before: str) -> str:
    graph, total = inputs.graph, inputs.sums(before, student.width)
    if student.config.bounded:
        total = graph("Div", total, graph("Sqrt", inputs.sizes))
    summed = graph("Add", virtual, total)
    if student.config.bounded:
        norm = student.virtual_norms[number]
        assert isinstance(norm, nn.LayerNorm)
        summed = graph.layer_norm(summed, norm)
    update = student.virtual_updates[number]
    assert isinstance(update, NormedMLP)
    return _normed_mlp(graph, update, summed)


def _normed_mlp(graph: Graph, mlp: NormedMLP, values: str) -> str:
    hidden = graph("Relu", graph.linear(values, *folded(mlp.first, mlp.first_norm)))
    out = graph.linear(hidden, *folded(mlp.second, mlp.second_norm))
    return graph("Relu", out) if mlp.last_relu else out


# TokenGT. Tokens lie in the order [graph]s, [null]s, atoms, bonds, and a mask keeps each molecule to itself.


def _tokengt(inputs: Inputs, student: TokenGT) -> tuple[str, str]:
    graph = inputs.graph
    tokens = _tokens(inputs, student)
    every = graph("Range", graph.constant(0, "int64"), graph.scalar(inputs.molecules), graph.constant(1, "int64"))
    molecule = graph("Concat", every, every, inputs.molecule, graph.rows(inputs.molecule, inputs.ends[0]), axis=0)
    rows, columns = (graph("Unsqueeze", molecule, graph.constant([axis])) for axis in (1, 0))
    same = graph("Equal", rows, columns)
    for layer in student.layers:
        assert isinstance(layer, TransformerLayer)
        attended = _attention(graph, layer.attention, graph.layer_norm(tokens, layer.attention_norm), same)
        tokens = graph("Add", tokens, attended)
        normed = graph.layer_norm(tokens, layer.feed_forward_norm)
        hidden = graph.gelu(graph.linear(normed, layer.feed_forward_in.weight, layer.feed_forward_in.bias))
        out = graph.linear(hidden, layer.feed_forward_out.weight, layer.feed_forward_out.bias)
        tokens = graph("Add", tokens, out)
    if isinstance(student.final_norm, nn.LayerNorm):
        tokens = graph.layer_norm(tokens, student.final_norm)
    special = graph("Mul", inputs.molecules, graph.constant([2]))
    atoms_end = graph("Add", special, inputs.atoms)
    return (
        graph("Slice", tokens, special, atoms_end, graph.constant([0])),
        graph("Slice", tokens, graph.constant([0]), inputs.molecules, graph.constant([0])),
    )


def _tokens(inputs: Inputs, student: TokenGT) -> str:
    graph, own = inputs.graph, student.embedding
    columns = known(student.config.num_identifiers)
    identifiers = inputs.identifiers(columns)
    first, second = own.identifiers.weight.chunk(2, dim=1)
    as_source, as_target = graph.linear(identifiers, first, None), graph.linear(identifiers, second, None)
    bond_type, atom_type = (graph.constant(kind) for kind in own.token_types)
    atoms = embedding(graph, own.atom, inputs.atom_features)
    atoms = graph("Add", graph("Add", atoms, graph("Add", as_source, as_target)), atom_type)
    source, target = inputs.ends
    identified = graph("Add", graph.rows(as_source, source), graph.rows(as_target, target))
    bonds = graph("Add", graph("Add", embedding(graph, own.bond, inputs.bond_features), identified), bond_type)
    shape = graph("Concat", inputs.molecules, graph.constant([student.width]), axis=0)
    special = [graph("Expand", graph.constant(token), shape) for token in own.special_tokens]
    return graph.layer_norm(graph("Concat", *special, atoms, bonds, axis=0), own.norm)


def _attention(graph: Graph, attention: PackedAttention, tokens: str, same: str) -> str:
    heads, width = attention.num_heads, attention.out.in_features
    packed = graph.linear(tokens, attention.query_key_value.weight, attention.query_key_value.bias)
    mixed = graph.attended(packed, same, heads, width // heads)
    return graph.linear(mixed, attention.out.weight, attention.out.bias)


# From atoms to targets.


def _pooled(inputs: Inputs, network: PropertyNetwork, atoms: str, virtual: str | None) -> str:
    graph, width = inputs.graph, network.student.width
    if network.pooling == "virtual_node":
        assert virtual is not None
        return virtual
    total = inputs.sums(atoms, width)
    mean = graph("Div", total, inputs.sizes)
    if network.pooling == "mean":
        return mean
    low, high = (
        graph.scatter(graph.filled(start, inputs.molecules, width), inputs.molecule, atoms, reduction)
        for start, reduction in ((np.inf, "min"), (-np.inf, "max"))
    )
    return graph("Concat", low, high, mean, total, axis=1)


def _head(graph: Graph, head: nn.Module, pooled: str) -> str:
    values = pooled
    for part in head if isinstance(head, nn.Sequential) else [head]:
        values = _FORMS[type(part)](graph, part, values)
    return values


def _pna_head(graph: Graph, head: PNAHead, pooled: str) -> str:
    hidden = graph("Relu", graph.linear(pooled, head.hidden.weight, head.hidden.bias))
    return graph.linear(graph.batch_norm(hidden, head.norm), head.out.weight, head.out.bias)


_FORMS: dict[type, Callable[..., str]] = {
    nn.Linear: lambda graph, part, values: graph.linear(values, part.weight, part.bias),
    nn.GELU: lambda graph, _, values: graph.gelu(values),
    nn.LayerNorm: lambda graph, part, values: graph.layer_norm(values, part),
    PNAHead: _pna_head,
}
_FORMS_OF_STUDENTS: dict[str, Callable[..., tuple[str, str | None]]] = {
    "gine": _gine,
    "tokengt": _tokengt,
    "pna": lambda inputs, student: (pna_atoms(inputs, student), None),
    "gps": lambda inputs, student: (gps_atoms(inputs, student), None),
    **dict.fromkeys(("gcn", "graphsage", "gatv2"), lambda inputs, student: (convolution_atoms(inputs, student), None)),
}
