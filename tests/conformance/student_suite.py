"""What every student must hold. A new student inherits `StudentSuite` and names its settings."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from dnd.common.config import from_dict
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.graphs.batch import GraphBatch
from dnd.models.students.base import Student, StudentConfig, StudentOutput, pool
from dnd.models.students.encoders import build_student, load_encoder, save_encoder
from student_batches import Molecule, batch_of, permuted, random_molecule, unbonded

TOLERANCE = 1e-5


def assert_equal(first: torch.Tensor | None, second: torch.Tensor | None, tolerance: float = TOLERANCE) -> None:
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        torch.testing.assert_close(first, second, atol=tolerance, rtol=tolerance)


def molecule_part(output: StudentOutput, graph: GraphBatch, molecule: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    first, end = graph.atom_offsets[molecule : molecule + 2].tolist()
    virtual = output.virtual_BD
    return output.atoms_ND[first:end], None if virtual is None else virtual[molecule : molecule + 1]


class StudentSuite:
    """Inherit, set `config`, and, for a student with a readout token, `has_virtual_node = True`."""

    config: StudentConfig
    has_virtual_node = False
    tolerance = TOLERANCE  # of one molecule computed in two batches

    @pytest.fixture
    def student(self) -> Student:
        """Larger weights than at the start, and two training batches that move the statistics of batch norms."""
        torch.manual_seed(7)
        student = build_student(self.config)
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            for seed in range(2):
                student.train()(batch_of([random_molecule(9, 50 + seed), random_molecule(6, 60 + seed)]))
        return student.eval()

    @pytest.fixture
    def molecules(self) -> list[Molecule]:
        """Different sizes, equal sizes, one atom, no bonds, several fragments."""
        sizes = [(7, 1), (12, 2), (7, 3), (23, 4), (1, 5), (5, 6)]
        return [random_molecule(atoms, seed) for atoms, seed in sizes] + [unbonded(3, 7)]

    def test_shapes(self, student: Student, molecules: list[Molecule]) -> None:
        graph = batch_of(molecules)
        output = student(graph, collect_layers=True)
        assert output.atoms_ND.shape == (len(graph.node_features_NF), self.config.width)
        assert (output.virtual_BD is not None) == self.has_virtual_node
        assert len(output.layers) == student.num_layers == self.config.num_layers
        assert student.width == self.config.width
        assert all(atoms.shape == output.atoms_ND.shape for atoms, _ in output.layers)
        assert all((virtual is not None) == self.has_virtual_node for _, virtual in output.layers)
        assert torch.isfinite(output.atoms_ND).all()
        assert student(graph).layers == []

    def test_molecules_differ(self, student: Student, molecules: list[Molecule]) -> None:
        """Guards the other tests: a student that ignores its input would pass them."""
        pooled = pool(student(batch_of(molecules)), batch_of(molecules), "mean")
        assert torch.pdist(pooled).min() > 100 * TOLERANCE

    def test_bonds_matter(self, student: Student) -> None:
        nodes, bonds, features = random_molecule(8, 1)
        other = (nodes, bonds, (features + 1) % 2)
        assert not torch.allclose(
            student(batch_of([(nodes, bonds, features)])).atoms_ND, student(batch_of([other])).atoms_ND
        )

    def test_a_molecule_does_not_depend_on_its_batch(self, student: Student, molecules: list[Molecule]) -> None:
        """No leak between molecules, no effect of padding or of the molecules' order; a batch of one."""
        graph = batch_of(molecules)
        together = student(graph)
        backwards_graph = batch_of(molecules[::-1])
        backwards = student(backwards_graph)
        for number, molecule in enumerate(molecules):
            alone_graph = batch_of([molecule])
            atoms, virtual = molecule_part(student(alone_graph), alone_graph, 0)
            for output, other, place in (
                (together, graph, number),
                (backwards, backwards_graph, len(molecules) - 1 - number),
            ):
                in_batch = molecule_part(output, other, place)
                assert_equal(in_batch[0], atoms, self.tolerance)
                assert_equal(in_batch[1], virtual, self.tolerance)

    @pytest.mark.parametrize("seed", range(3))
    def test_permuted_atoms_permute_the_output(self, student: Student, seed: int) -> None:
        molecule = random_molecule(14, 20 + seed)
        order = torch.randperm(14, generator=torch.Generator().manual_seed(seed))
        output, shuffled = student(batch_of([molecule])), student(batch_of([permuted(molecule, order)]))
        assert_equal(shuffled.atoms_ND, output.atoms_ND[order])
        assert_equal(shuffled.virtual_BD, output.virtual_BD)

    @pytest.mark.parametrize("atoms", [1, 3])
    @pytest.mark.parametrize("training", [False, True])
    def test_a_batch_without_any_bond(self, student: Student, atoms: int, training: bool) -> None:
        output = student.train(training)(batch_of([unbonded(atoms, 1)]))
        assert torch.isfinite(output.atoms_ND).all()
        output.atoms_ND.square().sum().backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in student.parameters())

    def test_evaluation_is_deterministic(self, student: Student, molecules: list[Molecule]) -> None:
        graph = batch_of(molecules)
        first = student(graph)
        torch.manual_seed(99)
        assert torch.equal(first.atoms_ND, student(graph).atoms_ND)

    def test_training_repeats_with_the_seed(self, student: Student, molecules: list[Molecule]) -> None:
        graph, results = batch_of(molecules), []
        for _ in range(2):
            torch.manual_seed(3)
            results.append(student.train()(graph).atoms_ND)
        assert torch.equal(*results)

    def test_mixed_precision(self, student: Student, molecules: list[Molecule]) -> None:
        """bf16 autocast, forward and backward, as the training loop runs it."""
        graph = batch_of(molecules)
        expected = student(graph).atoms_ND
        with torch.autocast("cpu", torch.bfloat16):
            output = student(graph).atoms_ND
            loss = student.train()(graph).atoms_ND.float().square().mean()
        assert (output.float() - expected).abs().mean() < 0.03 * expected.abs().mean()
        loss.backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in student.parameters())

    @pytest.mark.parametrize("pooling", ["mean", "virtual_node"])
    def test_gradients_reach_every_parameter(self, student: Student, molecules: list[Molecule], pooling: str) -> None:
        """By either pooling alone: a parameter without a gradient stops distributed training."""
        if pooling == "virtual_node" and not self.has_virtual_node:
            with pytest.raises(ConfigError, match="no virtual node"):
                pool(student(batch_of(molecules)), batch_of(molecules), "virtual_node")
            return
        graph = batch_of([random_molecule(atoms, seed) for seed, atoms in enumerate([9, 12, 5, 7] * 4)])
        pooled = pool(student.train()(graph), graph, pooling)
        (pooled * torch.randn_like(pooled)).sum().backward()
        without = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert without == []

    def test_layer_of_covers_every_parameter(self, student: Student) -> None:
        layers = {name: student.layer_of(name) for name, _ in student.named_parameters()}
        assert min(layers.values()) == 0
        assert max(layers.values()) in (student.num_layers, student.num_layers + 1)
        assert set(range(student.num_layers + 1)) <= set(layers.values())

    def test_saved_and_loaded(self, student: Student, molecules: list[Molecule], tmp_path) -> None:
        graph = batch_of(molecules)
        save_encoder(tmp_path / "encoder", student, {"hydrogens": "heavy_both"}, "# Encoder\n")
        loaded, config = load_encoder(tmp_path / "encoder")
        assert torch.equal(loaded(graph).atoms_ND, student(graph).atoms_ND)
        assert config["hydrogens"] == "heavy_both"
        assert not loaded.training
        assert from_dict(StudentConfig, config["student"]) == self.config
        regularised, _ = load_encoder(tmp_path / "encoder", dropout=0.25)
        assert regularised.config.dropout == 0.25
        with pytest.raises(ConfigError, match="can't change"):
            load_encoder(tmp_path / "encoder", width=8)

    def test_weights_of_another_student_are_refused(self, student: Student, tmp_path) -> None:
        other = build_student(dataclasses.replace(self.config, num_layers=self.config.num_layers + 1))
        other.config = self.config  # claims to be what it is not
        save_encoder(tmp_path / "encoder", other, {"hydrogens": "heavy_both"}, "")
        with pytest.raises(CorruptFileError, match="do not fit"):
            load_encoder(tmp_path / "encoder")

    def test_settings_survive_json(self) -> None:
        record = json.loads(json.dumps(dataclasses.asdict(self.config)))
        assert from_dict(StudentConfig, record) == self.config
