"""An ONNX graph, built node by node, and the nodes that make values and probabilities of what a network says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from dnd.predictor.targets import Target, Transform, groups_of
from dnd.predictor.uncertainty.calibration import Calibration
from dnd.predictor.uncertainty.classes import LOGIT_EDGE, Isotonic, Platt, Temperature

OPSET, IR_VERSION = 18, 10  # LayerNormalization, and reductions by scattering; onnxruntime reads both since 1.18
_TYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


class Graph:
    """What has been built so far. Values are known by their names.

    Example:
        >>> graph = Graph()
        >>> graph.input("x", "float32", ["rows", 2])
        'x'
        >>> graph.output(graph("Relu", "x"), "y", "float32", ["rows", 2])
        >>> [node.op_type for node in graph.model("a relu").graph.node]
        ['Relu', 'Identity']
    """

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, kind: str, shape: list[str | int]) -> str:
        """A named input; the axes that are words are free."""
        self._inputs.append(helper.make_tensor_value_info(name, _TYPES[kind], shape))
        return name

    def output(self, value: str, name: str, kind: str, shape: list[str | int]) -> None:
        """Make `value` an output called `name`."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, _TYPES[kind], shape))

    def constant(self, value: Tensor | np.ndarray | float | list[int], kind: str | None = None) -> str:
        """A constant: weights unchanged, numbers as `kind`, which is integer by default."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value, dtype=kind)
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def __call__(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """The value of one operation of ONNX."""
        name = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def several(self, operation: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """The values of an operation that has several."""
        names = [f"v{len(self._nodes)}_{number}" for number in range(count)]
        self._nodes.append(helper.make_node(operation, list(inputs), names, **attributes))
        return names

    def model(self, described: str) -> onnx.ModelProto:
        """The finished graph, checked."""
        graph = helper.make_graph(self._nodes, "dnd", self._inputs, self._outputs, self._constants)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="dnd")
        model.doc_string = described
        onnx.checker.check_model(model, full_check=True)
        return model

    # What several students need.

    def linear(self, values: str, weight: Tensor, bias: Tensor | None) -> str:
        """W x + b for every row."""
        return self("Gemm", values, self.constant(weight), *([] if bias is None else [self.constant(bias)]), transB=1)

    def layer_norm(self, values: str, norm: nn.LayerNorm) -> str:
        """LayerNorm over the last axis."""
        return self(
            "LayerNormalization", values, self.constant(norm.weight), self.constant(norm.bias), epsilon=norm.eps
        )

    def batch_norm(self, values: str, norm: nn.BatchNorm1d) -> str:
        """Batch norm with its running statistics."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale_D = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        scaled = self("Mul", values, self.constant(scale_D))
        return self("Add", scaled, self.constant(norm.bias - scale_D * norm.running_mean))

    def attended(self, packed: str, same: str, heads: int, width: int) -> str:
        """What full attention within each molecule mixes.

        Args:
            packed: queries, keys and values of every item side by side, `(X, 3 heads width)`.
            same: `(X, X)`, whether two items are of one molecule.
            heads: number of heads.
            width: width of a head.

        Returns:
            `(X, heads width)`.
        """
        split = self("Reshape", packed, self.constant([0, 3, heads, width]))
        query, key, value = (
            self("Transpose", self("Gather", split, self.constant(part, "int64"), axis=1), perm=order)
            for part, order in enumerate(([1, 0, 2], [1, 2, 0], [1, 0, 2]))
        )
        scaled = self("Mul", query, self.constant(width**-0.5, "float32"))
        scores = self("Where", same, self("MatMul", scaled, key), self.constant(-np.inf, "float32"))
        mixed = self("MatMul", self("Softmax", scores, axis=-1), value)
        return self("Reshape", self("Transpose", mixed, perm=[1, 0, 2]), self.constant([0, heads * width]))

    def gelu(self, values: str) -> str:
        """x Φ(x), by the error function."""
        half = self("Mul", values, self.constant(0.5, "float32"))
        erf = self("Erf", self("Mul", values, self.constant(2**-0.5, "float32")))
        return self("Mul", half, self("Add", erf, self.constant(1.0, "float32")))

    def rows(self, values: str, index: str) -> str:
        """The rows of `values` that `index` names."""
        return self("Gather", values, index, axis=0)

    def scatter(self, start: str, index: str, values: str, reduction: str = "add") -> str:
        """`start`, to whose rows `index` the rows of `values` are added; or by another reduction of ONNX."""
        places = self("Expand", self("Unsqueeze", index, self.constant([1])), self("Shape", values))
        return self("ScatterElements", start, places, values, axis=0, reduction=reduction)

    def scalar(self, one: str) -> str:
        """The number in an array of one."""
        return self("Squeeze", one, self.constant([0]))

    def filled(self, number: float, rows: str, width: int) -> str:
        """`number` in as many rows as the one-element `rows` says."""
        shape = self("Concat", rows, self.constant([width]), axis=0)
        return self("Expand", self.constant(number, "float32"), shape)


