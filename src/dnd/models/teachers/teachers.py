"""Teachers by name, and TEACHER folders: written by denoising, read by distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dnd.common.config import from_dict, to_dict
from dnd.common.errors import CorruptFileError
from dnd.common.model_folder import ModelFolder, load_strictly, read_model, write_model
from dnd.models.teachers.base import Teacher, TeacherConfig
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer
from dnd.models.teachers.noise_head import NoiseHead
from dnd.models.teachers.painn import PaiNN

# Configuration to teacher: the only switch on the teacher's name.


def build_teacher(config: TeacherConfig) -> Teacher:
    """A newly initialised teacher."""
    if config.name == "painn":
        return PaiNN(config)
    return EquivariantTransformer(config)


# TEACHER folders: written by denoising, read by distillation.


KIND = "teacher"
_HEAD = "noise_head"


def save_teacher(
    folder: Path, teacher: Teacher, head: NoiseHead, config: TeacherConfig, description: dict[str, Any], card: str
) -> None:
    """Write a TEACHER folder: the teacher in `model.safetensors`, its noise head in `noise_head.safetensors`.

    Args:
        folder: may hold the run's logs and checkpoints.
        teacher: trained.
        head: trained with it.
        config: architecture of the teacher.
        description: further entries of `config.json`: `hydrogens`, `sigma`, the store's fingerprint, held-out metrics.
        card: the model card, Markdown.
    """
    tensors = {"model": teacher.state_dict(), _HEAD: head.state_dict()}
    write_model(folder, kind=KIND, config={**description, "teacher": to_dict(config)}, tensors=tensors, card=card)


def load_teacher(folder: Path | str) -> tuple[Teacher, dict[str, Any]]:
    """A frozen teacher in evaluation mode, and the content of its `config.json`.

    Raises:
        InputError, CorruptFileError: no TEACHER folder, or a damaged one; weights that do not fit its configuration.
    """
    model = read_model(folder, kind=KIND)
    teacher = build_teacher(_architecture(model))
    load_strictly(teacher, model.tensors(), f"the teacher {folder}")
    return teacher.eval().requires_grad_(False), model.config


def load_noise_head(folder: Path | str) -> NoiseHead:
    """The noise head that was trained with the teacher of `folder`, to continue denoising or to measure its loss.

    Raises:
        InputError, CorruptFileError: see `load_teacher`.
    """
    model = read_model(folder, kind=KIND)
    head = NoiseHead(_architecture(model).width)
    load_strictly(head, model.tensors(_HEAD), f"the noise head {folder}")
    return head.eval().requires_grad_(False)


def _architecture(model: ModelFolder) -> TeacherConfig:
    if not isinstance(model.config.get("teacher"), dict):
        raise CorruptFileError(f"{model.path / 'config.json'} has no teacher", found=sorted(model.config))
    return from_dict(TeacherConfig, model.config["teacher"])
