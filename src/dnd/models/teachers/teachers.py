"""Teachers by name, TEACHER folders, and weights of the original TorchMD-NET."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnd.common.config import from_dict, to_dict
from dnd.common.errors import CorruptFileError, InputError
from dnd.common.model_folder import ModelFolder, load_strictly, read_model, read_tensors, write_model
from dnd.models.teachers.base import NoiseHead, Teacher, TeacherConfig
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer
from dnd.models.teachers.painn import PaiNN

# Loads weights of published equivariant transformers: torchmd-net 3.1 and the denoising repository of Zaidi et al.

TEACHER_PREFIX = "representation_model."
HEAD_PREFIX = "output_model_noise."
_UNUSED = re.compile(r"distance\.box$")
_OLD_GATE = re.compile(r"update_net\.(\d)")


def load_torchmd_state(
    teacher: EquivariantTransformer, head: NoiseHead | None, tensors: Mapping[str, Tensor] | Path
) -> None:
    """Load published weights, strictly, into a teacher and its noise head.

    Names start with `representation_model.` and `output_model_noise.`, optionally after Lightning's `model.`. Both
    spellings of the head's gate are known: `update_net.layers.N` (torchmd-net 3) and `update_net.N` (denoising
    repository). The periodic box is dropped, other output models and the running statistics of the noise too.

    Args:
        teacher: built with the checkpoint's architecture.
        head: None leaves the head's weights out.
        tensors: name to tensor, or a `.safetensors` or `.npz` file of them.

    Raises:
        InputError: no weights of an equivariant transformer in `tensors`.
        CorruptFileError: names, shapes or values do not fit; see `load_strictly`.
    """
    values = _read(tensors) if isinstance(tensors, Path) else tensors
    names = {name.removeprefix("model."): tensor for name, tensor in values.items()}
    load_strictly(teacher, _part(names, TEACHER_PREFIX), "the equivariant transformer")
    if head is not None:
        renamed = {
            _OLD_GATE.sub(r"update_net.layers.\1", name): value for name, value in _part(names, HEAD_PREFIX).items()
        }
        load_strictly(head, renamed, "the noise head")


def _part(names: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    part = {
        name.removeprefix(prefix): tensor
        for name, tensor in names.items()
        if name.startswith(prefix) and not _UNUSED.search(name)
    }
    if not part:
        raise InputError(f"no weights named {prefix}*", found=f"{len(names)} tensors such as {sorted(names)[:2]}")
    return part


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".npz":
        return read_tensors(path)
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


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
