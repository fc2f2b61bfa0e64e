"""Configuration to teacher: the only switch on the teacher's name."""

from __future__ import annotations

from dnd.teacher.config import TeacherConfig
from dnd.teacher.contract import Teacher
from dnd.teacher.equivariant_transformer import EquivariantTransformer


def build_teacher(config: TeacherConfig) -> Teacher:
    """A newly initialised teacher."""
    return {"et": EquivariantTransformer}[config.name](config)
