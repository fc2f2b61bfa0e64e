"""Every teacher inherits the suite."""

from __future__ import annotations

from teacher_suite import TeacherSuite

from dnd.models.teachers.base import TeacherConfig

SMALL = {"width": 16, "num_layers": 2, "num_heads": 4, "num_rbf": 16}


class TestEquivariantTransformer(TeacherSuite):
    config = TeacherConfig(**SMALL)


class TestEquivariantTransformerWithVectorCutoff(TeacherSuite):
    config = TeacherConfig(**SMALL, vector_cutoff=True)


class TestPaiNN(TeacherSuite):
    config = TeacherConfig(name="painn", **SMALL)
