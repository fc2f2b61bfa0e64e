"""Students by name, and the ENCODER folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from dnd.common.config import from_dict
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.common.model_folder import load_strictly, read_model, write_model
from dnd.student.config import StudentConfig
from dnd.student.contract import Student
from dnd.student.shipped import encoder_folder, half_precision

LIMIT_PARAMETERS = 1_000_000_000

# Where each student's class lives; imported when asked for, since four of them need torch-geometric.
_CLASSES = {
    "tokengt": ("dnd.student.tokengt", "TokenGT"),
    "pna": ("dnd.student.pna", "PNA"),
    "gine": ("dnd.student.gine", "Gine"),
    "gcn": ("dnd.student.geometric", "GCN"),
    "graphsage": ("dnd.student.geometric", "GraphSAGE"),
    "gatv2": ("dnd.student.geometric", "GATv2"),
    "gps": ("dnd.student.geometric", "GPS"),
}


def build_student(config: StudentConfig) -> Student:
    """A student with fresh weights, drawn from torch's global generator.

    Raises:
        ConfigError: the student would have over a billion parameters (nothing is allocated), or needs a package that
            is not installed.
    """
    module, name = _CLASSES[config.name]
    cls: Callable[[StudentConfig], Student] = getattr(import_module(module), name)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in cls(config).parameters())
    if count > LIMIT_PARAMETERS:
        raise ConfigError(
            f"student {config.name} is too large", found=count, expected=f"up to {LIMIT_PARAMETERS} weights"
        )
    return cls(config)


def save_encoder(folder: Path, student: Student, config: Mapping[str, Any], card: str, *, half: bool = False) -> None:
    """Write an ENCODER folder; `config` is what the stage recorded, the student's own settings are added to it.

    Args:
        folder: created if missing.
        student: its weights and buffers are saved, nothing else.
        config: plain values such as `hydrogens`, `level` and `teacher`.
        card: the model card, Markdown.
        half: keep matrices in half precision; they are float32 again when loaded.
    """
    config = {**config, "student": dataclasses.asdict(student.config)}
    tensors = half_precision(student.state_dict()) if half else student.state_dict()
    write_model(folder, kind="encoder", config=config, tensors={"model": tensors}, card=card)


def load_encoder(
    folder: Path | str, *, as_pretrained: bool = True, **training_settings: Any
) -> tuple[Student, dict[str, Any]]:
    """The student of an ENCODER folder, in evaluation mode, and the folder's whole configuration.

    Args:
        folder: what `save_encoder` wrote, or the name of an encoder that ships with the package.
        as_pretrained: whether dropout rates and batch norm momentum are those of the pretraining; else they are the
            defaults of the architecture.
        training_settings: dropout rates or batch norm momentum that are to differ from either.

    Raises:
        InputError, CorruptFileError: the folder is missing, damaged or of another kind.
        ConfigError: a setting that would change the shape of the weights.
    """
    model = read_model(encoder_folder(folder), kind="encoder")
    settings = model.config.get("student")
    if not isinstance(settings, dict):
        raise CorruptFileError(f"{folder}/config.json names no student")
    config = from_dict(StudentConfig, settings)
    config = config if as_pretrained else config.without_training_settings()
    student = build_student(config.with_training_settings(**training_settings))
    load_strictly(student, model.tensors(), f"encoder {folder}")
    return student.eval(), model.config
