"""Weights of 3DInfomax's PNA and of the official TokenGT under our names."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch
from torch import Tensor

from dnd.chemistry.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES
from dnd.common.errors import CorruptFileError

# Weights of 3DInfomax's PNA under our names.


_BLOCKS = {
    "message_in": "pretrans.fully_connected.0",
    "message_out": "pretrans.fully_connected.1",
    "update": "posttrans.fully_connected.0",
}


def rename_pna_weights(reference: Mapping[str, Tensor], num_layers: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
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


# Weights of the official TokenGT under our names.


ROWS_PER_FEATURE = 512  # the reference's table: row = value + 512 * feature + 2
FIRST_ROW = 2

_FEATURE = "encoder.graph_encoder.graph_feature."
_LAYER_NAMES = {
    "attention.out": "self_attn.out_proj",
    "attention_norm": "self_attn_layer_norm",
    "feed_forward_norm": "final_layer_norm",
    "feed_forward_in": "feedforward.fc1",
    "feed_forward_out": "feedforward.fc2",
}


def rename_tokengt_weights(reference: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """The state of a `TokenGT` with `final_norm=False` from the reference's state dict.

    The reference builds a final norm and a pooler that it never applies, and a property head that is not part of the
    student: these are left behind. Table rows that no feature value can reach are left behind as well.

    Args:
        reference: the official repository's state dict.
        num_layers: layers of the student.

    Raises:
        CorruptFileError: a weight is missing.
    """
    own = {
        "embedding.atom.table": _used_rows(_get(reference, f"{_FEATURE}atom_encoder.weight"), ATOM_FEATURE_SIZES),
        "embedding.bond.table": _used_rows(_get(reference, f"{_FEATURE}edge_encoder.weight"), BOND_FEATURE_SIZES),
        "embedding.special_tokens": torch.cat(
            [_get(reference, f"{_FEATURE}{token}_token.weight") for token in ("graph", "null")]
        ),
        "embedding.token_types": _get(reference, f"{_FEATURE}order_encoder.weight"),
        "embedding.identifiers.weight": _identifier_projection(reference),
        "embedding.norm.weight": _get(reference, "encoder.graph_encoder.emb_layer_norm.weight"),
        "embedding.norm.bias": _get(reference, "encoder.graph_encoder.emb_layer_norm.bias"),
    }
    for layer in range(num_layers):
        theirs = f"encoder.graph_encoder.layers.{layer}."
        for part in ("weight", "bias"):
            own |= {
                f"layers.{layer}.{name}.{part}": _get(reference, f"{theirs}{their_name}.{part}")
                for name, their_name in _LAYER_NAMES.items()
            }
            own[f"layers.{layer}.attention.query_key_value.{part}"] = torch.cat(
                [_get(reference, f"{theirs}self_attn.{letter}_proj.{part}") for letter in "qkv"]
            )
    return own


def _identifier_projection(reference: Mapping[str, Tensor]) -> Tensor:
    kind = "orf" if f"{_FEATURE}orf_encoder.weight" in reference else "lap"
    return _get(reference, f"{_FEATURE}{kind}_encoder.weight")


def _used_rows(table: Tensor, sizes: tuple[int, ...]) -> Tensor:
    first_rows = accumulate([ROWS_PER_FEATURE] * (len(sizes) - 1), initial=FIRST_ROW)
    return torch.cat([table[first : first + size] for first, size in zip(first_rows, sizes, strict=True)])


def _get(reference: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in reference:
        raise CorruptFileError("not a state dict of the official TokenGT", expected=name)
    return reference[name]
