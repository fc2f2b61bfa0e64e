"""From what a network says to values in the targets' units and calibrated probabilities, as ONNX in double precision.

The same maps, with their sources, stand in `dnd.predictor.targets` and `dnd.predictor.uncertainty.classes`.
"""

from __future__ import annotations

import numpy as np

from dnd.export.graph import Graph
from dnd.predictor.targets import Target, Transform, groups_of
from dnd.predictor.uncertainty.calibration import Calibration
from dnd.predictor.uncertainty.classes import LOGIT_EDGE, Isotonic, Platt, Temperature

_DOUBLE = 11  # ONNX's number of the type


def value_nodes(graph: Graph, outputs: str, targets: tuple[Target, ...], calibration: Calibration | None) -> str:
    """Values `(B, C)` float64 from outputs `(B, C)` float32.

    Args:
        graph: to build in.
        outputs: outputs of the network.
        targets: in the scale of the network.
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
