"""Weights of 3DInfomax's PNA under our names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dnd.common.errors import CorruptFileError
from dnd.graphs.vocabulary import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES

_BLOCKS = {
    "message_in": "pretrans.fully_connected.0",
    "message_out": "pretrans.fully_connected.1",
    "update": "posttrans.fully_connected.0",
}


def rename_reference_weights(
    reference: Mapping[str, Tensor], num_layers: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The states of a `PNA` and of a `PNAHead` from the reference's state dict.

    Args:
        reference: 3DInfomax's state dict of a PNA.
        num_layers: layers of the student.

    Raises:
        CorruptFileError: a weight is missing.
    """
    try:
        student = {
            "atom.table": _tables(reference, "node_gnn.atom_encoder.atom_embedding_list", len(ATOM_FEATURE_SIZES)),
            "bond.table": _tables(reference, "node_gnn.bond_encoder.bond_embedding_list", len(BOND_FEATURE_SIZES)),
        }
        for layer in range(num_layers):
            for own, theirs in _BLOCKS.items():
                student |= _block(reference, f"node_gnn.mp_layers.{layer}.{theirs}.", f"layers.{layer}.{own}")
        readout = _block(reference, "output.fully_connected.0.", "hidden")
        readout = {name.replace("hidden_norm", "norm"): value for name, value in readout.items()}
        readout |= {f"out.{part}": reference[f"output.fully_connected.1.linear.{part}"] for part in ("weight", "bias")}
    except KeyError as error:
        raise CorruptFileError("not a state dict of 3DInfomax's PNA", expected=error.args[0]) from error
    return student, readout


def _block(reference: Mapping[str, Tensor], prefix: str, own: str) -> dict[str, Tensor]:
    """A linear map and its batch norm."""
    linear = {f"{own}.{part}": reference[f"{prefix}linear.{part}"] for part in ("weight", "bias")}
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return linear | {f"{own}_norm.{part}": reference[f"{prefix}batch_norm.{part}"] for part in parts}


def _tables(reference: Mapping[str, Tensor], prefix: str, count: int) -> Tensor:
    return torch.cat([reference[f"{prefix}.{feature}.weight"] for feature in range(count)])
