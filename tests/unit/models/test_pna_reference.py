"""PNA repeats 3DInfomax's recorded states, predictions, gradients and running statistics on its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.common.errors import CorruptFileError
from dnd.models.students.base import StudentConfig, pool_four
from dnd.models.students.pna import PNA, PNAHead, aggregates
from dnd.models.students.reference_weights import rename_pna_weights as rename_reference_weights
from student_batches import batch_of, recorded_batch, unbonded

RECORDING = np.load(Path(__file__).parents[2] / "reference" / "pna.npz")
# (states, readout and gradients) against the float64 recording
TOLERANCE = {torch.float64: (1e-10, 1e-10), torch.float32: (2e-4, 2e-3)}
PARTS = ("running_mean", "running_var", "num_batches_tracked")


def loaded(dtype: torch.dtype, momentum: float = 0.1) -> tuple[PNA, PNAHead]:
    weights = {name[2:]: torch.from_numpy(RECORDING[name]) for name in RECORDING.files if name.startswith("w.")}
    student = PNA(StudentConfig("pna", 32, 3, batch_norm_momentum=momentum))
    readout = PNAHead(4 * 32, 32, 1, momentum)
    for module, state in zip((student, readout), rename_reference_weights(weights, 3), strict=True):
        module.load_state_dict(state)
        module.to(dtype)
    return student, readout


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_states_predictions_and_gradients(mode, dtype):
    states, readouts = TOLERANCE[dtype]
    student, readout = loaded(dtype)
    student.train(mode == "train"), readout.train(mode == "train")
    graph = recorded_batch(RECORDING)
    output = student(graph, collect_layers=True)
    for layer, (atoms, _) in enumerate(output.layers):
        np.testing.assert_allclose(atoms.detach(), RECORDING[f"out64.{mode}.state.{layer + 1}"], atol=states)
    pooled, prediction = pool_four(output.atoms_ND, graph), readout(pool_four(output.atoms_ND, graph))
    np.testing.assert_allclose(pooled.detach(), RECORDING[f"out64.{mode}.readout"], atol=readouts)
    np.testing.assert_allclose(prediction.detach(), RECORDING[f"out64.{mode}.pred"], atol=readouts)
    (prediction * torch.from_numpy(RECORDING["in.grad_weight"])).sum().backward()
    gradients = {
        "mp_layers.1.pretrans.fully_connected.0.linear": student.layers[1].message_in.weight.grad,
        "mp_layers.2.posttrans.fully_connected.0.linear": student.layers[2].update.weight.grad,
        "atom_encoder.atom_embedding_list.0": student.atom.table.grad[:119],
        "bond_encoder.bond_embedding_list.0": student.bond.table.grad[:5],
    }
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, RECORDING[f"out64.{mode}.grad.node_gnn.{name}.weight"], atol=readouts)


@pytest.mark.parametrize(("momentum", "key"), [(0.1, "train"), (0.93, "train_momentum093")])
def test_running_statistics(momentum, key):
    student, readout = loaded(torch.float64, momentum)
    graph = recorded_batch(RECORDING)
    readout(pool_four(student(graph).atoms_ND, graph))
    prefix = f"out64.{key}.after."
    after = {name.removeprefix(prefix): RECORDING[name] for name in RECORDING.files if name.startswith(prefix)}
    weights = {name[2:]: torch.from_numpy(RECORDING[name]) for name in RECORDING.files if name.startswith("w.")}
    expected = rename_reference_weights(weights | {name: torch.from_numpy(after[name]) for name in after}, 3)
    compared = 0
    for module, state in zip((student, readout), expected, strict=True):
        own = module.state_dict()
        for name, value in state.items():
            if name.endswith(PARTS[:2]):
                torch.testing.assert_close(own[name], value, atol=1e-10, rtol=0)
                compared += 1
    assert compared == 2 * (3 * 3 + 1)


def test_aggregates_of_an_atom():
    messages = torch.tensor([[[1.0], [3.0]]], dtype=torch.float64)
    expected = torch.tensor([[2.0, 3.0, 1.0, (1 + 1e-5) ** 0.5]], dtype=torch.float64)
    torch.testing.assert_close(aggregates(messages), expected)


def test_atoms_without_bonds_have_no_aggregates():
    student, _ = loaded(torch.float64)
    student.eval()
    graph = batch_of([unbonded(2, 1)])
    atoms = student.atom(graph.node_features_NF)
    for layer in student.layers:
        atoms = atoms + layer.update_norm(atoms @ layer.update.weight[:, :32].T + layer.update.bias)
    torch.testing.assert_close(student(graph).atoms_ND, atoms)


def test_a_foreign_state_dict_is_refused():
    with pytest.raises(CorruptFileError, match="atom_embedding_list"):
        rename_reference_weights({"weight": torch.zeros(1)}, 3)
