"""NT-Xent and Net3D: equality with recordings of the published code, and what they do at the edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.common.errors import ConfigError, ShapeError
from dnd.graphs.batch import ConformerBatch, ordered_pairs
from dnd.pretraining.baselines.infomax3d import (
    Net3D,
    contrastive_accuracy,
    fourier_encoding,
    ntxent_loss,
)
from dnd.pretraining.heads import min_max_mean_per_molecule

REFERENCE = Path(__file__).parents[2] / "reference"
NAMES = {
    "edge_input.fully_connected.0.linear": "edge_linear",
    "edge_input.fully_connected.0.batch_norm": "edge_norm",
    "mp_layers.0.message_network.fully_connected.0.linear": "message_linear",
    "mp_layers.0.message_network.fully_connected.0.batch_norm": "message_norm",
    "mp_layers.0.soft_edge_network": "gate",
    "mp_layers.0.update_network.fully_connected.0.linear": "update_linear",
    "mp_layers.0.update_network.fully_connected.0.batch_norm": "update_norm",
    "output.fully_connected.0.linear": "output",
}


@pytest.mark.parametrize("which", ["moderate", "strong"])
@pytest.mark.parametrize("tau", [0.1, 0.01])
def test_ntxent_equals_the_recording(which: str, tau: float) -> None:
    with np.load(REFERENCE / "ntxent.npz") as recording:
        anchors, positives = (torch.from_numpy(recording[f"in.{which}.z{i}"]).double() for i in (1, 2))
        loss = ntxent_loss(anchors.requires_grad_(), positives, tau)
        loss.backward()
        expected = recording[f"out64.{which}.tau{tau}.logsumexp"]
        gradient = recording[f"out64.{which}.tau{tau}.logsumexp_grad_z1"]
        single = ntxent_loss(anchors.detach().float(), positives.float(), tau)
    assert loss.item() == pytest.approx(float(expected), abs=1e-10)
    np.testing.assert_allclose(anchors.grad, gradient, atol=1e-10)
    assert float(single) == pytest.approx(float(expected), abs=1e-4)


def test_ntxent_is_finite_and_negative_for_identical_views_at_small_temperature() -> None:
    views = torch.eye(6)
    loss = ntxent_loss(views, views, 0.01)
    assert float(loss) == pytest.approx(-100 + np.log(5), rel=1e-5)
    assert float(contrastive_accuracy(views, views)) == 1.0


def test_ntxent_leaves_the_positive_out_and_has_one_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 4, generator=generator) for _ in range(2))
    cosine = torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(b).T
    rows = [
        -torch.log((cosine[i, i] / 0.5).exp() / sum((cosine[i, j] / 0.5).exp() for j in range(5) if j != i))
        for i in range(5)
    ]
    assert float(ntxent_loss(a, b, 0.5)) == pytest.approx(float(sum(rows)) / 5, rel=1e-5)
    assert float(ntxent_loss(b, a, 0.5)) != pytest.approx(float(ntxent_loss(a, b, 0.5)), rel=1e-3)


def test_ntxent_refuses_a_lone_molecule_and_a_bad_temperature() -> None:
    with pytest.raises(ShapeError, match="at least two"):
        ntxent_loss(torch.ones(1, 3), torch.ones(1, 3), 0.1)
    with pytest.raises(ConfigError, match="temperature"):
        ntxent_loss(torch.ones(2, 3), torch.ones(2, 3), 0.0)


def recorded_net3d(recording: np.lib.npyio.NpzFile) -> tuple[Net3D, ConformerBatch]:
    net = Net3D().double()
    own = {"node_embedding": torch.from_numpy(recording["w.node_embedding"]).double()}
    for theirs, ours in NAMES.items():
        for key in recording.files:
            if key.startswith(f"w.{theirs}."):
                own[ours + key.removeprefix(f"w.{theirs}")] = torch.from_numpy(recording[key])
    net.load_state_dict(own)
    offsets = torch.tensor([0, *np.cumsum(recording["in.n_atoms"])])
    positions = torch.from_numpy(recording["in.pos"]).double()
    atoms = torch.arange(len(positions))
    return net, ConformerBatch(torch.ones_like(atoms), positions, offsets, atoms)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_net3d_equals_the_recording(mode: str) -> None:
    with np.load(REFERENCE / "net3d.npz") as recording:
        net, conformers = recorded_net3d(recording)
        net.train(mode == "train")
        source, target = ordered_pairs(conformers.atom_offsets)
        order = np.lexsort((recording["in.edge_dst"], recording["in.edge_src"]))
        np.testing.assert_array_equal(source, recording["in.edge_src"][order])
        np.testing.assert_array_equal(target, recording["in.edge_dst"][order])
        if mode == "eval":
            distance = (conformers.positions_A3[source] - conformers.positions_A3[target]).norm(dim=1, keepdim=True)
            np.testing.assert_allclose(
                fourier_encoding(distance), recording["out64.eval.edge_fourier"][order], atol=1e-10
            )
            pairs = net.pair_states(distance).detach()
            np.testing.assert_allclose(pairs, recording["out64.eval.edge_state_0"][order], atol=1e-10)
            states = net.atom_states(conformers).detach()
            np.testing.assert_allclose(states, recording["out64.eval.node_state"], atol=1e-10)
            readout = min_max_mean_per_molecule(states, conformers.atom_offsets)
            np.testing.assert_allclose(readout, recording["out64.eval.readout"], atol=1e-10)
        np.testing.assert_allclose(net(conformers).detach(), recording[f"out64.{mode}.out"], atol=1e-10)
        if mode == "train":
            for theirs, ours in NAMES.items():
                for statistic in ("running_mean", "running_var"):
                    key = f"out64.train.after.{theirs}.{statistic}"
                    if key in recording.files:
                        np.testing.assert_allclose(net.state_dict()[f"{ours}.{statistic}"], recording[key], atol=1e-10)


def test_net3d_takes_lone_atoms() -> None:
    lone = ConformerBatch(torch.tensor([6, 8]), torch.zeros(2, 3), torch.tensor([0, 1, 2]), torch.arange(2))
    net = Net3D()
    for training in (True, False):
        assert torch.isfinite(net.train(training)(lone)).all()
