"""Every student against the one contract."""

from __future__ import annotations

import torch
from student_suite import StudentSuite

from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import build_student
from student_batches import batch_of, random_molecule


class TestTokenGTLaplacian(StudentSuite):
    config = StudentConfig(
        "tokengt", 32, 3, num_heads=4, num_identifiers=8, attention_dropout=0.1, activation_dropout=0.1, drop_path=0.1
    )
    has_virtual_node = True


class TestTokenGTOrf(StudentSuite):
    config = StudentConfig("tokengt", 32, 2, num_heads=4, identifiers="orf", num_identifiers=12, final_norm=False)
    has_virtual_node = True

    def test_another_draw_on_request(self) -> None:
        student, graph = build_student(self.config).eval(), batch_of([random_molecule(9, 1)])
        first = student(graph).atoms_ND
        student.reset_sampling(1)
        assert not torch.allclose(first, student(graph).atoms_ND)
        student.reset_sampling(0)
        assert torch.equal(first, student(graph).atoms_ND)


class TestGine(StudentSuite):
    config = StudentConfig("gine", 32, 3)
    has_virtual_node = True


class TestGineBounded(StudentSuite):
    config = StudentConfig("gine", 32, 3, bounded=True)
    has_virtual_node = True


class TestGineBoundedPlain(StudentSuite):
    config = StudentConfig("gine", 32, 2, virtual_node=False, bounded=True)


class TestGinePlain(StudentSuite):
    config = StudentConfig("gine", 32, 2, virtual_node=False, residual=False, dropout=0.2)


class TestPNA(StudentSuite):
    config = StudentConfig("pna", 24, 2, batch_norm_momentum=0.93)
    # The deviation of an atom's messages, sqrt(E[x²] - E[x]² + 1e-5), multiplies rounding by up to 160 where they are
    # alike, and other processors round other sums.
    tolerance = 1e-4


class TestGCN(StudentSuite):
    config = StudentConfig("gcn", 24, 2)


class TestGraphSAGE(StudentSuite):
    config = StudentConfig("graphsage", 24, 2)


class TestGATv2(StudentSuite):
    config = StudentConfig("gatv2", 24, 2, num_heads=3, attention_dropout=0.1)


class TestGPS(StudentSuite):
    config = StudentConfig("gps", 24, 2, num_heads=3, num_identifiers=6, attention_dropout=0.1)
