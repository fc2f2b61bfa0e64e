"""An ONNX graph, built node by node: constants and operations have names, shapes follow from the inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

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

    def filled(self, number: float, rows: str, width: int) -> str:
        """`number` in as many rows as the one-element `rows` says."""
        shape = self("Concat", rows, self.constant([width]), axis=0)
        return self("Expand", self.constant(number, "float32"), shape)
