"""Configuration to teacher: the only switch on the teacher's name."""

from __future__ import annotations

from dnd.teacher.config import TeacherConfig
from dnd.teacher.contract import Teacher
from dnd.teacher.equivariant_transformer import EquivariantTransformer
from dnd.teacher.painn import PaiNN


def build_teacher(config: TeacherConfig) -> Teacher:
    """A newly initialised teacher."""
    if config.name == "painn":
        return PaiNN(config)
    return EquivariantTransformer(config)
