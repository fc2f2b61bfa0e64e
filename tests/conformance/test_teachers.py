"""Every teacher inherits the suite, and so does the plain form of the equivariant transformer's equations."""

from __future__ import annotations

from pathlib import Path

import torch
from teacher_suite import ROUNDED, KernelSuite, TeacherSuite, assert_close, conformers_of, placed, random_molecule

from dnd.graphs.batch import ConformerBatch
from dnd.models.teachers.base import NoiseHead, Teacher, TeacherConfig
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer
from dnd.models.teachers.teachers import build_teacher, load_teacher, save_teacher

SMALL = {"width": 16, "num_layers": 2, "num_heads": 4, "num_rbf": 16}


class TestEquivariantTransformer(TeacherSuite):
    config = TeacherConfig(**SMALL)


class TestEquivariantTransformerWithVectorCutoff(TeacherSuite):
    config = TeacherConfig(**SMALL, vector_cutoff=True)


class TestPlainEquivariantTransformer(TeacherSuite):
    config = TeacherConfig(**SMALL)

    def build(self) -> Teacher:
        return EquivariantTransformer(self.config, "plain")

    def test_save_and_load(self, teacher: Teacher, conformers: ConformerBatch, tmp_path: Path) -> None:
        """A TEACHER folder holds weights and no kernel: what is loaded is computed in tiles."""
        head = NoiseHead(teacher.width)
        save_teacher(tmp_path / "teacher", teacher.float(), head, self.config, {"hydrogens": "all_both"}, "# card\n")
        loaded, _ = load_teacher(tmp_path / "teacher")
        assert isinstance(loaded, EquivariantTransformer)
        assert loaded.kernel == "tiles"
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), teacher.parameters(), strict=True))
        single = placed(conformers, conformers.positions_A3.float())
        assert_close(loaded(single).scalars_AD, teacher(single).scalars_AD, 1e-5)

    def test_it_can_be_differentiated_twice(self, teacher: Teacher) -> None:
        conformers = conformers_of(random_molecule(4, 9))
        positions = conformers.positions_A3[:, :1].clone().requires_grad_()

        def scalars(axis: torch.Tensor) -> torch.Tensor:
            moved = torch.cat([axis, conformers.positions_A3[:, 1:]], dim=1)
            return teacher(placed(conformers, moved)).scalars_AD[:, :2]

        assert torch.autograd.gradgradcheck(scalars, (positions,))


class TestChiralEquivariantTransformer(TeacherSuite):
    config = TeacherConfig(**SMALL, chiral=True)

    def test_reflection_leaves_scalars(self, teacher: Teacher, conformers: ConformerBatch) -> None:
        """It leaves those of molecules that are their own mirror image, and changes those of the others."""
        mirrored = teacher(placed(conformers, conformers.positions_A3 * torch.tensor([1.0, 1.0, -1.0]).double()))
        before = teacher(conformers)
        for molecule in range(conformers.num_molecules):
            found, expected = (self._part(output, conformers, molecule)[0] for output in (mirrored, before))
            atoms = len(found)
            if atoms > 4:  # the two random ones
                assert ((found - expected).abs().amax(1) > 1e-2).all()
            else:
                assert_close(found, expected)


class TestPaiNN(TeacherSuite):
    config = TeacherConfig(name="painn", **SMALL)


class TestTiles(KernelSuite):
    config = TeacherConfig(**SMALL)
    kernel = "tiles"


class TestTilesWithVectorCutoff(KernelSuite):
    config = TeacherConfig(**SMALL, vector_cutoff=True)
    kernel = "tiles"


class TestTilesWithWhitening(KernelSuite):
    config = TeacherConfig(**SMALL, whiten_vectors=True)
    kernel = "tiles"
    single_precision = ROUNDED  # whitening multiplies rounding by up to 220


class TestTilesWithHandedness(KernelSuite):
    config = TeacherConfig(**SMALL, chiral=True)
    kernel = "tiles"


def test_tiles_are_the_default() -> None:
    teacher = build_teacher(TeacherConfig(**SMALL))
    assert isinstance(teacher, EquivariantTransformer)
    assert teacher.kernel == "tiles"
