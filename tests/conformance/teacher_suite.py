"""What every teacher must hold. A new teacher inherits `TeacherSuite` and names its settings.

`KernelSuite` is for ways to compute the equivariant transformer: each equals the plain equations.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dnd.common.errors import InputError
from dnd.graphs.batch import ConformerBatch
from dnd.models.teachers.base import NoiseHead, Teacher, TeacherConfig, TeacherOutput
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer, Kernel
from dnd.models.teachers.fast_pairs.pairs import CoincidentAtomsError
from dnd.models.teachers.teachers import build_teacher, load_noise_head, load_teacher, save_teacher

EXACT = 1e-10  # float64
ROUNDED = 2e-4  # float32


def conformers_of(*molecules: tuple[list[int], torch.Tensor]) -> ConformerBatch:
    sizes = torch.tensor([0, *(len(numbers) for numbers, _ in molecules)])
    numbers = torch.tensor([number for numbers, _ in molecules for number in numbers])
    positions = torch.cat([positions for _, positions in molecules])
    return ConformerBatch(numbers, positions, sizes.cumsum(0), torch.arange(len(numbers)))


def random_molecule(atoms: int, seed: int, spread: float = 1.2) -> tuple[list[int], torch.Tensor]:
    """Atoms on a jittered lattice walk: no two closer than about 0.6 Å, the far ones beyond the cutoff."""
    generator = torch.Generator().manual_seed(seed)
    lattice = torch.cartesian_prod(*(torch.arange(5.0),) * 3)[torch.randperm(125, generator=generator)[:atoms]]
    jitter = 0.15 * torch.randn(atoms, 3, generator=generator, dtype=torch.float64).clamp(-1.5, 1.5)
    elements = torch.tensor([1, 6, 7, 8])[torch.randint(4, (atoms,), generator=generator)]
    return elements.tolist(), spread * lattice.double() + jitter


def rotation(seed: int) -> torch.Tensor:
    basis, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return basis * torch.linalg.det(basis)


LINEAR = ([6, 6, 1, 1], torch.tensor([[0.6, 0, 0], [-0.6, 0, 0], [1.66, 0, 0], [-1.66, 0, 0]], dtype=torch.float64))
PLANAR = ([8, 1, 1], torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], dtype=torch.float64))
SINGLE = ([6], torch.zeros(1, 3, dtype=torch.float64))
APART = ([2, 2], torch.tensor([[0.0, 0, 0], [9.0, 0, 0]], dtype=torch.float64))


def placed(conformers: ConformerBatch, positions: torch.Tensor) -> ConformerBatch:
    return replace(conformers, positions_A3=positions)


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = EXACT) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def moved_off_start(teacher: Teacher) -> Teacher:
    """The teacher with a random number added to each weight, in evaluation mode."""
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return teacher.eval()


class TeacherSuite:
    """Inherit and set `config`."""

    config: TeacherConfig

    def build(self) -> Teacher:
        return build_teacher(self.config)

    @pytest.fixture
    def teacher(self) -> Teacher:
        """In float64, with weights moved off their start, so that no term is zero."""
        torch.manual_seed(3)
        return moved_off_start(self.build().double())

    @pytest.fixture
    def conformers(self) -> ConformerBatch:
        """Different sizes, linear, planar, one atom, two atoms out of reach of each other."""
        return conformers_of(random_molecule(9, 1), SINGLE, random_molecule(17, 2), LINEAR, PLANAR, APART)

    @staticmethod
    def _part(output: TeacherOutput, conformers: ConformerBatch, molecule: int) -> tuple[torch.Tensor, torch.Tensor]:
        first, end = conformers.atom_offsets[molecule : molecule + 2].tolist()
        return output.scalars_AD[first:end], output.vectors_A3D[first:end]

    def test_shapes(self, teacher: Teacher, conformers: ConformerBatch) -> None:
        atoms = len(conformers.atomic_numbers_A)
        output = teacher(conformers, collect_layers=True)
        assert output.scalars_AD.shape == (atoms, teacher.width)
        assert output.vectors_A3D.shape == (atoms, 3, teacher.width)
        assert [layer.shape for layer in output.layers] == [output.scalars_AD.shape] * teacher.num_layers
        assert teacher(conformers).layers == []
        assert output.scalars_AD.dtype == torch.float64

    def test_rotation_and_translation(self, teacher: Teacher, conformers: ConformerBatch) -> None:
        turn, before = rotation(5), teacher(conformers)
        moved = placed(conformers, conformers.positions_A3 @ turn.T + torch.tensor([3.0, -8.0, 40.0]).double())
        after = teacher(moved)
        assert_close(after.scalars_AD, before.scalars_AD)
        assert_close(after.vectors_A3D, torch.einsum("xy,ayd->axd", turn, before.vectors_A3D))
        assert before.vectors_A3D.abs().max() > 0.01

    def test_reflection_leaves_scalars(self, teacher: Teacher, conformers: ConformerBatch) -> None:
        mirrored = teacher(placed(conformers, conformers.positions_A3 * torch.tensor([1.0, 1.0, -1.0]).double()))
        assert_close(mirrored.scalars_AD, teacher(conformers).scalars_AD)

    def test_order_of_atoms(self, teacher: Teacher) -> None:
        numbers, positions = random_molecule(14, 4)
        order = torch.randperm(14, generator=torch.Generator().manual_seed(1))
        before = teacher(conformers_of((numbers, positions)))
        after = teacher(conformers_of(([numbers[index] for index in order], positions[order])))
        assert_close(after.scalars_AD, before.scalars_AD[order])
        assert_close(after.vectors_A3D, before.vectors_A3D[order])

    def test_alone_or_in_a_batch(self, teacher: Teacher, conformers: ConformerBatch) -> None:
        together = teacher(conformers)
        for molecule in range(conformers.num_molecules):
            first, end = conformers.atom_offsets[molecule : molecule + 2].tolist()
            alone = (conformers.atomic_numbers_A[first:end].tolist(), conformers.positions_A3[first:end])
            output = teacher(conformers_of(alone))
            scalars, vectors = self._part(together, conformers, molecule)
            assert_close(output.scalars_AD, scalars)
            assert_close(output.vectors_A3D, vectors)

    def test_geometry_matters(self, teacher: Teacher) -> None:
        numbers, positions = random_molecule(12, 6)
        before, after = (teacher(conformers_of((numbers, positions * scale))).scalars_AD for scale in (1.0, 1.05))
        assert (before - after).abs().max() > 1e-3

    def test_many_neighbours(self, teacher: Teacher) -> None:
        """No limit on neighbours: 90 atoms in a ball, and the order of the atoms still does not matter."""
        numbers, positions = random_molecule(90, 8, spread=0.9)
        order = torch.arange(89, -1, -1)
        before = teacher(conformers_of((numbers, positions))).scalars_AD
        after = teacher(conformers_of((numbers[::-1], positions[order]))).scalars_AD
        assert_close(after, before[order], 1e-9)

    @pytest.mark.parametrize("molecule", [SINGLE, APART, LINEAR, PLANAR], ids=["single", "apart", "linear", "planar"])
    def test_outputs_and_gradients_are_finite(self, teacher: Teacher, molecule: tuple[list[int], torch.Tensor]) -> None:
        conformers = conformers_of(molecule)
        conformers = placed(conformers, conformers.positions_A3.clone().requires_grad_())
        head = NoiseHead(teacher.width).double()
        head(teacher(conformers)).square().sum().backward()
        assert torch.isfinite(conformers.positions_A3.grad).all()
        for parameter in teacher.parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all()

    def test_an_atom_without_neighbour_has_no_direction(self, teacher: Teacher) -> None:
        assert (teacher(conformers_of(SINGLE, APART)).vectors_A3D == 0).all()

    def test_gradient_of_positions(self, teacher: Teacher) -> None:
        conformers = conformers_of(random_molecule(5, 9), PLANAR)
        head = NoiseHead(teacher.width).double()
        weights = torch.randn(8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

        def score(positions: torch.Tensor) -> torch.Tensor:
            return (head(teacher(placed(conformers, positions))) * weights).sum()

        positions = conformers.positions_A3.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(score(positions), positions)
        step = 1e-5
        for atom, axis in [(0, 0), (3, 1), (6, 2)]:
            shift = torch.zeros_like(positions)
            shift[atom, axis] = step
            with torch.no_grad():
                slope = (score(positions + shift) - score(positions - shift)) / (2 * step)
            assert slope.item() == pytest.approx(gradient[atom, axis].item(), abs=1e-6)

    @pytest.mark.parametrize("distance", [0.0, 0.29])
    def test_coincident_atoms_are_refused(self, teacher: Teacher, distance: float) -> None:
        positions = torch.tensor([[0.0, 0, 0], [1.1, 0, 0], [1.1, distance, 0]], dtype=torch.float64)
        with pytest.raises(CoincidentAtomsError, match="atoms 1 and 2 coincide") as caught:
            teacher(conformers_of(PLANAR, ([6, 1, 1], positions)))
        assert caught.value.molecule == 1
        assert "CCO (row 7)" in str(caught.value.named("CCO (row 7)"))

    def test_unknown_element_is_refused(self, teacher: Teacher) -> None:
        with pytest.raises(InputError, match="element"):
            teacher(conformers_of(([self.config.max_atomic_number], torch.zeros(1, 3, dtype=torch.float64))))

    def test_single_precision(self, teacher: Teacher, conformers: ConformerBatch) -> None:
        exact = teacher(conformers)
        rounded = teacher.float()(placed(conformers, conformers.positions_A3.float()))
        assert rounded.scalars_AD.dtype == torch.float32
        scale = float(exact.vectors_A3D.detach().abs().max().clamp(min=1))
        assert_close(
            rounded.scalars_AD.double(), exact.scalars_AD, ROUNDED * float(exact.scalars_AD.detach().abs().max())
        )
        assert_close(rounded.vectors_A3D.double(), exact.vectors_A3D, ROUNDED * scale)

    def test_autocast_does_not_blur_it(self, teacher: Teacher, conformers: ConformerBatch) -> None:
        single = placed(conformers, conformers.positions_A3.float())
        plain = teacher.float()(single).scalars_AD
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(teacher(single).scalars_AD, plain, 1e-5)

    def test_save_and_load(self, teacher: Teacher, conformers: ConformerBatch, tmp_path: Path) -> None:
        single, head = placed(conformers, conformers.positions_A3.float()), NoiseHead(teacher.width)
        save_teacher(tmp_path / "teacher", teacher.float(), head, self.config, {"hydrogens": "all_both"}, "# card\n")
        loaded, config = load_teacher(tmp_path / "teacher")
        assert config["hydrogens"] == "all_both"
        assert not loaded.training
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        assert torch.equal(loaded(single).scalars_AD, teacher(single).scalars_AD)
        assert torch.equal(load_noise_head(tmp_path / "teacher")(loaded(single)), head(teacher(single)))


MOLECULES = {
    "random": conformers_of(random_molecule(9, 11), random_molecule(17, 12), random_molecule(9, 13)),
    "large": conformers_of(random_molecule(60, 14, spread=1.6), random_molecule(3, 15)),
    "crowded": conformers_of(random_molecule(40, 16, spread=0.9)),
    "single": conformers_of(SINGLE),
    "apart": conformers_of(APART),
    "mixed": conformers_of(SINGLE, random_molecule(12, 17), APART, LINEAR, SINGLE, PLANAR),
}


class KernelSuite:
    """Inherit and set `config` and `kernel`: outputs and all gradients are those of the plain equations.

    Attributes:
        single_precision: largest difference in float32, over the largest value of the tensor where that is above 1.
    """

    config: TeacherConfig
    kernel: Kernel
    single_precision: float = 1e-5

    def outcome(self, kernel: Kernel, conformers: ConformerBatch, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Outputs, and the gradients of a score in which every output has a weight of its own."""
        torch.manual_seed(5)
        teacher = EquivariantTransformer(self.config, kernel).double()
        moved_off_start(teacher).to(dtype)
        positions = conformers.positions_A3.to(dtype, copy=True).requires_grad_()
        output = teacher(placed(conformers, positions), collect_layers=True)
        tensors = {"scalars": output.scalars_AD, "vectors": output.vectors_A3D}
        tensors |= {f"layer {number}": layer for number, layer in enumerate(output.layers)}
        generator = torch.Generator().manual_seed(6)
        score = torch.zeros((), dtype=dtype)
        for tensor in tensors.values():
            score = (
                score + (tensor * torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(dtype)).sum()
            )
        score.backward()
        assert positions.grad is not None
        tensors = {name: tensor.detach() for name, tensor in tensors.items()} | {
            "gradient of positions": positions.grad
        }
        for name, parameter in teacher.named_parameters():
            tensors[f"gradient of {name}"] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return tensors

    @pytest.mark.parametrize("molecules", MOLECULES)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
    def test_equals_the_plain_equations(self, molecules: str, dtype: torch.dtype) -> None:
        found = self.outcome(self.kernel, MOLECULES[molecules], dtype)
        expected = self.outcome("plain", MOLECULES[molecules], dtype)
        assert found.keys() == expected.keys()
        tolerance = EXACT if dtype == torch.float64 else self.single_precision
        for name, tensor in expected.items():
            scale = max(1.0, float(tensor.abs().max()))
            torch.testing.assert_close(
                found[name], tensor, rtol=0, atol=tolerance * scale, msg=lambda text, name=name: f"{name}: {text}"
            )

    def test_weights_are_the_same(self) -> None:
        torch.manual_seed(5)
        plain = EquivariantTransformer(self.config, "plain").state_dict()
        torch.manual_seed(5)
        tuned = EquivariantTransformer(self.config, self.kernel).state_dict()
        assert list(tuned) == list(plain)
        assert all(torch.equal(tuned[name], plain[name]) for name in plain)
