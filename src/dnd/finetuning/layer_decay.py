"""Learning rate by depth: the lower a layer, the less finetuning moves it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn


def layer_rate(layer: int, num_layers: int, decay: float) -> float:
    r"""Multiplier of the learning rate at depth `layer`: :math:`\gamma^{L + 1 - \text{id}}`.

    Source: D&D Table 5(c), decay 0.65; the exponent is that of the public MAE finetuning recipe it repeats. Depth 0 is
    everything before the layers, `i + 1` layer `i`, `L + 1` the final norm and the head.
    """
    return float(decay ** (num_layers + 1 - layer))


def decayed_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    layer_of: Callable[[str], int],
    num_layers: int,
    *,
    decay: float,
    weight_decay: float,
) -> list[dict[str, object]]:
    """AdamW groups, one per depth and kind; one-dimensional parameters (biases, norms) are not decayed.

    Args:
        named_parameters: what to train.
        layer_of: depth of a parameter by its name, 0 to `num_layers + 1`.
        num_layers: L.
        decay: 0.65 in the paper; 1 gives one rate to all.
        weight_decay: of the matrices.

    Returns:
        Groups with `params`, `weight_decay` and `multiplier`, lowest depth first.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            groups.setdefault((layer_of(name), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if is_matrix else 0.0,
            "multiplier": layer_rate(layer, num_layers, decay),
        }
        for (layer, is_matrix), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
