"""TokenGT repeats the official implementation's recorded tokens, states and attention on its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.common.errors import CorruptFileError
from dnd.models.students.base import StudentConfig
from dnd.models.students.reference_weights import rename_tokengt_weights as rename_reference_weights
from dnd.models.students.tokengt import TokenGT, token_layout
from student_batches import recorded_batch

REFERENCE = Path(__file__).parents[2] / "reference"
TOLERANCE = {torch.float64: 1e-10, torch.float32: 5e-5}


def reference_weights(recording, projection: str | None = None) -> dict[str, torch.Tensor]:
    weights = {name[2:]: torch.from_numpy(recording[name]) for name in recording.files if name.startswith("w.")}
    if projection:
        weights["encoder.graph_encoder.graph_feature.orf_encoder.weight"] = torch.from_numpy(recording[projection])
    return weights


def student_of(weights, dtype, *, identifiers: str, columns: int) -> TokenGT:
    config = StudentConfig(
        "tokengt", 32, 3, num_heads=4, identifiers=identifiers, num_identifiers=columns, final_norm=False
    )
    student = TokenGT(config).to(dtype).eval()
    student.load_state_dict(rename_reference_weights(weights, 3))
    return student


def padded(packed: torch.Tensor, layout, mask: np.ndarray) -> np.ndarray:
    """Packed tokens in the recording's padded layout, zero at padding."""
    result = np.zeros((*mask.shape, packed.shape[1]))
    for molecule, first in enumerate(layout.graph_B.tolist()):
        count = int((~mask[molecule]).sum())
        result[molecule, :count] = packed[first : first + count].detach().numpy()
    return result


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_laplacian_states(dtype):
    recording = np.load(REFERENCE / "tokengt_lap.npz")
    student = student_of(reference_weights(recording), dtype, identifiers="laplacian", columns=8)
    graph, identifiers = recorded_batch(recording), torch.from_numpy(recording["in.lap_eigvec"][:, :8]).to(dtype)
    mask, layout = recording["out64.padding_mask"], token_layout(graph)
    tokens = student.embedding.tokens(graph, layout, identifiers)
    np.testing.assert_allclose(padded(tokens, layout, mask), recording["out64.tokens"], atol=TOLERANCE[dtype])
    state = student.embedding(graph, layout, identifiers)
    for layer in range(4):
        expected = recording[f"out64.state.{layer}"] * ~mask[:, :, None]
        np.testing.assert_allclose(padded(state, layout, mask), expected, atol=TOLERANCE[dtype])
        state = student.layers[layer](state, layout) if layer < 3 else state
    output = student(graph, identifiers_NI=identifiers)
    atoms = [recording["out64.state.3"][b, 2 : 2 + n] for b, n in enumerate(recording["in.n_nodes"])]
    np.testing.assert_allclose(output.atoms_ND.detach(), np.concatenate(atoms), atol=TOLERANCE[dtype])
    np.testing.assert_allclose(output.virtual_BD.detach(), recording["out64.state.3"][:, 0], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_property_head_on_the_graph_token(dtype):
    recording = np.load(REFERENCE / "tokengt_lap.npz")
    weights = reference_weights(recording)
    student = student_of(weights, dtype, identifiers="laplacian", columns=8)
    identifiers = torch.from_numpy(recording["in.lap_eigvec"][:, :8]).to(dtype)
    state = student(recorded_batch(recording), identifiers_NI=identifiers).virtual_BD
    head = {name.removeprefix("encoder."): weight.to(dtype) for name, weight in weights.items()}
    state = state @ head["lm_head_transform_weight.weight"].T + head["lm_head_transform_weight.bias"]
    state = torch.nn.functional.gelu(state)
    state = torch.nn.functional.layer_norm(state, (32,), head["layer_norm.weight"], head["layer_norm.bias"])
    prediction = state @ head["embed_out.weight"].T + head["lm_output_learned_bias"]
    np.testing.assert_allclose(prediction.detach(), recording["out64.pred"], atol=TOLERANCE[dtype])


def test_attention_maps():
    recording = np.load(REFERENCE / "tokengt_lap.npz")
    student = student_of(reference_weights(recording), torch.float64, identifiers="laplacian", columns=8)
    identifiers = torch.from_numpy(recording["in.lap_eigvec"][:, :8])
    maps = student.attention_maps(recorded_batch(recording), identifiers)
    for layer in (0, 2):
        for molecule, attention in enumerate(maps[layer]):
            tokens = attention.scores_Htt.shape[1]
            for name, values in (("attn_pre", attention.scores_Htt), ("attn_post", attention.weights_Htt)):
                expected = recording[f"out64.{name}.{layer}"][molecule, :, :tokens, :tokens]
                np.testing.assert_allclose(values.detach(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("kind", "columns"), [("cut", 8), ("pad", 24)])
def test_orf_states(kind, columns, dtype):
    recording = np.load(REFERENCE / "tokengt_orf.npz")
    weights = reference_weights(recording, f"w_{kind}.orf_encoder.weight")
    student = student_of(weights, dtype, identifiers="orf", columns=columns)
    rows = [matrix[:n] for matrix, n in zip(recording["in.orf_matrix"], recording["in.n_nodes"], strict=True)]
    rows = np.pad(np.concatenate(rows), ((0, 0), (0, 10)))[:, :columns].astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    output = student(recorded_batch(recording), identifiers_NI=torch.from_numpy(rows))
    expected = recording[f"out64.{kind}.state.3"]
    atoms = np.concatenate([expected[b, 2 : 2 + n] for b, n in enumerate(recording["in.n_nodes"])])
    np.testing.assert_allclose(output.atoms_ND.detach(), atoms, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(output.virtual_BD.detach(), expected[:, 0], atol=TOLERANCE[dtype])


def test_a_foreign_state_dict_is_refused():
    with pytest.raises(CorruptFileError, match="atom_encoder"):
        rename_reference_weights({"weight": torch.zeros(1)}, 3)