# From what a network says to values in the targets' units and calibrated probabilities, as ONNX in double precision.
#
# The same maps, with their sources, stand in `dnd.predictor.targets` and `dnd.predictor.uncertainty.classes`.

_DOUBLE = 11  # ONNX's number of the type


def value_nodes(graph: Graph, outputs: str, targets: tuple[Target, ...], calibration: Calibration | None) -> str:
    """Values `(B, C)` float64 from outputs `(B, C)` float32.

    Args:
        graph: graph to build in.
        outputs: outputs of the network.
        targets: targets in the scale of the network.
        calibration: calibration of the model, or None.
    """
    double = graph("Cast", outputs, to=_DOUBLE)
    groups, columns = {group.first: group for group in groups_of(targets)}, []
    temperatures = {one.first: one.chosen.temperature for one in (calibration.groups if calibration else ())}
    for column, target in enumerate(targets):
        if column in groups:
            scores = _columns(graph, double, column, len(groups[column].classes))
            columns.append(_classes(graph, scores, temperatures.get(column)))
        if target.group:
            continue
        own = _columns(graph, double, column, 1)
        if target.kind == "classification":
            scaling = calibration.targets[column].chosen.scaling if calibration else None
            columns.append(_probability(graph, own, scaling))
        else:
            scaled = _plus(graph, _times(graph, own, target.std), target.mean)
            columns.append(_unmapped(graph, scaled, target.transform))
    return graph("Concat", *columns, axis=1)


def _columns(graph: Graph, values: str, first: int, count: int) -> str:
    ends = (graph.constant([first]), graph.constant([first + count]))
    return graph("Slice", values, *ends, graph.constant([1]))


def _plus(graph: Graph, values: str, number: float) -> str:
    return graph("Add", values, graph.constant(number, "float64"))


def _times(graph: Graph, values: str, number: float) -> str:
    return graph("Mul", values, graph.constant(number, "float64"))


def _clipped(graph: Graph, values: str, low: float, high: float) -> str:
    return graph("Clip", values, graph.constant(low, "float64"), graph.constant(high, "float64"))


# Regressions.


def _unmapped(graph: Graph, mapped: str, transform: Transform) -> str:
    if transform.name == "none":
        return mapped
    if transform.low is not None and transform.high is not None:
        mapped = _clipped(graph, mapped, transform.low, transform.high)
    if transform.name == "log":
        return graph("Exp", mapped)
    upper = _unbent(graph, _clipped(graph, mapped, 0.0, np.inf), transform.power)
    away = _unbent(graph, _clipped(graph, graph("Neg", mapped), 0.0, np.inf), 2 - transform.power)
    z = graph("Where", graph("Less", mapped, graph.constant(0.0, "float64")), graph("Neg", away), upper)
    return _plus(graph, _times(graph, z, transform.width), transform.centre)


def _unbent(graph: Graph, values: str, power: float) -> str:
    if power:
        values = _times(graph, graph("Log", _plus(graph, _times(graph, values, power), 1.0)), 1 / power)
    return _plus(graph, graph("Exp", values), -1.0)


# Classes.


def _probability(graph: Graph, logits: str, scaling: Platt | Isotonic | Temperature | None) -> str:
    raw = graph("Sigmoid", logits)
    if isinstance(scaling, Platt):
        inside = _clipped(graph, raw, LOGIT_EDGE, 1 - LOGIT_EDGE)
        odds = graph("Div", inside, graph("Sub", graph.constant(1.0, "float64"), inside))
        return graph("Sigmoid", _plus(graph, _times(graph, graph("Log", odds), scaling.slope), scaling.intercept))
    return _interpolated(graph, raw, scaling) if isinstance(scaling, Isotonic) else raw


def _interpolated(graph: Graph, raw: str, line: Isotonic) -> str:
    r"""The line through the knots: :math:`y_0 + \sum_k s_k \min(\max(p - x_k, 0), x_{k+1} - x_k)`, s the slopes."""
    widths = np.diff(line.knots_x)
    beyond = graph("Sub", raw, graph.constant(np.array(line.knots_x[:-1]), "float64"))
    inside = graph("Min", graph("Max", beyond, graph.constant(0.0, "float64")), graph.constant(widths, "float64"))
    slopes = graph.constant((np.diff(line.knots_y) / widths)[:, None], "float64")
    return _plus(graph, graph("MatMul", inside, slopes), line.knots_y[0])


def _classes(graph: Graph, scores: str, temperature: Temperature | None) -> str:
    if temperature is not None:
        scores = _times(graph, scores, 1 / temperature.value)
    return graph("Softmax", scores, axis=1)
