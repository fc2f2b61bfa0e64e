"""GraphCL, ProPred, DisPred, ConfGen: their pure parts, and that each runs, learns and keeps only the student."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from distillation_toys import STUDENT, toy_store
from dnd.chemistry.molecule import Conformers, MolecularGraph
from dnd.common.errors import ConfigError, InputError
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import load_encoder
from dnd.pretraining.baselines.confgen import ConformerDecoder, distance_cost, transport_loss
from dnd.pretraining.baselines.pretrain import METHODS, DistanceHead, distance_loss, drop_atoms, pretrain, subgraph
from dnd.pretraining.heads import masked_l1
from dnd.pretraining.settings import PretrainConfig
from dnd.store.reader import Store
from dnd.store.schema import StoreRow
from dnd.training.settings import LoopConfig

LOOP = LoopConfig(epochs=6, batch_size=8, device="cpu", learning_rate=3e-3, weight_decay=0.0)
CONFIG = PretrainConfig(
    target="energy", out_width=8, num_generated=2, num_references=2, student=STUDENT, holdout_fraction=0.2, loop=LOOP
)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_keeps_the_student_alone(tmp_path: Path, method: str) -> None:
    store = toy_store(conformers=2)
    config = replace(CONFIG, method=method)
    summary = pretrain(store, tmp_path / "encoder", config)
    untrained = METHODS[method](store, config).eval().evaluate()
    assert summary.metrics["train_loss"] < untrained["train_loss"]
    student, saved = load_encoder(tmp_path / "encoder")
    assert saved["method"] == method
    assert not any("head" in name or "decoder" in name for name in student.state_dict())


def test_graphcl_drops_a_fifth_of_each_molecule_rounded_down_with_its_bonds() -> None:
    graph = toy_store(20).read(np.arange(20)).graph
    smaller = drop_atoms(graph, 0.2, torch.Generator().manual_seed(0))
    sizes = graph.atoms_per_molecule_B
    assert torch.equal(smaller.atoms_per_molecule_B, sizes - (sizes * 0.2).long())
    assert (smaller.batch_N[smaller.edge_index_2E[0]] == smaller.edge_batch_E).all()
    assert torch.equal(drop_atoms(graph, 0.2, torch.Generator().manual_seed(0)).edge_index_2E, smaller.edge_index_2E)
    other = drop_atoms(graph, 0.2, torch.Generator().manual_seed(1))
    assert not torch.equal(other.node_features_NF, smaller.node_features_NF)


def test_a_subgraph_keeps_features_and_bonds_of_the_atoms_that_stay() -> None:
    graph = toy_store(3).read(np.arange(3)).graph
    kept = torch.ones(len(graph.batch_N), dtype=torch.bool)
    kept[1] = False
    smaller = subgraph(graph, kept)
    old = torch.arange(len(kept))[kept]
    bonds = {tuple(pair) for pair in graph.edge_index_2E.T.tolist() if 1 not in pair}
    assert {tuple(old[pair].tolist()) for pair in smaller.edge_index_2E.T} == bonds
    assert torch.equal(smaller.node_features_NF, graph.node_features_NF[kept])


def test_masked_l1_ignores_missing_labels_and_is_zero_without_any() -> None:
    predicted = torch.tensor([1.0, 2.0, 5.0], requires_grad=True)
    masked_l1(predicted, torch.tensor([0.0, torch.nan, 3.0])).backward()
    assert predicted.grad.tolist() == [0.5, 0.0, 0.5]
    nothing = masked_l1(predicted, torch.full((3,), torch.nan))
    assert nothing.item() == 0.0


def test_distances_do_not_depend_on_the_direction_of_a_pair_or_on_the_batch() -> None:
    graph = toy_store(2).read(np.arange(2)).graph
    head = DistanceHead(8).eval()
    atoms = torch.randn(len(graph.batch_N), 8, generator=torch.Generator().manual_seed(0))
    first = int(graph.atom_offsets[1])
    pairs = torch.tensor([[0, first], [1, first + 1]])
    together = head(atoms, graph, pairs)
    torch.testing.assert_close(together, head(atoms, graph, pairs.flip(0)))
    alone = toy_store(2).read(np.array([1])).graph
    torch.testing.assert_close(together[1:], head(atoms[first:], alone, pairs[:, 1:] - first), atol=1e-5, rtol=1e-5)
    assert distance_loss(torch.zeros(0), torch.zeros(0)).item() == 0.0


def test_the_constant_beside_distances_is_that_of_the_training_pairs_whatever_the_batches() -> None:
    metrics = []
    for batch_size in (1, 16):
        loop = replace(CONFIG.loop, batch_size=batch_size)
        objective = METHODS["dispred"](toy_store(40), replace(CONFIG, method="dispred", loop=loop)).eval()
        metrics.append(objective.evaluate())
    for part in ("valid", "train"):
        one, many = (found[f"{part}_loss_of_the_median"] for found in metrics)
        assert one == pytest.approx(many, rel=1e-5), "it is one constant, not the median of each batch"


def test_distances_are_not_learned_of_single_atoms() -> None:
    graph = MolecularGraph(np.zeros((1, 9), np.int64), np.zeros((0, 2), np.int64), np.zeros((0, 3), np.int64))
    geometry = Conformers(np.array([1]), np.zeros((1, 1, 3), np.float32))
    store = Store.from_rows([StoreRow(row, "atoms", "[H]", graph, geometry) for row in range(8)])
    with pytest.raises(InputError, match="only single atoms among the training or the held-out molecules"):
        METHODS["dispred"](store, replace(CONFIG, method="dispred"))


def test_transport_equals_the_assignment_of_scipy() -> None:
    cost = torch.rand(6, 4, 2, generator=torch.Generator().manual_seed(0))
    repeated = cost.repeat(1, 1, 2).numpy()
    expected = [matrix[linear_sum_assignment(matrix)].mean() for matrix in repeated]
    assert transport_loss(cost).item() == pytest.approx(float(np.mean(expected)), rel=1e-5)


def test_generated_conformers_are_judged_up_to_rotation_and_order() -> None:
    batch = toy_store(5, conformers=3).read(np.arange(5))
    offsets, positions = batch.graph.atom_offsets, batch.conformers.positions_A3
    three = torch.stack([positions, positions * 1.5, positions * 0.5])
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    for order in permutations(range(3)):
        cost = distance_cost(three[list(order)] @ turn + 7.0, three, offsets)
        assert transport_loss(cost).item() < 1e-4
    assert transport_loss(distance_cost(three[:1], three[1:2], offsets)).item() > 0.1


def test_the_decoder_is_equivariant_and_takes_lone_atoms() -> None:
    generator = torch.Generator().manual_seed(0)
    decoder, offsets = ConformerDecoder(8), torch.tensor([0, 4, 5])
    atoms, noise = torch.randn(5, 8, generator=generator), torch.randn(2, 5, 3, generator=generator)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    torch.testing.assert_close(decoder(atoms, noise @ turn, offsets), decoder(atoms, noise, offsets) @ turn)
    assert torch.isfinite(decoder(atoms, noise * 0, offsets)).all()


def test_what_a_method_lacks_is_named() -> None:
    store = toy_store(20)
    with pytest.raises(ConfigError, match="target=NAME"):
        replace(CONFIG, method="propred", target=None)
    with pytest.raises(InputError, match="energy, rare"):
        METHODS["propred"](store, replace(CONFIG, method="propred", target="enery"))
    with pytest.raises(ConfigError, match="1 to 5"):
        PretrainConfig(num_generated=9)
    with pytest.raises(ConfigError, match="even width"):  # it was an assertion of torch once the store was read
        PretrainConfig("dispred", student=StudentConfig("gine", 25, 2))
    with pytest.raises(ConfigError, match="out_width is out of range"):
        PretrainConfig(out_width=0)
